"""Operands of products of matrices such that one side alone is broadcast over the batch: gaps.BOTH_BROADCAST.

Rows of one input that all models share are one matrix beside each model's own, (Bi)k, Mkj -> M(Bi)j. Where
both sides are batches, one of them is repeated over the other's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from netfuse_onnx.dims import reshape_target, same_dim, static_size
from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.layouts import Layout
from netfuse_onnx.types import Dim

Finish: TypeAlias = Callable[[Tensor], Tensor]
"""The function that emits the nodes behind a product."""


@dataclass(frozen=True)
class Matrices:
    """An operand of a product: its tensor, SHARED or STACKED(0), and its dims per model, two or more."""

    x: Tensor
    layout: Layout
    dims: tuple[Dim, ...]


Left = TypeVar("Left", bound=Matrices)


def product(a: Matrices, b: Matrices, emit: Emitter) -> Tensor:
    """M(..ik), M(..kj) -> M(..ij)"""
    rows, finish = as_rows(a, b, emit)
    return finish(emit("MatMul", *beside(rows, b, emit)))


def both_broadcast(a: Matrices, b: Matrices) -> bool:
    """True where each side may be broadcast over an axis of the other. An open size may be 1. Where both have
    an axis of models, open sizes are the same risk as in the model itself."""
    one, two = _batch(a, b), _batch(b, a)
    open_too = a.layout != b.layout
    left = {i for i, dims in enumerate(zip(one, two, strict=True)) if _grows(*dims, open_too)}
    right = {i for i, dims in enumerate(zip(two, one, strict=True)) if _grows(*dims, open_too)}
    return bool(left and right) and len(left | right) > 1


def _batch(side: Matrices, other: Matrices) -> list[Dim]:
    """The axes before the matrices, beside those of `other`; the models are -1."""
    missing = max(len(side.dims), len(other.dims)) - len(side.dims)
    return [-1 if side.layout.stacked else 1, *[1] * missing, *side.dims[:-2]]


def _grows(dim: Dim, other: Dim, open_too: bool) -> bool:
    may_be_one = dim == 1 or (open_too and not isinstance(dim, int))
    return may_be_one and other != 1 and not same_dim(dim, other)


def are_rows(a: Matrices, b: Matrices, opset: int) -> bool:
    """True where the shared rows of `a`, which are a batch, can be one matrix beside each of `b`. Sizes that
    may be 0 are taken apart with a flag of opset 14."""
    own_matrix = b.layout.stacked and len(b.dims) == 2 and not a.layout.stacked
    inner = b.dims[0]
    apart = opset >= 14 or reshape_target((*a.dims[:-1], b.dims[-1])) is not None
    return own_matrix and isinstance(inner, int) and inner > 0 and apart and both_broadcast(a, b)


def as_rows(a: Left, b: Matrices, emit: Emitter) -> tuple[Left, Finish]:
    """The left operand as one matrix, where it must be, and what then makes M(Bi)j the product M(B..i)j."""
    if not are_rows(a, b, emit.opset):
        return a, lambda y: y
    rows = replace(a, x=one_matrix(a.x, static_size(b.dims[0]), emit), dims=(None, b.dims[0]))
    return rows, lambda y: _apart(y, a, b.dims[-1], emit)


def one_matrix(x: Tensor, inner: int, emit: Emitter) -> Tensor:
    """[d0.., inner] -> [d0*.., inner]"""
    return emit.reshape(x, [-1, inner])


def _apart(y: Tensor, a: Matrices, columns: Dim, emit: Emitter) -> Tensor:
    """M(Bi)j -> M(B..i)j, with the rows of `a`, which is shared."""
    target = reshape_target((emit.count, *a.dims[:-1], columns))
    if target is not None:
        return emit.reshape(y, target)
    rows = emit("Slice", emit("Shape", a.x), emit.const([0]), emit.const([len(a.dims) - 1]))
    last: Tensor = emit.const([columns]) if isinstance(columns, int) else _sizes(y, 2, 3, emit)
    whole = emit("Concat", emit.shape([emit.count]), rows, last, axis=0)
    return emit("Reshape", y, whole, allowzero=1)


def _sizes(x: Tensor, start: int, end: int, emit: Emitter) -> Tensor:
    return emit("Slice", emit("Shape", x), emit.const([start]), emit.const([end]))


def beside(a: Matrices, b: Matrices, emit: Emitter) -> tuple[Tensor, Tensor]:
    """Both operands, of one rank. Where both would be broadcast, one is repeated; a weight only if it must
    be."""
    wide = max(len(a.dims), len(b.dims))
    left, right = (emit.pad_rank(s.x, s.layout, len(s.dims), wide, 0) for s in (a, b))
    if not both_broadcast(a, b):
        return left, right
    if emit.is_weight(left) and not emit.is_weight(right):
        return left, _repeated(right, b, left, a, emit)
    return _repeated(left, a, right, b, emit), right


def _repeated(x: Tensor, side: Matrices, other: Tensor, beside: Matrices, emit: Emitter) -> Tensor:
    """`x` over all matrices of `other`."""
    sizes = _batch(beside, side)
    if all(isinstance(dim, int) for dim in sizes):
        batch = [emit.count if dim == -1 else static_size(dim) for dim in sizes]
        return emit("Expand", x, emit.shape([*batch, 1, 1]))
    rank = len(sizes) if beside.layout.stacked else len(beside.dims) - 2
    return emit("Expand", x, emit("Concat", _sizes(other, 0, rank, emit), emit.const([1, 1]), axis=0))
