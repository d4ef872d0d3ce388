"""Readers: nodes that keep a result of a probe alive and read next to nothing of it.

POINT reads one element, by a GatherND: ONNX Runtime moves a Transpose behind a Slice or a Gather, and would
transpose that element alone. POOL reads one point of an image, so that it may stay in blocks of channels, as
it does between two convolutions.
"""

from __future__ import annotations

from netfuse_onnx.emit.emitter import Emitter, Tensor

POINT, POOL = "point", "pool"
FIRST_WITH_GATHER_ND = 11
STRIDE = 1 << 20


def read(emit: Emitter, x: Tensor, rank: int, name: str, *, image: bool = False) -> str:
    """Emit a reader of `x`, with `rank` axes, as the graph output `name`. Gives the kind of the reader."""
    emit.scope = f"{name}/reader"
    if image:
        emit.output(emit("MaxPool", x, kernel_shape=[1] * (rank - 2), strides=[STRIDE] * (rank - 2)), name)
        return POOL
    if rank and emit.opset >= FIRST_WITH_GATHER_ND:
        x = emit("GatherND", x, emit.const([0] * rank))
    elif rank:
        ends = {"axes": [*range(rank)], "starts": [0] * rank, "ends": [1] * rank}
        x = (
            emit("Slice", x, **ends)
            if emit.opset < 10
            else emit("Slice", x, *map(emit.const, ([0] * rank, [1] * rank)))
        )
    emit.output(x, name)
    return POINT
