"""The catalogue of a family: the key of each case, made once for all that are alike."""

from __future__ import annotations

from typing import Any

from netfuse_onnx.errors import InternalError
from netfuse_onnx.plan.account import alike
from netfuse_onnx.tune import keys
from netfuse_onnx.tune.cases import Case, ConversionCase, Member
from netfuse_onnx.tune.probes import Unprobed, probe


class Catalogue:
    """Gives the key of a case, '' for one that has no probe."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self._keys: dict[Any, str] = {}

    def key(self, case: Case) -> str:
        about = _about(case)
        if about not in self._keys:
            try:
                one = probe(case, 1, self.provider)
            except (Unprobed, InternalError):  # an InternalError names a size that nothing here tells
                self._keys[about] = ""
            else:
                made = keys.key(case, one)
                if one.values_read:
                    return made
                self._keys[about] = made
        return self._keys[about]


def _about(case: Case) -> Any:
    """All that the probe of a case depends on, values of weights aside."""
    if isinstance(case, ConversionCase):
        return case.src, case.dst, case.declared.dtype, case.declared.dims, case.sized.dims, case.compare
    numbers: dict[str, int] = {}
    return tuple([_of_member(member, numbers) for member in case.members])


def _of_member(member: Member, numbers: dict[str, int]) -> Any:
    """A member of a case, with the names of its values as numbers, so that the wiring of a chain counts."""
    lowering, sized = member.lowering, member.sized
    wiring = [numbers.setdefault(name, len(numbers)) for name in (*sized.node.inputs, *sized.node.outputs)]
    types = [(kind.dtype, kind.dims) for kind in (*sized.inputs, *sized.outputs)]
    way = lowering.became, lowering.rule, lowering.takes, lowering.gives
    return alike(lowering.site), tuple(wiring), tuple(types), way
