"""How one layout becomes another: the conversions, as routes of single hops.

The planner prices a route and the emitter walks it, so both see the same hops. SHARED never appears as
a target: data that differs between models cannot be made one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from netfuse_onnx.types import FOLDED, PER_MODEL, SHARED, STACKED, Dim, Kind, Layout


def route(src: Layout, dst: Layout, dims: Sequence[Dim]) -> tuple[Layout, ...]:
    """The layouts to pass through from `src` (excluded) to `dst` (included); () when they are equal.

    `dims` are the per-model dims: PER_MODEL -> FOLDED(a) joins along axis a only where its size is
    static. Along a dynamic axis unequal sizes would silently hand rows of one model to another, so the
    join is made on a new axis, where unequal sizes fail, and folded after.
    """
    if src == dst:
        return ()
    if src.channels or dst.channels:
        return _by_way_of_channels(src, dst, dims)
    if src == SHARED or dst == SHARED:
        return (dst,)
    if src == PER_MODEL:
        static = dst.folded and isinstance(dims[dst.axis], int)
        return (dst,) if dst.stacked or static else (STACKED(dst.axis), dst)
    if dst == PER_MODEL:
        return (dst,)
    hops: list[Layout] = []
    at = src
    if at.folded:
        at = STACKED(at.axis)
        hops.append(at)
    if at.axis != dst.axis:
        hops.append(STACKED(dst.axis))
    if dst.folded:
        hops.append(dst)
    return tuple(hops)


def _by_way_of_channels(src: Layout, dst: Layout, dims: Sequence[Dim]) -> tuple[Layout, ...]:
    """The last axis alone in front is a Transpose away from being folded where it is; everything else goes
    by way of a stacked axis, in front or wherever it is wanted."""
    last = len(dims) - 1
    if src.channels and dst.channels:
        return (STACKED(0), dst)
    if src.channels:
        near = FOLDED(last) if src.axis == last and (dst in (PER_MODEL, FOLDED(last))) else STACKED(0)
        near = dst if dst.stacked else STACKED(dst.axis) if dst.folded and near.stacked else near
        return (near,) if near == dst else (near, dst)
    near = FOLDED(last) if dst.axis == last and src in (PER_MODEL, FOLDED(last)) else STACKED(0)
    near = src if src.stacked else STACKED(src.axis) if src.folded and near.stacked else near
    return (dst,) if near == src else (*route(src, near, dims), dst)


def merged_dims(layout: Layout, dims: Sequence[Dim], models: int) -> tuple[Dim, ...]:
    """Dims of the one tensor that holds the value: [N, d0, ..] or [.., N*d_a, ..]."""
    out = list(dims)
    if layout.channels:
        front = [models * dim if isinstance(dim, int) else None for dim in out[layout.axis : layout.axis + 1]]
        return (1, *front, *out[layout.axis + 1 :], *out[: layout.axis], *([1] if len(out) == 2 else []))
    if layout.stacked:
        out.insert(layout.axis, models)
    elif layout.folded:
        dim = out[layout.axis]
        out[layout.axis] = models * dim if isinstance(dim, int) else None
    return tuple(out)


def moves_nothing(src: Layout, dst: Layout, dims: Sequence[Dim]) -> bool:
    """True where STACKED(a) -> STACKED(b) passes only axes of size 1, so that a Reshape does it."""
    if src.kind is not Kind.STACKED or dst.kind is not Kind.STACKED:
        return False
    low, high = sorted((src.axis, dst.axis))
    return all(dim == 1 for dim in dims[low:high])


def same_dim(left: Dim, right: Dim) -> bool:
    """True where two dims are known to be equal: one size, or one symbol."""
    return left is not None and left == right


APART = "~"
"""This stands before the number that tells axes of one name apart, as in `batch~2`."""


def same_name(left: Dim, right: Dim) -> bool:
    """True where a file says that two dims are equal: then they are meant to be, but only a check at run time
    makes them so."""
    one, two = (str(dim).split(APART)[0] if isinstance(dim, str) else dim for dim in (left, right))
    return one is not None and one == two


def known(dim: Dim) -> int:
    """A dim of which a rule has made sure that it is a size."""
    assert isinstance(dim, int), "a size is open that a rule took for known"
    return dim


def volume(dims: Sequence[Dim], unknown: int) -> int:
    """Elements of a tensor, with `unknown` standing in for every dim that is not static."""
    return math.prod(dim if isinstance(dim, int) else unknown for dim in dims)


def places(rank: int) -> tuple[Layout, ...]:
    """The layouts that axis-wise operators are offered for a value of this rank.

    Two positions are enough: 0 is where batched products want the models, 1 is where grouped
    convolutions do; an operator that moves axes itself (Transpose, Unsqueeze, ..) gets from one to the
    other for nothing.
    """
    found = [STACKED(0)]
    if rank >= 1:
        found.append(FOLDED(0))
    if rank >= 2:
        found += [STACKED(1), FOLDED(1)]
    return tuple(found)
