"""The way from one layout to another, as hops.

The planner prices a route and lower emits it, so both see the same hops.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from netfuse_onnx.dims import reshape_target
from netfuse_onnx.errors import InternalError
from netfuse_onnx.layouts.base import Hop, Layout
from netfuse_onnx.layouts.folded import FOLDED
from netfuse_onnx.layouts.per_model import PER_MODEL
from netfuse_onnx.layouts.stacked import STACKED
from netfuse_onnx.types import Dim

SPLITS = {"cuda"}
"""Providers for which a Split takes STACKED values apart; for others it is a Gather for each model. On CUDA
what a Gather gives is copied once more. Every runtime has Gather, while onnx2torch 1.5 lacks the Split of
opset 18; and the constants of the CPU were measured with it."""


def route(src: Layout, dst: Layout, dims: Sequence[Dim], provider: str = "") -> tuple[Hop, ...]:
    """The hops from `src` to `dst` for a value of per-model `dims`, in a file for `provider`; () where the
    two layouts are equal."""
    hops = _route(src, dst, tuple(dims), provider)
    if hops is None:
        raise InternalError(f"a value of {list(dims)} is {src} and read as {dst}: no conversion leads there")
    return hops


JOINS_FOLDED = {"cpu"}
"""Providers for which values are joined along an axis of static size and then reshaped. For others each one
gains an axis first: N nodes, which on a CPU take as long as the Concat itself."""


@functools.lru_cache(maxsize=1 << 12)
def _route(src: Layout, dst: Layout, dims: tuple[Dim, ...], provider: str) -> tuple[Hop, ...] | None:
    """The shortest way by way of the doors of either end, that of `dst` first; None where there is none."""
    if src == dst:
        return ()
    if dst == PER_MODEL and src.stacked and provider not in SPLITS:
        return (PER_MODEL.gathered(src),)
    if src == PER_MODEL and provider in JOINS_FOLDED and _joins_folded(dst, dims):
        folded = FOLDED(dst.axis)
        return (*(_route(src, folded, dims, provider) or ()), *(_route(folded, dst, dims, provider) or ()))
    # From PER_MODEL, only its own hops: these alone compare the shapes of the models (join.py).
    direct = (None if src == PER_MODEL else dst.hop_from(src, dims)) or src.hop_to(dst, dims)
    if direct:
        return (direct,)
    return min(_by_doors(src, dst, dims, provider), key=len, default=None)


def _joins_folded(dst: Layout, dims: tuple[Dim, ...]) -> bool:
    """True for a STACKED layout before an axis of static size, where one Reshape tells the models apart."""
    static = dst.stacked and dst.axis < len(dims) and isinstance(dims[dst.axis], int)
    return static and reshape_target(dims) is not None


def _by_doors(src: Layout, dst: Layout, dims: tuple[Dim, ...], provider: str) -> Iterator[tuple[Hop, ...]]:
    for door in (dst.door(src, dims), src.door(dst, dims)):
        if door is not None and door not in (src, dst):
            near, far = _route(src, door, dims, provider), _route(door, dst, dims, provider)
            if near is not None and far is not None:
                yield (*near, *far)


@functools.cache
def places(rank: int) -> tuple[Layout, ...]:
    """The layouts that axis-wise operators are offered for a value of this rank.

    Two positions are enough: 0 is where batched products want the models, 1 is where grouped
    convolutions do; an operator that moves axes itself (Transpose, Unsqueeze, ..) gets from one to the
    other for nothing.
    """
    return (
        STACKED(0),
        *([FOLDED(0)] if rank >= 1 else []),
        *([STACKED(1), FOLDED(1)] if rank >= 2 else []),
    )
