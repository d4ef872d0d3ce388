"""Layout conversions: the nodes that take a run-time value from one layout to the next.

One function per hop of layouts.route. Each is cached by its caller, so that a value is converted once
per layout however many consumers want it.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from netfuse_onnx.emit.channels import from_channels, to_channels
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.emit.join import join
from netfuse_onnx.layouts import moves_nothing
from netfuse_onnx.types import PER_MODEL, SHARED, Dim, Layout


def hop(emit: Emitter, x: Held, src: Layout, dst: Layout, dims: Sequence[Dim], dtype: int = 0) -> Held:
    """One hop of a route, for a value of per-model `dims` and ONNX element type `dtype`."""
    if src == SHARED:
        return _spread(emit, x, dst, len(dims))
    if isinstance(x, tuple):
        return join(emit, x, dst, dims)
    if dst.channels:
        return to_channels(emit, x, src, dst.axis, dims)
    if src.channels:
        return from_channels(emit, x, src.axis, dst, dims)
    if dst == PER_MODEL:
        return _apart(emit, x, src, dims, dtype)
    if src.folded:
        return unfold(emit, x, src.axis, dims)
    if dst.folded:
        return fold(emit, x, dst.axis, dims)
    return _move(emit, x, src, dst, dims)


def _spread(emit: Emitter, x: Held, dst: Layout, rank: int) -> Held:
    """d.. -> one copy per model. Tensors that every model may read need no copy."""
    if isinstance(x, tuple):
        return x
    if dst == PER_MODEL:
        return (x,) * emit.models
    if dst.folded:
        repeats = [emit.models if axis == dst.axis else 1 for axis in range(rank)]
        return emit("Tile", x, emit.const(repeats))
    return emit("Concat", *(emit.unsqueeze(x, [dst.axis]),) * emit.models, axis=dst.axis)


def _apart(emit: Emitter, x: Tensor, src: Layout, dims: Sequence[Dim], dtype: int) -> tuple[Tensor, ...]:
    """STACKED -> N scalar Gathers; FOLDED -> one Split, whose sizes are written out where they are known."""
    if src.stacked and dtype == TensorProto.STRING:  # gaps.GATHER_LOSES_STRINGS
        parts = emit.split(x, [1] * emit.models, src.axis)
        return tuple(emit.squeeze(part, [src.axis]) for part in parts)
    if src.stacked:
        return tuple(emit("Gather", x, emit.const(m), axis=src.axis) for m in range(emit.models))
    dim = dims[src.axis]
    outs = [True] * emit.models
    if isinstance(dim, int):
        return tuple(emit.split(x, [dim] * emit.models, src.axis))
    if emit.opset >= 18:
        return tuple(emit.node("Split", [x], {"axis": src.axis, "num_outputs": emit.models}, outs=outs))
    return tuple(emit.node("Split", [x], {"axis": src.axis}, outs=outs))


def unfold(emit: Emitter, x: Tensor, axis: int, dims: Sequence[Dim]) -> Tensor:
    """FOLDED(a) -> STACKED(a): [.., N*d, ..] -> [.., N, d, ..]."""
    dim, after = dims[axis], dims[axis + 1 :]
    target = _written([*dims[:axis], emit.models, dim, *after])
    if target is not None:
        return emit.reshape(x, target)
    if isinstance(dim, int) or emit.opset < 15:  # an axis of 1, so that each 0 copies from its own place
        x = emit.unsqueeze(x, [axis])
        size = dim if isinstance(dim, int) else -1
        return emit.reshape(x, [0] * axis + [emit.models, size] + [0] * len(after))
    sizes = [emit("Shape", x, start=0, end=axis)] if axis else []
    rest = emit("Div", emit("Shape", x, start=axis), emit.const([emit.models] + [1] * len(after)))
    return emit("Reshape", x, emit("Concat", *sizes, emit.const([emit.models]), rest, axis=0), allowzero=1)


def fold(emit: Emitter, x: Tensor, axis: int, dims: Sequence[Dim]) -> Tensor:
    """STACKED(a) -> FOLDED(a): [.., N, d, ..] -> [.., N*d, ..]."""
    dim, after = dims[axis], dims[axis + 1 :]
    size = emit.models * dim if isinstance(dim, int) else -1
    target = _written([*dims[:axis], size if size >= 0 else None, *after])
    if target is not None:
        return emit.reshape(x, target)
    if isinstance(dim, int) or emit.opset < 15:  # at equal rank, so that each 0 copies from its own place
        x = emit.reshape(x, [0] * axis + [1, size] + [0] * len(after))
        return emit.squeeze(x, [axis])
    sizes = [emit("Shape", x, start=0, end=axis)] if axis else []
    rest = emit("Mul", emit("Shape", x, start=axis + 1), emit.const([emit.models] + [1] * len(after)))
    return emit("Reshape", x, emit("Concat", *sizes, rest, axis=0) if sizes else rest, allowzero=1)


def _written(dims: Sequence[Dim]) -> list[int] | None:
    """A Reshape target that says all of `dims`, or None. One may be open, which becomes -1, and then no
    other may turn out 0: -1 is undefined beside it."""
    target = [dim if isinstance(dim, int) else -1 for dim in dims]
    return None if 0 in target or target.count(-1) > 1 else target


def _move(emit: Emitter, x: Tensor, src: Layout, dst: Layout, dims: Sequence[Dim]) -> Tensor:
    """STACKED(a) -> STACKED(b): a Transpose, or a Reshape where the axes between have size 1."""
    target = _written([*dims[: dst.axis], emit.models, *dims[dst.axis :]])
    if target is not None and moves_nothing(src, dst, dims):
        return emit.reshape(x, target)
    perm = [axis for axis in range(len(dims) + 1) if axis != src.axis]
    perm.insert(dst.axis, src.axis)
    return emit.transpose(x, perm)
