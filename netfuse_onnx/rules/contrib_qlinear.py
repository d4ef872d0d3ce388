"""ONNX Runtime's operators on bytes that are, between two roundings, operators on floats.

Each is a row of a table: the operator on floats, whose rules say in which layouts it works, and where its
scales and zero points are. Where those are the same for all models the operator stays what it is. Where
they differ it is written out: DequantizeLinear, the operator on floats and QuantizeLinear, with one scale
per model. Its result may then differ by one step where a value lies between two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, Layout
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules import elementwise
from netfuse_onnx.rules._build import emit_same_op, need, per_axis, seen_as
from netfuse_onnx.rules._registry import REGISTRY, Option, family
from netfuse_onnx.rules._site import Key, Operands, Refuse, Site
from netfuse_onnx.rules.params import Param, param
from netfuse_onnx.run.gaps import FUSED_PER_AXIS, ZERO_POINT_LOST_BELOW
from netfuse_onnx.types import ValueType


@dataclass(frozen=True)
class Bytes:
    """A value in bytes: the input that holds it, its scale and its zero point. No input holds a result."""

    value: Key
    scale: Key
    zero: Key

    @classmethod
    def named(cls, name: str) -> Bytes:
        return cls(name, f"{name}_scale", f"{name}_zero_point")


@dataclass(frozen=True)
class Row:
    """An operator on bytes: the one on floats, its operands and its result. `plain` are operands that are not
    bytes, before the others."""

    op: str
    operands: tuple[Bytes, ...]
    result: Bytes
    plain: tuple[Key, ...] = ()

    @property
    def data(self) -> tuple[Key, ...]:
        """The inputs that the operator on floats has."""
        return (*self.plain, *(operand.value for operand in self.operands))


def _row(op: str, operands: str, result: str, *plain: str) -> Row:
    return Row(op, tuple(map(Bytes.named, operands)), Bytes.named(result), plain)


TABLE = {
    "QLinearAdd": _row("Add", "ab", "c"),
    "QLinearMul": _row("Mul", "ab", "c"),
    "QLinearSigmoid": _row("Sigmoid", "x", "y"),
    "QLinearLeakyRelu": _row("LeakyRelu", "x", "y"),
    "QLinearSoftmax": _row("Softmax", "x", "y"),
    "QLinearAveragePool": _row("AveragePool", "x", "y"),
    "QLinearGlobalAveragePool": _row("GlobalAveragePool", "x", "y"),
    "QLinearWhere": _row("Where", "xy", "z", "condition"),
}


@family(*(f"{DOMAIN}.{op}" for op in TABLE))
def on_bytes(site: Site) -> Iterator[Option]:
    """It works in the layouts of the operator on floats; with scales that differ it is written out."""
    yield from _options(site, TABLE[site.op])


@family(f"{DOMAIN}.QLinearConcat")
def concat(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis; with scales that differ the operator is written out."""
    operands = tuple(Bytes(i, i + 1, i + 2) for i in range(2, len(site.node.inputs), 3))
    yield from _options(site, Row("Concat", operands, Bytes.named("y")))


@family(f"{DOMAIN}.NhwcMaxPool")
def last_pool(site: Site) -> Iterator[Option]:
    """It works over the spatial axes, so the models join the batch or the channels, which come last."""
    yield from per_axis(site, name="last_pool", layouts=[FOLDED(0), FOLDED(site.rank(0) - 1)])


def _options(site: Site, row: Row) -> Iterator[Option]:
    params = [key for value in (row.result, *row.operands) for key in (value.scale, value.zero)]
    differ = site.is_mapped(*params)
    floats = _on_floats(site, row, stored=not differ)
    options = _last_channels(floats) if site.attr("channels_last") else _offers(floats)
    if not differ:
        yield from (_itself(site, row, floats, option) for option in options)
        return
    need(site.opset >= 13, "QuantizeLinear has one scale for all models before opset 13")
    rank, old = floats.rank(0), floats.op == "Softmax" and floats.opset < 13
    several = old and site.axis(int(site.attr("axis")), rank) != rank - 1
    need(not several, "its scales differ between the models, and it is a Softmax of several axes")
    yield from (_written_out(site, row, floats, option) for option in options if _sized(floats, option))


def _on_floats(site: Site, row: Row, *, stored: bool) -> Site:
    """The site of the operator on floats. An operand whose parameters differ between the models does, too.
    Without `stored` no operand is a weight: its floats are computed."""
    attrs = {k: v for k, v in site.node.attrs.items() if k not in ("channels_last", "opset")}
    seen = seen_as(site, row.op, row.data, attrs)
    mapped = [site.is_mapped(key) for key in row.plain]
    mapped += [site.is_mapped(operand.value, operand.scale, operand.zero) for operand in row.operands]
    types = tuple(ValueType(TensorProto.FLOAT, given.dims) for given in seen.inputs)
    opset = int(site.attr("opset") or 13) if row.op == "Softmax" else min(site.opset, 17)
    weight = tuple(stored and flag for flag in seen.weight)
    return replace(seen, mapped=tuple(mapped), inputs=types, weight=weight, opsets={"": opset})


def _offers(floats: Site) -> Iterator[Option]:
    for entry in REGISTRY[floats.op]:
        with suppress(Refuse):
            yield from (option for option in entry.offers(floats) if not option.for_targets)
    rank = floats.out_rank()
    if floats.op in ("Add", "Mul") and rank > 2:  # images whose channels come last
        yield from elementwise.broadcasting_in(floats, [FOLDED(rank - 1)])


def _last_channels(floats: Site) -> Iterator[Option]:
    """A pool over all axes but the first and the last."""
    rank = floats.rank(0)
    first, last = channels_moved(rank)

    def body(site: Site, ins: Operands, emit: Emitter) -> Held:
        if site.emits:
            return emit_same_op(site, ins, emit)[0]
        return emit.transpose(emit_same_op(site, [emit.transpose(ins[0], first)], emit)[0], last)

    yield from per_axis(floats, lambda layout: body, layouts=[FOLDED(0), FOLDED(rank - 1)])


def channels_moved(rank: int) -> tuple[list[int], list[int]]:
    """The orders that move the last axis to the place of channels, and back."""
    return [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]


def _itself(site: Site, row: Row, floats: Site, option: Option) -> Option:
    """The operator on bytes, in a layout that the one on floats works in."""

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        def emits(operands: Sequence[Any], attrs: Mapping[str, Any]) -> list[Tensor]:
            return emit_same_op(site, ins | dict(zip(row.data, operands, strict=True)), emit, **attrs)

        return option.emit(replace(floats, emits=emits), [ins[key] for key in row.data], emit)

    takes = site.takes(dict(zip(row.data, option.takes, strict=True)))
    return replace(option, rule="on_bytes", takes=takes, body=body)


# --------------------------------------------------------------------------- written out


def _sized(floats: Site, option: Option) -> bool:
    """True where the sizes of all folded axes are known: a scale stands there as often."""
    values = [*zip(option.takes, floats.inputs, strict=True), *zip(option.gives, floats.outputs, strict=True)]
    folded = ((value.dims or ())[layout.axis] for layout, value in values if layout and layout.folded)
    return all(isinstance(size, int) for size in folded)


def _written_out(site: Site, row: Row, floats: Site, option: Option) -> Option:
    takes: dict[Key, Layout] = dict(enumerate(site.own_layouts))
    layouts = {key: take or SHARED for key, take in zip(row.data, option.takes, strict=True)}
    takes |= {site.position(key): layout for key, layout in layouts.items()}
    divides = row.op in FUSED_PER_AXIS

    def body(site: Site, ins: Operands, emit: Emitter) -> Held:
        operands = [ins[key] for key in row.plain]
        operands += [_real(site, ins, operand, layouts[operand.value], emit) for operand in row.operands]
        (y,) = option.emit(floats, operands, emit)
        return _rounded(y, _params(site, ins, row.result, emit), option.gives[0], site, divides, emit)

    return replace(option, rule="on_bytes", takes=site.takes(takes), body=body)


def _params(site: Site, ins: Operands, value: Bytes, emit: Emitter) -> list[Param]:
    """The scale, and the zero point where there is one."""
    both = (param(site, ins, key, emit) for key in (value.scale, value.zero))
    return [p for p in both if p is not None]


def _real(site: Site, ins: Operands, operand: Bytes, layout: Layout, emit: Emitter) -> Tensor:
    """An operand as floats, in its layout."""
    x, params = ins[operand.value], _params(site, ins, operand, emit)
    if not any(p.mapped for p in params):
        given = [p.shaped([], emit) for p in params]
        if len(given) == 1 and emit.opset < ZERO_POINT_LOST_BELOW:
            given.append(emit.filled(0, site[operand.value].dtype, ()))
        return emit("DequantizeLinear", x, *given)
    vectors = [p.along(layout, site.dims(operand.value), emit) for p in params]
    return emit("DequantizeLinear", x, *vectors, axis=layout.axis)


def _rounded(
    y: Any, params: Sequence[Param], layout: Layout, site: Site, divides: bool, emit: Emitter
) -> Tensor:
    """The result as bytes. `divides`: the division stands before QuantizeLinear, which then is no part of a
    pattern that ONNX Runtime fuses."""
    dims, mapped = site.out_dims(), any(p.mapped for p in params)
    need(len(params) > 0, "it lacks a scale")
    steps, *points = [p.along(layout, dims, emit) if mapped else p.shaped([], emit) for p in params]
    axis = {"axis": layout.axis} if mapped else {}
    if divides:
        behind = len(layout.merged_dims(dims, emit.count)) - layout.axis - 1
        y = emit("Div", y, emit.unsqueeze(steps, range(1, behind + 1)) if mapped else steps)
        steps = emit("Div", steps, steps)
    return emit("QuantizeLinear", y, steps, *points, **axis)
