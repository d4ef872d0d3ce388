"""ONNX Runtime's convolutions and pools on channels in blocks, which a session saves at its highest level.

Such a tensor says NCHW and holds N(C/b)HWb, b = 8 or 16 by machine. Channels that fill their blocks fold like
others: N(MC)HW is N(M C/b)HWb. The filters, in blocks too, are [O, I, k, k] with whole blocks of O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, Layout
from netfuse_onnx.ops.shapes_contrib import CHANNEL_BLOCK
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family
from netfuse_onnx.types import Became, Dim

NCHWC = "com.microsoft.nchwc"


def _whole(channels: Dim) -> bool:
    return isinstance(channels, int) and channels > 0 and channels % CHANNEL_BLOCK == 0


@family(f"{NCHWC}.Conv")
def blocked_conv(site: Site) -> Iterator[Option]:
    """grouped: N(MC)HW, (MO)Ckk -> N(MO)HW; one image: every model's filters"""
    group = int(site.attr("group", 1))
    filters, inner = site.dims(1)[:2]
    if not site.is_mapped(1) and not site.is_mapped(2):
        yield Option("blocked_conv", _takes(site, FOLDED(0), SHARED), (FOLDED(0),), again)
    elif not site.mapped[0] and group == 1 and not site.has(3):
        yield Option("blocked_conv", _takes(site, SHARED, FOLDED(0)), (FOLDED(1),), again)
        return
    depthwise = inner == 1 and filters == group
    if not (_whole(filters) and (depthwise or (_whole(inner) and group == 1))):
        need(not site.is_mapped(1) and not site.is_mapped(2), UNEVEN)
        return

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return again(site, ins, emit, group=group * emit.models)

    grouped = _takes(site, FOLDED(1), FOLDED(0))
    yield Option("blocked_conv", grouped, (FOLDED(1),), body, 1.0, Became.GROUPED)


UNEVEN = "its channels do not fill the runtime's blocks, so models can not stand side by side in them"


def _takes(site: Site, images: Layout, filters: Layout) -> tuple[Layout, ...]:
    """The image and what is added to it in one layout, filters and bias in the other."""
    each = (images if i in (0, 3) else filters for i in range(len(site.node.inputs)))
    return tuple(take if site.has(i) else SHARED for i, take in enumerate(each))


POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Upsample")


@family(*(f"{NCHWC}.{op}" for op in POOLS))
def blocked_pool(site: Site) -> Iterator[Option]:
    """over the spatial axes: the models join the batch or the channels"""
    for layout in (FOLDED(0), FOLDED(1)):
        yield Option("blocked_pool", (layout,), (layout,), again)


@family(f"{NCHWC}.ReorderInput")
def into_blocks(site: Site) -> Iterator[Option]:
    """the models join the batch, or the channels where these fill their blocks"""
    yield Option("into_blocks", (FOLDED(0),), (FOLDED(0),), again)
    axis = site.rank(0) - 1 if site.attr("channels_last", 0) else 1
    if _whole(site.dims(0)[axis]):
        yield Option("into_blocks", (FOLDED(axis),), (FOLDED(1),), again)


@family(f"{NCHWC}.ReorderOutput")
def out_of_blocks(site: Site) -> Iterator[Option]:
    """the models join the batch, or the channels where these fill their blocks"""
    yield Option("out_of_blocks", (FOLDED(0),), (FOLDED(0),), again)
    channels = int(site.attr("channels", 0))
    axis = site.rank(0) - 1 if site.attr("channels_last", 0) else 1

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return again(site, ins, emit, channels=channels * emit.models)

    if _whole(channels):
        yield Option("out_of_blocks", (FOLDED(1),), (FOLDED(axis),), body)
