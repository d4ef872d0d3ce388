"""Convolutions: M models are M times the groups (NetFuse, arXiv:2009.13062, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from netfuse_onnx.dims import static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.layouts.folded import fold, unfold
from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.ops.shapes_contrib import CHANNEL_BLOCK
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Option, family, rule
from netfuse_onnx.rules._site import Site
from netfuse_onnx.types import Became, Dim


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
    given = _with_whole_bias(site, ins, emit)
    return emit_same_op(site, given, emit, group=emit.models * int(site.attr("group")))


def _with_whole_bias(site: Site, ins: Sequence[Tensor], emit: Emitter) -> list[Tensor]:
    """The inputs, with a bias of open size that must have one number for each filter of all models.

    CUDA's Conv does not compare the two: with fewer numbers, a model's filters would read the next one's."""
    given, filters = list(ins), site.dims(1)
    if not site.has(2) or isinstance(site.dims(2)[0], int):
        return given
    groups = int(site.attr("group")) if site.op == "ConvTranspose" else 1
    count = filters[1 if site.op == "ConvTranspose" else 0]
    if isinstance(count, int) and count:
        given[2] = emit.reshape(ins[2], [emit.models * groups * count])
    return given


@rule("Conv", FUSED, takes=(SHARED, FOLDED(0), FOLDED(0), FOLDED(1)), gives=FOLDED(1), when=_not_wide)
def conv_shared_input(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """Wide: NCHW, (MO)Ckk -> N(MO)HW. One image for all models meets every model's filters."""
    return emit_same_op(site, _with_whole_bias(site, ins, emit), emit)


@rule("Conv", "ConvTranspose", FUSED, takes=(FOLDED(0), SHARED, SHARED, FOLDED(0)), gives=FOLDED(0))
def conv_shared_weights(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """With one set of filters the models join the batch: (MN)CHW, OCkk -> (MN)OHW."""
    return emit_same_op(site, ins, emit)


FULL = 8
"""Channels of a group that tensor cores multiply at once, in TF32."""


@family("Conv", FUSED)
def conv_padded(site: Site) -> Iterator[Option]:
    """With --target cuda, zeros fill the few channels of a model's image: N(M8)HW, (MO)8kk -> N(MO)HW."""
    need(site.is_mapped(0) and site.attr("group") == 1, "its input is shared or grouped")
    dims, filters = site.dims(0), site.dims(1)
    channels = filters[1] if len(filters) == len(dims) >= 3 else None
    need(isinstance(channels, int) and 0 < channels < FULL, "its channels are many or of unknown number")
    need(site.opset >= 11, "Pad reads no widths below opset 11")
    missing = FULL - static_size(channels)

    def padded(emit: Emitter, x: Tensor, rank: int, axis: int) -> Tensor:
        return emit("Pad", x, emit.const([0] * (rank + axis) + [missing] + [0] * (rank - axis - 1)))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        x = fold(emit, padded(emit, ins[0], len(dims) + 1, 2), 1, (dims[0], FULL, *dims[2:]))
        w = padded(emit, ins[1], len(dims), 1)
        rest = _with_whole_bias(site, ins, emit)[2:]
        return emit_same_op(site, [x, w, *rest], emit, group=emit.models)

    takes = site.takes({0: STACKED(1), 1: FOLDED(0), 2: FOLDED(0), 3: FOLDED(1)})
    yield Option("conv_padded", takes, (FOLDED(1),), body, Became.GROUPED, only="cuda")


MOST = 2
"""Filters are filled up to at most so many times their number."""


@family("Conv")
def conv_filled(site: Site) -> Iterator[Option]:
    """With --tune, filters of zeros fill blocks of channels; what they give is cut off: N(MP)HW -> NMOHW."""
    dims, filters = site.dims(0), site.dims(1)
    need(len(dims) == len(filters) == 4 and site.is_mapped(0) and site.is_mapped(1), "it is not over images")
    out, into, *window = filters
    known = isinstance(out, int) and isinstance(into, int) and out > 0 and into > 0
    need(known and site.attr("group") == 1 and window != [1, 1], "it is grouped, or of one point")
    count = static_size(out)
    full = -(-count // CHANNEL_BLOCK) * CHANNEL_BLOCK
    need(static_size(into) % CHANNEL_BLOCK == 0, "its input fills no whole blocks")
    need(count < full <= MOST * count, "its filters fill blocks, or too little of one")
    need(site.opset >= 11, "Pad reads no widths below opset 11")

    def filled(emit: Emitter, w: Tensor, rest: Sequence[Dim]) -> Tensor:
        rank = len(rest)
        w = emit.reshape(w, [emit.models, count, *map(static_size, rest)])
        w = emit("Pad", w, emit.const([0] * (rank + 3) + [full - count] + [0] * rank))
        return emit.reshape(w, [emit.models * full, *map(static_size, rest)])

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        more = [filled(emit, ins[2], [])] if site.has(2) else []
        x = [ins[0], filled(emit, ins[1], filters[1:]), *more]
        (y,) = emit_same_op(site, x, emit, group=emit.models)
        sizes = site.out_dims()
        y = unfold(emit, y, 1, (sizes[0], full, *sizes[2:]))
        return emit("Slice", y, emit.const([0]), emit.const([count]), emit.const([2]))

    need(all(isinstance(size, int) for size in window), "the size of its window is unknown")
    takes = site.takes({0: FOLDED(1), 1: FOLDED(0), 2: FOLDED(0)})
    yield Option(
        "conv_filled", takes, (STACKED(1),), body, Became.GROUPED, tuned=True, only="cpu", unmeasured=True
    )


ACTIVATIONS = {
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}
"""The activations of FusedConv that are operators with these attributes, which stand in activation_params."""


def finish(site: Site) -> Callable[[Emitter, Tensor], Tensor]:
    """The activation of a FusedConv as an operator of its own; none for a Conv. Refuses one that is not."""
    name = (site.attr("activation") or b"").decode(errors="replace") if site.op == "FusedConv" else ""
    need(not name or name in ACTIVATIONS, f"its activation, {name}, is no operator of its own here")
    params = dict(zip(ACTIVATIONS.get(name, ()), site.node.attrs.get("activation_params", ()), strict=False))
    return lambda emit, x: emit(name, x, **params) if name else x


@family(FUSED)
def fused_conv_apart(site: Site) -> Iterator[Option]:
    """With --target, Conv runs once where only the sum differs: NCHW, OCkk -> NOHW, then + MNOHW."""
    need(site.has(3) and not site.is_mapped(0, 1, 2), "its convolution differs between the models")
    activation = finish(site)
    attrs = {k: v for k, v in site.node.attrs.items() if not k.startswith("activation")}

    def option(layout: Layout) -> Option:
        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
            product = emit.unsqueeze(emit("Conv", *ins[:3], **attrs), [layout.axis])
            return activation(emit, emit("Add", product, ins[3]))

        return Option("fused_conv_apart", site.takes({3: layout}), (layout,), body, tuned=True)

    yield from (option(STACKED(axis)) for axis in (0, 1))
