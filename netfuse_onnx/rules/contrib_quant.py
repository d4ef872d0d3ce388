"""ONNX Runtime's products of bytes that give floats or bytes: the sums stay in int8 kernels (integer.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family
from netfuse_onnx.rules.contrib_attention import Parts, Takes, projected
from netfuse_onnx.rules.contrib_qlinear import instead
from netfuse_onnx.rules.integer import (
    Side,
    cost,
    dequantised,
    layout_of,
    products,
    requantised,
)
from netfuse_onnx.rules.params import Param, combined, held, one, param
from netfuse_onnx.rules.qlinear import output_scale, product_takes, qlinear_conv, sides
from netfuse_onnx.rules.quantize import quantised_dynamically
from netfuse_onnx.types import ValueType

OLD = "DequantizeLinear has one scale for all models before opset 13"

# --------------------------------------------------------------------------- Gemm


@family(f"{DOMAIN}.QGemm")
def quantised_gemm(site: Site) -> Iterator[Option]:
    """batched, in int8: MatMulInteger, the bias in int32, and the scales"""
    if not any(site.mapped[1:]) and not site.attr("transA", 0) and _row(site):
        joined = (FOLDED(0), *(SHARED,) * (len(site.node.inputs) - 1))
        yield Option("quantised_gemm", joined, (FOLDED(0),), again)
        return
    takes = product_takes(site, (0, 2), (3, 5))
    need(one(site, 1, 7, 8), "its scales are not per tensor")
    need(site.opset >= 13, OLD)
    bytes_out = site.has(7) and site.has(8)
    alpha = float(site.attr("alpha", 1.0))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        left, right = sides(site, ins, takes, (0, 2), (3, 5), emit)
        total = products(_turned(left, "A", site, emit), _turned(right, "B", site, emit), emit)
        if site.has(6):
            total = emit("Add", total, emit.pad_rank(ins[6], takes[6], site.rank(6), 2, 0))
        scale = output_scale(site, ins, (1, 4, 7) if bytes_out else (1, 4), emit)
        if alpha != 1.0:
            factor = Param(None, False, False, TensorProto.FLOAT, np.array(alpha, np.float32))
            scale = combined("Mul", scale, factor, emit)
        if not bytes_out:
            return dequantised(total, scale, 2, emit)
        zero = param(site, ins, 8, emit)
        return requantised(total, scale, zero, 2, emit) if zero is not None else total

    nodes = cost(site.is_mapped(2), site.is_mapped(5)) + 3.0 + site.has(6)
    yield Option("quantised_gemm", tuple(takes), (STACKED(0),), body, nodes)


def _row(site: Site) -> bool:
    """True where the bias is the same in every row."""
    return not site.has(6) or site.rank(6) < 2 or site.dims(6)[0] == 1


def _turned(side: Side, name: str, site: Site, emit: Emitter) -> Side:
    """An operand after its transposition; a weight is written that way."""
    if not site.attr(f"trans{name}", 0):
        return side
    x = emit.swap_last(side.x, 2 + side.layout.stacked)
    return replace(side, x=x, dims=(side.dims[1], side.dims[0]))


# --------------------------------------------------------------------------- MatMul to floats


@family(f"{DOMAIN}.MatMulIntegerToFloat")
def float_product(site: Site) -> Iterator[Option]:
    """batched, in int8: MatMulInteger, then the scales and the bias"""
    takes = product_takes(site, (0, 4), (1, 5))
    need(one(site, 2), "the scale of its left operand is not one number")
    need(site.opset >= 13, OLD)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        total = products(*sides(site, ins, takes, (0, 4), (1, 5), emit), emit)
        return _scaled(total, output_scale(site, ins, (2, 3), emit), site, ins, 6, held(site, 6), emit)

    nodes = cost(site.is_mapped(4), site.is_mapped(5)) + 2.0 + site.has(6)
    yield Option("float_product", tuple(takes), (STACKED(0),), body, nodes)


def _scaled(
    total: Tensor, scale: Param, site: Site, ins: Sequence[Tensor], bias: int, take: Layout, emit: Emitter
) -> Tensor:
    """total * scale + bias"""
    rank = max(site.rank(0), site.rank(1))
    y = dequantised(total, scale, rank, emit)
    return emit("Add", y, emit.pad_rank(ins[bias], take, 1, rank, 0)) if site.has(bias) else y


@family(f"{DOMAIN}.DynamicQuantizeMatMul")
def dynamic_product(site: Site) -> Iterator[Option]:
    """batched, in int8, with a scale for each model's input, which is quantised first"""
    takes = product_takes(site, (0, 99), (1, 3))
    need(site.opset >= 13, OLD)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        mapped = site.mapped[0]
        if mapped:
            x, step, point = quantised_dynamically(ins[0], emit)
        else:
            x, step, point = emit.node("DynamicQuantizeLinear", [ins[0]], outs=[True] * 3)
        zero = Param(point, mapped, wide=False, dtype=TensorProto.UINT8)
        scale = Param(step, mapped, wide=False, dtype=TensorProto.FLOAT)
        left = Side(x, takes[0], site.dims(0), TensorProto.UINT8, zero)
        right = Side(ins[1], takes[1], site.dims(1), site.inputs[1].dtype, param(site, ins, 3, emit))
        other = param(site, ins, 2, emit)
        total = products(left, right, emit)
        scale = combined("Mul", scale, other, emit) if other is not None else scale
        return _scaled(total, scale, site, ins, 4, held(site, 4), emit)

    nodes = 5.0 + 3.0 * site.models + cost(site.mapped[0], site.is_mapped(3)) + site.has(4)
    yield Option("dynamic_product", tuple(takes), (STACKED(0),), body, nodes)


# --------------------------------------------------------------------------- attention


@family(f"{DOMAIN}.QAttention")
def quantised_attention(site: Site) -> Iterator[Option]:
    """a batched product in int8, then MultiHeadAttention on the models in the batch"""
    takes: Takes = [SHARED] * len(site.node.inputs)
    parts = Parts(site, past=8, mask=5, bias=99)
    for i, take in ((5, FOLDED(0)), (8, FOLDED(1))):
        if site.has(i):
            takes[i] = take if i == 8 or site.rank(5) != 2 or site.dims(5)[1] != 1 else None
    if not any(site.is_mapped(i) for i in (1, 2, 3, 4, 6, 7)):
        takes[0] = FOLDED(0)
        gives = (FOLDED(0), FOLDED(1))[: len(site.node.outputs)]
        yield Option("quantised_attention", tuple(takes), gives, again)
        return
    need(one(site, 3, 6), "the scale of its input is not one number")
    need(site.opset >= 13, OLD)
    option = projected(site, takes, parts, _quantised_product, (0, 2, 3, 4, 6, 7))
    takes = list(option.takes)
    takes[1] = layout_of(site, 1, 7)
    yield replace(option, rule="quantised_attention", takes=tuple(takes), nodes=option.nodes + 6)


def _quantised_product(site: Site, ins: Sequence[Tensor | None], takes: Takes, emit: Emitter) -> Tensor:
    """[N, B, S, D] x [N, 1, D, 3H] + [N, 1, 1, 3H]"""
    held_ = [take or SHARED for take in takes]
    held_[1] = layout_of(site, 1, 7)
    total = products(*sides(site, ins, held_, (0, 6), (1, 7), emit), emit)
    y = dequantised(total, output_scale(site, ins, (3, 4), emit), 3, emit)
    return emit("Add", y, emit.pad_rank(ins[2], held_[2], 1, 3, 0))


# --------------------------------------------------------------------------- channels last


@family(f"{DOMAIN}.QLinearConv")
def last_conv(site: Site) -> Iterator[Option]:
    """as QLinearConv; where channels come last the models are more of those"""
    if not site.attr("channels_last", 0):
        yield from qlinear_conv(site)
        return
    rank = site.rank(0)
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    dims = tuple(site.dims(0)[a] for a in first)
    plain = replace(
        site,
        node=replace(
            site.node, domain="", attrs={k: v for k, v in site.node.attrs.items() if k != "channels_last"}
        ),
        inputs=(ValueType(site.inputs[0].dtype, dims), *site.inputs[1:]),
    )
    moved = {FOLDED(1): FOLDED(rank - 1)}
    whole = not any(site.is_mapped(i) for i in (2, 5, 7))
    for option in qlinear_conv(plain):

        def body(site: Site, ins: Sequence[Tensor], emit: Emitter, inner: Option = option) -> Held:
            if whole:
                return _as_it_is(inner, plain, site, ins, emit)
            turned = [emit.transpose(ins[0], first), *ins[1:]]
            found = inner.body(plain, turned, emit)
            return emit.transpose(found[0] if isinstance(found, list) else found, last)

        takes = (moved.get(option.takes[0] or SHARED, option.takes[0]), *option.takes[1:])
        gives = tuple(moved.get(give, give) for give in option.gives)
        yield replace(option, rule="last_conv", takes=takes, gives=gives, body=body)


def _as_it_is(inner: Option, plain: Site, site: Site, ins: Sequence[Tensor], emit: Emitter) -> Tensor:
    """The operator with channels last, with the scales and groups that the rule of QLinearConv gives it."""

    def build(operands: Sequence[Any], attrs: Mapping[str, Any]) -> list[Tensor]:
        return emit.node(site.op, operands, {**attrs, "channels_last": 1}, domain=DOMAIN)

    found = inner.body(plain, ins, instead(emit, "QLinearConv", build))
    return found[0] if isinstance(found, list) else found
