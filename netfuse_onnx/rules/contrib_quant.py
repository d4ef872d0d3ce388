"""ONNX Runtime's products of bytes that give floats or bytes: the sums stay in int8 kernels (integer.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, Layout
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules._build import aligned, emit_same_op, need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.rules.contrib_attention import Takes, joined, mask_layout, projected
from netfuse_onnx.rules.contrib_qlinear import channels_moved
from netfuse_onnx.rules.integer import INT32, Side
from netfuse_onnx.rules.params import Param, combined, one_number, param
from netfuse_onnx.rules.qlinear import (
    OLD,
    in_each_way,
    output_scale,
    product_takes,
    products_of,
    qlinear_conv,
    side,
)
from netfuse_onnx.rules.quantize import quantised_dynamically, written_out
from netfuse_onnx.rules.sums import WAYS, Sums
from netfuse_onnx.types import ValueType

# --------------------------------------------------------------------------- Gemm


@family(f"{DOMAIN}.QGemm")
def quantised_gemm(site: Site) -> Iterator[Option]:
    """Batched, in int8: it becomes MatMulInteger, the bias in int32, and the scales."""
    bias_of_columns = not site.has("c") or site.rank("c") < 2 or site.dims("c")[0] == 1
    if not any(site.mapped[1:]) and not site.attr("transA") and bias_of_columns:
        yield Option("quantised_gemm", site.takes({"a": FOLDED(0)}), (FOLDED(0),), emit_same_op)
        return
    takes = product_takes(site)
    need(one_number(site, "a_scale", "y_scale", "y_zero_point"), "its scales are not per tensor")
    need(site.opset >= 13, OLD)
    bytes_out = site.has("y_scale") and site.has("y_zero_point")
    scales = ("a_scale", "b_scale", *(["y_scale"] if bytes_out else []))
    alpha = float(site.attr("alpha"))

    def body(site: Site, ins: Operands, emit: Emitter, way: Sums) -> Held:
        left, right = (_turned(side(site, ins, takes, name, emit), name, site, emit) for name in ("a", "b"))
        total = way.products(left, right, emit)
        if site.has("c"):
            bias = aligned(site, ins, "c", 2, emit)
            total = emit("Add", total, bias if way.kind == INT32 else emit("Cast", bias, to=way.kind))
        scale = output_scale(site, ins, scales, emit)
        if alpha != 1.0:
            factor = Param(None, False, False, TensorProto.FLOAT, np.array(alpha, np.float32))
            scale = combined("Mul", scale, factor, emit)
        zero = param(site, ins, "y_zero_point", emit) if bytes_out else None
        if zero is None:
            return way.to_floats(total, scale, 2, emit)
        return way.to_bytes(total, scale, zero, 2, emit)

    yield from in_each_way("quantised_gemm", site.takes(takes), body, WAYS)


def _turned(operand: Side, name: str, site: Site, emit: Emitter) -> Side:
    """An operand after its transposition; a weight is written that way."""
    if not site.attr(f"trans{name.upper()}"):
        return operand
    x = emit.swap_last(operand.x, 2 + operand.layout.stacked)
    return replace(operand, x=x, dims=(operand.dims[1], operand.dims[0]))


# --------------------------------------------------------------------------- MatMul to floats


@family(f"{DOMAIN}.MatMulIntegerToFloat")
def float_product(site: Site) -> Iterator[Option]:
    """Batched, in int8: it becomes MatMulInteger, then the scales and the bias."""
    takes = product_takes(site)
    need(one_number(site, "a_scale"), "the scale of its left operand is not one number")
    need(site.opset >= 13, OLD)

    def body(site: Site, ins: Operands, emit: Emitter, way: Sums) -> Held:
        total = products_of(site, ins, takes, emit, way)
        return _scaled(total, output_scale(site, ins, ("a_scale", "b_scale"), emit), site, ins, emit, way)

    yield from in_each_way("float_product", site.takes(takes), body, WAYS)


def _scaled(total: Tensor, scale: Param, site: Site, ins: Operands, emit: Emitter, way: Sums) -> Tensor:
    """total * scale + bias"""
    rank = max(site.rank("a"), site.rank("b"))
    y = way.to_floats(total, scale, rank, emit)
    return emit("Add", y, aligned(site, ins, "bias", rank, emit)) if site.has("bias") else y


@family(f"{DOMAIN}.DynamicQuantizeMatMul")
def dynamic_product(site: Site) -> Iterator[Option]:
    """Batched, in int8: each model's input is quantised first, with a scale of its own."""
    takes = product_takes(site)
    need(site.opset >= 13, OLD)

    def body(site: Site, ins: Operands, emit: Emitter, way: Sums) -> Held:
        mapped = site.is_mapped("a")
        if mapped and way.only:
            x, step, point = written_out(ins["a"], site.rank("a"), emit)
        elif mapped:
            x, step, point = quantised_dynamically(ins["a"], emit)
        else:
            x, step, point = emit.node("DynamicQuantizeLinear", [ins["a"]], outs=[True] * 3)
        zero = Param(point, mapped, wide=False, dtype=TensorProto.UINT8)
        scale = Param(step, mapped, wide=False, dtype=TensorProto.FLOAT)
        left = Side(x, takes["a"], site.dims("a"), TensorProto.UINT8, zero)
        total = way.products(left, side(site, ins, takes, "b", emit), emit)
        scale_b = param(site, ins, "b_scale", emit)
        scale = combined("Mul", scale, scale_b, emit) if scale_b is not None else scale
        return _scaled(total, scale, site, ins, emit, way)

    yield from in_each_way("dynamic_product", site.takes(takes), body, WAYS)


# --------------------------------------------------------------------------- attention


@family(f"{DOMAIN}.QAttention")
def quantised_attention(site: Site) -> Iterator[Option]:
    """Weights that differ become a batched product in int8; MultiHeadAttention follows."""
    mask = mask_layout(site, site["mask_index"], four_axes=False)
    takes: dict[str, Layout | None] = {"mask_index": mask, "past": FOLDED(1)}
    weights = ("weight", "bias", "input_scale", "weight_scale", "input_zero_point", "weight_zero_point")
    if not site.is_mapped(*weights):
        takes["input"] = FOLDED(0)
        yield joined(site, "quantised_attention", takes, (FOLDED(0), FOLDED(1)))
        return
    need(one_number(site, "input_scale", "input_zero_point"), "the scale of its input is not one number")
    need(site.opset >= 13, OLD)
    takes |= {name: site.own_layout(name) for name in ("input", *weights)}
    takes["weight"] = site.own_layout("weight", "weight_zero_point")
    for way in WAYS:
        option = projected(
            site, f"quantised_attention{way.suffix}", takes, partial(_quantised_product, way=way)
        )
        yield replace(option, only=way.only)


def _quantised_product(site: Site, ins: Operands, takes: Takes, emit: Emitter, way: Sums) -> Tensor:
    """[N, B, S, D] x [N, 1, D, 3H] + [N, 1, 1, 3H]"""
    layouts = {name: takes[name] or SHARED for name in ("input", "weight")}
    left, right = (side(site, ins, layouts, name, emit) for name in layouts)
    total = way.products(left, right, emit)
    y = way.to_floats(total, output_scale(site, ins, ("input_scale", "weight_scale"), emit), 3, emit)
    return emit("Add", y, aligned(site, ins, "bias", 3, emit))


# --------------------------------------------------------------------------- channels last


@family(f"{DOMAIN}.QLinearConv")
def last_conv(site: Site) -> Iterator[Option]:
    """It is batched like QLinearConv; where channels come last, the models are more of those."""
    if not site.attr("channels_last"):
        yield from qlinear_conv(site)
        return
    rank = site.rank(0)
    first, last = channels_moved(rank)
    dims = tuple(site.dims(0)[a] for a in first)
    attrs = {k: v for k, v in site.node.attrs.items() if k != "channels_last"}
    plain = replace(
        site,
        node=replace(site.node, domain="", attrs=attrs),
        inputs=(ValueType(site.inputs[0].dtype, dims), *site.inputs[1:]),
    )
    moved = {FOLDED(1): FOLDED(rank - 1)}
    stays = not site.is_mapped("x_zero_point", "w_zero_point", "y_zero_point")
    for option in qlinear_conv(plain):

        def body(site: Site, ins: Operands, emit: Emitter, inner: Option = option) -> Held:
            if stays and not inner.only:
                return inner.emit(_channels_last(site, plain, emit), ins, emit)[0]
            (y,) = inner.emit(plain, ins | {"x": emit.transpose(ins["x"], first)}, emit)
            return emit.transpose(y, last)

        takes = (moved.get(option.takes[0] or SHARED, option.takes[0]), *option.takes[1:])
        gives = tuple(moved.get(give, give) for give in option.gives)
        name = "last_conv_in_floats" if option.only else "last_conv"
        yield replace(option, rule=name, takes=takes, gives=gives, body=body)


def _channels_last(site: Site, plain: Site, emit: Emitter) -> Site:
    """The site for the rule of QLinearConv, whose operator is emitted with channels last."""

    def emits(operands: Sequence[Any], attrs: Mapping[str, Any]) -> list[Tensor]:
        return emit.node(site.op, operands, {**attrs, "channels_last": 1}, domain=DOMAIN)

    return replace(plain, emits=emits)
