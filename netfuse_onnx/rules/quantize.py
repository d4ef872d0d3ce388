"""To bytes and back. A per-tensor scale that differs between the models becomes a per-axis one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout, places
from netfuse_onnx.rules._build import emit_same_op, need, per_axis
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.storage.transforms import Repeat

MICROSOFT = ("com.microsoft.QuantizeLinear", "com.microsoft.DequantizeLinear")
"""They take what the standard's took only later: an axis, and 16 bits."""


@family("QuantizeLinear", "DequantizeLinear", *MICROSOFT)
def quantize(site: Site) -> Iterator[Option]:
    """Per-tensor scales that differ become per-axis scales; per-axis scales are folded with their axis."""
    rank, scale = site.rank(0), site.dims(1)
    given = site.attr("axis")  # the schemas of com.microsoft and of opsets below 13 have no default
    named = 1 if given is None else int(given)
    if site.attr("block_size"):
        axis = site.axis(named, rank)
        takes = (STACKED(0),) * len(site.node.inputs)
        yield Option("quantize", takes, (STACKED(0),), _axis(axis + 1))
        return
    axis = site.axis(named, rank) if rank else 0
    per_tensor = len(scale) == 0 or (scale == (1,) and not (axis < rank and site.dims(0)[axis] == 1))
    differs = site.is_mapped(1) or site.is_mapped(2)
    if per_tensor and not differs:
        yield from per_axis(site, lambda layout: emit_same_op, name="quantize")
    elif per_tensor:
        axes = site.opset >= 13 or site.node.key in MICROSOFT
        need(axes, "QuantizeLinear has one scale for all models before opset 13")
        yield from _per_model_scale(site, rank)
    else:
        yield from _per_axis_scale(site, rank, axis, differs)


def _axis(axis: int) -> Body:
    return lambda site, ins, emit: emit_same_op(site, ins, emit, axis=axis)


def _per_model_scale(site: Site, rank: int) -> Iterator[Option]:
    """[.., N, ..] with the scales [N] on axis N; [.., N*d, ..] with each scale written d times."""
    params = (STACKED(0),) * (len(site.node.inputs) - 1)

    def stacked(layout: Layout) -> Body:
        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
            flat = [emit.reshape(p, [emit.models]) if site.rank(i) else p for i, p in enumerate(ins[1:], 1)]
            return emit_same_op(site, [ins[0], *flat], emit, axis=layout.axis)

        return body

    def folded(layout: Layout, times: int) -> Body:
        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
            spread = [emit.reform(p, shape=(emit.models * times,), transform=Repeat(times)) for p in ins[1:]]
            return emit_same_op(site, [ins[0], *spread], emit, axis=layout.axis)

        return body

    stored = all(site.weight[1:])
    for layout in places(rank):
        if layout.stacked:
            yield Option("quantize", (layout, *params), (layout,), stacked(layout))
        else:
            size = site.dims(0)[layout.axis]
            if stored and isinstance(size, int) and size > 0:
                yield Option("quantize", (layout, *params), (layout,), folded(layout, size))


def _per_axis_scale(site: Site, rank: int, axis: int, differs: bool) -> Iterator[Option]:
    count = len(site.node.inputs)
    yield Option("quantize", (FOLDED(axis),) + (FOLDED(0),) * (count - 1), (FOLDED(axis),), _axis(axis))
    for layout in () if differs else places(rank):
        if not layout.touches([axis]):
            yield Option(
                "quantize", (layout,) + (SHARED,) * (count - 1), (layout,), _axis(layout.physical(axis))
            )


@family("DynamicQuantizeLinear")
def dynamic_quantize(site: Site) -> Iterator[Option]:
    """Each model is quantised on its own; the bytes, scales and zero points are stacked."""
    yield Option("dynamic_quantize", (STACKED(0),), (STACKED(0),) * 3, _dynamic)


def _dynamic(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    return quantised_dynamically(ins[0], emit)


def quantised_dynamically(x: Tensor, emit: Emitter) -> list[Tensor]:
    """[N, ..] -> bytes [N, ..], scales and zero points [N].

    Written out for all models at once it would differ where x holds NaN: gaps.NAN_UNNOTICED.
    """
    parts = emit.split(x, [1] * emit.models, 0)
    each = [emit.node("DynamicQuantizeLinear", [part], outs=[True] * 3) for part in parts]
    whole, *numbers = zip(*each, strict=True)
    columns = [[emit.unsqueeze(number, [0]) for number in row] for row in numbers]
    return [emit("Concat", *row, axis=0) for row in (whole, *columns)]
