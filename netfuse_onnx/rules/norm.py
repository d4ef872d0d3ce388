"""Normalisations: over channels (the models are more channels) or over the last axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from netfuse_onnx.dims import static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, places
from netfuse_onnx.rules._build import aligned, emit_same_op, need, same_op
from netfuse_onnx.rules._registry import Option, family, rule
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.types import Became


def _inference_only(site: Site) -> str:
    if site.attr("training_mode") or any(site.has_output(k) for k in range(1, 5)):
        return "BatchNormalization in training mode has statistics across the batch"
    return ""


def _with_channels(site: Site) -> str:
    return "" if site.rank(0) >= 2 else "its input has no axis of channels"


@rule("BatchNormalization", "InstanceNormalization", takes=(FOLDED(1), FOLDED(0)),
      gives=(FOLDED(1), FOLDED(0)), when=_with_channels, became=Became.GROUPED)  # fmt: skip
def channel_norm(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """The models are more channels: N(MC)HW, (MC) -> N(MC)HW."""
    return emit_same_op(site, ins, emit)


@rule("BatchNormalization", takes=(FOLDED(0), SHARED), gives=FOLDED(0), when=_inference_only)
@rule("InstanceNormalization", "GroupNormalization", takes=(FOLDED(0), SHARED), gives=FOLDED(0))
def norm_shared_weights(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """With one set of statistics the models join the batch: (MN)CHW -> (MN)CHW."""
    return emit_same_op(site, ins, emit)


@rule("GroupNormalization", takes=(FOLDED(1), FOLDED(0)), gives=FOLDED(1), became=Became.GROUPED)
def group_norm(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """The models are more groups: N(MC)HW with M times num_groups."""
    return emit_same_op(site, ins, emit, num_groups=emit.models * int(site.attr("num_groups")))


@family("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(site: Site) -> Iterator[Option]:
    """It works over the last axes; a scale or bias that differs between the models becomes Mul and Add."""
    rank = site.rank(0)
    first = site.axis(int(site.attr("axis")), rank)
    affine = [i for i in (1, 2) if site.has(i)]
    differs = any(site.mapped[i] for i in affine)
    outer = any(site.rank(i) > rank - first for i in affine)  # they are aligned with the axes before, too
    for layout in places(rank):
        if layout.touches(range(first, rank)) or (layout.stacked and layout.axis > first):
            continue
        if outer and layout != STACKED(0):
            continue
        if not differs and not outer:  # gaps.SCALE_PER_MODEL
            takes = site.takes({0: layout})
            yield Option("layer_norm", takes, site.gives(layout), same_op(axis=first - rank))
        elif layout == STACKED(0):
            yield _per_model_affine(site, rank, first)


def _per_model_affine(site: Site, rank: int, first: int) -> Option:
    """LN(x, ones) * [N, 1.., D] + [N, 1.., D].

    A scale of [N, 1.., D] inside LayerNormalization is right in ONNX Runtime's CPU provider only: its
    CUDA provider gives wrong values for it (gaps.SCALE_PER_MODEL), and its fusions have been reported to fail
    on it (issue 27455). So it does for a scale that all models share and that depends on axes before. Ones
    of the normalised axes alone are safe everywhere.
    """

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        return by_ones(site, ins, first - rank, lambda i: aligned(site, ins, i, rank, emit), emit)

    need_static_scale(site)
    gives = site.gives(STACKED(0), site.own_layout(0))  # the statistics are those of x
    return Option("layer_norm", site.own_layouts, gives, body)


def need_static_scale(site: Site) -> None:
    need(all(isinstance(d, int) for d in site.dims(1)), "the size of its scale is unknown")


def by_ones(
    site: Site, ins: Operands, axis: int, affine: Callable[[int], Tensor], emit: Emitter
) -> list[Tensor]:
    """The normalisation by a scale of ones, then scale and bias, which `affine` gives such that they
    broadcast."""
    inner = site.dims(1)[axis - site.rank(0) if axis >= 0 else axis :]
    ones = emit.filled(1.0, site[1].dtype, [static_size(d) for d in inner])
    y, *statistics = emit_same_op(site, [ins[0], ones], emit, axis=axis)
    for op, i in (("Mul", 1), ("Add", 2)):
        if site.has(i):
            y = emit(op, y, affine(i))
    return [y, *statistics]
