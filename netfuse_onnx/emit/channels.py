"""The layout CHANNELS: some trailing axes of a value as the channels of one image, for all models at once.

A product with weights is a 1x1 convolution then, with a group per model (rules/channels.py). What is
written here is axes [d0, .., d(a-1), d_a, .., dk] -> [1, (N d_a), .., dk, d0, .., d(a-1)], and back.
"""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.layouts import known
from netfuse_onnx.types import Dim, Layout


def to_channels(emit: Emitter, x: Tensor, src: Layout, at: int, dims: Sequence[Dim]) -> Tensor:
    """From STACKED(b), or FOLDED of the last axis where it alone moves."""
    rank = len(dims)
    if _together(src, at, dims):
        x = emit.squeeze(emit.reshape(x, [*[0] * (rank - 1), _both(dims), 1]), [rank])
        x = to_channels(emit, x, src, at, [*dims[:at], _both(dims)])
        return emit.reshape(
            emit.unsqueeze(x, [2]), [1, emit.models * known(dims[at]), known(dims[-1]), *[0] * at]
        )
    if src.folded:  # [d0.., (N dk)] -> [(N dk), d0..]
        x = emit.transpose(x, [rank - 1, *range(rank - 1)])
        return emit.unsqueeze(x, [0, rank + 1] if rank == 2 else [0])
    place = [axis + (axis >= src.axis) for axis in range(rank)]  # of each axis beside the models'
    x = emit.transpose(x, [src.axis, *(place[axis] for axis in moved(at, rank))])
    return folded(emit, x, at, dims)


def folded(emit: Emitter, x: Tensor, at: int, dims: Sequence[Dim]) -> Tensor:
    """[N, d_a, ..] -> [1, (N d_a), ..], all axes in their places."""
    filled = [1] if len(dims) == 2 else []
    return emit.reshape(x, [1, emit.models * known(dims[at]), *[0] * (len(dims) - 1), *filled])


def unfolded(emit: Emitter, x: Tensor, at: int, dims: Sequence[Dim]) -> Tensor:
    """[1, (N d_a), ..] -> [N, d_a, ..], all axes in their places."""
    return emit.reshape(x, [emit.models, known(dims[at]), *[0] * (len(dims) - 1)])


def from_channels(emit: Emitter, x: Tensor, at: int, dst: Layout, dims: Sequence[Dim]) -> Tensor:
    """To STACKED(b), or FOLDED of the last axis where it alone moves."""
    rank = len(dims)
    if _together(dst, at, dims):
        x = emit.squeeze(emit.reshape(x, [1, emit.models * _both(dims), 1, *[0] * at]), [2])
        x = from_channels(emit, x, at, dst, [*dims[:at], _both(dims)])
        return emit.reshape(emit.unsqueeze(x, [rank]), [*[0] * (rank - 1), known(dims[at]), known(dims[-1])])
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


def _together(other: Layout, at: int, dims: Sequence[Dim]) -> bool:
    """Whether the last two axes can move as one: ONNX Runtime's Transpose is fast where it moves one axis."""
    two = len(dims) >= 4 and at == len(dims) - 2 and all(isinstance(dim, int) for dim in dims[at:])
    return two and other.stacked and other.axis <= at


def _both(dims: Sequence[Dim]) -> int:
    return known(dims[-2]) * known(dims[-1])


def moved(at: int, rank: int) -> list[int]:
    """The axes in the order in which they stand behind the models."""
    return [*range(at, rank), *range(at)]
