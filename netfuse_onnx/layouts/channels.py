"""CHANNELS(a): the axes from a on stand in front, d_a folded, as the channels of one image.

A product with weights is a 1x1 convolution then, with a group per model (rules/channels.py). The dims are
[1, N*d_a, .., dk, d0, .., d(a-1)], with a last axis of 1 where k = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from netfuse_onnx.dims import folded_size, static_size
from netfuse_onnx.layouts.base import Counts, Dims, Hop, Layout, Operand
from netfuse_onnx.layouts.folded import FOLDED
from netfuse_onnx.layouts.per_model import PER_MODEL
from netfuse_onnx.layouts.shared import SHARED
from netfuse_onnx.layouts.stacked import STACKED, Stacked
from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Tensor

MOVED = Counts(launches=1, views=1, transposes=1, reorders=1)


class Channels(Layout):
    """Elementwise operators and the regrouping of heads pass this layout on between convolutions."""

    __slots__ = ()
    name, order, tuned, common, counted = "CHANNELS", 4, True, False, True

    def fits(self, dims: Dims | None) -> bool:
        return dims is not None and self.axis < len(dims)

    def merged_dims(self, dims: Dims, models: Dim) -> tuple[Dim, ...]:
        dim = dims[self.axis]
        front = folded_size(dim, models)
        filled = [1] if len(dims) == 2 else []
        return (1, front, *dims[self.axis + 1 :], *dims[: self.axis], *filled)

    def touches(self, axes: Sequence[int]) -> bool:
        return bool(axes)

    def runs(self, dims: Sequence[int]) -> None:
        return None

    # ------------------------------------------------------------------ broadcasting

    def operand(self, v: Operand, out: Dims) -> Layout | None:
        """[1, (N K), r..] op the same, or op [1, (N K), 1..], stored numbers per channel, or op a number."""
        behind = len(out) - self.axis
        front, own = v.dims[:-behind], v.dims[-behind:]
        if not v.mapped and all(d == 1 for d in v.dims):
            return SHARED
        if own != tuple(out[self.axis :]):
            return None
        if v.stored and all(d == 1 for d in front):
            return FOLDED(len(front))
        return self if v.mapped and len(v.dims) == len(out) else None

    def aligned(self, emit: Emitter, x: Tensor, take: Layout, dims: Dims, out: Dims) -> Tensor:
        if take == self:
            return x
        first, *others = (static_size(dim) for dim in out[self.axis :])
        ones = [1] * (self.axis + (len(out) == 2))
        if take == SHARED:  # gaps.SCALAR_BESIDE_ONES
            return emit.reshape(x, [1] * (2 + len(others) + len(ones)))
        return emit.reshape(x, [1, emit.models * first, *others, *ones])

    # ------------------------------------------------------------------ hops

    def hop_to(self, dst: Layout, dims: Dims) -> Hop | None:
        counts = self._counts(dst, dims)
        if counts is None:
            return None
        return Hop(self, dst, lambda emit, x, dtype: from_channels(emit, x, self.axis, dst, dims), counts)

    def hop_from(self, src: Layout, dims: Dims) -> Hop | None:
        counts = self._counts(src, dims)
        if counts is None:
            return None
        return Hop(src, self, lambda emit, x, dtype: to_channels(emit, x, src, self.axis, dims), counts)

    def _counts(self, other: Layout, dims: Dims) -> Counts | None:
        """Each STACKED layout is a neighbour. The last axis alone in front is a Transpose away from being
        folded where it is. None where `other` is no neighbour."""
        if not (isinstance(other, Stacked) or (self._is_last(dims) and other == FOLDED(self.axis))):
            return None
        return MOVED._replace(views=5) if _together(other, self.axis, dims) else MOVED

    def _is_last(self, dims: Dims) -> bool:
        return self.axis == len(dims) - 1

    def door(self, other: Layout, dims: Dims) -> Layout:
        return FOLDED(self.axis) if other == PER_MODEL and self._is_last(dims) else STACKED(0)


CHANNELS: Callable[[int], Layout] = cache(Channels)


def last_as_channels(dims: Dims) -> Layout | None:
    """The layout with the last axis as channels, where its size is static and it is not the only one. None
    for an empty value: no convolution takes an empty image."""
    possible = len(dims) >= 2 and isinstance(dims[-1], int) and 0 not in dims
    return CHANNELS(len(dims) - 1) if possible else None


def offered(dims: Dims) -> Iterator[Layout]:
    """Yields the layouts with the last axis as channels, and with the last two, as heads are."""
    last = last_as_channels(dims)
    if last is not None:
        yield last
        if len(dims) >= 4 and isinstance(dims[-2], int):
            yield CHANNELS(len(dims) - 2)


def to_channels(emit: Emitter, x: Tensor, src: Layout, at: int, dims: Dims) -> Tensor:
    """Emits the hop from STACKED(b), or from FOLDED of the last axis where it alone moves."""
    rank = len(dims)
    if _together(src, at, dims):
        x = emit.squeeze(emit.reshape(x, [*[0] * (rank - 1), _both(dims), 1]), [rank])
        x = to_channels(emit, x, src, at, [*dims[:at], _both(dims)])
        return emit.reshape(
            emit.unsqueeze(x, [2]), [1, emit.models * static_size(dims[at]), static_size(dims[-1]), *[0] * at]
        )
    if src.folded:  # [d0.., (N dk)] -> [(N dk), d0..]
        x = emit.transpose(x, [rank - 1, *range(rank - 1)])
        return emit.unsqueeze(x, [0, rank + 1] if rank == 2 else [0])
    place = [axis + (axis >= src.axis) for axis in range(rank)]  # of each axis beside the models'
    x = emit.transpose(x, [src.axis, *(place[axis] for axis in moved(at, rank))])
    return folded(emit, x, at, dims)


def folded(emit: Emitter, x: Tensor, at: int, dims: Dims) -> Tensor:
    """[N, d_a, ..] -> [1, (N d_a), ..], all axes in their places."""
    filled = [1] if len(dims) == 2 else []
    return emit.reshape(x, [1, emit.models * static_size(dims[at]), *[0] * (len(dims) - 1), *filled])


def unfolded(emit: Emitter, x: Tensor, at: int, dims: Dims) -> Tensor:
    """[1, (N d_a), ..] -> [N, d_a, ..], all axes in their places."""
    return emit.reshape(x, [emit.models, static_size(dims[at]), *[0] * (len(dims) - 1)])


def from_channels(emit: Emitter, x: Tensor, at: int, dst: Layout, dims: Dims) -> Tensor:
    """Emits the hop to STACKED(b), or to FOLDED of the last axis where it alone moves."""
    rank = len(dims)
    if _together(dst, at, dims):
        x = emit.squeeze(emit.reshape(x, [1, emit.models * _both(dims), 1, *[0] * at]), [2])
        x = from_channels(emit, x, at, dst, [*dims[:at], _both(dims)])
        return emit.reshape(
            emit.unsqueeze(x, [rank]), [*[0] * (rank - 1), static_size(dims[at]), static_size(dims[-1])]
        )
    if dst.folded:
        x = emit.squeeze(x, [0, 3] if rank == 2 else [0])
        return emit.transpose(x, [*range(1, rank), 0])
    x = unfolded(emit, x, at, dims)
    order = moved(at, rank)
    perm = [1 + order.index(axis) for axis in range(rank)]
    return emit.transpose(x, [*perm[: dst.axis], 0, *perm[dst.axis :]])


def image(emit: Emitter, x: Tensor, rank: int) -> Tensor:
    """[d0, .., dk], equal in all models, -> [1, dk, d0, ..]."""
    x = emit.unsqueeze(x, [0, rank + 1] if rank == 2 else [0])
    return emit.transpose(x, [0, rank, *range(1, rank), *([3] if rank == 2 else [])])


def _together(other: Layout, at: int, dims: Dims) -> bool:
    """True where the last two axes can move as one: ONNX Runtime moves one axis fast."""
    two = len(dims) >= 4 and at == len(dims) - 2 and all(isinstance(dim, int) for dim in dims[at:])
    return two and other.stacked and other.axis <= at


def _both(dims: Dims) -> int:
    return static_size(dims[-2]) * static_size(dims[-1])


def moved(at: int, rank: int) -> list[int]:
    """The axes in the order in which they stand behind the models."""
    return [*range(at, rank), *range(at)]
