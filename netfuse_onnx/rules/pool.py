"""Pooling and resampling over the spatial axes: the models join the batch or the channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, STACKED
from netfuse_onnx.layouts.folded import unfold
from netfuse_onnx.rules._build import emit_same_op, if_folded, need, per_axis
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site

POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")


@family(*POOLS)
def pool(site: Site) -> Iterator[Option]:
    """It works over the spatial axes: N(MC)HW or (MN)CHW."""
    if site.has_output(1):
        yield Option("pool", (FOLDED(0),), (FOLDED(0), STACKED(0)), _with_indices)
        return
    yield from per_axis(site, gives=if_folded, axes=range(2, site.rank(0)), name="pool")


def _with_indices(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """MaxPool's indices count through the whole batch: what lies before each model is taken off."""
    y, indices = emit_same_op(site, ins, emit)
    rank = site.rank(0)
    before = emit("Mul", emit("Div", emit("Size", ins[0]), emit.number_of_models()),
                  emit.places(rank))  # fmt: skip
    return [y, emit("Sub", unfold(emit, indices, 0, site.out_dims()), before)]


@family("LRN", "DepthToSpace", "SpaceToDepth")
def per_image(site: Site) -> Iterator[Option]:
    """It reads across the channels of one image, so the models join the batch: (MN)CHW."""
    yield from per_axis(site, gives=if_folded, axes=range(1, site.rank(0)), name="per_image")


@family("DepthToSpace")
def pixel_shuffle(site: Site) -> Iterator[Option]:
    """In CRD mode the channel comes first, so the models are more channels: N(MCbb)HW -> N(MC)(Hb)(Wb)."""
    need(site.attr("mode") == b"CRD", "its channels follow the blocks")
    yield Option("pixel_shuffle", (FOLDED(1),), (FOLDED(1),), emit_same_op)
