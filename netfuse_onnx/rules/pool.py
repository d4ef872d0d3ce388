"""Pooling and resampling over the spatial axes: the models join the batch or the channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from netfuse_onnx.emit import Emitter, Held, Tensor
from netfuse_onnx.rules._build import again, need, per_axis
from netfuse_onnx.rules._registry import Body, Option, Site, family
from netfuse_onnx.types import Layout

POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")


@family(*POOLS)
def pool(site: Site) -> Iterator[Option]:
    """over the spatial axes: N(MC)HW or (MN)CHW"""
    need(site.gone(1), "MaxPool's indices count across the batch and the channels")
    spatial = range(2, site.rank(0))
    yield from per_axis(site, lambda layout: again, _if_folded, axes=spatial, name="pool")


@family("LRN", "DepthToSpace", "SpaceToDepth")
def per_image(site: Site) -> Iterator[Option]:
    """reads across the channels of one image: (MN)CHW, the models join the batch"""
    yield from per_axis(site, lambda layout: again, _if_folded, axes=range(1, site.rank(0)), name="per_image")


def _if_folded(layout: Layout) -> Layout | None:
    return layout if layout.folded else None


@family("Resize", "Upsample")
def resize(site: Site) -> Iterator[Option]:
    """over the spatial axes: N(MC)HW or (MN)CHW; a size given for the folded axis is multiplied"""
    need(
        site.op != "Resize" or not site.has(1) or _empty(site, 1),
        "a region of interest is given in fractions of every axis",
    )
    rank = site.rank(0)
    named = site.attr("axes")
    axes = [site.axis(a, rank) for a in named] if named else list(range(rank))
    scales_at = 2 if site.op == "Resize" else 1
    if site.has(scales_at) and not _empty(site, scales_at):
        scales = site.values[scales_at]
        need(scales is not None, "its scales are computed at run time")
        still = [a for a, s in zip(axes, np.asarray(scales).reshape(-1), strict=True) if s == 1]
        resized = [a for a in axes if a not in still]
    else:
        still, resized = [a for a in axes if a < 2], [a for a in axes if a >= 2]

    def body(layout: Layout) -> Body:
        def emit_resize(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
            ready = list(ins)
            sizes = ready[3] if len(ready) > 3 else None
            if sizes is not None and layout.axis in axes:
                ready[3] = _multiply(
                    site, sizes, [emit.models if a == layout.axis else 1 for a in axes], emit
                )
            return again(site, ready, emit)

        return emit_resize

    policy = site.attr("keep_aspect_ratio_policy", b"stretch")
    need(policy == b"stretch", "it keeps an aspect ratio")
    yield from per_axis(site, body, _if_folded, axes=resized, name="resize")


def _empty(site: Site, i: int) -> bool:
    dims = site.inputs[i].dims
    return dims is not None and dims == (0,)


def _multiply(site: Site, sizes: Tensor, factors: list[int], emit: Emitter) -> Tensor:
    known = site.values[3]
    if known is not None:
        return emit.const([int(s) * f for s, f in zip(known.reshape(-1), factors, strict=True)])
    return emit("Mul", sizes, emit.const(factors))
