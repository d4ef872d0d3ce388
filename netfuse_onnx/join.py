"""N tensors of equal shape -> one: STACKED by Concat on a new axis, FOLDED by Concat along its own.

Unequal shapes must fail, whatever the sizes: one symbol is one size for all models. Concat fails on them,
but ONNX Runtime's passes over inputs without elements, unseen: (0, 8) beside (1, 8) gives rows that belong
to nobody (seen in 1.32). So where a dim is dynamic, shapes are compared with those of the first model.
"""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.emit import Emitter, Tensor
from netfuse_onnx.types import Dim, Layout


def join(emit: Emitter, xs: Sequence[Tensor], dst: Layout, dims: Sequence[Dim]) -> Tensor:
    """The tensors of all models in layout `dst`; fails at run time where their shapes are unequal."""
    dynamic = sum(not isinstance(dim, int) for dim in dims)
    if dynamic == 0 or len(xs) == 1 or emit.opset < 14:
        return _plain(emit, xs, dst)
    shape = emit("Shape", xs[0])
    if dynamic == 1:
        return _reshaped(emit, xs, dst, shape)
    return _compared(emit, xs, dst, shape, len(dims))


def _plain(emit: Emitter, xs: Sequence[Tensor], dst: Layout) -> Tensor:
    if dst.stacked:
        xs = [emit.unsqueeze(x, [dst.axis]) for x in xs]
    return emit("Concat", *xs, axis=dst.axis)


def _reshaped(emit: Emitter, xs: Sequence[Tensor], dst: Layout, shape: Tensor) -> Tensor:
    """With one dynamic dim a tensor fits the first one's shape only if that dim is equal: a Reshape, which
    copies nothing, takes the place of each Unsqueeze."""
    if dst.folded:
        return emit("Concat", xs[0], *(emit("Reshape", x, shape, allowzero=1) for x in xs[1:]), axis=dst.axis)
    target = _with(emit, shape, dst.axis, 1)
    return emit("Concat", *(emit("Reshape", x, target, allowzero=1) for x in xs), axis=dst.axis)


def _compared(emit: Emitter, xs: Sequence[Tensor], dst: Layout, shape: Tensor, rank: int) -> Tensor:
    """With several, all shapes are compared, and the result of that is needed to go on."""
    every = emit("Concat", shape, *(emit("Shape", x) for x in xs[1:]), axis=0)
    equal = emit("Equal", every, emit("Tile", shape, emit.const([len(xs)])))
    if dst.stacked:
        target = _with(emit, shape, dst.axis, len(xs))
    else:
        target = emit("Mul", shape, emit.const([len(xs) if axis == dst.axis else 1 for axis in range(rank)]))
    checked = emit("Add", target, emit.require(equal))
    return emit("Reshape", _plain(emit, xs, dst), checked, allowzero=1)


def _with(emit: Emitter, shape: Tensor, axis: int, size: int) -> Tensor:
    """The shape with an axis of `size` put in."""
    if axis == 0:
        return emit("Concat", emit.const([size]), shape, axis=0)
    head = emit("Slice", shape, emit.const([0]), emit.const([axis]))
    tail = emit("Slice", shape, emit.const([axis]), emit.const([1 << 31]))
    return emit("Concat", head, emit.const([size]), tail, axis=0)
