"""STACKED(a): the models are an axis of their own, of size N, before per-model axis a."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from netfuse_onnx.dims import reshape_target
from netfuse_onnx.layouts.base import TRANSPOSE, VIEW, Counts, Dims, Hop, Layout, Operand
from netfuse_onnx.layouts.join import concat
from netfuse_onnx.layouts.shared import SHARED
from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Held, Tensor


class Stacked(Layout):
    """[.., N, d_a, ..]. Every other layout has a hop to and from one of these."""

    __slots__ = ()
    name, order, stacked = "STACKED", 1, True

    def fits(self, dims: Dims | None) -> bool:
        return dims is not None and self.axis <= len(dims)

    def merged_dims(self, dims: Dims, models: Dim) -> tuple[Dim, ...]:
        return (*dims[: self.axis], models, *dims[self.axis :])

    def physical(self, axis: int) -> int:
        return axis + 1 if axis >= self.axis else axis

    def runs(self, dims: Sequence[int]) -> int:
        return math.prod(dims[: self.axis])

    # ------------------------------------------------------------------ broadcasting

    def operands(self, given: Sequence[Operand], out: Dims) -> tuple[Layout, ...]:
        """[.., N, d_a, ..] op [N, 1.., d..]"""
        behind = len(out) - self.axis
        return tuple(Stacked(max(0, len(v.dims) - behind)) if v.mapped or v.whole else SHARED for v in given)

    def aligned(self, emit: Emitter, x: Tensor, take: Layout, dims: Dims, out: Dims) -> Tensor:
        return emit.pad_rank(x, take, len(dims), len(out), self.axis)

    def padding(self, missing: int, at: int) -> Sequence[int]:
        """[N, d..] -> [N, 1.., d..]"""
        return range(1, missing - at + 1) if at < missing else ()

    # ------------------------------------------------------------------ hops

    def hop_to(self, dst: Layout, dims: Dims) -> Hop | None:
        """STACKED(a) -> STACKED(b): a Transpose, or a Reshape where the axes between have size 1."""
        if not isinstance(dst, Stacked):
            return None
        low, high = sorted((self.axis, dst.axis))
        if all(dim == 1 for dim in dims[low:high]):
            return Hop(self, dst, lambda emit, x, dtype: _renamed(emit, x, self, dst, dims), VIEW)
        return Hop(self, dst, lambda emit, x, dtype: _moved(emit, x, self, dst, len(dims)), TRANSPOSE)

    def hop_from(self, src: Layout, dims: Dims) -> Hop | None:
        if src != SHARED:
            return None
        counts = Counts(launches=1, copies=1, views=1)
        return Hop(
            src, self, lambda emit, x, dtype: _repeated(emit, x, self.axis, len(dims)), counts, joins=True
        )


STACKED: Callable[[int], Layout] = cache(Stacked)


def _repeated(emit: Emitter, x: Held, axis: int, rank: int) -> Held:
    if isinstance(x, tuple):
        return x
    one = emit.unsqueeze(x, [axis])
    if isinstance(emit.count, int):
        return concat(emit, (one,) * emit.count, axis)
    return emit("Expand", one, emit.shape([*[1] * axis, emit.count, *[1] * (rank - axis)]))


def _moved(emit: Emitter, x: Tensor, src: Layout, dst: Layout, rank: int) -> Tensor:
    perm = [axis for axis in range(rank + 1) if axis != src.axis]
    perm.insert(dst.axis, src.axis)
    return emit.transpose(x, perm)


def _renamed(emit: Emitter, x: Tensor, src: Layout, dst: Layout, dims: Dims) -> Tensor:
    target = reshape_target(dst.merged_dims(dims, emit.count))
    return _moved(emit, x, src, dst, len(dims)) if target is None else emit.reshape(x, target)
