"""N tensors of equal shape -> one: STACKED by Concat on a new axis, FOLDED by Concat along its own.

Unequal shapes must fail, whatever the sizes: one symbol is one size for all models. Concat fails on them in
every runtime that was tried, but for gaps.CONCAT_SKIPS_EMPTY. So where a dim is dynamic, the shapes are
compared as well.

The check stands behind the Concat: a runtime that has no hole there joins the inputs as they are, and
OpenVINO, OpenCV and onnx2torch take it. It reads only shapes, by operators that ONNX Runtime's CUDA provider
runs on the host: no copy, no wait, and CUDA graphs work. Tile, Reshape and Reduce would be put on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netfuse_onnx.dims import volume
from netfuse_onnx.layouts.base import Layout, groups
from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Tensor

SMALL = 512
"""Elements of a row. Up to this many, a second Concat costs less on a CPU than one Shape per model."""


def join(
    emit: Emitter, xs: Sequence[Tensor], dst: Layout, dims: Sequence[Dim] | None, compare: bool = True
) -> Tensor:
    """The tensors of all models in layout `dst`; the run fails where their shapes are unequal.

    `dims` are those of each tensor, None where even their rank is unknown. Without `compare` the shapes are
    known to be equal.
    """
    parts = [emit.unsqueeze(x, [dst.axis]) for x in xs] if dst.stacked else list(xs)
    joined = concat(emit, parts, dst.axis)
    dynamic = [axis for axis, dim in enumerate(dims or ()) if not isinstance(dim, int)]
    if len(xs) == 1 or not compare or (dims is not None and not dynamic):
        return joined
    if dims is not None and len(dynamic) == 1 and 0 < volume(dims, 1) <= SMALL:
        target = [dim if isinstance(dim, int) else -1 for dim in dst.merged_dims(dims, len(xs))]
        return _counted(emit, parts, joined, target)
    return emit.require(joined, _unequal(emit, parts))


def concat(emit: Emitter, parts: Sequence[Tensor], axis: int) -> Tensor:
    """One Concat, or one of several where the provider takes fewer tensors at once."""
    pieces = [parts[group.start : group.stop] for group in groups(len(parts), emit.provider)]
    joined = [emit("Concat", *piece, axis=axis) for piece in pieces]
    return joined[0] if len(joined) == 1 else emit("Concat", *joined, axis=axis)


def _counted(emit: Emitter, parts: Sequence[Tensor], joined: Tensor, target: Sequence[int]) -> Tensor:
    """`joined`, whose parts can differ along one axis alone, -1 in `target`. Parts that have elements are as
    long as `joined`, so all parts are if they have as many elements as it: else the first Reshape fails."""
    total = emit("Shape", concat(emit, parts, target.index(-1)))
    return emit.reshape(emit("Reshape", joined, total), target)


def _unequal(emit: Emitter, parts: Sequence[Tensor]) -> Tensor:
    """One number per axis: 0 where the sizes of all parts are equal, elsewhere -2 or less."""
    shapes = [emit("Shape", part) for part in parts]
    if emit.opset >= 12:
        less = emit("Sub", emit("Min", *shapes), emit("Max", *shapes))
    else:  # Min and Max take no integers there
        rows = emit("Concat", *(emit.unsqueeze(shape, [0]) for shape in shapes), axis=0)
        less = emit("Sub", emit.reduce("ReduceMin", rows, [0]), emit.reduce("ReduceMax", rows, [0]))
    return emit("Add", less, less)
