"""Convolutions: M models are M times the groups (NetFuse, arXiv:2009.13062, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Option, family, rule
from netfuse_onnx.rules._site import Site
from netfuse_onnx.types import Became


def _not_wide(site: Site) -> str:
    if not site.is_mapped(1) and not site.is_mapped(2):
        return "its weights are equal"
    return "" if site.attr("group") == 1 else "its input is shared and its filters are already grouped"


FUSED = f"{MICROSOFT}.FusedConv"
"""It adds an image of its own, input 3, and has an activation."""


@rule(
    "Conv", "ConvTranspose", FUSED,
    takes=(FOLDED(1), FOLDED(0), FOLDED(0), FOLDED(1)), gives=FOLDED(1), became=Became.GROUPED,
)  # fmt: skip
def conv(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """Grouped: N(MC)HW, (MO)Ckk -> N(MO)HW. M models are M times the groups."""
    return emit_same_op(site, ins, emit, group=emit.models * int(site.attr("group")))


@rule("Conv", FUSED, takes=(SHARED, FOLDED(0), FOLDED(0), FOLDED(1)), gives=FOLDED(1), when=_not_wide)
def conv_shared_input(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """Wide: NCHW, (MO)Ckk -> N(MO)HW. One image for all models meets every model's filters."""
    return emit_same_op(site, ins, emit)


@rule("Conv", "ConvTranspose", FUSED, takes=(FOLDED(0), SHARED, SHARED, FOLDED(0)), gives=FOLDED(0))
def conv_shared_weights(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """With one set of filters the models join the batch: (MN)CHW, OCkk -> (MN)OHW."""
    return emit_same_op(site, ins, emit)


ACTIVATIONS = {
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}
"""The activations of FusedConv that are operators with these attributes, which stand in activation_params."""


@family(FUSED)
def fused_conv_apart(site: Site) -> Iterator[Option]:
    """With --target, Conv runs once where only the sum differs: NCHW, OCkk -> NOHW, then + MNOHW."""
    need(site.has(3) and not site.is_mapped(0, 1, 2), "its convolution differs between the models")
    name = (site.attr("activation") or b"").decode(errors="replace")
    need(not name or name in ACTIVATIONS, f"its activation, {name}, is no operator of its own here")
    params = dict(zip(ACTIVATIONS.get(name, ()), site.node.attrs.get("activation_params", ()), strict=False))
    attrs = {k: v for k, v in site.node.attrs.items() if not k.startswith("activation")}

    def option(layout: Layout) -> Option:
        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
            product = emit.unsqueeze(emit("Conv", *ins[:3], **attrs), [layout.axis])
            total = emit("Add", product, ins[3])
            return emit(name, total, **params) if name else total

        return Option("fused_conv_apart", site.takes({3: layout}), (layout,), body, tuned=True)

    yield from (option(STACKED(axis)) for axis in (0, 1))
