"""IMAGE: a signal of one axis as an image of one row, the models folded into the channels: [d0, N*d1, 1, d2].

ONNX Runtime's CPU provider convolves on blocks of channels, and depthwise without a copy, only where there
are two axes of space. Elementwise operators pass the layout on between convolutions (rules/signals.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from netfuse_onnx.dims import same_dim
from netfuse_onnx.layouts.base import VIEW, Dims, Hop, Layout, Operand
from netfuse_onnx.layouts.folded import FOLDED
from netfuse_onnx.layouts.shared import SHARED
from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Tensor

CHANNELS, ROW = 1, 2
"""The per-model axis of the channels, and the axis of one row in the merged tensor."""
TURNED = VIEW._replace(reorders=1)


class Image(Layout):
    """FOLDED(1) of a value of rank 3, with an axis of one row before the last."""

    __slots__ = ()
    name, order, has_axis, tuned, common, only, counted = "IMAGE", 6, False, True, False, "cpu", True

    def fits(self, dims: Dims | None) -> bool:
        return dims is not None and len(dims) == 3

    def merged_dims(self, dims: Dims, models: Dim) -> tuple[Dim, ...]:
        first, channels, last = FOLDED(CHANNELS).merged_dims(dims, models)
        return first, channels, 1, last

    def physical(self, axis: int) -> int:
        return axis + (axis >= ROW)

    def touches(self, axes: Sequence[int]) -> bool:
        return CHANNELS in axes

    def runs(self, dims: Sequence[int]) -> int:
        return math.prod(dims[:CHANNELS])

    # ------------------------------------------------------------------ broadcasting

    def operand(self, v: Operand, out: Dims) -> Layout | None:
        """B(NC)1L op the same, or op (NC) of stored numbers, or op what is equal for all channels."""
        own = len(v.dims) - len(out) + CHANNELS
        dim = v.dims[own] if own >= 0 else 1
        if not v.mapped and dim == 1 and out[CHANNELS] != 1:
            return SHARED
        if own < 0 or not same_dim(dim, out[CHANNELS]):
            return None
        if v.mapped and len(v.dims) == len(out):
            return self
        return FOLDED(own) if v.stored else None

    def aligned(self, emit: Emitter, x: Tensor, take: Layout, dims: Dims, out: Dims) -> Tensor:
        if take == self or len(dims) < 2:
            return x
        return emit.unsqueeze(x, [len(dims) - 1])

    # ------------------------------------------------------------------ hops

    def hop_to(self, dst: Layout, dims: Dims) -> Hop | None:
        if dst != FOLDED(CHANNELS):
            return None
        return Hop(self, dst, lambda emit, x, dtype: emit.squeeze(x, [ROW]), TURNED)

    def hop_from(self, src: Layout, dims: Dims) -> Hop | None:
        if src != FOLDED(CHANNELS):
            return None
        return Hop(src, self, lambda emit, x, dtype: emit.unsqueeze(x, [ROW]), TURNED)

    def door(self, other: Layout, dims: Dims) -> Layout:
        return FOLDED(CHANNELS)


IMAGE: Layout = Image()


def offered(dims: Dims) -> Iterator[Layout]:
    """Yields IMAGE for a value of rank 3 with a known number of channels."""
    if IMAGE.fits(dims) and isinstance(dims[CHANNELS], int):
        yield IMAGE
