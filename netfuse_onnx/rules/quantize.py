"""To bytes and back. A per-tensor scale that differs between the models becomes a per-axis one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout, places
from netfuse_onnx.rules._build import along, emit_same_op, need, per_axis, same_op
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.storage.transforms import Repeat

MICROSOFT = ("com.microsoft.QuantizeLinear", "com.microsoft.DequantizeLinear")
"""They take what the standard's took only later: an axis, and 16 bits."""

SCALE, ZERO_POINT = 1, 2
"""Inputs whose names differ: `y_scale` of QuantizeLinear is `x_scale` of DequantizeLinear."""


@family("DequantizeLinear")
def dequantise_sums(site: Site) -> Iterator[Option]:
    """With --target cuda, which has no kernel for int32: a product with the scale.

    A stored bias then becomes floats when a session loads the file."""
    need(site.inputs[0].dtype == TensorProto.INT32 and not site.attr("block_size"), "it has bytes")
    need(site.inputs[SCALE].dtype == TensorProto.FLOAT, "its scale is not float32")
    for option in quantize(site):
        yield replace(option, rule="dequantise_sums", body=_as_product(option), only="cuda")


def _as_product(option: Option) -> Body:
    """(x - zero) * scale, as ONNX Runtime's kernel for the CPU computes it."""

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held | Sequence[Held]:
        rank = len((option.takes[0] or SHARED).merged_dims(site.dims(0), emit.count))
        vectors = option.takes[SCALE] != SHARED or site.dims(SCALE) not in ((), (1,))

        def emits(operands: Sequence[Any], attrs: Mapping[str, Any]) -> list[Tensor]:
            x, *params = operands
            behind = range(1, rank - int(attrs["axis"])) if vectors else ()
            scale, *zero = (emit.unsqueeze(p, list(behind)) for p in params)
            x = emit("Sub", x, zero[0]) if zero else x
            return [emit("Mul", emit("Cast", x, to=TensorProto.FLOAT), scale)]

        return option.body(replace(site, emits=emits), Operands(site, ins), emit)

    return body


@family("QuantizeLinear", "DequantizeLinear", *MICROSOFT)
def quantize(site: Site) -> Iterator[Option]:
    """Per-tensor scales that differ become per-axis scales; per-axis scales are folded with their axis."""
    rank, scale = site.rank(0), site.dims(SCALE)
    given = site.attr("axis")  # the schemas of com.microsoft and of opsets below 13 have no default
    named = 1 if given is None else int(given)
    if site.attr("block_size"):
        body, layouts = along(site.axis(named, rank)), [STACKED(0)]
        yield from per_axis(site, body, name="quantize", layouts=layouts, every_input=True)
        return
    axis = site.axis(named, rank) if rank else 0
    per_tensor = len(scale) == 0 or (scale == (1,) and not (axis < rank and site.dims(0)[axis] == 1))
    differs = site.is_mapped(SCALE, ZERO_POINT)
    if per_tensor and not differs:
        yield from per_axis(site, name="quantize")
    elif per_tensor:
        axes = site.opset >= 13 or site.node.key in MICROSOFT
        need(axes, "QuantizeLinear has one scale for all models before opset 13")
        yield from _per_model_scale(site, rank)
    else:
        yield from _per_axis_scale(site, axis, differs)


def _per_model_scale(site: Site, rank: int) -> Iterator[Option]:
    """[.., N, ..] with the scales [N] on axis N; [.., N*d, ..] with each scale written d times."""
    params = (STACKED(0),) * (len(site.node.inputs) - 1)

    def stacked(layout: Layout) -> Body:
        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
            flat = [emit.reshape(p, [emit.count]) if site.rank(i) else p for i, p in enumerate(ins[1:], 1)]
            if rank or site.emits:
                return emit_same_op(site, [ins[0], *flat], emit, axis=layout.axis)
            column = emit.unsqueeze(ins[0], [1])  # gaps.NO_AXIS_OF_VECTORS
            return [emit.squeeze(y, [1]) for y in emit_same_op(site, [column, *flat], emit, axis=0)]

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


def _per_axis_scale(site: Site, axis: int, differs: bool) -> Iterator[Option]:
    takes = site.takes({0: FOLDED(axis), SCALE: FOLDED(0), ZERO_POINT: FOLDED(0)})
    yield Option("quantize", takes, (FOLDED(axis),), same_op(axis=axis))
    if not differs:
        yield from per_axis(site, along(axis), axes=[axis], name="quantize")


@family("DynamicQuantizeLinear")
def dynamic_quantize(site: Site) -> Iterator[Option]:
    """Each model is quantised on its own; the bytes, scales and zero points are stacked."""
    yield Option("dynamic_quantize", (STACKED(0),), (STACKED(0),) * 3, _dynamic)


def _dynamic(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    return quantised_dynamically(ins[0], emit)


@family("DynamicQuantizeLinear")
def dynamic_quantize_written_out(site: Site) -> Iterator[Option]:
    """With --target cuda, which lacks it: the range of each model, its scale, and QuantizeLinear."""
    need(site.opset >= 13, "QuantizeLinear has one scale for all models before opset 13")

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return written_out(ins[0], site.rank(0), emit)

    yield Option("dynamic_quantize_written_out", (STACKED(0),), (STACKED(0),) * 3, body, only="cuda")


def written_out(x: Tensor, rank: int, emit: Emitter) -> list[Tensor]:
    """[N, ..] -> bytes [N, ..], scales and zero points [N], as ONNX Runtime computes them where no value is
    NaN: all from 0 to 255 are used for the range from the least value, or 0, to the largest, or 0."""
    axes, levels = list(range(1, rank + 1)), emit.filled(255.0, TensorProto.FLOAT, ())
    above = emit("Relu", emit.reduce("ReduceMax", x, axes))
    below = emit("Relu", emit("Neg", emit.reduce("ReduceMin", x, axes)))
    span = emit("Add", above, below)
    empty = emit("Equal", span, emit.filled(0.0, TensorProto.FLOAT, ()))
    scale = emit("Where", empty, emit.filled(1.0, TensorProto.FLOAT, ()), emit("Div", span, levels))
    point = emit("Cast", emit("Round", emit("Div", below, scale)), to=TensorProto.UINT8)
    return [emit("QuantizeLinear", x, scale, point, axis=0), scale, point]


def quantised_dynamically(x: Tensor, emit: Emitter) -> list[Tensor]:
    """[N, ..] -> bytes [N, ..], scales and zero points [N].

    Written out for all models at once it would differ where x holds NaN: gaps.NAN_UNNOTICED.
    """
    parts = emit.split(x, [1] * emit.models, 0)
    each = [emit.node("DynamicQuantizeLinear", [part], outs=[True] * 3) for part in parts]
    whole, *numbers = zip(*each, strict=True)
    columns = [[emit.unsqueeze(number, [0]) for number in row] for row in numbers]
    return [emit("Concat", *row, axis=0) for row in (whole, *columns)]
