"""Products and convolutions of bytes: they stay in the runtime's int8 kernels, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from onnx import TensorProto

from netfuse_onnx.dims import static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.rules import bytes_in_floats, integer, matmul
from netfuse_onnx.rules._build import emit_same_op, need, times_models
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.rules.integer import Image, Side, can_be_padded
from netfuse_onnx.rules.params import Param, combined, needed, one_number, param
from netfuse_onnx.rules.sums import IN_BYTES, Sums, ways
from netfuse_onnx.types import Became

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32
OLD = "DequantizeLinear has one scale for all models before opset 13"

# --------------------------------------------------------------------------- products

Takes = dict[str, Layout]
"""Layouts of inputs by name."""

SummedBody = Callable[..., Held]
"""The body of an option, with a further argument: the `way` of summing."""


def side(site: Site, ins: Operands, takes: Mapping[str, Layout], name: str, emit: Emitter) -> Side:
    """An operand of a product and its zero point."""
    given, zero = site[name], param(site, ins, f"{name}_zero_point", emit)
    return Side(ins[name], takes[name], given.dims, given.dtype, zero, given.stored)


def own_layouts(site: Site) -> Takes:
    """STACKED(0) for each input that differs between the models, SHARED for the others."""
    return {name: site.own_layout(name) for name in site.names}


def product_takes(site: Site) -> Takes:
    """The layouts of the inputs of a product of `a` and `b`. A right operand whose zero point differs between
    the models is stacked, too."""
    need(site.rank("a") >= 2 and site.rank("b") >= 2, "one of its operands is a vector")
    need(one_number(site, "a_zero_point"), "the zero point of its left operand is not one number")
    need(0 not in site.dims("b"), "its right operand is empty")
    # The sums get the axis for scales.
    only_scales = not site.is_mapped("a", "b", "a_zero_point", "b_zero_point")
    return own_layouts(site) | {"b": STACKED(0) if only_scales else site.own_layout("b", "b_zero_point")}


def products_of(
    site: Site, ins: Operands, takes: Mapping[str, Layout], emit: Emitter, way: Sums = IN_BYTES
) -> Tensor:
    """[N, .., i, j], in the element type of the `way`."""
    return way.products(side(site, ins, takes, "a", emit), side(site, ins, takes, "b", emit), emit)


def in_each_way(
    rule: str, takes: Sequence[Layout | None], body: SummedBody, some: Sequence[Sums]
) -> Iterator[Option]:
    """One option for each way of summing. The results are stacked."""
    for way in some:
        name, inner = f"{rule}{way.suffix}", partial(body, way=way)
        yield Option(name, tuple(takes), (STACKED(0),), inner, only=way.only)


@family("MatMulInteger")
def matmul_integer(site: Site) -> Iterator[Option]:
    """Batched, in int8; zero points that differ are subtracted after it, in int32."""
    takes = product_takes(site)
    yield Option(
        "matmul_integer",
        site.takes(takes),
        (STACKED(0),),
        lambda s, ins, emit: products_of(s, ins, takes, emit),
    )


@family("MatMulInteger")
def matmul_integer_in_floats(site: Site) -> Iterator[Option]:
    """With --target cuda, batched in the kernels for floats, in which its sums are exact."""
    need(site.opset >= 13, OLD)
    takes = product_takes(site)
    bytes_in_floats.need_exact(site.dims("b")[-2])

    def body(site: Site, ins: Operands, emit: Emitter) -> Held:
        left, right = (side(site, ins, takes, name, emit) for name in ("a", "b"))
        return bytes_in_floats.exact_sums(left, right, emit)

    yield Option("matmul_integer_in_floats", site.takes(takes), (STACKED(0),), body, only="cuda")


@family("MatMulInteger")
def matmul_integer_shared_weights(site: Site) -> Iterator[Option]:
    """With one weight the models join the rows: (M..)ik, kj -> (M..)ij."""
    need(not any(site.mapped[1:]), "its weights or zero points differ between the models")
    for option in matmul.matmul_shared_weights(replace(site, mapped=site.mapped[:2])):
        takes = site.takes(dict(enumerate(option.takes)))
        yield replace(option, rule="matmul_integer_shared_weights", takes=takes)


@family("QLinearMatMul")
def qlinear_matmul(site: Site) -> Iterator[Option]:
    """Batched, in int8; scales that differ become scales of the columns, and zero points int32 terms."""
    takes = product_takes(site)
    per_tensor = one_number(site, "a_scale", "a_zero_point", "y_scale", "y_zero_point")
    need(per_tensor, "its scales are not per tensor")
    itself = not site.is_mapped(*SCALES, *ZERO_POINTS)
    if itself:
        yield Option("qlinear_matmul", site.takes(takes), (STACKED(0),), _batched(takes))
    if takes["a"] == takes["b"] == SHARED:  # what differs comes after the product
        takes["a"] = STACKED(0)

    def body(site: Site, ins: Operands, emit: Emitter, way: Sums) -> Held:
        total = products_of(site, ins, takes, emit, way)
        scale, zero = output_scale(site, ins, SCALES, emit), needed(site, ins, "y_zero_point", emit)
        return way.to_bytes(total, scale, zero, max(site.rank("a"), site.rank("b")), emit)

    yield from in_each_way("qlinear_matmul", site.takes(takes), body, ways(site.opset)[itself:])


SCALES, ZERO_POINTS = (tuple(f"{x}_{of}" for x in "aby") for of in ("scale", "zero_point"))


def _batched(takes: Takes) -> Body:
    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        wide = max(site.rank("a"), site.rank("b"))
        right = side(site, ins, takes, "b", emit)
        ready = ins | {
            name: emit.pad_rank(ins[name], takes[name], site.rank(name), wide, 0) for name in ("a", "b")
        }
        for name in ("b_scale", "b_zero_point"):
            if site.rank(name):
                each = needed(site, ins, name, emit)
                row = (
                    integer.rows(each, right, ready["b"], wide, emit) if each.wide else each.shaped([], emit)
                )
                ready |= {name: row}
        return emit_same_op(site, ready, emit)

    return body


def output_scale(site: Site, ins: Operands, names: Sequence[str], emit: Emitter) -> Param:
    """a * b, or a * b / c, of these scales in float32, in the order in which the runtime multiplies."""
    every = (needed(site, ins, name, emit) for name in names)
    a, b, *c = (p if p.dtype == FLOAT else p.cast(FLOAT, emit) for p in every)
    scale = combined("Mul", a, b, emit)
    return combined("Div", scale, c[0], emit) if c else scale


# --------------------------------------------------------------------------- convolutions

CONV_SCALES = ("x_scale", "w_scale", "y_scale")


def image(site: Site, ins: Operands, emit: Emitter) -> Image:
    """A convolution of `x` and `w`, with their zero points."""
    x, w = site["x"], site["w"]
    filters = tuple(static_size(d) for d in w.dims)
    attrs = {k: v for k, v in site.node.attrs.items() if k != "channels_last"}
    zeros = (param(site, ins, "x_zero_point", emit), param(site, ins, "w_zero_point", emit))
    group = int(site.attr("group"))
    return Image(ins["x"], ins["w"], x.dims, filters, (x.dtype, w.dtype), zeros, group, attrs)


def _need_filters(site: Site) -> None:
    need(all(isinstance(d, int) and d for d in site.dims("w")), "the sizes of its filters are unknown, or 0")


@family("ConvInteger")
def conv_integer(site: Site) -> Iterator[Option]:
    """Grouped, in int8: N(MC)HW, (MO)Ckk -> N(MO)HW. Zero points that differ are subtracted in int32."""
    takes = own_layouts(site) | {"x": FOLDED(1), "w": FOLDED(0)}
    if not site.is_mapped("x_zero_point", "w_zero_point"):
        grouped = times_models("group")
        yield Option("conv_integer", site.takes(takes), (FOLDED(1),), grouped, Became.GROUPED)
        if not site.is_mapped("w"):
            yield Option("conv_integer", site.takes({"x": FOLDED(0)}), (FOLDED(0),), emit_same_op)
        elif site.attr("group") == 1 and not site.is_mapped("x"):
            yield Option("conv_integer", site.takes(takes | {"x": SHARED}), (FOLDED(1),), emit_same_op)
        return
    _need_filters(site)
    need(one_number(site, "x_zero_point", "w_zero_point"), "it has a zero point for each filter")
    can_be_padded(site)
    yield Option("conv_integer", site.takes(takes), (FOLDED(1),), _accumulated, Became.GROUPED)


def _accumulated(site: Site, ins: Operands, emit: Emitter) -> Held:
    return integer.accumulated(image(site, ins, emit), emit)


@family("QLinearConv")
def qlinear_conv(site: Site) -> Iterator[Option]:
    """Grouped, in int8; scales that differ become scales of the filters, and zero points int32 terms."""
    takes = own_layouts(site) | {"x": FOLDED(1), "w": FOLDED(0), "b": FOLDED(0)}
    group, weights = int(site.attr("group")), any(site.mapped[1:])
    if not weights:
        yield Option("qlinear_conv", site.takes({"x": FOLDED(0)}), (FOLDED(0),), emit_same_op)
    points = site.is_mapped("w_zero_point", "y_zero_point")
    if weights and group == 1 and not points and not site.is_mapped("x", "x_zero_point"):
        yield _scaled(site, takes | {"x": SHARED}, 1)
    yield _in_parts(site, takes) if points else _scaled(site, takes, group * site.models)
    yield from _in_floats(site, takes)


def _scaled(site: Site, takes: Takes, groups: int) -> Option:
    """The operator itself. What differs goes into the scale and the bias of each filter."""
    _need_filters(site)
    need(one_number(site, "w_zero_point"), "it has a zero point for each filter")
    can_be_padded(site)
    scaled, moved = site.is_mapped(*CONV_SCALES), site.is_mapped("x_zero_point")

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        conv = image(site, ins, emit)
        changes: dict[str, Tensor] = {}
        attrs: dict[str, int | None] = {"group": groups}
        if scaled:
            changes["x_scale"] = changes["y_scale"] = emit.filled(1.0, FLOAT, ())
            changes["w_scale"] = output_scale(site, ins, CONV_SCALES, emit).spread(conv.filters[0], emit)
        elif site.rank("w_scale"):
            changes["w_scale"] = needed(site, ins, "w_scale", emit).spread(conv.filters[0], emit)
        if site.rank("w_zero_point"):
            changes["w_zero_point"] = needed(site, ins, "w_zero_point", emit).shaped([], emit)
        if moved:
            conv = integer.padded(conv, emit)
            bias = integer.correction(conv, emit)
            changes["b"] = emit("Sub", ins["b"], bias) if site.has("b") else emit("Neg", bias)
            changes |= {"x": conv.x, "x_zero_point": emit.filled(0, conv.dtypes[0], ())}
            attrs |= dict.fromkeys(("pads", "auto_pad"))
        return emit_same_op(site, ins | changes, emit, **attrs)

    return Option("qlinear_conv", site.takes(takes), (FOLDED(1),), body, Became.GROUPED)


def _in_parts(site: Site, takes: Takes) -> Option:
    """ConvInteger, the bias, and the way back to bytes with a zero point per model."""
    _need_filters(site)
    per_tensor = one_number(site, "x_scale", "x_zero_point", "w_zero_point", "y_scale", "y_zero_point")
    need(per_tensor, "its zero points or scales are not per tensor")
    need(site.opset >= 13, "QuantizeLinear has one scale for all models before opset 13")
    can_be_padded(site)

    def body(site: Site, ins: Operands, emit: Emitter) -> Held:
        conv = image(site, ins, emit)
        total, count = integer.accumulated(conv, emit), conv.filters[0]
        if site.has("b"):
            total = emit("Add", total, emit.unsqueeze(ins["b"], range(1, len(conv.dims) - 1)))
        scale = output_scale(site, ins, CONV_SCALES, emit).spread(count, emit)
        return integer.requantised_image(total, scale, needed(site, ins, "y_zero_point", emit), count, emit)

    return Option("qlinear_conv", site.takes(takes), (FOLDED(1),), body, Became.GROUPED)


def _in_floats(site: Site, takes: Takes) -> Iterator[Option]:
    """The convolution in the kernels for floats, and the way back to bytes, for CUDA."""
    zeros_and_scales = (*CONV_SCALES[::2], "x_zero_point", "w_zero_point", "y_zero_point")
    if site.opset < 13 or not one_number(site, *zeros_and_scales):
        return

    def body(site: Site, ins: Operands, emit: Emitter) -> Held:
        conv = image(site, ins, emit)
        bias = emit("Cast", ins["b"], to=FLOAT) if site.has("b") else None
        total, count = bytes_in_floats.convolved(conv, bias, emit), conv.filters[0]
        scale = output_scale(site, ins, CONV_SCALES, emit).spread(count, emit)
        return bytes_in_floats.rescaled_image(
            total, scale, needed(site, ins, "y_zero_point", emit), conv, emit
        )

    name = "qlinear_conv_in_floats"
    yield Option(name, site.takes(takes), (FOLDED(1),), body, Became.GROUPED, only="cuda")
