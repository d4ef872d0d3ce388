"""The forms of operators that ONNX allows and a provider's kernels refuse when they are run (run/gaps.py).

A price can't express that, since it is no matter of time. So each lowering on offer is compared with this
table, by the nodes that its body emits: whatever rule makes them, it is told apart here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.ops.schemas import MICROSOFT, facts
from netfuse_onnx.plan.account import Account, broadcasts_matrices
from netfuse_onnx.plan.extents import types_of
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Dim, ValueType

Inputs = Sequence[ValueType | None]
"""The types of the inputs of a node; None for one that is absent."""


@dataclass(frozen=True)
class Refusal:
    """A form that a kernel refuses. `gap` is its constant in run/gaps.py, or in
    run/others.py where other runtimes have it; `meets` is true for a node that has
    the form, or may have it; `reason` is what users read."""

    gap: str
    meets: Callable[[Step, Inputs], bool]
    reason: str


def _dims(inputs: Inputs, place: int) -> tuple[Dim, ...] | None:
    """The dims of an input, () where it is absent, None where its rank is unknown."""
    given = inputs[place] if place < len(inputs) else None
    return () if given is None else given.dims


def _is_number(inputs: Inputs, place: int) -> bool:
    """True for an input that is absent or surely one number."""
    return _dims(inputs, place) in ((), (1,))


def _several_zero_points(step: Step, inputs: Inputs) -> bool:
    return not (_is_number(inputs, 2) and _is_number(inputs, 3))


def _axis_of_a_vector(step: Step, inputs: Inputs) -> bool:
    dims = _dims(inputs, 0)
    return not _is_number(inputs, 1) and (dims is None or len(dims) < 2)


PORTABLE = "portable"
"""The word for all runtimes together, beside the providers of ONNX Runtime."""
NEWER = "it takes operators that the opset and the domains of the sources lack"


def _repeats_matrices(step: Step, inputs: Inputs) -> bool:
    return broadcasts_matrices(step)


def _always(step: Step, inputs: Inputs) -> bool:
    return True


_VECTOR = Refusal(
    "NO_AXIS_OF_VECTORS", _axis_of_a_vector, "CUDA quantises values of rank 1 with one scale for all models"
)
REFUSALS: Mapping[str, Mapping[str, Refusal]] = {
    "cuda": {
        "MatMulInteger": Refusal(
            "ONE_ZERO_POINT", _several_zero_points, "CUDA's MatMulInteger takes one zero point for all models"
        ),
        **dict.fromkeys(
            (
                f"{domain}{op}"
                for domain in ("", f"{MICROSOFT}.")
                for op in ("QuantizeLinear", "DequantizeLinear")
            ),
            _VECTOR,
        ),
    },
    PORTABLE: {
        "MatMul": Refusal(
            "OPENCV_ONE_MATRIX",
            _repeats_matrices,
            "OpenCV takes one model's matrix for all where it is repeated",
        ),
        "Einsum": Refusal("OPENCV_EINSUM", _always, "OpenCV reads no Einsum with an axis of models"),
    },
}
"""By provider and operator."""


def refused(account: Account, site: Site, provider: str) -> str:
    """The reason why a provider, or PORTABLE, would not run the nodes of an account, or ''."""
    if provider == PORTABLE and any(_foreign(step, site) for step in account.steps):
        return NEWER
    table = REFUSALS.get(provider, {})
    concerned = [(table[key], step) for step in account.steps if (key := _key(step)) in table]
    if not concerned:
        return ""
    types = types_of(account, site, _sizes)
    for refusal, step in concerned:
        inputs = [None if x is None else types.get(x, x.type) for x in step.inputs]
        if refusal.meets(step, inputs):
            return refusal.reason
    return ""


def _foreign(step: Step, site: Site) -> bool:
    """True for a node of a domain, or of a version, that the sources do not have."""
    if step.domain:
        return step.domain != site.node.domain
    return facts(step.op, "", site.opset) is None


def _key(step: Step) -> str:
    return f"{step.domain}.{step.op}".removeprefix(".")


def _sizes(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """The sizes that are known: a symbol may be any size."""
    return tuple(dim if isinstance(dim, int) else None for dim in dims)
