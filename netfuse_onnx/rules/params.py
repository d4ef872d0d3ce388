"""Scales and zero points: one number, one per column, for all models or each its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from netfuse_onnx.dims import static_size
from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.emit.repeat import is_repeated
from netfuse_onnx.layouts import Layout
from netfuse_onnx.rules._build import need
from netfuse_onnx.rules._site import Key, Operands, Site
from netfuse_onnx.types import Dim

Values: TypeAlias = NDArray[Any]
MAX_COMPUTED = 1 << 18
"""A scale or zero point with more elements than this is not computed with here, but in the graph."""


@dataclass(frozen=True)
class Param:
    """A scale or zero point: one number, or one per column or filter (`wide`). `mapped`: [N, ..].

    Where it is stored, `value` holds it, and is computed with here, not in the graph.
    """

    tensor: Tensor | None
    mapped: bool
    wide: bool
    dtype: int
    value: Values | None = None

    def cast(self, to: int, emit: Emitter) -> Param:
        if self.value is not None:
            numpy_dtype = onnx.helper.tensor_dtype_to_np_dtype(to)
            return replace(self, tensor=None, dtype=to, value=self.value.astype(numpy_dtype))
        return replace(self, tensor=emit("Cast", self.tensor, to=to), dtype=to)

    def shaped(self, shape: Sequence[Dim], emit: Emitter) -> Tensor:
        if self.value is not None:
            return stored(self.value.reshape([d for d in shape if isinstance(d, int)]), emit)
        return emit.reshape(self.tensor, shape)

    def beside(self, rank: int, emit: Emitter) -> Tensor:
        """[N, 1.., C or 1], [C] or a scalar: it broadcasts against [N, .., C] of `rank` axes per model."""
        if self.mapped:
            return self.shaped([emit.kept, *[1] * (rank - 1), -1 if self.wide else 1], emit)
        return self.shaped([-1] if self.wide else [], emit)

    def number(self, emit: Emitter) -> Tensor | None:
        """A scalar for all models; None for a zero point of 0, which is the operators' default."""
        if self.value is not None and self.value.dtype.kind in "iu" and not self.value.any():
            return None
        return self.shaped([], emit)

    def matrix(self, emit: Emitter) -> Tensor:
        """[N, C or 1], or what broadcasts against it."""
        return self.beside(1, emit)

    def spread(self, count: int, emit: Emitter) -> Tensor:
        """[N*count]: one number for each channel of all models."""
        if self.value is not None:
            rows = np.broadcast_to(self.value.reshape(rows_of(self, emit), -1), (rows_of(self, emit), count))
            return stored(rows.reshape(-1), emit) if self.mapped else for_each(rows[0], emit)
        if self.mapped and not self.wide and count == 1:
            return emit.reshape(self.tensor, [emit.count])
        whole = emit("Expand", self.matrix(emit), emit.shape([emit.count, count]))
        return emit.reshape(whole, [emit.times(count)])

    def along(self, layout: Layout, dims: Sequence[Dim], emit: Emitter) -> Tensor:
        """One number for each index of the axis on which a value of `dims` per model has its models."""
        size = dims[layout.axis] if layout.folded else 1
        need(isinstance(size, int), "the size of its folded axis is unknown")
        return self.spread(static_size(size), emit)


def rows_of(p: Param, emit: Emitter) -> int:
    """One row of numbers, or one for each model."""
    return emit.models if p.mapped else 1


def combined(op: str, a: Param, b: Param, emit: Emitter) -> Param:
    """a * b or a / b, in float32: [N, C or 1], or [C], or a scalar."""
    mapped, wide = a.mapped or b.mapped, a.wide or b.wide
    if a.value is not None and b.value is not None:
        one, two = (
            p.value.reshape(emit.models if p.mapped else 1, -1) for p in (a, b) if p.value is not None
        )
        with np.errstate(all="ignore"):
            value = one * two if op == "Mul" else one / two
        return Param(None, mapped, wide, a.dtype, value)
    return Param(emit(op, a.matrix(emit), b.matrix(emit)), mapped, wide, a.dtype)


def param(site: Site, ins: Operands, key: Key, emit: Emitter) -> Param | None:
    """An input, taken in its own layout, as a Param; None where it is absent."""
    given, tensor = site[key], ins[key]
    if not given.present or tensor is None:
        return None
    need(given.rank < 2, "it has scales or zero points per row")
    wide = given.rank == 1 and given.dims != (1,)
    value = emit.elements(tensor, MAX_COMPUTED) if given.stored else None
    if value is not None and wide:
        each = value.reshape(emit.models if given.mapped else 1, -1)
        if each.size and (each == each[:, :1]).all():  # the same for all of them: one number
            wide, value = False, each[:, :1]
    return Param(tensor, given.mapped, wide, given.dtype, value)


def needed(site: Site, ins: Operands, key: Key, emit: Emitter) -> Param:
    """A scale or zero point that must be there, as a Param."""
    given = param(site, ins, key, emit)
    need(given is not None, "it lacks a scale or zero point")
    return given  # type: ignore[return-value]  # need has refused


def stored(value: Values, emit: Emitter) -> Tensor:
    """A small constant."""
    return emit.const(value, value.dtype)


def for_each(value: Values, emit: Emitter) -> Tensor:
    """[N*d, ..]: `value` [d, ..] once for each model."""
    dtype = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    if not isinstance(emit.count, int):
        return emit("Tile", stored(value, emit), emit.shape([emit.count, *[1] * (value.ndim - 1)]))
    if is_repeated(dtype, emit.models * value.nbytes):
        return emit("Concat", *(stored(value, emit),) * emit.models, axis=0)
    return stored(np.concatenate([value] * emit.models), emit)


def one_number(site: Site, *keys: Key) -> bool:
    """True where each of these parameters is absent, or one number, or the same one for all columns."""
    given = [site[key] for key in keys if site.has(key)]
    return all(param.dims in ((), (1,)) or _all_equal(param.value) for param in given)


def _all_equal(value: Values | None) -> bool:
    return value is not None and value.size > 0 and bool((value == value.reshape(-1)[0]).all())
