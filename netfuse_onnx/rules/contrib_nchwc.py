"""ONNX Runtime's convolutions and pools on channels in blocks, which a session saves at its highest level.

Such a tensor says NCHW and holds N(C/b)HWb, b = 8 or 16 by machine. Channels that fill their blocks fold like
others: N(MC)HW is N(M C/b)HWb. The filters, in blocks too, are [O, I, k, k] with whole blocks of O.
"""

from __future__ import annotations

from collections.abc import Iterator

from netfuse_onnx.layouts import FOLDED, SHARED, Layout
from netfuse_onnx.ops.shapes_contrib import CHANNEL_BLOCK
from netfuse_onnx.rules._build import emit_same_op, need, per_axis, times_models
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.types import Became, Dim

NCHWC = "com.microsoft.nchwc"


def _whole(channels: Dim) -> bool:
    return isinstance(channels, int) and channels > 0 and channels % CHANNEL_BLOCK == 0


@family(f"{NCHWC}.Conv")
def blocked_conv(site: Site) -> Iterator[Option]:
    """Grouped: N(MC)HW, (MO)Ckk -> N(MO)HW. One image for all models meets every model's filters."""
    group = int(site.attr("group"))
    filters, inner = site.dims(1)[:2]
    weights = site.is_mapped("w", "b")
    if not weights:
        yield Option("blocked_conv", _takes(site, FOLDED(0), SHARED), (FOLDED(0),), emit_same_op)
    elif not site.mapped[0] and group == 1 and not site.has(3):
        yield Option("blocked_conv", _takes(site, SHARED, FOLDED(0)), (FOLDED(1),), emit_same_op)
        return
    depthwise = inner == 1 and filters == group
    if not (_whole(filters) and (depthwise or (_whole(inner) and group == 1))):
        need(not weights, UNEVEN)
        return
    grouped = _takes(site, FOLDED(1), FOLDED(0))
    yield Option("blocked_conv", grouped, (FOLDED(1),), times_models("group"), Became.GROUPED)


UNEVEN = "its channels do not fill the runtime's blocks, so models can not stand side by side in them"


def _takes(site: Site, images: Layout, filters: Layout) -> tuple[Layout | None, ...]:
    """The image and what is added to it in one layout, filters and bias in the other."""
    return site.takes({"x": images, "w": filters, "b": filters, "sum": images})


POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Upsample")


@family(*(f"{NCHWC}.{op}" for op in POOLS))
def blocked_pool(site: Site) -> Iterator[Option]:
    """It works over the spatial axes, so the models join the batch or the channels."""
    yield from per_axis(site, name="blocked_pool", layouts=[FOLDED(0), FOLDED(1)])


@family(f"{NCHWC}.ReorderInput")
def into_blocks(site: Site) -> Iterator[Option]:
    """The models join the batch, or the channels where these fill their blocks."""
    yield Option("into_blocks", (FOLDED(0),), (FOLDED(0),), emit_same_op)
    axis = site.rank(0) - 1 if site.attr("channels_last") else 1
    if _whole(site.dims(0)[axis]):
        yield Option("into_blocks", (FOLDED(axis),), (FOLDED(1),), emit_same_op)


@family(f"{NCHWC}.ReorderOutput")
def out_of_blocks(site: Site) -> Iterator[Option]:
    """The models join the batch, or the channels where these fill their blocks."""
    yield Option("out_of_blocks", (FOLDED(0),), (FOLDED(0),), emit_same_op)
    axis = site.rank(0) - 1 if site.attr("channels_last") else 1
    if _whole(int(site.attr("channels"))):
        yield Option("out_of_blocks", (FOLDED(1),), (FOLDED(axis),), times_models("channels"))
