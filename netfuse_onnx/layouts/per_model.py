"""PER_MODEL: N separate tensors, as the edge of the merged graph and replicated nodes have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from netfuse_onnx.layouts.base import COPY, NOTHING, VIEW, Counts, Dims, Hop, Layout
from netfuse_onnx.layouts.folded import Folded
from netfuse_onnx.layouts.join import join
from netfuse_onnx.layouts.shared import SHARED
from netfuse_onnx.layouts.stacked import Stacked

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Held, Tensor

PART = Counts(parts=1)


class PerModel(Layout):
    """d0..dk, N times. What is no tensor, such as a sequence, has no other layout beside SHARED."""

    __slots__ = ()
    name, order, has_axis = "PER_MODEL", 3, False

    def hop_to(self, dst: Layout, dims: Dims) -> Hop | None:
        """A join. Along a dynamic axis unequal sizes would silently hand rows of one model to another, so
        there the join is made on a new axis, where unequal sizes fail, and folded after."""
        if isinstance(dst, Stacked):
            return Hop(self, dst, lambda emit, x, dtype: join(emit, x, dst, dims), COPY, each=VIEW)
        if isinstance(dst, Folded) and isinstance(dims[dst.axis], int):
            return Hop(self, dst, lambda emit, x, dtype: join(emit, x, dst, dims), COPY, each=PART)
        return None

    def hop_from(self, src: Layout, dims: Dims) -> Hop | None:
        if src == SHARED:
            return Hop(src, self, lambda emit, x, dtype: _read_by_all(emit, x), NOTHING)
        if isinstance(src, Stacked):
            counts, each = Counts(copies=1), Counts(launches=1)
            return Hop(src, self, lambda emit, x, dtype: _gathered(emit, x, src.axis, dtype), counts, each)
        if isinstance(src, Folded):
            return Hop(src, self, lambda emit, x, dtype: _split(emit, x, src.axis, dims), COPY, each=PART)
        return None


PER_MODEL: Layout = PerModel()


def _read_by_all(emit: Emitter, x: Held) -> Held:
    return x if isinstance(x, tuple) else (x,) * emit.models


def _gathered(emit: Emitter, x: Tensor, axis: int, dtype: int) -> tuple[Tensor, ...]:
    """STACKED -> N scalar Gathers."""
    if dtype == TensorProto.STRING:  # gaps.GATHER_LOSES_STRINGS
        parts = emit.split(x, [1] * emit.models, axis)
        return tuple(emit.squeeze(part, [axis]) for part in parts)
    return tuple(emit("Gather", x, emit.const(m), axis=axis) for m in range(emit.models))


def _split(emit: Emitter, x: Tensor, axis: int, dims: Dims) -> tuple[Tensor, ...]:
    """FOLDED -> one Split, whose sizes are written out where they are static."""
    dim = dims[axis]
    outs = [True] * emit.models
    if isinstance(dim, int):
        return tuple(emit.split(x, [dim] * emit.models, axis))
    attrs = {"axis": axis} if emit.opset < 18 else {"axis": axis, "num_outputs": emit.models}
    return tuple(emit.node("Split", [x], attrs, outs=outs))
