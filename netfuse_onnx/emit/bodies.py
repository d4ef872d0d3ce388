"""Bodies of If, Loop, Scan: GraphProtos that read outer values by name.

Every copy of a body gets names of its own, because ONNX wants each name once across nested graphs. The
outer values keep their source names until export, when the names of the merged values are final.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs

from netfuse_onnx.ops import walk
from netfuse_onnx.types import ValueType

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Tensor


def bind(attrs: Mapping[str, Any], emit: Emitter) -> dict[str, Any]:
    """Attributes whose bodies define no name that another body or the merged graph defines."""
    bound = dict(attrs)
    for key, body in walk.bodies_of(attrs).items():
        fresh = {name: emit.fresh(f"{emit.scope}/{name}") for name in walk.defined(body)}
        bound[key] = walk.copied(body)
        walk.rename(bound[key], lambda name, fresh=fresh: fresh.get(name, name))  # type: ignore[misc]
    return bound


def declare(out: Tensor, kind: ValueType) -> None:
    """Write down the type of a value, as of a body's output: gaps.OUTPUTS_UNTYPED. Symbols are left out, for
    those that onnx made up mean nothing here."""
    if isinstance(out, gs.Variable):
        out.dtype = kind.dtype or None
        if kind.dims is not None:
            out.shape = tuple(dim if isinstance(dim, int) else None for dim in kind.dims)


@dataclass(frozen=True)
class Slices:
    """A value of which a Scan reads or writes one slice, of type `kind`, in each iteration. `axis` is the one
    that is taken away in the value itself, and `back` is true where the last slice comes first."""

    axis: int
    back: bool
    kind: ValueType
    value: Tensor | None = None


Iteration = Callable[["list[Tensor]", "list[Tensor]", "Emitter"], "tuple[list[Tensor], list[Tensor]]"]
"""States and slices -> the states after it, and slices of the results. The emitter is that of the body."""


def scan(
    emit: Emitter,
    step: Iteration,
    over: tuple[Tensor, int],
    states: Sequence[tuple[Tensor, ValueType]],
    slices: Sequence[Slices],
    results: Sequence[Slices],
) -> list[Tensor]:
    """A Scan whose body is what `step` emits: the last states, then the results. `over`: a tensor of known
    sizes, and its axis that has an index for each iteration."""
    name = emit.scope
    child = emit.iterated(f"{name}/body", *over)
    kinds = [*(kind for _, kind in states), *(part.kind for part in slices)]
    given = [child.input(f"{name}/body/in", kind.dtype, kind.dims) for kind in kinds]
    after, made = step(given[: len(states)], given[len(states) :], child)
    kinds = [*(kind for _, kind in states), *(part.kind for part in results)]
    for tensor, kind in zip((*after, *made), kinds, strict=True):
        declare(child.output(tensor, child.fresh(f"{name}/body/out")), kind)
    attrs = {
        "body": child.graph,
        "num_scan_inputs": len(slices),
        "scan_input_axes": [part.axis for part in slices],
        "scan_input_directions": [int(part.back) for part in slices],
        "scan_output_axes": [part.axis for part in results],
        "scan_output_directions": [int(part.back) for part in results],
    }
    read = [*(x for x, _ in states), *(part.value for part in slices)]
    return emit.node("Scan", read, attrs, outs=[True] * len(kinds), captured=list(child.captured.values()))
