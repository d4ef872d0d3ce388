"""Quantised operators. A per-tensor scale that differs between the models becomes a per-axis one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import TensorProto

from netfuse_onnx.emit import Emitter, Held, Tensor
from netfuse_onnx.layouts import places, volume
from netfuse_onnx.rules._build import again, need, per_axis, physical, touches
from netfuse_onnx.rules._registry import Body, Option, Site, family
from netfuse_onnx.types import FOLDED, SHARED, STACKED, Became, Layout


@family("QuantizeLinear", "DequantizeLinear")
def quantize(site: Site) -> Iterator[Option]:
    """per-tensor scales that differ become per-axis ones; per-axis ones are folded with their axis"""
    rank, scale = site.rank(0), site.dims(1)
    if site.attr("block_size", 0):
        axis = site.axis(int(site.attr("axis", 1)), rank)
        takes = (STACKED(0),) * len(site.node.inputs)
        yield Option("quantize", takes, (STACKED(0),), _axis(axis + 1))
        return
    axis = site.axis(int(site.attr("axis", 1)), rank) if rank else 0
    per_tensor = len(scale) == 0 or (scale == (1,) and not (axis < rank and site.dims(0)[axis] == 1))
    differs = site.is_mapped(1) or site.is_mapped(2)
    if per_tensor and not differs:
        yield from per_axis(site, lambda layout: again, name="quantize")
    elif per_tensor:
        need(site.opset >= 13, "QuantizeLinear has one scale for all models before opset 13")
        yield from _per_model_scale(site, rank)
    else:
        yield from _per_axis_scale(site, rank, axis, differs)


def _axis(axis: int) -> Body:
    return lambda site, ins, emit: again(site, ins, emit, axis=axis)


def _per_model_scale(site: Site, rank: int) -> Iterator[Option]:
    """[.., N, ..] with the scales [N] on axis N; [.., N*d, ..] with each scale written d times."""
    params = (STACKED(0),) * (len(site.node.inputs) - 1)

    def stacked(layout: Layout) -> Body:
        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
            flat = [emit.reshape(p, [emit.models]) if site.rank(i) else p for i, p in enumerate(ins[1:], 1)]
            return again(site, [ins[0], *flat], emit, axis=layout.axis)

        return body

    def folded(layout: Layout, times: int) -> Body:
        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
            spread = [emit.reform(p, shape=(emit.models * times,), transform=f"x{times}") for p in ins[1:]]
            return again(site, [ins[0], *spread], emit, axis=layout.axis)

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
        if not touches(layout, [axis]):
            yield Option(
                "quantize", (layout,) + (SHARED,) * (count - 1), (layout,), _axis(physical(layout, axis))
            )


@family("DynamicQuantizeLinear")
def dynamic_quantize(site: Site) -> Iterator[Option]:
    """written out over the axes of one model, with a scale per model"""
    rank = site.rank(0)
    yield Option("dynamic_quantize", (STACKED(0),), (STACKED(0),) * 3, _dynamic, 12.0 if rank else 10.0)


def _dynamic(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """ONNX's own definition (DynamicQuantizeLinear, opset 11), reduced over all but the model axis."""
    x = ins[0]
    axes = list(range(1, site.rank(0) + 1))
    zero = emit.filled(0.0, TensorProto.FLOAT, ())
    ends = [emit(op, emit.reduce(f"Reduce{op}", x, axes), zero) for op in ("Max", "Min")]
    span = emit("Div", emit("Sub", *ends), emit.filled(255.0, TensorProto.FLOAT, ()))
    scale = emit("Where", emit("Equal", span, zero), emit.filled(1.0, TensorProto.FLOAT, ()), span)
    shift = emit("Round", emit("Neg", emit("Div", ends[1], scale)))
    shift = emit("Clip", shift, zero, emit.filled(255.0, TensorProto.FLOAT, ()))
    point = emit("Cast", shift, to=TensorProto.UINT8)
    return [emit("QuantizeLinear", x, scale, point, axis=0), scale, point]


@family("MatMulInteger")
def matmul_integer(site: Site) -> Iterator[Option]:
    """batched; zero points that differ are taken off first, in int32"""
    left, right = site.rank(0), site.rank(1)
    need(left >= 2 and right >= 2, "one of its operands is a vector")
    wide = max(left, right)
    takes = tuple(STACKED(0) if mapped else SHARED for mapped in site.mapped)
    scalars = all(not site.has(i) or (not site.mapped[i] and site.rank(i) == 0) for i in (2, 3))

    def padded(site: Site, ins: Sequence[Tensor], emit: Emitter) -> list[Tensor]:
        return [emit.pad_rank(x, takes[i], site.rank(i), wide, 0) for i, x in enumerate(ins[:2])]

    def batched(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return again(site, [*padded(site, ins, emit), *ins[2:]], emit)

    def widened(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Held:
        sides = [emit("Cast", ins[i], to=TensorProto.INT32) for i in (0, 1)]
        for i in (2, 3):
            point = ins[i] if i < len(ins) else None
            if point is not None:
                point = emit("Cast", point, to=TensorProto.INT32)
                if i == 2 and site.rank(i) == 1:  # one per row
                    point = emit.unsqueeze(point, [1 + site.mapped[i]])
                rank = site.rank(i) + (i == 2 and site.rank(i) == 1)
                own = site.rank(i - 2)
                point = emit.pad_rank(point, takes[i], rank, own, 0) if site.mapped[i] else point
                if site.mapped[i] and not site.mapped[i - 2]:
                    sides[i - 2] = emit.unsqueeze(sides[i - 2], [0])
                sides[i - 2] = emit("Sub", sides[i - 2], point)
        ranks = [site.rank(i) for i in (0, 1)]
        there = [site.is_mapped(i) or site.is_mapped(i + 2) for i in (0, 1)]
        ready = [
            emit.pad_rank(side, STACKED(0) if there[i] else SHARED, ranks[i], wide, 0)
            for i, side in enumerate(sides)
        ]
        return emit("MatMul", *ready)

    yield Option("matmul_integer", takes, (STACKED(0),), batched if scalars else widened, 1 if scalars else 6)


EXACT_TERMS = (1 << 24) // (255 * 255)
"""Products of two bytes that float32 adds up without rounding."""


def _exact_in_float(site: Site, w: int) -> bool:
    """True where a sum over one filter is exact in float32, the only type of ONNX Runtime's CPU Conv."""
    return 0 < volume(site.dims(w)[1:], 0) <= EXACT_TERMS


@family("ConvInteger")
def conv_integer(site: Site) -> Iterator[Option]:
    """grouped: N(MC)HW, (MO)Ckk -> N(MO)HW; zero points that differ are taken off first, in float, exactly"""
    points = (SHARED,) * (len(site.node.inputs) - 2)
    group = int(site.attr("group", 1))
    plain = not (site.is_mapped(2) or site.is_mapped(3)) and not (site.has(3) and site.rank(3))

    def grouped(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return again(site, ins, emit, group=group * emit.models)

    def in_float(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Held:
        total = _float_conv(site, (0, 2), (1, 3), ins, emit)
        return emit("Cast", total, to=TensorProto.INT32)

    if plain:
        takes = (FOLDED(1), FOLDED(0), *points)
        yield Option("conv_integer", takes, (FOLDED(1),), grouped, 1.0, Became.GROUPED)
        if not site.mapped[1]:
            yield Option("conv_integer", (FOLDED(0), SHARED, *points), (FOLDED(0),), again)
        return
    need(_exact_in_float(site, 1), "its zero points differ, and its sums are not exact in float32")
    takes = (FOLDED(1), FOLDED(0), *(_point_layout(site, i) for i in range(2, len(site.node.inputs))))
    yield Option("conv_integer", takes, (FOLDED(1),), in_float, 8.0, Became.GROUPED)


def _point_layout(site: Site, i: int) -> Layout:
    """A zero point or scale per model is [N]; one per filter is folded with the filters."""
    if site.has(i) and site.rank(i) and site.dims(i) != (1,):
        return FOLDED(0)
    return STACKED(0) if site.is_mapped(i) else SHARED


def _along(site: Site, i: int, held: Tensor, axis: int, times: int, rank: int, emit: Emitter) -> Tensor:
    """Parameter i for a tensor of `rank` folded at `axis`: [N*times, 1..], or a scalar as it is."""
    if _point_layout(site, i) == SHARED:
        return held
    if _point_layout(site, i) == STACKED(0):
        held = emit.reshape(held, [emit.models, 1])
        held = emit.reshape(emit("Expand", held, emit.const([emit.models, times])), [emit.models * times])
    return emit.unsqueeze(held, range(1, rank - axis))


def _float_conv(site: Site, x: tuple[int, int], w: tuple[int, int], ins: Sequence[Tensor | None],
                emit: Emitter) -> Tensor:  # fmt: skip
    """The sums of an integer convolution as a grouped Conv of exact float32 integers."""
    rank = site.rank(x[0])
    sides = []
    for (i, point), axis in ((x, 1), (w, 0)):
        side = emit("Cast", ins[i], to=TensorProto.FLOAT)
        held = ins[point] if site.has(point) else None
        if held is not None:
            width = site.dims(i)[axis]
            need(isinstance(width, int), "the number of its channels is unknown")
            zero = emit("Cast", held, to=TensorProto.FLOAT)
            side = emit("Sub", side, _along(site, point, zero, axis, int(width or 0), rank, emit))
        sides.append(side)
    attrs = {**site.node.attrs, "group": emit.models * int(site.attr("group", 1))}
    return emit("Conv", *sides, **attrs)


@family("QLinearConv")
def qlinear_conv(site: Site) -> Iterator[Option]:
    """grouped, in int8, with scales that differ in the scale of each filter; else in float, exactly"""
    group = int(site.attr("group", 1))
    takes = [_point_layout(site, i) for i in range(len(site.node.inputs))]
    takes[0], takes[3] = FOLDED(1), FOLDED(0)
    if site.has(8):
        takes[8] = FOLDED(0)
    carried = site.mapped[1] or site.mapped[6]
    filters = site.dims(3)[0]
    need(isinstance(filters, int), "the number of its filters is unknown")
    count = int(filters or 0)

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        ready = list(ins)
        if carried or (site.mapped[4] and not site.rank(4)):
            ready[4] = _filter_scales(site, ins, count, emit)
        if carried:
            ready[1] = ready[6] = emit.filled(1.0, TensorProto.FLOAT, ())
        return again(site, ready, emit, group=group * emit.models)

    points_differ = any(site.mapped[i] for i in (2, 5, 7)) or site.rank(5) > 0
    if not points_differ:
        yield Option("qlinear_conv", tuple(takes), (FOLDED(1),), body, 1 + 4 * carried, Became.GROUPED)
        if not any(site.mapped[1:]):
            shared = (SHARED,) * (len(takes) - 1)
            yield Option("qlinear_conv", (FOLDED(0), *shared), (FOLDED(0),), again)
        return
    need(_exact_in_float(site, 3), "its zero points differ, and its sums are not exact in float32")

    def in_float(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Held:
        rank = site.rank(0)
        total = emit("Cast", _float_conv(site, (0, 2), (3, 5), ins, emit), to=TensorProto.INT32)
        if site.has(8):
            total = emit("Add", total, emit.unsqueeze(ins[8], range(1, rank - 1)))
        scale = emit.unsqueeze(_filter_scales(site, ins, count, emit), range(1, rank - 1))
        y = emit("Round", emit("Mul", emit("Cast", total, to=TensorProto.FLOAT), scale))
        zero = emit("Cast", ins[7], to=TensorProto.FLOAT)
        y = emit("Add", y, _along(site, 7, zero, 1, count, rank, emit))
        return _saturated(y, site.inputs[7].dtype, emit)

    yield Option("qlinear_conv", tuple(takes), (FOLDED(1),), in_float, 22.0, Became.GROUPED)


def _saturated(y: Tensor, kind: int, emit: Emitter) -> Tensor:
    low, high = (0, 255) if kind == TensorProto.UINT8 else (-128, 127)
    y = emit("Clip", y, *(emit.filled(v, TensorProto.FLOAT, ()) for v in (low, high)))
    return emit("Cast", y, to=kind)


def _filter_scales(site: Site, ins: Sequence[Tensor | None], filters: int, emit: Emitter) -> Tensor:
    """x_scale * w_scale / y_scale, in the order in which the runtime multiplies, for each of N*O filters."""

    def column(i: int) -> Tensor:
        """[N, 1], or [N, O] for one scale per filter, or a scalar that all models share."""
        held = ins[i]
        if i == 4 and _point_layout(site, i) == FOLDED(0):
            return emit.reshape(held, [emit.models, filters])
        return emit.reshape(held, [emit.models, 1]) if site.mapped[i] else held

    scales = column(4)
    if site.mapped[1] or site.mapped[6]:
        scales = emit("Div", emit("Mul", column(1), scales), column(6))
    scales = emit("Expand", scales, emit.const([emit.models, filters]))
    return emit.reshape(scales, [emit.models * filters])


@family("QLinearMatMul")
def qlinear_matmul(site: Site) -> Iterator[Option]:
    """batched, in int8; quantisation parameters are the same for all models, or it is written out"""
    left, right = site.rank(0), site.rank(3)
    need(left >= 2 and right >= 2, "one of its operands is a vector")
    wide = max(left, right)
    takes = tuple(STACKED(0) if mapped else SHARED for mapped in site.mapped)
    params = (1, 2, 4, 5, 6, 7)
    need(all(site.dims(i) in ((), (1,)) for i in params), "its scales are not per tensor")
    plain = not any(site.mapped[i] for i in params)

    def batched(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        ready = list(ins)
        for i in (0, 3):
            ready[i] = emit.pad_rank(ins[i], takes[i], site.rank(i), wide, 0)
        return again(site, ready, emit)

    def written_out(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        def param(i: int) -> Tensor:
            return emit.reshape(ins[i], [emit.models] + [1] * wide) if site.mapped[i] else ins[i]

        sides = []
        for i in (0, 3):
            x = emit("Cast", emit.pad_rank(ins[i], takes[i], site.rank(i), wide, 0), to=TensorProto.INT32)
            sides.append(emit("Sub", x, emit("Cast", param(i + 2), to=TensorProto.INT32)))
        total = emit("Cast", emit("MatMul", *sides), to=TensorProto.FLOAT)
        scales = [emit("Cast", param(i), to=TensorProto.FLOAT) for i in (1, 4, 6)]
        scale = emit("Div", emit("Mul", *scales[:2]), scales[2])
        y = emit("Round", emit("Mul", total, scale))
        y = emit("Add", y, emit("Cast", param(7), to=TensorProto.FLOAT))
        return _saturated(y, site.inputs[7].dtype, emit)

    yield Option(
        "qlinear_matmul", takes, (STACKED(0),), batched if plain else written_out, 1 if plain else 14
    )
