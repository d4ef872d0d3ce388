"""Products and convolutions of bytes: they stay in the runtime's int8 kernels, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnx import TensorProto

from netfuse_onnx.dims import known
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.rules import matmul
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family
from netfuse_onnx.rules.integer import (
    Image,
    Side,
    accumulated,
    can_be_padded,
    correction,
    cost,
    layout_of,
    padded,
    products,
    requantised,
    requantised_image,
    rows,
)
from netfuse_onnx.rules.params import Param, combined, held, one, param
from netfuse_onnx.types import Became

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32

# --------------------------------------------------------------------------- products


def sides(site: Site, ins: Sequence[Tensor | None], takes: Sequence[Layout | None], a: tuple[int, int],
          b: tuple[int, int], emit: Emitter) -> tuple[Side, Side]:  # fmt: skip
    """The operands of a product, each an input and the input that is its zero point."""
    left, right = (
        Side(ins[i], takes[i] or SHARED, site.dims(i), site.inputs[i].dtype, param(site, ins, zero, emit))
        for i, zero in (a, b)
    )
    return left, right


def product_takes(site: Site, a: tuple[int, int], b: tuple[int, int]) -> list[Layout]:
    need(site.rank(a[0]) >= 2 and site.rank(b[0]) >= 2, "one of its operands is a vector")
    need(one(site, a[1]), "the zero point of its left operand is not one number")
    need(0 not in site.dims(b[0]), "its right operand is empty")
    takes = [held(site, i) for i in range(len(site.node.inputs))]
    takes[b[0]] = layout_of(site, *b)
    if not any(
        site.is_mapped(i) for i in (*a, *b)
    ):  # only scales differ: the sums get the axis for them here
        takes[b[0]] = STACKED(0)
    return takes


@family("MatMulInteger")
def matmul_integer(site: Site) -> Iterator[Option]:
    """batched, in int8; zero points that differ are taken off after, in int32"""
    takes = product_takes(site, (0, 2), (1, 3))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return products(*sides(site, ins, takes, (0, 2), (1, 3), emit), emit)

    nodes = cost(site.is_mapped(2), site.is_mapped(3))
    yield Option("matmul_integer", tuple(takes), (STACKED(0),), body, nodes)


@family("MatMulInteger")
def matmul_integer_shared_weights(site: Site) -> Iterator[Option]:
    """one weight: (M..)ik, kj -> (M..)ij, the models join the rows"""
    need(not any(site.mapped[1:]), "its weights or zero points differ between the models")
    for option in matmul.matmul_shared_weights(replace(site, mapped=site.mapped[:2])):
        more = (SHARED,) * (len(site.node.inputs) - 2)
        yield replace(option, rule="matmul_integer_shared_weights", takes=(*option.takes, *more))


@family("QLinearMatMul")
def qlinear_matmul(site: Site) -> Iterator[Option]:
    """batched, in int8; scales that differ become those of the columns, zero points int32 terms"""
    takes = product_takes(site, (0, 2), (3, 5))
    need(one(site, 1, 2, 6, 7), "its scales are not per tensor")
    scales = [i for i in (1, 4, 6) if site.is_mapped(i)]
    if not scales and not any(site.mapped[i] for i in (2, 5, 7)):
        yield Option("qlinear_matmul", tuple(takes), (STACKED(0),), _batched(takes))
        return

    if takes[0] == takes[3] == SHARED:  # what differs comes after the product
        takes[0] = STACKED(0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        total = products(*sides(site, ins, takes, (0, 2), (3, 5), emit), emit)
        rank = max(site.rank(0), site.rank(3))
        return requantised(
            total, output_scale(site, ins, (1, 4, 6), emit), _param(site, ins, 7, emit), rank, emit
        )

    nodes = cost(site.is_mapped(2), site.is_mapped(5)) + 2.0
    yield Option("qlinear_matmul", tuple(takes), (STACKED(0),), body, nodes)


def _batched(takes: Sequence[Layout]):  # type: ignore[no-untyped-def]  # returns a Body
    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        ready, wide = list(ins), max(site.rank(0), site.rank(3))
        _, right = sides(site, ins, takes, (0, 2), (3, 5), emit)
        for i in (0, 3):
            ready[i] = emit.pad_rank(ins[i], takes[i], site.rank(i), wide, 0)
        for i in (4, 5):
            if site.rank(i):
                found = _param(site, ins, i, emit)
                ready[i] = rows(found, right, ready[3], wide, emit) if found.wide else found.shaped([], emit)
        return again(site, ready, emit)

    return body


def _param(site: Site, ins: Sequence[Tensor | None], i: int, emit: Emitter) -> Param:
    found = param(site, ins, i, emit)
    need(found is not None, "it lacks a scale or zero point")
    return found  # type: ignore[return-value]  # need has refused


def output_scale(site: Site, ins: Sequence[Tensor | None], which: tuple[int, ...], emit: Emitter) -> Param:
    """a * b, or a * b / c, of these scales in float32, in the order in which the runtime multiplies."""
    every = (_param(site, ins, i, emit) for i in which)
    a, b, *c = (p if p.dtype == FLOAT else p.cast(FLOAT, emit) for p in every)
    scale = combined("Mul", a, b, emit)
    return combined("Div", scale, c[0], emit) if c else scale


# --------------------------------------------------------------------------- convolutions

WEIGHTS_TAKE = "the sizes of its filters are unknown, or 0"


def image(
    site: Site, ins: Sequence[Tensor | None], x: tuple[int, int], w: tuple[int, int], emit: Emitter
) -> Image:
    """A convolution, whose operands are each an input and the input that is its zero point."""
    filters = tuple(known(d) for d in site.dims(w[0]))
    attrs = {k: v for k, v in site.node.attrs.items() if k != "channels_last"}
    zeros = (param(site, ins, x[1], emit), param(site, ins, w[1], emit))
    dtypes = (site.inputs[x[0]].dtype, site.inputs[w[0]].dtype)
    return Image(ins[x[0]], ins[w[0]], site.dims(x[0]), filters, dtypes, zeros, attrs)


def conv_takes(site: Site, x: int, w: int) -> list[Layout]:
    takes = [held(site, i) for i in range(len(site.node.inputs))]
    takes[x], takes[w] = FOLDED(1), FOLDED(0)
    return takes


def _known_filters(site: Site, w: int) -> None:
    need(all(isinstance(d, int) and d for d in site.dims(w)), WEIGHTS_TAKE)


@family("ConvInteger")
def conv_integer(site: Site) -> Iterator[Option]:
    """grouped, in int8: N(MC)HW, (MO)Ckk -> N(MO)HW; zero points that differ are taken off after, in int32"""
    takes = conv_takes(site, 0, 1)
    if not site.is_mapped(2) and not site.is_mapped(3):
        group = int(site.attr("group", 1))

        def grouped(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
            return again(site, ins, emit, group=group * emit.models)

        yield Option("conv_integer", tuple(takes), (FOLDED(1),), grouped, 1.0, Became.GROUPED)
        shared = (SHARED,) * (len(takes) - 1)
        if not site.mapped[1]:
            yield Option("conv_integer", (FOLDED(0), *shared), (FOLDED(0),), again)
        elif group == 1 and not site.mapped[0]:
            yield Option("conv_integer", (SHARED, *takes[1:]), (FOLDED(1),), again)
        return
    _known_filters(site, 1)
    need(one(site, 2, 3), "it has a zero point for each filter")
    if site.is_mapped(2):
        can_be_padded(site)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return accumulated(image(site, ins, (0, 2), (1, 3), emit), emit)

    nodes = 1.0 + 8 * site.is_mapped(2) + 4 * site.is_mapped(3)
    yield Option("conv_integer", tuple(takes), (FOLDED(1),), body, nodes, Became.GROUPED)


@family("QLinearConv")
def qlinear_conv(site: Site) -> Iterator[Option]:
    """grouped, in int8; scales that differ become those of the filters, zero points int32 terms"""
    takes = conv_takes(site, 0, 3)
    if site.has(8):
        takes[8] = FOLDED(0)
    differ = [i for i in (1, 2, 4, 5, 6, 7) if site.is_mapped(i)]
    group = int(site.attr("group", 1))
    if not any(site.mapped[1:]):
        yield Option("qlinear_conv", (FOLDED(0), *(SHARED,) * (len(takes) - 1)), (FOLDED(0),), again)
    if not site.mapped[0] and group == 1 and not {2, 5, 7} & set(differ) and any(site.mapped[1:]):
        yield _scaled(site, [SHARED, *takes[1:]], 1)
    if {5, 7} & set(differ):
        yield _in_parts(site, takes)
    else:
        yield _scaled(site, takes, group * site.models)


def _scaled(site: Site, takes: Sequence[Layout], groups: int) -> Option:
    """The operator itself. What differs goes into the scale and the bias of each filter."""
    _known_filters(site, 3)
    need(one(site, 5), "it has a zero point for each filter")
    if site.is_mapped(2):
        can_be_padded(site)
    scaled = any(site.is_mapped(i) for i in (1, 4, 6))

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        ready = list(ins)
        conv = image(site, ins, (0, 2), (3, 5), emit)
        attrs: dict[str, int | None] = {"group": groups}
        if scaled:
            ready[1] = ready[6] = emit.filled(1.0, FLOAT, ())
            ready[4] = output_scale(site, ins, (1, 4, 6), emit).spread(conv.filters[0], emit)
        elif site.rank(4):
            ready[4] = _param(site, ins, 4, emit).spread(conv.filters[0], emit)
        if site.rank(5):
            ready[5] = _param(site, ins, 5, emit).shaped([], emit)
        if site.is_mapped(2):
            conv = padded(conv, emit)
            bias = correction(conv, emit)
            ready[8:] = [emit("Sub", ins[8], bias) if site.has(8) else emit("Neg", bias)]
            ready[0], ready[2] = conv.x, emit.filled(0, conv.dtypes[0], ())
            attrs |= dict.fromkeys(("pads", "auto_pad"))
        return again(site, ready, emit, **attrs)

    nodes = 1.0 + 4 * scaled + 8 * site.is_mapped(2)
    return Option("qlinear_conv", tuple(takes), (FOLDED(1),), body, nodes, Became.GROUPED)


def _in_parts(site: Site, takes: Sequence[Layout]) -> Option:
    """ConvInteger, the bias, and the way back to bytes with a zero point per model."""
    _known_filters(site, 3)
    need(one(site, 1, 2, 5, 6, 7), "its zero points or scales are not per tensor")
    need(site.opset >= 13, "QuantizeLinear has one scale for all models before opset 13")
    if site.is_mapped(2):
        can_be_padded(site)

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Held:
        conv = image(site, ins, (0, 2), (3, 5), emit)
        total, count = accumulated(conv, emit), conv.filters[0]
        if site.has(8):
            total = emit("Add", total, emit.unsqueeze(ins[8], range(1, len(conv.dims) - 1)))
        scale = output_scale(site, ins, (1, 4, 6), emit).spread(count, emit)
        return requantised_image(total, scale, _param(site, ins, 7, emit), count, emit)

    nodes = 8.0 + 8 * site.is_mapped(2) + 4 * site.is_mapped(5)
    return Option("qlinear_conv", tuple(takes), (FOLDED(1),), body, nodes, Became.GROUPED)
