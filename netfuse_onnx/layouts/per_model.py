"""PER_MODEL: N separate tensors, as the edge of the merged graph and replicated nodes have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from netfuse_onnx.layouts.base import COPY, NOTHING, VIEW, Counts, Dims, Hop, Layout, groups
from netfuse_onnx.layouts.folded import FOLDED, Folded, fold, unfold
from netfuse_onnx.layouts.join import join
from netfuse_onnx.layouts.shared import SHARED
from netfuse_onnx.layouts.stacked import Stacked

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Held, Tensor

PART = Counts(parts=1)


class PerModel(Layout):
    """d0..dk, N times. What is no tensor, such as a sequence, has no other layout beside SHARED."""

    __slots__ = ()
    name, order, has_axis, counted = "PER_MODEL", 3, False, True

    def hop_to(self, dst: Layout, dims: Dims) -> Hop | None:
        """A join. Along a dynamic axis unequal sizes would silently hand rows of one model to another, so
        there the join is made on a new axis, where unequal sizes fail, and folded after."""
        if isinstance(dst, Stacked):
            return Hop(
                self, dst, lambda emit, x, dtype: join(emit, x, dst, dims), COPY, each=VIEW, joins=True
            )
        if isinstance(dst, Folded) and isinstance(dims[dst.axis], int):
            return Hop(
                self, dst, lambda emit, x, dtype: join(emit, x, dst, dims), COPY, each=PART, joins=True
            )
        return None

    def hop_from(self, src: Layout, dims: Dims) -> Hop | None:
        if src == SHARED:
            return Hop(src, self, lambda emit, x, dtype: _read_by_all(emit, x), NOTHING)
        if isinstance(src, Stacked) and src.axis >= len(dims):  # a number, or a value of unknown rank
            return self.gathered(src)
        if isinstance(src, Folded):
            return Hop(
                src, self, lambda emit, x, dtype: _split(emit, x, src.axis, dims), COPY, PART, parts=True
            )
        return None

    def door(self, other: Layout, dims: Dims) -> Layout | None:
        """STACKED(a) -> FOLDED(a), a Reshape. What a Split writes has the rank of a model's own value, so it
        writes graph outputs itself: a Gather or a Squeeze would copy each of them once more."""
        return FOLDED(other.axis) if isinstance(other, Stacked) else None

    def gathered(self, src: Layout) -> Hop:
        """STACKED(a), by a Gather for each model."""
        counts, each = Counts(copies=1), Counts(launches=1)
        return Hop(src, self, lambda emit, x, dtype: _gathered(emit, x, src.axis, dtype), counts, each)


PER_MODEL = PerModel()


def _read_by_all(emit: Emitter, x: Held) -> Held:
    return x if isinstance(x, tuple) else (x,) * emit.models


def _gathered(emit: Emitter, x: Tensor, axis: int, dtype: int) -> tuple[Tensor, ...]:
    """STACKED -> N scalar Gathers."""
    if dtype == TensorProto.STRING:  # gaps.GATHER_LOSES_STRINGS
        parts = emit.split(x, [1] * emit.models, axis)
        return tuple(emit.squeeze(part, [axis]) for part in parts)
    return tuple(emit("Gather", x, emit.const(m), axis=axis) for m in range(emit.models))


def _split(emit: Emitter, x: Tensor, axis: int, dims: Dims) -> tuple[Tensor, ...]:
    """FOLDED -> one Split, or one for each group of models. Where the size is dynamic, groups are cut while
    the models are an axis of their own: there the bounds are known."""
    pieces, dim = groups(emit.models, emit.provider), dims[axis]
    if len(pieces) == 1:
        return _parts(emit, x, axis, dims, emit.models)
    size = dim if isinstance(dim, int) else 1
    whole = x if isinstance(dim, int) else unfold(emit, x, axis, dims)
    parts: list[Tensor] = []
    for piece in pieces:
        cut = _sliced(emit, whole, axis, size * piece.start, size * piece.stop)
        folded = cut if isinstance(dim, int) else fold(emit, cut, axis, dims, len(piece))
        parts += _parts(emit, folded, axis, dims, len(piece))
    return tuple(parts)


def _sliced(emit: Emitter, x: Tensor, axis: int, start: int, end: int) -> Tensor:
    if emit.opset < 10:
        return emit("Slice", x, axes=[axis], starts=[start], ends=[end])
    return emit("Slice", x, emit.const([start]), emit.const([end]), emit.const([axis]))


def _parts(emit: Emitter, x: Tensor, axis: int, dims: Dims, count: int) -> tuple[Tensor, ...]:
    """A Split into `count`, whose sizes are written out where they are static."""
    dim = dims[axis]
    if isinstance(dim, int):
        return tuple(emit.split(x, [dim] * count, axis))
    attrs = {"axis": axis} if emit.opset < 18 else {"axis": axis, "num_outputs": count}
    return tuple(emit.node("Split", [x], attrs, outs=[True] * count))
