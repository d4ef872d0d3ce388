"""The checks of what a call chooses: ids of models that exist, and one row of every input for each.

A run fails on everything else, on every provider: Gather takes negative ids for others, and CUDA's does not
look whether they are in range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.errors import NotStackable

OPSET = 13
"""The lowest opset in which the checks can be written."""


def choose(emit: Emitter, ids: Tensor, rows: Sequence[Tensor]) -> None:
    """Let `ids`, int64 [K], choose the models. The run fails where one of them is no model, or where one of
    `rows` has not K rows. On CUDA that waits for the ids: a Reshape reads its target on the host."""
    if emit.opset < OPSET:
        raise NotStackable(
            f"Models can't be chosen by a call at opset {emit.opset}.",
            f"Convert the models to opset {OPSET} or higher, or use --io separate.",
        )
    emit.scope = "chosen models"
    faults = _out_of_range(emit, ids)
    if rows:
        faults = emit("Add", faults, unequal(emit, [ids, *rows]))
    emit.choose(emit.require(ids, faults))


def _out_of_range(emit: Emitter, ids: Tensor) -> Tensor:
    """[1]: 0 where all ids are from 0 to N-1, else -2."""
    below, above = (
        emit("Less", ids, emit.const([0])),
        emit("Greater", ids, emit.const([emit.total - 1])),
    )
    wrong = emit("Cast", emit("Or", below, above), to=TensorProto.INT64)
    return emit("Mul", emit.reduce("ReduceMax", wrong, [0], keepdims=1), emit.const([-2]))


def unequal(emit: Emitter, tensors: Sequence[Tensor], *others: Tensor, least: int = 0) -> Tensor:
    """[1]: 0 where all tensors have as many rows, at least so many, and each of the `others` [1] is that
    number; else -2 or less."""
    first = emit.const([0])
    sizes = [*(emit("Gather", emit("Shape", tensor), first, axis=0) for tensor in tensors), *others]
    bound = [emit.const([least])] if least else []
    less = emit("Sub", emit("Min", *sizes), emit("Max", *sizes, *bound))
    return emit("Add", less, less)


def kept_checks(emit: Emitter, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An output in whose place another stands, so that the checks run though nothing else reads the ids; none
    where a node reads them."""
    chosen = emit.chosen
    if chosen is None or not outputs or _reads(map(emit.rows, outputs.values()), chosen.ids):
        return {}
    name, tensor = next(iter(outputs.items()))
    emit.scope = "chosen models/kept"
    none = emit("Mul", emit("Shape", chosen.ids), emit.const([0]))
    return {name: emit.require(tensor, emit("Mul", emit("Shape", tensor), none))}


def _reads(tensors: Iterable[Tensor], wanted: Tensor) -> bool:
    """True where one of these is computed from another tensor."""
    queue, seen = list(tensors), set[int]()
    while queue:
        tensor = queue.pop()
        if tensor is wanted:
            return True
        if id(tensor) not in seen:
            seen.add(id(tensor))
            queue += [x for node in tensor.inputs for x in node.inputs]
    return False
