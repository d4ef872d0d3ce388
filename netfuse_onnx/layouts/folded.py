"""FOLDED(a): per-model axis a is N times as long, model-major."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from netfuse_onnx.dims import folded_size, reshape_target, same_dim, static_size
from netfuse_onnx.layouts.base import COPY, VIEW, Dims, Hop, Layout, Operand
from netfuse_onnx.layouts.shared import SHARED
from netfuse_onnx.layouts.stacked import STACKED
from netfuse_onnx.storage.transforms import Repeat
from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Held, Tensor


class Folded(Layout):
    """[.., N*d_a, ..]. Grouped convolutions take this layout, and operators whose rank is fixed."""

    __slots__ = ()
    name, order, folded = "FOLDED", 2, True

    def fits(self, dims: Dims | None) -> bool:
        return dims is not None and self.axis < len(dims)

    def merged_dims(self, dims: Dims, models: Dim) -> tuple[Dim, ...]:
        dim = dims[self.axis]
        wide = folded_size(dim, models)
        return (*dims[: self.axis], wide, *dims[self.axis + 1 :])

    def touches(self, axes: Sequence[int]) -> bool:
        return self.axis in axes

    def runs(self, dims: Sequence[int]) -> int:
        return math.prod(dims[: self.axis])

    # ------------------------------------------------------------------ broadcasting

    def operands(self, given: Sequence[Operand], out: Dims) -> tuple[Layout, ...] | None:
        """[.., N*d_a, ..] op [.., N*d_a, ..]: right only where no operand broadcasts along the folded axis,
        or where one is the same for all models there."""
        behind = len(out) - self.axis
        takes = [self._own(v, len(v.dims) - behind, out[self.axis]) for v in given]
        return tuple(take for take in takes if take) if all(takes) else None

    def _own(self, v: Operand, own: int, width: Dim) -> Layout | None:
        """The layout of an operand whose axis `own` meets the folded one, which is `width` long per model."""
        dim = v.dims[own] if own >= 0 else 1
        if not v.mapped and dim == 1 and width != 1:
            return SHARED
        if own >= 0 and same_dim(dim, width):
            return Folded(own)
        spread = v.mapped and v.stored and isinstance(width, int) and width and all(d == 1 for d in v.dims)
        return STACKED(0) if spread else None  # one number per model: each is written d_a times

    def aligned(self, emit: Emitter, x: Tensor, take: Layout, dims: Dims, out: Dims) -> Tensor:
        if not take.stacked:
            return x
        times = static_size(out[self.axis])
        shape = (*[1] * self.axis, emit.models * times, *[1] * (len(out) - self.axis - 1))
        return emit.reform(x, shape=shape, transform=Repeat(times))

    # ------------------------------------------------------------------ hops

    def hop_to(self, dst: Layout, dims: Dims) -> Hop | None:
        if dst != STACKED(self.axis):
            return None
        return Hop(self, dst, lambda emit, x, dtype: unfold(emit, x, self.axis, dims), VIEW)

    def hop_from(self, src: Layout, dims: Dims) -> Hop | None:
        if src == SHARED:
            return Hop(src, self, lambda emit, x, dtype: _tiled(emit, x, self.axis, len(dims)), COPY)
        if src == STACKED(self.axis):
            return Hop(src, self, lambda emit, x, dtype: fold(emit, x, self.axis, dims), VIEW)
        return None

    def door(self, other: Layout, dims: Dims) -> Layout:
        return STACKED(self.axis)


FOLDED: Callable[[int], Layout] = cache(Folded)


def _tiled(emit: Emitter, x: Held, axis: int, rank: int) -> Held:
    if isinstance(x, tuple):
        return x
    return emit("Tile", x, emit.shape([emit.count if a == axis else 1 for a in range(rank)]))


def _tells_all(emit: Emitter, dims: Dims, axis: int) -> bool:
    """True where a Reshape with a 0 or -1 for all sizes but d_a does. Where only a call tells the number of
    models, that is one more -1, which is undefined beside an axis that may be empty."""
    others = (*dims[:axis], *dims[axis + 1 :])
    empty = not isinstance(emit.count, int) and not all(isinstance(dim, int) and dim for dim in others)
    return (isinstance(dims[axis], int) and not empty) or emit.opset < 15


def unfold(emit: Emitter, x: Tensor, axis: int, dims: Dims) -> Tensor:
    """FOLDED(a) -> STACKED(a): [.., N*d, ..] -> [.., N, d, ..]."""
    dim, after = dims[axis], dims[axis + 1 :]
    target = reshape_target([*dims[:axis], emit.count, dim, *after])
    if target is not None:
        return emit.reshape(x, target)
    if dim == 1 and not isinstance(emit.count, int):  # no -1, which is undefined beside an empty axis
        return emit.unsqueeze(x, [axis + 1])
    if _tells_all(emit, dims, axis):  # an axis of 1, so that each 0 copies from its own place
        x = emit.unsqueeze(x, [axis])
        size = dim if isinstance(dim, int) else -1
        return emit.reshape(x, [0] * axis + [emit.count, size] + [0] * len(after))
    sizes = [emit("Shape", x, start=0, end=axis)] if axis else []
    rest = emit("Div", emit("Shape", x, start=axis), emit.shape([emit.count] + [1] * len(after)))
    return emit("Reshape", x, emit("Concat", *sizes, emit.shape([emit.count]), rest, axis=0), allowzero=1)


def fold(emit: Emitter, x: Tensor, axis: int, dims: Dims, models: int = 0) -> Tensor:
    """STACKED(a) -> FOLDED(a): [.., N, d, ..] -> [.., N*d, ..]. `models`: the size N, where it is not that
    of all models."""
    count: Dim = models or emit.count
    dim, after = dims[axis], dims[axis + 1 :]
    wide = folded_size(dim, count)
    size = wide if isinstance(wide, int) else -1
    target = reshape_target([*dims[:axis], size if size >= 0 else None, *after])
    if target is not None:
        return emit.reshape(x, target)
    if dim == 1 and not isinstance(count, int):
        return emit.squeeze(x, [axis + 1])
    if _tells_all(emit, dims, axis):  # at equal rank, so that each 0 copies from its own place
        x = emit.reshape(x, [0] * axis + [1, size] + [0] * len(after))
        return emit.squeeze(x, [axis])
    sizes = [emit("Shape", x, start=0, end=axis)] if axis else []
    rest = emit("Mul", emit("Shape", x, start=axis + 1), emit.shape([count] + [1] * len(after)))
    return emit("Reshape", x, emit("Concat", *sizes, rest, axis=0) if sizes else rest, allowzero=1)
