"""Resampling: N(MC)HW or (MN)CHW. The folded axis must keep its size, or models would be mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from netfuse_onnx.dims import folded_size, same_dim
from netfuse_onnx.emit.chosen import NeedsCount
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Operands, Refuse, Site
from netfuse_onnx.run import gaps
from netfuse_onnx.types import Dim


@family("Resize", "Upsample")
def resize(site: Site) -> Iterator[Option]:
    """It works over the spatial axes, N(MC)HW or (MN)CHW; a size for the folded axis is multiplied."""
    site.only_mapped(0)
    rank = site.rank(0)
    axes = [site.own_axis(int(a), rank) for a in site.attr("axes") or range(rank)]
    _need_counts(site, len(axes))
    takes = (SHARED,) * (len(site.node.inputs) - 1)
    if rank <= gaps.RESIZE_BLENDS_UP_TO and site.attr("mode") != b"nearest":
        yield Option("resize", (STACKED(0), *takes), (STACKED(0),), _in_front(site, axes))
        return
    sizes = _inferred_sizes(site)
    refusals = []
    for axis in range(min(2, rank)):
        if sizes and axis not in sizes:
            yield Option("resize", (FOLDED(axis), *[None] * len(takes)), (FOLDED(axis),), _to_sizes(sizes))
            continue
        try:
            body = _along(site, axis, axes)
        except Refuse as refusal:  # the other axis may do
            refusals.append(refusal)
            continue
        yield Option("resize", (FOLDED(axis), *takes), (FOLDED(axis),), body)
    if refusals:
        raise refusals[0]


def _need_counts(site: Site, count: int) -> None:
    """Refuse unless each axis has a size or scale, and two edges of the region: no runtime takes less."""
    for i, given in list(enumerate(site.values))[1:]:
        region = i == 1 and site.op == "Resize" and site.opset >= 11
        if region and not _crops(site):
            continue
        if given is not None and given.size not in (0, 2 * count if region else count):
            raise Refuse(f"it resizes {count} axes and has {given.size} values in its input {i}")
    scales: Any = site.attr("scales")
    need(scales is None or len(scales) == count, "it has not one scale for each axis")
    need(len(site.out_dims()) == site.rank(0), "its output has another rank than its input")


def _along(site: Site, axis: int, axes: list[int]) -> Body:
    """The body that resizes `axes` with the models folded into `axis`."""
    if axis not in axes:
        return emit_same_op
    need(_stretches(site), "it keeps an aspect ratio")
    k = axes.index(axis)
    _refuse_region(site, k, len(axes))
    return _by_sizes(site, axes, k) if _has_sizes(site) else _by_scales(site, k)


def _inferred_sizes(site: Site) -> dict[int, int]:
    """Sizes that are computed at run time, by axis, where the dims of the output tell them; the axes that
    keep their size are left out. Before opset 18 none can be."""
    computed = site.opset >= 18 and _has_sizes(site) and site["sizes"].value is None
    if _crops(site) or not _stretches(site) or not computed:
        return {}
    sizes = {}
    for axis, (dim, out) in enumerate(zip(site.dims(0), site.out_dims(), strict=True)):
        if not same_dim(dim, out):
            if not (isinstance(dim, int) and isinstance(out, int)):
                return {}
            sizes[axis] = out
    return sizes


def _to_sizes(sizes: dict[int, int]) -> Body:
    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        ready = [ins[0], None, None, emit.const(list(sizes.values()))]
        return emit_same_op(site, ready, emit, axes=list(sizes))

    return body


def _in_front(site: Site, axes: list[int]) -> Body:
    """[N, 1.., d..] of rank 4, or of rank 5 for three axes: nothing is blended across the models."""
    need(not _crops(site), "it has a region of interest")
    need(_stretches(site), "it keeps an aspect ratio")
    by_sizes = _has_sizes(site)
    key = "sizes" if by_sizes else "scales"
    values = site[key].value
    ones = gaps.RESIZE_BLENDS_UP_TO - site.rank(0)
    if ones == 0 and not _keeps_first(site, axes, values, by_sizes):
        ones = 1

    def body(site: Site, ins: Operands, emit: Emitter) -> Held:
        added = range(1, ones + 1)
        ready = ins | {"x": emit.unsqueeze(ins["x"], added)}
        head: list[Dim] = [emit.count if by_sizes else 1] + [1] * ones

        def numbers(all_of: Sequence[Any]) -> Tensor:
            return emit.shape(all_of) if by_sizes else emit.const(all_of, np.float32)

        if site.attr("axes"):
            pass  # they are shifted, and the sizes are theirs alone
        elif values is not None:
            ready |= {key: numbers([*head, *values.reshape(-1).tolist()])}
        else:
            ready |= {key: emit("Concat", numbers(head), ins[key], axis=0)}
        shifted = [axis + ones + 1 for axis in axes] if site.attr("axes") else None
        return emit.squeeze(emit_same_op(site, ready, emit, axes=shifted)[0], added)

    return body


def _keeps_first(site: Site, axes: list[int], values: np.ndarray[Any, Any] | None, by_sizes: bool) -> bool:
    """True where the first axis surely stays as long as it is."""
    if 0 not in axes:
        return True
    same = site.dims(0)[0] if by_sizes else 1.0
    return values is not None and bool(values.reshape(-1)[axes.index(0)] == same)


def _crops(site: Site) -> bool:
    return bool(site.attr("coordinate_transformation_mode") == b"tf_crop_and_resize")


def _stretches(site: Site) -> bool:
    return site.attr("keep_aspect_ratio_policy") in (None, b"stretch")


def _has_sizes(site: Site) -> bool:
    """True where an input of sizes decides, and not one of scales."""
    return site.has("sizes") and site["sizes"].dims != (0,)


def _refuse_region(site: Site, k: int, count: int) -> None:
    """A region of interest may only take all of the folded axis."""
    if not _crops(site) or not site.has("roi"):
        return
    roi = site["roi"].value
    need(roi is not None, "its region of interest is computed at run time")
    flat = [] if roi is None else roi.reshape(-1).tolist()
    need((flat[k], flat[k + count]) == (0.0, 1.0), "its region of interest cuts the batch or the channels")


def _times(size: int, models: Dim) -> Dim:
    """The size of an axis that holds so much of each model. Raises NeedsCount where that is no number, nor
    the number of models."""
    if (wide := folded_size(size, models)) is None:
        raise NeedsCount
    return wide


def _by_sizes(site: Site, axes: list[int], k: int) -> Body:
    values = site["sizes"].value
    size = site.dims(0)[axes[k]]
    need(values is None or values.reshape(-1)[k] == size, "it resizes the batch or the channels")

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        scale: list[Dim] = [emit.count if axis == axes[k] else 1 for axis in axes]
        if values is not None:
            sizes = emit.shape([_times(int(v), f) for v, f in zip(values.reshape(-1), scale, strict=True)])
        else:
            sizes = emit("Mul", ins["sizes"], emit.shape(scale))
            there = emit("Gather", emit("Shape", ins["x"]), emit.const([axes[k]]), axis=0)
            same = emit("Equal", there, emit("Gather", sizes, emit.const([k]), axis=0))
            ins |= {"x": _where(same, ins["x"], site, emit)}
        return emit_same_op(site, ins | {"sizes": sizes}, emit)

    return body


def _where(condition: Tensor, x: Tensor, site: Site, emit: Emitter) -> Tensor:
    """The folded input `x`; the run fails where `condition`, of shape [1], is false."""
    rank = len(site.dims(0))
    return emit.require(x, emit("Where", condition, emit.const([0] * rank), emit.const([-2] * rank)))


def _by_scales(site: Site, k: int) -> Body:
    values = site["scales"].value
    named: Any = site.attr("scales")
    if values is None and named is None:

        def guarded(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
            one = emit.filled(1.0, TensorProto.FLOAT, (1,))
            same = emit("Equal", emit("Gather", ins["scales"], emit.const([k]), axis=0), one)
            return emit_same_op(site, ins | {"x": _where(same, ins["x"], site, emit)}, emit)

        return guarded
    scale = float(named[k] if values is None else values.reshape(-1)[k])
    need(scale == 1.0, "it resizes the batch or the channels")
    return emit_same_op
