"""Readers: nodes that keep a result of a probe alive and read next to nothing of it.

POINT reads one element, by a GatherND: ONNX Runtime moves a Transpose behind a Slice or a Gather, and would
transpose that element alone. POOL reads one point of an image, so that it may stay in blocks of channels, as
it does between two convolutions.
"""

from __future__ import annotations

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor

POINT, POOL = "point", "pool"
FIRST_WITH_GATHER_ND, SLICE_WITH_INPUTS = 11, 10
STRIDE = 1 << 20


IMAGES = frozenset({"Conv", "ConvTranspose", "FusedConv"})
"""The operators whose results ONNX Runtime may hold in blocks of channels."""
IMAGE_RANK = 4


def read(emit: Emitter, x: Tensor, dtype: int, rank: int, name: str) -> str:
    """Emit a reader of `x`, with `rank` axes, as the graph output `name`. Gives the kind of the reader."""
    emit.scope = f"{name}/reader"
    image = any(node.op in IMAGES for node in emit.graph.nodes)
    if image and rank == IMAGE_RANK and dtype == TensorProto.FLOAT:
        emit.output(emit("MaxPool", x, kernel_shape=[1, 1], strides=[STRIDE, STRIDE]), name)
        return POOL
    if rank and emit.opset >= FIRST_WITH_GATHER_ND:
        x = emit("GatherND", x, emit.const([0] * rank))
    elif rank:
        starts, ends = [0] * rank, [1] * rank
        if emit.opset < SLICE_WITH_INPUTS:
            x = emit("Slice", x, axes=[*range(rank)], starts=starts, ends=ends)
        else:
            x = emit("Slice", x, emit.const(starts), emit.const(ends))
    emit.output(x, name)
    return POINT
