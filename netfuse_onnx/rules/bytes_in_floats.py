"""Sums of products of bytes in kernels for floats, for CUDA alone.

CUDA has a kernel for MatMulInteger of bytes with a sign, which starts one product for each matrix; other
bytes, and all convolutions of bytes, run on the CPU, with a copy each way. As floats, all models are one
launch.

Products of matrices are exact all the same. A byte, and the distance of two, is exact even in TF32. A sum of
so many products that it can't pass 2**24 is a whole number that float32 holds. Where it has more and must be
exact, the left operand is centred, so that it lies between -128 and 127:

    sum (x - p)(w - q) = sum (x - c)(w - q) - (p - c) sum (w - q)        c = 128 without a sign, else 0

and still longer sums are made in pieces, which are added in int32.

Weights become floats when a session loads the file, and take four times their bytes on the device.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from netfuse_onnx.dims import reshape_target, static_size
from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.rules._build import need
from netfuse_onnx.rules.integer import Image, Side
from netfuse_onnx.rules.params import Param
from netfuse_onnx.rules.products import as_rows, beside
from netfuse_onnx.types import Dim

UINT8, FLOAT, INT32 = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT32
EXACT = 1 << 24
"""float32 holds all whole numbers up to this."""
CENTRE: dict[int, int] = {UINT8: 128, TensorProto.INT8: 0}
HALF, WHOLE = 128, 255
"""The largest absolute value of a byte with a sign, and of the distance of two bytes."""

# --------------------------------------------------------------------------- matrix products


def need_exact(depth: Dim) -> None:
    """Refuse sums of so many products that floats can't hold them, in pieces and with all corrections."""
    need(isinstance(depth, int), "the length of its sums is unknown")
    need(static_size(depth) * WHOLE <= EXACT, "its sums are too long for floats")


def sums(a: Side, b: Side, emit: Emitter) -> Tensor:
    """[N, .., i, k] x [N, .., k, j] -> floats [N, .., i, j], rounded where a sum passes 2**24."""
    a, finish = as_rows(a, b, emit)
    return finish(_products(_distances(a, emit), _distances(b, emit), 1, FLOAT, emit))


def exact_sums(a: Side, b: Side, emit: Emitter) -> Tensor:
    """[N, .., i, k] x [N, .., k, j] -> int32 [N, .., i, j]"""
    depth, w, largest = static_size(b.dims[-2]), _distances(b, emit), _largest(b)
    a, finish = as_rows(a, w, emit)
    if depth * _largest(a) * largest <= EXACT:
        return finish(_products(_distances(a, emit), w, 1, INT32, emit))
    total = _products(_centred(a, emit), w, math.ceil(depth / (EXACT // (HALF * largest))), INT32, emit)
    wide = max(len(a.dims), len(b.dims))
    moved = _moved(a, wide, emit)
    if moved is None:
        return finish(total)
    column = emit("Cast", emit.reduce("ReduceSum", w.x, [-2], keepdims=1), to=INT32)
    column = emit.pad_rank(column, w.layout, len(b.dims), wide, 0)
    return finish(emit("Sub", total, emit("Mul", moved, column)))


def _largest(side: Side) -> int:
    """The largest absolute value of an operand less its zero point."""
    return HALF if side.dtype != UINT8 and _is_zero(side.zero) else WHOLE


def _is_zero(point: Param | None) -> bool:
    return point is None or (point.value is not None and not point.value.any())


def _distances(side: Side, emit: Emitter) -> Side:
    """An operand less its zero point, as floats. What is stored is computed when a session loads the file, as
    DequantizeLinear is not (gaps.DEQUANTIZE_STAYS)."""
    zero, rank = side.zero, len(side.dims)
    if zero is None or _is_zero(zero):
        return replace(side, x=emit("Cast", side.x, to=FLOAT))
    if side.stored or zero.wide or (zero.mapped and not side.layout.stacked):
        x = emit("Sub", emit("Cast", side.x, to=FLOAT), zero.cast(FLOAT, emit).beside(rank, emit))
        return replace(side, x=x, layout=STACKED(0) if zero.mapped else side.layout)
    if not side.layout.stacked:
        one = emit.filled(1.0, FLOAT, ())
        return replace(side, x=emit("DequantizeLinear", side.x, one, zero.shaped([], emit)))
    return replace(side, x=_less(side.x, zero.spread(1, emit), None, 0, emit))


def _less(x: Tensor, zeros: Tensor, count: int | None, axis: int, emit: Emitter) -> Tensor:
    """Bytes less their zero points, of which the axis has `count`, or one for each model, as floats. One
    alone, for all of the axis, would make ONNX Runtime quantise the weights: gaps.WEIGHTS_QUANTISED."""
    ones = emit.filled_each(1.0, FLOAT) if count is None else emit.filled(1.0, FLOAT, [count])
    return emit("DequantizeLinear", x, ones, zeros, axis=axis)


def _centred(a: Side, emit: Emitter) -> Side:
    """The left operand as floats, less its centre."""
    if not (centre := CENTRE[a.dtype]):
        return replace(a, x=emit("Cast", a.x, to=FLOAT))
    if not a.layout.stacked:
        one, point = emit.filled(1.0, FLOAT, ()), emit.filled(centre, a.dtype, ())
        return replace(a, x=emit("DequantizeLinear", a.x, one, point))
    points = emit.filled_each(centre, a.dtype)
    return replace(a, x=_less(a.x, points, None, 0, emit))


def _moved(a: Side, wide: int, emit: Emitter) -> Tensor | None:
    """The zero point less the centre, in int32, beside the product; None where they are the same."""
    centre, zero = CENTRE[a.dtype], a.zero
    if zero is None:
        return emit.filled(-centre, INT32, ()) if centre else None
    zero = zero.cast(INT32, emit)
    if zero.value is not None:
        moved = zero.value - np.int32(centre)
        return replace(zero, value=moved).beside(wide, emit) if moved.any() else None
    return emit("Sub", zero.beside(wide, emit), emit.filled(centre, INT32, ()))


def _products(a: Side, b: Side, pieces: int, kind: int, emit: Emitter) -> Tensor:
    """The products of floats. A model's own matrix meets its rows as one axis, M(..i)k, Mkj: broadcast over
    further axes, it would be a list of small products."""
    depth = b.dims[0]
    own_matrix = a.layout.stacked and b.layout.stacked and len(a.dims) > len(b.dims) == 2
    if own_matrix and isinstance(depth, int) and depth:
        rows = _in_pieces(emit.reshape(a.x, [emit.kept, -1, depth]), b.x, b, pieces, kind, emit)
        return _apart(rows, a, b, emit)
    left, right = beside(a, b, emit)
    return _in_pieces(left, right, b, pieces, kind, emit)


def _in_pieces(x: Tensor, w: Tensor, b: Side, pieces: int, kind: int, emit: Emitter) -> Tensor:
    if pieces == 1:
        total = emit("MatMul", x, w)
        return total if kind == FLOAT else emit("Cast", total, to=kind)
    sizes = [len(part) for part in np.array_split(np.arange(static_size(b.dims[-2])), pieces)]
    both = zip(emit.split(x, sizes, -1), emit.split(w, sizes, -2), strict=True)
    total, *others = (emit("Cast", emit("MatMul", *each), to=kind) for each in both)
    for other in others:
        total = emit("Add", total, other)
    return total


def _apart(rows: Tensor, a: Side, b: Side, emit: Emitter) -> Tensor:
    """M(..i)j -> M..ij"""
    target = reshape_target((emit.count, *a.dims[:-1], b.dims[-1]))
    if target is not None:
        return emit.reshape(rows, target)
    first, place = emit.const([0]), emit.const([2])
    outer = emit("Slice", emit("Shape", a.x), first, emit.const([len(a.dims)]))
    columns = emit("Slice", emit("Shape", rows), place, emit.const([3]))
    attrs = {"allowzero": 1} if emit.opset >= 14 else {}
    return emit("Reshape", rows, emit("Concat", outer, columns, axis=0), **attrs)


# --------------------------------------------------------------------------- convolutions


def convolved(image: Image, bias: Tensor | None, emit: Emitter) -> Tensor:
    """N(MC)HW, (MO)Ckk -> floats N(MO)HW. A border of zeros is one of zero points. CUDA's kernels for
    convolutions transform images and filters, so that the sums are not exact there."""
    (x_zero, w_zero), rank = image.zeros, len(image.dims)
    x = _of_channels(image.x, x_zero, image.filters[1] * image.groups, emit)
    w = emit("Cast", image.w, to=FLOAT)
    if w_zero is not None and not _is_zero(w_zero):
        each = w_zero.cast(FLOAT, emit)
        each_filter = each.spread(image.filters[0], emit) if each.mapped else each.number(emit)
        w = emit("Sub", w, emit.unsqueeze(each_filter, range(1, rank)) if each.mapped else each_filter)
    return emit("Conv", x, w, bias, **image.merged(emit))


def _of_channels(x: Tensor, zero: Param | None, channels: int, emit: Emitter) -> Tensor:
    """N(MC)HW less the zero point of each model, as floats."""
    if zero is None or _is_zero(zero):
        return emit("Cast", x, to=FLOAT)
    return _less(x, zero.spread(channels, emit), emit.models * channels, 1, emit)


def rescaled_image(total: Tensor, scale: Tensor, zero: Param, image: Image, emit: Emitter) -> Tensor:
    """Bytes from floats N(MO)HW, with a `scale` for each filter of all models."""
    real = emit("Mul", total, emit.unsqueeze(scale, range(1, len(image.dims) - 1)))
    if not zero.mapped:
        return emit("QuantizeLinear", real, emit.filled(1.0, FLOAT, ()), zero.shaped([], emit))
    ones = emit.filled(1.0, FLOAT, [emit.models * image.filters[0]])
    return emit("QuantizeLinear", real, ones, zero.spread(image.filters[0], emit), axis=1)


# --------------------------------------------------------------------------- scales


def scaled(total: Tensor, scale: Param, rank: int, emit: Emitter) -> Tensor:
    """total * scale, of floats [N, ..] with `rank` axes per model."""
    return emit("Mul", total, scale.beside(rank, emit))


def rescaled(total: Tensor, scale: Param, zero: Param, rank: int, emit: Emitter) -> Tensor:
    """round(total * scale) + zero, saturated, of floats [N, ..] with `rank` axes per model."""
    one_each = [emit.models] if zero.mapped else []
    ones, point = emit.filled(1.0, FLOAT, one_each), zero.shaped(one_each, emit)
    return emit(
        "QuantizeLinear", scaled(total, scale, rank, emit), ones, point, **({"axis": 0} if one_each else {})
    )
