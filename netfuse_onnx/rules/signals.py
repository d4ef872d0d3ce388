"""Signals of one axis as images of one row (the layout IMAGE): convolutions, and what stands between them.

ONNX Runtime's CPU provider keeps an image in blocks of channels from one convolution to the next, and has a
depthwise kernel for it. A convolution of one axis copies its input instead, for one group after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, IMAGE, SHARED
from netfuse_onnx.ops.shapes_contrib import CHANNEL_BLOCK
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.types import Became

WINDOW = {"kernel_shape": (1,), "strides": (1,), "dilations": (1,), "pads": (0, 0)}
"""The attributes of a window, with their values for the one row. Pads name all beginnings, then all ends."""


def of_one_row(attrs: Mapping[str, Any]) -> dict[str, list[int]]:
    """The attributes of a window over one axis as those of a window over an image of one row."""
    given = {name: [int(v) for v in attrs[name]] for name in WINDOW if name in attrs}
    need(
        all(len(given[name]) == len(row) for name, row in WINDOW.items() if name in given),
        "it has a window of another rank",
    )
    return {
        name: [v for pair in zip(WINDOW[name], own, strict=True) for v in pair] for name, own in given.items()
    }


@family("Conv")
def conv_of_a_row(site: Site) -> Iterator[Option]:
    """With --target cpu, a signal is an image of one row: N(MC)1L, (MO)C1k -> N(MO)1L."""
    need(site.rank(0) == 3 and site.rank(1) == 3, "it is not over one axis")
    need(site.is_mapped(1), "its filters are equal in all models")
    own, groups = site.mapped[0], int(site.attr("group"))
    need(own or groups == 1, "its input is shared and its filters are already grouped")
    need(_in_blocks(site, own), "its channels do not fill whole blocks")
    window = of_one_row(site.node.attrs)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        x = ins[0] if own else emit.unsqueeze(ins[0], [2])
        more = {"group": emit.models * groups} if own else {}
        return emit_same_op(site, [x, emit.unsqueeze(ins[1], [2]), *ins[2:]], emit, **window, **more)

    takes = site.takes({0: IMAGE if own else SHARED, 1: FOLDED(0), 2: FOLDED(0)})
    yield Option("conv_of_a_row", takes, (IMAGE,), body, Became.GROUPED, tuned=True, only=IMAGE.only)


def _in_blocks(site: Site, own: bool) -> bool:
    """True where ONNX Runtime has a faster kernel for images: for channels in whole blocks, or each on its
    own."""
    out, into = site.dims(1)[:2]
    if not (isinstance(out, int) and isinstance(into, int) and out and into):
        return False
    groups = int(site.attr("group")) * (site.models if own else 1)
    every = out * site.models
    if own and into == 1 and every == groups:
        return every % CHANNEL_BLOCK == 0
    return into % CHANNEL_BLOCK == 0 and every // groups % CHANNEL_BLOCK == 0


@family("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")
def pool_of_a_row(site: Site) -> Iterator[Option]:
    """With --target cpu, it works over the last axis of an image of one row: N(MC)1L."""
    need(site.rank(0) == 3 and not site.has_output(1), "it is not over one axis, or its indices are read")
    window = of_one_row(site.node.attrs)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return emit_same_op(site, ins, emit, **window)

    yield Option("pool_of_a_row", (IMAGE,), (IMAGE,), body, tuned=True, only=IMAGE.only)


@family("BatchNormalization")
def norm_of_a_row(site: Site) -> Iterator[Option]:
    """With --target cpu, the models are more channels of an image of one row: N(MC)1L, (MC) -> N(MC)1L."""
    need(site.rank(0) == 3, "it is not over one axis")
    need(
        not site.attr("training_mode") and not any(map(site.has_output, range(1, 5))),
        "it is in training mode",
    )
    takes = site.takes({0: IMAGE, **dict.fromkeys(range(1, 5), FOLDED(0))})
    yield Option("norm_of_a_row", takes, (IMAGE,), emit_same_op, Became.GROUPED, tuned=True, only=IMAGE.only)
