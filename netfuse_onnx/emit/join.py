"""N tensors of equal shape -> one: STACKED by Concat on a new axis, FOLDED by Concat along its own.

Unequal shapes must fail, whatever the sizes: one symbol is one size for all models. Concat fails on them,
but ONNX Runtime's passes over inputs without elements, unseen: (0, 8) beside (1, 8) gives rows that belong
to nobody (seen in 1.32). So where a dim is dynamic, the shapes are compared first, and the join needs the
answer to go on.
"""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.types import Dim, Layout

Columns = Sequence[Sequence[Tensor]]
"""Values, each as one tensor per model."""


def join(
    emit: Emitter,
    xs: Sequence[Tensor],
    dst: Layout,
    dims: Sequence[Dim],
    compare: bool = True,
    checked: Tensor | None = None,
) -> Tensor:
    """The tensors of all models in layout `dst`; fails at run time where their shapes are unequal.

    Without `compare` they are known to be equal. `checked`: what `compared` gave for these and others.
    """
    if not compare or len(xs) == 1 or all(isinstance(dim, int) for dim in dims):
        return _plain(emit, xs, dst)
    if emit.opset < 14:  # no way to write the size 0, so the result is reshaped to what it is
        copied = emit("Add", emit.const([0] * (len(dims) + dst.stacked)), compared(emit, [xs], 0))
        return emit("Reshape", _plain(emit, xs, dst), copied)
    if not uncounted(dims):
        return _reshaped(emit, xs, dst, len(dims), emit("Shape", xs[0]), emit.const([1]))
    one = compared(emit, [xs], 1) if checked is None else checked
    shape = emit("Shape", xs[0])
    return _reshaped(emit, xs, dst, len(dims), emit("Mul", shape, one) if dst.folded else shape, one)


def uncounted(dims: Sequence[Dim]) -> bool:
    """Whether shapes can be unequal with as many elements: not where one dim alone is dynamic."""
    dynamic = sum(not isinstance(dim, int) for dim in dims)
    return dynamic > 1 or (dynamic == 1 and 0 in dims)


def compared(emit: Emitter, columns: Columns, value: int) -> Tensor:
    """`value`, of shape [1], which only exists where each value has one shape in all models."""
    if len(columns[0]) == 1:
        return emit.const([value])
    first = [emit("Shape", xs[0]) for xs in columns]
    others = [emit("Shape", x) for row in zip(*(xs[1:] for xs in columns), strict=True) for x in row]
    mine, every = (emit("Concat", *some, axis=0) if len(some) > 1 else some[0] for some in (first, others))
    times = len(columns[0]) - 1
    wanted = emit("Tile", mine, emit.const([times])) if times > 1 else mine
    return emit.require(emit("Equal", every, wanted), value)


def _plain(emit: Emitter, xs: Sequence[Tensor], dst: Layout) -> Tensor:
    if dst.stacked:
        xs = [emit.unsqueeze(x, [dst.axis]) for x in xs]
    return emit("Concat", *xs, axis=dst.axis)


def _reshaped(
    emit: Emitter, xs: Sequence[Tensor], dst: Layout, rank: int, shape: Tensor, one: Tensor
) -> Tensor:
    """Each brought to the first one's shape, with an axis of size `one` put in where it is stacked. A
    Reshape copies nothing; it takes the place of each Unsqueeze."""
    if dst.folded:
        return emit("Concat", xs[0], *(emit("Reshape", x, shape, allowzero=1) for x in xs[1:]), axis=dst.axis)
    target = emit("Concat", one, shape, axis=0)
    if dst.axis:
        order = [*range(1, dst.axis + 1), 0, *range(dst.axis + 1, rank + 1)]
        target = emit("Gather", target, emit.const(order), axis=0)
    return emit("Concat", *(emit("Reshape", x, target, allowzero=1) for x in xs), axis=dst.axis)
