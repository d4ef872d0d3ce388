"""Storing each value of a weight once, where models hold the same and a lowering reads one for each.

One value for all models is repeated by a Concat. Fewer values than models are taken by a Gather whose
indices say which of them each model has. ONNX Runtime computes both when it loads the file, as it does every
node that depends on stored tensors alone, so a call costs nothing more. It does so for every element type
that Concat takes there, but not for Tile and Expand (gaps.TILE_STAYS).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import onnx_graphsurgeon as gs
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.lowered import Conversion
from netfuse_onnx.ops.kinds import UNJOINABLE
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.transforms import Transform
from netfuse_onnx.types import Weight

SMALL = 1024
"""Copies that take up to so many bytes together are written out: two nodes and their names take up to half
of that, and shape inference reads values that are stored in the graph."""
REFERRED = 256
"""Weights of at most so many bytes stay in the graph of a view: a reference takes about half of that."""


def is_repeated(dtype: int, nbytes: int) -> bool:
    """Returns True where copies that take `nbytes` together are made by a node, False where they are
    stored."""
    return nbytes > SMALL and dtype not in UNJOINABLE


def store_once(emit: Emitter) -> Iterator[Conversion]:
    """Replaces each weight of the finished graph that repeats source weights. Yields the conversion from the
    values that are stored to one for each model."""
    read = list(emit.weights_read())
    stored = {_source(recipe): tensor for tensor, recipe in reversed(read)}
    for tensor, recipe in read:
        values = tuple(dict.fromkeys(recipe.parts))
        if not _is_worth(recipe, len(values)):
            continue
        emit.scope = f"{tensor.name}/repeated"
        whole, axis = _joined(recipe)
        kept = _of_values(whole, axis, len(recipe.parts), len(values))
        outer = recipe.outer if len(values) > 1 else 1
        key = _source(dataclasses.replace(recipe, parts=values, outer=outer))
        if key not in stored:
            stored[key] = emit.reform(tensor, parts=values, shape=kept, outer=outer)
        ids = [values.index(part) for part in recipe.parts]
        if recipe.shape == whole and len(kept) == len(whole) and emit.kind(stored[key]).dims == kept:
            _choose(emit, tensor, stored[key], ids, axis)
        if tensor.outputs:
            yield _repeat(emit, tensor, recipe, stored[key], kept, ids)


def _repeat(
    emit: Emitter, tensor: gs.Constant, recipe: Recipe, stored: Tensor, kept: tuple[int, ...], ids: list[int]
) -> Conversion:
    """Lets the readers of `tensor` read a value for each model, made of those that are `stored`, in shape
    `kept`."""
    whole, axis = _joined(recipe)
    count = len(emit.graph.nodes)
    result = _one_for_each(emit, stored, kept, axis, ids)
    split = any(ids) and len(kept) > len(whole)
    if split or whole != recipe.shape:
        result = emit("Reshape", result, emit.const(list(recipe.shape)))
    layout = STACKED(axis) if whole[axis] == len(ids) else FOLDED(axis)
    before = f"{max(ids) + 1} values" if any(ids) else str(SHARED)
    put(emit, tensor, result, count)
    return Conversion(recipe.value, before, str(layout), len(emit.graph.nodes) - count)


def _choose(emit: Emitter, tensor: Tensor, stored: Tensor, ids: list[int], axis: int) -> None:
    """Lets nodes that take models of `tensor` by ids which only a call tells take their values of `stored`,
    so that a session never holds a value for each model."""
    for reader in [node for node in emit.graph.nodes if node.op == "Gather" and not node.domain]:
        if reader.inputs[0] is tensor and reader.attrs.get("axis", 0) == axis:
            chosen = emit("Gather", emit.const(ids), reader.inputs[1], axis=0)
            emit.graph.nodes.insert(emit.graph.nodes.index(reader), emit.graph.nodes.pop())
            reader.inputs[0], reader.inputs[1] = stored, chosen


def _is_worth(recipe: Recipe, values: int) -> bool:
    """Returns True where storing only the values that differ saves more than its nodes take."""
    models, size = len(recipe.parts), nbytes(recipe)
    if values == models:
        return False
    return is_repeated(recipe.dtype, size if values == 1 else size * (models - values) // models)


def _source(recipe: Recipe) -> tuple[str, tuple[Weight, ...], Transform, int]:
    """Returns a key of the bytes of a merged weight, whatever its shape."""
    return recipe.value, recipe.parts, recipe.transform, recipe.outer if len(recipe.parts) > 1 else 1


def nbytes(recipe: Recipe) -> int:
    """Returns the bytes of a merged weight; those of the characters of strings."""
    if recipe.dtype == TensorProto.STRING:
        return sum(map(weights.nbytes, recipe.parts))
    return weights.recipe_nbytes(recipe)


def _joined(recipe: Recipe) -> tuple[tuple[int, ...], int]:
    """Returns a shape of the merged weight, its own where possible, and the axis along which its parts are
    joined."""
    shape, models = recipe.shape, len(recipe.parts)
    for axis, dim in enumerate(shape):
        if math.prod(shape[:axis]) == recipe.outer and dim % models == 0:
            return shape, axis
    return (recipe.outer, math.prod(shape) // recipe.outer), 1


def _of_values(whole: tuple[int, ...], axis: int, models: int, values: int) -> tuple[int, ...]:
    """Returns the shape of what is stored: several values have an axis of their own at `axis`, one none."""
    each = whole[axis] // models
    here = (each,) if values == 1 else (values,) if each == 1 else (values, each)
    return (*whole[:axis], *here, *whole[axis + 1 :])


def _one_for_each(emit: Emitter, tensor: Tensor, shape: tuple[int, ...], axis: int, ids: list[int]) -> Tensor:
    """Returns the value of each model along `axis`, from those that differ: `tensor`, in `shape`. `ids` says
    which of them each model has."""
    if emit.kind(tensor).dims != shape:
        tensor = emit("Reshape", tensor, emit.const(list(shape)))
    if not any(ids):
        return emit("Concat", *(tensor,) * len(ids), axis=axis)
    return emit("Gather", tensor, emit.const(ids), axis=axis)


def put(emit: Emitter, tensor: gs.Constant, result: Tensor, count: int) -> None:
    """Lets all readers of `tensor` read `result`, and moves its nodes, those from `count` on, to the
    front."""
    nodes = emit.graph.nodes
    fresh = nodes[count:]
    del nodes[count:]
    nodes[0:0] = fresh
    for reader in list(tensor.outputs):
        for place, value in enumerate(reader.inputs):
            if value is tensor:
                reader.inputs[place] = result
