"""Readers: nodes that keep a result of a probe alive and read next to nothing of it.

POINT reads one element, by a GatherND: ONNX Runtime moves a Transpose behind a Slice or a Gather, and would
transpose that element alone. POOL reads one point of an image, so that it may stay in blocks of channels, as
it does between two convolutions.
"""

from __future__ import annotations

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.types import ValueType

POINT, POOL = "point", "pool"
FIRST_WITH_GATHER_ND, SLICE_WITH_INPUTS = 11, 10
STRIDE = 1 << 20


IMAGES = frozenset({"Conv", "ConvTranspose", "FusedConv"})
"""The operators whose results ONNX Runtime may hold in blocks of channels."""
IMAGE_RANK = 4


def read(emit: Emitter, x: Tensor, dtype: int, rank: int, name: str) -> tuple[str, ValueType]:
    """Emit a reader of `x`, with `rank` axes, as the graph output `name`. Gives the kind of the reader, and
    the type of the output."""
    emit.scope = f"{name}/reader"
    image = any(node.op in IMAGES for node in emit.graph.nodes)
    if image and rank == IMAGE_RANK and dtype == TensorProto.FLOAT:
        emit.output(emit("MaxPool", x, kernel_shape=[1, 1], strides=[STRIDE, STRIDE]), name)
        return POOL, ValueType(dtype, (None,) * rank)
    emit.output(_point(emit, x, rank), name)
    return POINT, ValueType(dtype, () if emit.opset >= FIRST_WITH_GATHER_ND else (1,) * rank)


def _point(emit: Emitter, x: Tensor, rank: int) -> Tensor:
    """The first element of a value."""
    starts, ends = [0] * rank, [1] * rank
    if rank == 0:
        return x
    if emit.opset >= FIRST_WITH_GATHER_ND:
        return emit("GatherND", x, emit.const(starts))
    if emit.opset >= SLICE_WITH_INPUTS:
        return emit("Slice", x, emit.const(starts), emit.const(ends))
    return emit("Slice", x, axes=[*range(rank)], starts=starts, ends=ends)
