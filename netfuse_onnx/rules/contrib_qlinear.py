"""ONNX Runtime's operators on bytes that are, between two roundings, operators on floats.

Each is a row of a table: the operator on floats, whose rules say in which layouts it works, and where its
scales and zero points are. Where those are the same for all models the operator stays what it is. Where
they differ it is written out: DequantizeLinear, the operator on floats and QuantizeLinear, with one scale
per model. Its result may then differ by one step where a value lies between two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx import TensorProto

from netfuse_onnx.emit import Emitter, Held, Tensor
from netfuse_onnx.rules import elementwise
from netfuse_onnx.rules._build import again, need, per_axis, seen_as
from netfuse_onnx.rules._registry import REGISTRY, Option, Refuse, Site, family
from netfuse_onnx.rules.contrib import DOMAIN
from netfuse_onnx.rules.integer import Param, param
from netfuse_onnx.types import FOLDED, SHARED, Layout, ValueType

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
    "QLinearReduceMean": Bytes("ReduceMean", ONE, (3, 4)),
    "QLinearWhere": Bytes("Where", ((1, 2, 3), (4, 5, 6)), (7, 8), (0,)),
}

FUSED_WRONGLY = frozenset({"Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool"})
"""Between DequantizeLinear and QuantizeLinear with a scale per axis ONNX Runtime (1.32) fuses these to
operators that take one scale, and fails."""


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
    params = [*row.result, *(i for _, scale, zero in row.operands for i in (scale, zero))]
    differ = any(site.is_mapped(i) for i in params)
    floats = _on_floats(site, row)
    options = list(_last_channels(floats) if site.attr("channels_last", 0) else _offers(floats))
    if differ:
        need(site.opset >= 13, "QuantizeLinear has one scale for all models before opset 13")
        need(not site.attr("channels_last", 0) or row.op == "GlobalAveragePool", "its channels come last")
        yield from (_written_out(site, row, floats, option) for option in options if _sized(floats, option))
    else:
        yield from (_itself(site, row, floats, option) for option in options)


def _on_floats(site: Site, row: Bytes) -> Site:
    """The site of the operator on floats. An operand whose parameters differ between the models does, too."""
    data = (*row.plain, *(x for x, _, _ in row.operands))
    seen = seen_as(site, row.op, data, site.node.attrs)
    mapped = [site.mapped[i] for i in row.plain]
    mapped += [any(site.is_mapped(i) for i in triple) for triple in row.operands]
    kinds = [ValueType(TensorProto.FLOAT, kind.dims) for kind in seen.inputs]
    opset = int(site.attr("opset", 13)) if row.op == "Softmax" else min(site.opset, 17)
    return replace(seen, mapped=tuple(mapped), inputs=tuple(kinds), opset=opset)


def _offers(floats: Site) -> Iterator[Option]:
    for entry in REGISTRY[floats.op]:
        try:
            yield from entry.offers(floats)
        except Refuse:
            continue
    rank = floats.out_rank()
    if floats.op in ("Add", "Mul") and rank > 2:  # images whose channels come last
        yield from elementwise.folded_at(floats, rank - 1, rank)


def _last_channels(floats: Site) -> Iterator[Option]:
    for layout in (FOLDED(0), FOLDED(floats.rank(0) - 1)):
        yield Option("last_channels", (layout,), (layout,), again)


# --------------------------------------------------------------------------- the operator itself


class _Instead:
    """An emitter for the rule of the operator on floats: where that emits its operator, it gets another."""

    def __init__(self, emit: Emitter, op: str, build: Callable[[Sequence[Any], Mapping[str, Any]], list[Tensor]]):
        self._emit, self._op, self._build = emit, op, build

    def __getattr__(self, name: str) -> Any:
        return getattr(self._emit, name)

    def __call__(self, op: str, /, *ins: Tensor | None, **attrs: Any) -> Tensor:
        return self.node(op, ins, attrs)[0]

    def node(self, op: str, ins: Sequence[Any], attrs: Mapping[str, Any], **more: Any) -> list[Tensor]:
        return self._build(ins, attrs) if op == self._op else self._emit.node(op, ins, attrs, **more)


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
            return emit.node(site.op, ready, attrs, domain=site.node.domain)

        return option.body(floats, [ins[i] for i in data], _Instead(emit, row.op, build))  # type: ignore[arg-type]

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
    takes = [_held(site, i) for i in range(len(site.node.inputs))]
    first = len(row.plain)
    for k, i in enumerate((*row.plain, *(x for x, _, _ in row.operands))):
        takes[i] = option.takes[k] or SHARED
    gives = option.gives[0]

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Held:
        operands = [ins[i] for i in row.plain]
        for k, (x, scale, zero) in enumerate(row.operands):
            layout = option.takes[first + k] or SHARED
            operands.append(_real(site, ins, (x, scale, zero), layout, floats.dims(first + k), emit))
        found = option.body(floats, operands, emit)
        y = found if isinstance(found, Tensor) else list(found)[0]  # type: ignore[arg-type]
        scale, zero = (param(site, ins, i) for i in row.result)
        return _bytes(y, (scale, zero), gives, floats, row.op in FUSED_WRONGLY, site.outputs[0].dtype, emit)

    nodes = option.nodes + len(row.operands) + 1 + (row.op in FUSED_WRONGLY)
    return replace(option, rule="on_bytes", takes=tuple(takes), body=body, nodes=nodes)


def _held(site: Site, i: int) -> Layout:
    from netfuse_onnx.rules.integer import held

    return held(site, i)


def _real(site: Site, ins: Sequence[Tensor | None], which: Triple, layout: Layout, dims: Sequence[Any],
          emit: Emitter) -> Tensor:  # fmt: skip
    """An operand as floats, in its layout."""
    x, scale, zero = which
    params = [_along(param(site, ins, i), layout, dims, emit) for i in (scale, zero)]
    apart = layout != SHARED and any(p is not None and p.mapped for p in (param(site, ins, i) for i in (scale, zero)))
    if not apart:
        return emit("DequantizeLinear", ins[x], *params)
    return emit("DequantizeLinear", ins[x], *params, axis=layout.axis)
