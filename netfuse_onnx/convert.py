"""Layout conversions: the nodes that take a run-time value from one layout to the next.

One function per hop of layouts.route. Each is cached by its caller, so that a value is converted once
per layout however many consumers want it.
"""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.emit import Emitter, Held, Tensor
from netfuse_onnx.layouts import moves_nothing
from netfuse_onnx.types import PER_MODEL, SHARED, Dim, Layout


def hop(emit: Emitter, x: Held, src: Layout, dst: Layout, dims: Sequence[Dim]) -> Held:
    """One hop of a route, for a value of per-model `dims`."""
    if src == SHARED:
        return _spread(emit, x, dst, len(dims))
    if isinstance(x, tuple):
        return _join(emit, x, dst)
    if dst == PER_MODEL:
        return _apart(emit, x, src, dims)
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
    shape = [emit.models if axis == dst.axis else 1 for axis in range(rank + 1)]
    return emit("Expand", emit.unsqueeze(x, [dst.axis]), emit.const(shape))


def _join(emit: Emitter, xs: tuple[Tensor, ...], dst: Layout) -> Tensor:
    """N x d.. -> STACKED by Concat on a new axis, which fails on unequal sizes; FOLDED by Concat."""
    if dst.stacked:
        xs = tuple(emit.unsqueeze(x, [dst.axis]) for x in xs)
    return emit("Concat", *xs, axis=dst.axis)


def _apart(emit: Emitter, x: Tensor, src: Layout, dims: Sequence[Dim]) -> tuple[Tensor, ...]:
    """STACKED -> N scalar Gathers; FOLDED -> one Split."""
    if src.stacked:
        return tuple(emit("Gather", x, emit.const(m), axis=src.axis) for m in range(emit.models))
    dim = dims[src.axis]
    outs = [True] * emit.models
    if emit.opset >= 18:
        return tuple(emit.node("Split", [x], {"axis": src.axis, "num_outputs": emit.models}, outs=outs))
    if emit.opset >= 13 or not isinstance(dim, int):
        return tuple(emit.node("Split", [x], {"axis": src.axis}, outs=outs))
    return tuple(emit.node("Split", [x], {"axis": src.axis, "split": [dim] * emit.models}, outs=outs))


def unfold(emit: Emitter, x: Tensor, axis: int, dims: Sequence[Dim]) -> Tensor:
    """FOLDED(a) -> STACKED(a): [.., N*d, ..] -> [.., N, d, ..].

    Where later dims are static their sizes are written out; else, and where a size is 0, which means a
    copy, an axis of 1 goes in first, so that 0 copies each of them from its own place.
    """
    dim, after = dims[axis], dims[axis + 1 :]
    size = dim if isinstance(dim, int) else -1
    if size and all(isinstance(d, int) and d for d in after):
        return emit.reshape(x, [0] * axis + [emit.models, size, *(d for d in after if isinstance(d, int))])
    x = emit.unsqueeze(x, [axis])
    return emit.reshape(x, [0] * axis + [emit.models, size] + [0] * len(after))


def fold(emit: Emitter, x: Tensor, axis: int, dims: Sequence[Dim]) -> Tensor:
    """STACKED(a) -> FOLDED(a): [.., N, d, ..] -> [.., N*d, ..]."""
    dim, after = dims[axis], dims[axis + 1 :]
    size = emit.models * dim if isinstance(dim, int) else -1
    unknown = [d for d in after if not isinstance(d, int)]
    if (size < 0 and unknown) or len(unknown) > 1 or 0 in (size, *after):
        x = emit.reshape(x, [0] * axis + [1, size] + [0] * len(after))
        return emit.squeeze(x, [axis])
    return emit.reshape(x, [0] * axis + [size, *(d if isinstance(d, int) else -1 for d in after)])


def _move(emit: Emitter, x: Tensor, src: Layout, dst: Layout, dims: Sequence[Dim]) -> Tensor:
    """STACKED(a) -> STACKED(b): a Transpose, or a Reshape where the axes between have size 1."""
    if moves_nothing(src, dst, dims) and sum(not isinstance(d, int) for d in dims) <= 1 and 0 not in dims:
        merged = [d if isinstance(d, int) else -1 for d in dims]
        merged.insert(dst.axis, emit.models)
        return emit.reshape(x, merged)
    perm = [axis for axis in range(len(dims) + 1) if axis != src.axis]
    perm.insert(dst.axis, src.axis)
    return emit.transpose(x, perm)
