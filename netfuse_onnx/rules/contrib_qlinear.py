"""ONNX Runtime's operators on bytes that are, between two roundings, operators on floats.

Each is a row of a table: the operator on floats, whose rules say in which layouts it works, and where its
scales and zero points are. Where those are the same for all models the operator stays what it is. Where
they differ it is written out: DequantizeLinear, the operator on floats and QuantizeLinear, with one scale
per model. Its result may then differ by one step where a value lies between two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, Layout
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules import elementwise
from netfuse_onnx.rules._build import again, need, seen_as
from netfuse_onnx.rules._registry import REGISTRY, Option, Refuse, Site, family
from netfuse_onnx.rules.params import Param, held, param
from netfuse_onnx.run.gaps import FUSED_PER_AXIS, ZERO_POINT_LOST_BELOW
from netfuse_onnx.types import ValueType

Triple = tuple[int, int, int]
"""The inputs that hold a value, its scale and its zero point; -1 for a value that is computed."""


@dataclass(frozen=True)
class Bytes:
    """An operator on bytes: the one on floats, its operands, the parameters of its result."""

    op: str
    operands: tuple[Triple, ...]
    result: tuple[int, int]
    plain: tuple[int, ...] = ()  # operands that are not bytes, before the others


ONE, TWO = ((0, 1, 2),), ((0, 1, 2), (3, 4, 5))
TABLE = {
    "QLinearAdd": Bytes("Add", TWO, (6, 7)),
    "QLinearMul": Bytes("Mul", TWO, (6, 7)),
    "QLinearSigmoid": Bytes("Sigmoid", ONE, (3, 4)),
    "QLinearLeakyRelu": Bytes("LeakyRelu", ONE, (3, 4)),
    "QLinearSoftmax": Bytes("Softmax", ONE, (3, 4)),
    "QLinearAveragePool": Bytes("AveragePool", ONE, (3, 4)),
    "QLinearGlobalAveragePool": Bytes("GlobalAveragePool", ONE, (3, 4)),
    "QLinearWhere": Bytes("Where", ((1, 2, 3), (4, 5, 6)), (7, 8), (0,)),
}


@family(*(f"{DOMAIN}.{op}" for op in TABLE))
def on_bytes(site: Site) -> Iterator[Option]:
    """in the layouts of the operator on floats; with scales that differ it is written out"""
    yield from _options(site, TABLE[site.op])


@family(f"{DOMAIN}.QLinearConcat")
def concat(site: Site) -> Iterator[Option]:
    """the axis is shifted past the model axis; with scales that differ it is written out"""
    every = range(2, len(site.node.inputs), 3)
    yield from _options(site, Bytes("Concat", tuple((i, i + 1, i + 2) for i in every), (0, 1)))


@family(f"{DOMAIN}.NhwcMaxPool")
def last_pool(site: Site) -> Iterator[Option]:
    """over the spatial axes: the models join the batch or the channels, which come last"""
    for layout in (FOLDED(0), FOLDED(site.rank(0) - 1)):
        yield Option("last_pool", (layout,), (layout,), again)


def _options(site: Site, row: Bytes) -> Iterator[Option]:
    params = [*row.result, *(i for _, *pair in row.operands for i in pair)]
    differ = any(site.is_mapped(i) for i in params)
    floats = _on_floats(site, row, stored=not differ)
    options = _last_channels(floats) if site.attr("channels_last", 0) else _offers(floats)
    if differ:
        need(site.opset >= 13, "QuantizeLinear has one scale for all models before opset 13")
        last = (
            floats.op != "Softmax"
            or site.axis(int(site.attr("axis", -1)), floats.rank(0)) == floats.rank(0) - 1
        )
        need(
            floats.opset >= 13 or last,
            "its scales differ between the models, and it is a Softmax of several axes",
        )
        yield from (_written_out(site, row, floats, option) for option in options if _sized(floats, option))
    else:
        yield from (_itself(site, row, floats, option) for option in options)


def _on_floats(site: Site, row: Bytes, *, stored: bool) -> Site:
    """The site of the operator on floats. An operand whose parameters differ between the models does, too.
    Without `stored` no operand is a weight: its floats are computed."""
    data = (*row.plain, *(x for x, _, _ in row.operands))
    attrs = {k: v for k, v in site.node.attrs.items() if k not in ("channels_last", "opset")}
    seen = seen_as(site, row.op, data, attrs)
    mapped = [site.mapped[i] for i in row.plain]
    mapped += [any(site.is_mapped(i) for i in triple) for triple in row.operands]
    kinds = [ValueType(TensorProto.FLOAT, kind.dims) for kind in seen.inputs]
    opset = int(site.attr("opset", 13)) if row.op == "Softmax" else min(site.opset, 17)
    weight = tuple(stored and flag for flag in seen.weight)
    return replace(seen, mapped=tuple(mapped), inputs=tuple(kinds), weight=weight, opset=opset)


def _offers(floats: Site) -> Iterator[Option]:
    for entry in REGISTRY[floats.op]:
        with suppress(Refuse):
            yield from (option for option in entry.offers(floats) if not option.tuned)
    rank = floats.out_rank()
    if floats.op in ("Add", "Mul") and rank > 2:  # images whose channels come last
        yield from elementwise.broadcasting_in(floats, [FOLDED(rank - 1)])


def _last_channels(floats: Site) -> Iterator[Option]:
    """A pool over all axes but the first and the last."""
    rank = floats.rank(0)
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        if isinstance(emit, _Instead):
            return again(site, ins, emit)[0]
        return emit.transpose(again(site, [emit.transpose(ins[0], first)], emit)[0], last)

    for layout in (FOLDED(0), FOLDED(rank - 1)):
        yield Option("last_channels", (layout,), (layout,), body)


# --------------------------------------------------------------------------- the operator itself


Build = Callable[[Sequence[Any], Mapping[str, Any]], list[Tensor]]


class _Instead:
    """An emitter for the rule of the operator on floats: where that emits its operator, it gets another."""

    def __init__(self, emit: Emitter, op: str, build: Build) -> None:
        self._emit, self._op, self._build = emit, op, build

    def __getattr__(self, name: str) -> Any:
        return getattr(self._emit, name)

    def __call__(self, op: str, /, *ins: Tensor | None, **attrs: Any) -> Tensor:
        return self.node(op, ins, attrs)[0]

    def node(self, op: str, ins: Sequence[Any], attrs: Mapping[str, Any], **more: Any) -> list[Tensor]:
        """As Emitter.node."""
        return self._build(ins, attrs) if op == self._op else self._emit.node(op, ins, attrs, **more)


def instead(emit: Emitter, op: str, build: Build) -> Emitter:
    return _Instead(emit, op, build)  # type: ignore[return-value]  # it behaves like one


def _itself(site: Site, row: Bytes, floats: Site, option: Option) -> Option:
    """The operator on bytes, in a layout that the one on floats works in."""
    data = (*row.plain, *(x for x, _, _ in row.operands))
    takes: list[Layout | None] = [SHARED] * len(site.node.inputs)
    for i, take in zip(data, option.takes, strict=True):
        takes[i] = take

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Held | Sequence[Held]:
        def build(operands: Sequence[Any], attrs: Mapping[str, Any]) -> list[Tensor]:
            ready = list(ins)
            for i, operand in zip(data, operands, strict=True):
                ready[i] = operand
            return emit.node(site.op, ready, {**site.node.attrs, **attrs}, domain=site.node.domain)

        return option.body(floats, [ins[i] for i in data], instead(emit, row.op, build))

    return replace(option, rule="on_bytes", takes=tuple(takes), body=body)


# --------------------------------------------------------------------------- written out


def _sized(floats: Site, option: Option) -> bool:
    """True where the sizes of all folded axes are known: a scale stands there as often."""
    held = [*zip(option.takes, floats.inputs, strict=True), *zip(option.gives, floats.outputs, strict=True)]
    return all(
        not (layout and layout.folded) or isinstance((kind.dims or ())[layout.axis], int)
        for layout, kind in held
    )


def _written_out(site: Site, row: Bytes, floats: Site, option: Option) -> Option:
    takes: list[Layout | None] = [held(site, i) for i in range(len(site.node.inputs))]
    data = (*row.plain, *(x for x, _, _ in row.operands))
    for i, take in zip(data, option.takes, strict=True):
        takes[i] = take
    apart = row.op in FUSED_PER_AXIS

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Held:
        operands = [ins[i] for i in row.plain]
        for x, *params in row.operands:
            scale, zero = (param(site, ins, i, emit) for i in params)
            operands.append(_real(ins[x], scale, zero, takes[x] or SHARED, site.inputs[x], emit))
        found = option.body(floats, operands, emit)
        y: Any = found[0] if isinstance(found, list) else found
        scale, zero = (param(site, ins, i, emit) for i in row.result)
        return _rounded(y, scale, zero, option.gives[0], site, apart, emit)

    nodes = option.nodes + len(row.operands) + 1 + apart
    return replace(option, rule="on_bytes", takes=tuple(takes), body=body, nodes=nodes)


def _real(x: Tensor | None, scale: Param | None, zero: Param | None, layout: Layout, kind: ValueType,
          emit: Emitter) -> Tensor:  # fmt: skip
    """An operand as floats, in its layout."""
    params = [p for p in (scale, zero) if p is not None]
    if not any(p.mapped for p in params):
        given = [p.shaped([], emit) for p in params]
        if zero is None and emit.opset < ZERO_POINT_LOST_BELOW:
            given.append(emit.filled(0, kind.dtype, ()))
        return emit("DequantizeLinear", x, *given)
    vectors = [p.along(layout, kind.dims or (), emit) for p in params]
    return emit("DequantizeLinear", x, *vectors, axis=layout.axis)


def _rounded(y: Any, scale: Param | None, zero: Param | None, layout: Layout, site: Site, apart: bool,
             emit: Emitter) -> Tensor:  # fmt: skip
    """The result as bytes. `apart`: the division stands before QuantizeLinear, which then is no part of what
    ONNX Runtime would fuse."""
    need(scale is not None, "it lacks a scale")
    params, dims = [p for p in (scale, zero) if p is not None], site.out_dims()
    mapped = any(p.mapped for p in params)
    steps, *points = [p.along(layout, dims, emit) if mapped else p.shaped([], emit) for p in params]
    axis = {"axis": layout.axis} if mapped else {}
    if apart:
        behind = len(dims) - layout.axis - layout.folded
        y = emit("Div", y, emit.unsqueeze(steps, range(1, behind + 1)) if mapped else steps)
        steps = emit("Div", steps, steps)
    return emit("QuantizeLinear", y, steps, *points, **axis)
