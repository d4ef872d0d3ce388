"""The base of all costs in microseconds.

Sizes that the file leaves open are bound before (sized.py); what inference could not trace to an input is
taken for as large as the largest of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.plan.account import Account, runs
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.sized import sized
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Correspondence, Dim, Lowering


class Timed(Cost):
    """Prices each node that is emitted, at the speeds of a target."""

    tuned = True

    def __init__(self, models: int, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__(models)
        self.given = dict(sizes or {})
        self.largest = max(self.given.values(), default=1)
        self._prices: dict[tuple[Any, ...], float] = {}
        self._lowerings: dict[tuple[int, int], tuple[Lowering, Site, float]] = {}

    def sizes(self, dims: Sequence[Dim]) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else self.given.get(dim or "", self.largest) for dim in dims)

    def size(self, dim: Dim) -> int:
        return self.sizes((dim,))[0]

    def priced(self, corr: Correspondence) -> Correspondence:
        return sized(corr, self.given)

    def lowering(self, offer: Lowering, sized: Site) -> float:
        """The microseconds of a node, kept: the plans that a prediction compares ask for them again."""
        key = id(offer), id(sized)
        if key not in self._lowerings:
            self._lowerings[key] = offer, sized, super().lowering(offer, sized)
        return self._lowerings[key][2]

    def _account(self, account: Account, sized: Site) -> float:
        types = (account, *((kind.dtype, kind.dims) for kind in (*sized.inputs, *sized.outputs)))
        if types not in self._prices:
            shapes = Shapes(account, sized, self.sizes)
            self._prices[types] = account.times * sum(
                self._step(step, shapes) * runs(step, shapes.size)
                for step in account.steps
                if self._runs(step)
            )
        return self._prices[types]

    def _runs(self, step: Step) -> bool:
        """True for a node that runs with each call, not when a session loads the file."""
        return not step.at_load

    @abstractmethod
    def _step(self, step: Step, shapes: Shapes) -> float:
        """One node that runs with each call."""
