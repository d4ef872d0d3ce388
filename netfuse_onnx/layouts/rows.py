"""ROWS: the models are the first axis, the last axis is the last, and all others are one: a batched GEMM.

A product of [N, rows, K] with weights [N, K, O] has one matrix per model on both sides. Operators on each
element and normalisations of the last axis need no more of a value than its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from netfuse_onnx.dims import INFERRED, product, reshape_target, same_dim, static_size
from netfuse_onnx.layouts.base import NOTHING, VIEW, Dims, Hop, Layout, Operand
from netfuse_onnx.layouts.shared import SHARED
from netfuse_onnx.layouts.stacked import STACKED
from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Tensor


class Rows(Layout):
    """[N, d0*..*d(k-1), dk]. At rank 2 it is STACKED(0) under another name, and a hop emits nothing."""

    __slots__ = ()
    name, order, has_axis, common = "ROWS", 5, False, False

    def fits(self, dims: Dims | None) -> bool:
        """True where the rows can be made, and taken apart again: sizes that they do not tell have names."""
        if dims is None or len(dims) < 2:
            return False
        return self.told(dims) or (isinstance(dims[-1], int) and dims[-1] > 0 and None not in dims)

    def told(self, dims: Dims) -> bool:
        return len(dims) == 2 or reshape_target(dims) is not None

    def known(self, dims: Dims, read: Collection[Dim]) -> bool:
        """True where other tensors tell the sizes that this one does not: one that first appears in joined
        rows is lost."""
        return self.told(dims) or None not in told_by(dims[:-1], read)

    def merged_dims(self, dims: Dims, models: Dim) -> tuple[Dim, ...]:
        return (models, dims[0] if len(dims) == 2 else product(dims[:-1]), dims[-1])

    def sizes(self, dims: Dims, models: Dim) -> Iterator[tuple[str, int, int]]:
        yield from super().sizes(dims, models)
        symbols = [dim for dim in dims[:-1] if isinstance(dim, str)]
        others = product([dim for dim in dims[:-1] if not isinstance(dim, str)])
        if len(dims) > 2 and len(symbols) == 1 and others:
            yield symbols[0], 1, others

    def touches(self, axes: Sequence[int]) -> bool:
        return bool(axes)

    # ------------------------------------------------------------------ broadcasting

    def operand(self, v: Operand, out: Dims) -> Layout | None:
        """[N, rows, D] op the same, or op [N, 1, D or 1], or op [D or 1]"""
        if v.mapped and len(v.dims) == len(out) and all(map(same_dim, v.dims, out)):
            return self
        vector = all(dim == 1 for dim in v.dims[:-1]) and all(isinstance(dim, int) for dim in v.dims[-1:])
        return (STACKED(0) if v.mapped else SHARED) if vector else None

    def aligned(self, emit: Emitter, x: Tensor, take: Layout, dims: Dims, out: Dims) -> Tensor:
        if take == self or (take == SHARED and len(dims) < 2):
            return x
        width = static_size(dims[-1]) if dims else 1
        return emit.reshape(x, [emit.count, 1, width] if take.stacked else [width])

    # ------------------------------------------------------------------ hops

    def hop_to(self, dst: Layout, dims: Dims) -> Hop | None:
        return self._regrouped(self, dst, dims) if dst == STACKED(0) else None

    def hop_from(self, src: Layout, dims: Dims) -> Hop | None:
        return self._regrouped(src, self, dims) if src == STACKED(0) else None

    def _regrouped(self, src: Layout, dst: Layout, dims: Dims) -> Hop | None:
        if not self.fits(dims):
            return None
        if len(dims) == 2:
            return Hop(src, dst, lambda emit, x, dtype: x, NOTHING)
        return Hop(src, dst, lambda emit, x, dtype: _reshaped(emit, x, dst, dims), VIEW)

    def door(self, other: Layout, dims: Dims) -> Layout:
        return STACKED(0)


ROWS: Layout = Rows()


def offered(dims: Dims) -> Iterator[Layout]:
    """Yields ROWS where it is not STACKED(0) under another name."""
    if len(dims) >= 3 and ROWS.fits(dims):
        yield ROWS


def told_by(dims: Dims, read: Collection[Dim]) -> tuple[Dim, ...]:
    """The dims, with None for those that neither an input of the graph nor a value with dims `read` tells."""
    return tuple(
        dim if isinstance(dim, int) or (dim and (dim in read or not dim.startswith(INFERRED))) else None
        for dim in dims
    )


def _reshaped(emit: Emitter, x: Tensor, dst: Layout, dims: Dims) -> Tensor:
    models, *others = dst.merged_dims(dims, emit.count)
    kept = models if isinstance(models, int) else emit.kept
    if (target := reshape_target([kept or 1, *others])) is not None:
        return emit.reshape(x, [kept, *target[1:]])
    return together(emit, x, static_size(dims[-1])) if dst == ROWS else apart(emit, x, dims)


def together(emit: Emitter, x: Tensor, width: int) -> Tensor:
    """[N, d0.., width] -> [N, d0*.., width]"""
    return emit.reshape(x, [emit.kept, -1, width])


def apart(emit: Emitter, x: Tensor, dims: Dims) -> Tensor:
    """[N, d0*.., dk] -> [N, d0.., dk], or whatever has these elements. Other tensors tell the sizes; one may
    be -1."""
    if not isinstance(emit.count, int) and (target := reshape_target(dims)) is not None:
        return emit.reshape(x, [emit.kept, *target])
    attrs = {"allowzero": 1} if emit.opset >= 14 and -1 not in dims else {}
    return emit("Reshape", x, emit.shape([emit.count, *dims]), **attrs)
