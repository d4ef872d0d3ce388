"""Sums of products of bytes, for all models at once, in the runtime's int8 kernels.

A zero point is one number in those kernels. Where the models have different ones the kernel runs without,
and what that leaves out follows in int32, exactly:

    sum (x - p)(w - q) = sum x (w - q) - p sum (w - q) = sum x w - p sum w - q sum (x - p)

The sums over weights alone are constants, which ONNX Runtime folds when it loads the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.layouts import SHARED
from netfuse_onnx.rules._build import need
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.params import Param, for_each, rows_of, stored
from netfuse_onnx.rules.products import Matrices, as_rows, beside
from netfuse_onnx.types import Dim

INT32, FLOAT = TensorProto.INT32, TensorProto.FLOAT
LIMITS: dict[int, tuple[int, int]] = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}

# --------------------------------------------------------------------------- matrix products


@dataclass(frozen=True)
class Side(Matrices):
    """An operand of a product, its element type and its zero point. `stored` is True for a weight."""

    dtype: int
    zero: Param | None = None
    stored: bool = False


def products(a: Side, b: Side, emit: Emitter) -> Tensor:
    """[N, .., i, k] x [N, .., k, j] -> int32 [N, .., i, j]"""
    a, finish = as_rows(a, b, emit)
    wide = max(len(a.dims), len(b.dims))
    left, right = beside(a, b, emit)
    zero_b = _column_zero(b, right, wide, emit)
    if a.zero is None or not a.zero.mapped:
        point = None if a.zero is None else a.zero.number(emit)
        return finish(emit("MatMulInteger", left, right, point, zero_b))
    total = emit("MatMulInteger", left, right, None, zero_b)
    column = _column_sums(a, b, right, zero_b, emit)
    moved = emit("Mul", a.zero.cast(INT32, emit).beside(wide, emit), column)
    return finish(emit("Sub", total, moved))


def _column_zero(b: Side, right: Tensor, wide: int, emit: Emitter) -> Tensor | None:
    """The zero point as MatMulInteger takes it: a scalar, or a row beside each matrix of `right`."""
    zero = b.zero
    if zero is None:
        return None
    if not zero.mapped and not zero.wide:
        return zero.number(emit)
    return rows(zero, b, right, wide, emit)


def rows(each: Param, b: Side, right: Tensor, wide: int, emit: Emitter) -> Tensor:
    """[C], or [N, .., 1, C] beside the matrices [N, .., K, C] of the right operand `b`, padded as `right`."""
    shared = b.layout == SHARED
    if shared and len(b.dims) == 2:
        return each.shaped([-1], emit)
    lead = [] if shared else [emit.kept, *[1] * (wide - len(b.dims))]
    inner = [*lead, *(d if isinstance(d, int) else 0 for d in b.dims[:-2])]
    columns = b.dims[-1]
    if isinstance(columns, int) and columns and all(inner):
        if each.value is not None:
            models = [] if shared else [rows_of(each, emit)]
            row = each.value.reshape(*models, *[1] * (len(inner) - len(models)), 1, -1)
            whole = np.broadcast_to(row, (*inner, 1, columns))
            return stored(whole, emit) if shared or each.mapped else for_each(whole[:1], emit)
        target: Tensor = emit.const([*inner, 1, columns])
    else:
        row = emit("Slice", right, emit.const([0]), emit.const([1]), emit.const([len(inner)]))
        target = emit("Shape", row)
    return emit("Expand", each.beside(wide, emit), target)


def _column_sums(a: Side, b: Side, right: Tensor, zero: Tensor | None, emit: Emitter) -> Tensor:
    """sum over k of (w - q): [.., 1, j], int32"""
    depth = b.dims[-2]
    if isinstance(depth, int):
        return emit("MatMulInteger", emit.filled(1, a.dtype, [1, depth]), right, None, zero)
    whole = emit("Cast", right, to=INT32)
    if zero is not None:
        whole = emit("Sub", whole, emit("Cast", zero, to=INT32))
    return emit.reduce("ReduceSum", whole, [-2], keepdims=1)


# --------------------------------------------------------------------------- convolutions


@dataclass(frozen=True)
class Image:
    """An integer convolution N(MC)HW, (MO)Ckk -> N(MO)HW: its operands and their zero points."""

    x: Tensor
    w: Tensor
    dims: tuple[Dim, ...]  # of x, per model
    filters: tuple[int, ...]  # dims of w, per model
    dtypes: tuple[int, int]
    zeros: tuple[Param | None, Param | None]
    groups: int
    attrs: dict[str, Any]

    def merged(self, emit: Emitter) -> dict[str, Any]:
        return {**self.attrs, "group": self.groups * emit.models}


def accumulated(image: Image, emit: Emitter) -> Tensor:
    """int32 N(MO)HW, whichever zero points differ."""
    zero_x, zero_w = image.zeros
    if zero_x is not None and zero_x.mapped:
        image = padded(image, emit)
    plain_x = None if zero_x is None or zero_x.mapped else zero_x.number(emit)
    differs = zero_w is not None and zero_w.mapped
    plain_w = None if zero_w is None or differs else zero_w.number(emit)
    total = emit("ConvInteger", image.x, image.w, plain_x, plain_w, **image.merged(emit))
    if differs and zero_w is not None:
        total = emit("Sub", total, _patches(image, zero_w, plain_x, emit))
    if zero_x is not None and zero_x.mapped:
        total = emit("Sub", total, emit.unsqueeze(correction(image, emit), range(1, len(image.dims) - 1)))
    return total


def correction(image: Image, emit: Emitter) -> Tensor:
    """p * sum (w - q) for each filter of all models: [N*O], int32. With a q per model: p * sum w, as the
    rest of it is in the sums over the patches."""
    zero_x, zero_w = image.zeros
    filters = emit("Cast", image.w, to=INT32)
    point_w = None if zero_w is None or zero_w.mapped else zero_w.cast(INT32, emit).number(emit)
    if point_w is not None:
        filters = emit("Sub", filters, point_w)
    sums = emit.reduce("ReduceSum", filters, list(range(1, len(image.dims))))
    point = zero_x.cast(INT32, emit) if zero_x is not None else None
    return emit("Mul", sums, point.spread(image.filters[0], emit)) if point is not None else sums


def _patches(image: Image, zero_w: Param, plain_x: Tensor | None, emit: Emitter) -> Tensor:
    """q * sum (x - p) over what each filter sees: N(MO)HW, from one sum for each group of filters."""
    zero_x = image.zeros[0]
    groups, (count, *size) = image.groups * emit.models, image.filters
    ones = emit.filled(1, image.dtypes[1], [groups, *size])
    sums = emit("ConvInteger", image.x, ones, plain_x, None, **image.merged(emit))
    if zero_x is not None and zero_x.mapped:
        p = zero_x.cast(INT32, emit).spread(image.groups, emit)
        whole = emit("Mul", p, emit.const(int(np.prod(size)), "int32"))
        sums = emit("Sub", sums, emit.unsqueeze(whole, range(1, len(image.dims) - 1)))
    if count > image.groups:  # each group's sums once per filter
        sums = emit("Gather", sums, emit.const(np.repeat(np.arange(groups), count // image.groups)), axis=1)
    q = zero_w.cast(INT32, emit).spread(count, emit)
    return emit("Mul", sums, emit.unsqueeze(q, range(1, len(image.dims) - 1)))


def padded(image: Image, emit: Emitter) -> Image:
    """The image with its border written out: where a convolution pads, it pads with the zero point."""
    inner = len(image.dims) - 2
    pads = list(image.attrs.get("pads", [0] * (2 * inner)))
    attrs = {k: v for k, v in image.attrs.items() if k not in ("pads", "auto_pad")}
    zero_x = image.zeros[0]
    if not any(pads) or zero_x is None:
        return replace(image, attrs=attrs)
    widths = emit.const([0, 0, *pads[:inner], 0, 0, *pads[inner:]])
    size = emit("Slice", emit("Shape", image.x), emit.const([2]), emit.const([inner + 2]))
    size = emit("Concat", emit.const([1, 1]), size, axis=0)
    inside = emit("Pad", emit("Expand", emit.const(1, "int32"), size), widths)
    channels = image.filters[1] * image.groups
    border = emit.unsqueeze(zero_x.spread(channels, emit), [0, *range(2, inner + 2)])
    x = emit("Where", emit("Cast", inside, to=TensorProto.BOOL), emit("Pad", image.x, widths), border)
    return replace(image, x=x, attrs=attrs)


def can_be_padded(site: Site) -> None:
    """Refuse where the image's zero point differs between the models, so that `padded` writes out its border,
    and the widths are unknown or Pad takes no bytes."""
    if not site.is_mapped("x_zero_point"):
        return
    why = "its zero points differ between the models, and "
    need(site.opset >= 13, why + "Pad takes no bytes before opset 13")
    need(site.attr("auto_pad") in (b"NOTSET", b"VALID"), why + "its padding is automatic")


# --------------------------------------------------------------------------- back to bytes


def dequantised(total: Tensor, scale: Param, rank: int, emit: Emitter) -> Tensor:
    """total * scale in floats, of int32 [N, ..] with `rank` axes per model. DequantizeLinear has a number for
    each model, because of gaps.INTEGER_PRODUCT_FUSED and gaps.ZERO_POINT_LOST."""
    if scale.mapped and not scale.wide:
        return emit("DequantizeLinear", total, _vector(scale, emit), axis=0)
    real = emit("DequantizeLinear", total, emit.filled_each(1.0, FLOAT), axis=0)
    return emit("Mul", real, scale.beside(rank, emit))


def requantised(total: Tensor, scale: Param, zero: Param, rank: int, emit: Emitter) -> Tensor:
    """round(total * scale) + zero, saturated, of int32 [N, ..] with `rank` axes per model, as the runtime's
    kernels compute it."""
    if emit.opset < 13:
        return _written_out(total, scale.beside(rank, emit), zero.beside(rank, emit), zero.dtype, emit)
    ones = emit.filled_each(1.0, FLOAT) if zero.mapped else emit.filled(1.0, FLOAT, [])
    return emit("QuantizeLinear", dequantised(total, scale, rank, emit), ones, _vector(zero, emit), axis=0)


def _vector(one_each: Param, emit: Emitter) -> Tensor:
    return one_each.shaped([emit.count] if one_each.mapped else [], emit)


def requantised_image(total: Tensor, scale: Tensor, zero: Param, filters: int, emit: Emitter) -> Tensor:
    """Bytes from int32 N(MO)HW, with a `scale` for each filter of all models."""
    real = emit("DequantizeLinear", total, scale, axis=1)
    ones = emit.filled(1.0, FLOAT, [emit.models * filters])
    return emit("QuantizeLinear", real, ones, zero.spread(filters, emit), axis=1)


def _written_out(total: Tensor, scale: Tensor, zero: Tensor, dtype: int, emit: Emitter) -> Tensor:
    """Without the axes that QuantizeLinear has from opset 13 on."""
    y = emit("Round", emit("Mul", emit("Cast", total, to=FLOAT), scale))
    y = emit("Add", y, emit("Cast", zero, to=FLOAT))
    return emit("Cast", emit("Clip", y, *(emit.filled(v, FLOAT, ()) for v in LIMITS[dtype])), to=dtype)
