"""Storing a weight once where it is equal in all models and a lowering reads a copy for each of them.

The copies are made by a Concat. ONNX Runtime computes it when it loads the file, as it does every node that
depends on stored tensors alone, so a call costs nothing more. It does so for every element type that Concat
takes there, but not for Tile and Expand (gaps.TILE_STAYS).
"""

from __future__ import annotations

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


def is_repeated(dtype: int, nbytes: int) -> bool:
    """Returns True where copies that take `nbytes` together are made by a node, False where they are
    stored."""
    return nbytes > SMALL and dtype not in UNJOINABLE


def store_once(emit: Emitter) -> Iterator[Conversion]:
    """Replaces each weight of the finished graph that repeats one source weight. Yields the conversion
    from one copy to one for each model."""
    read = list(emit.weights_read())
    stored = {_source(recipe): tensor for tensor, recipe in reversed(read) if len(recipe.parts) == 1}
    for tensor, recipe in read:
        equal = len(recipe.parts) > 1 and all(part == recipe.parts[0] for part in recipe.parts)
        if not equal or not is_repeated(recipe.dtype, _nbytes(recipe)):
            continue
        whole, axis = _joined(recipe)
        count = len(emit.graph.nodes)
        emit.scope = f"{tensor.name}/repeated"
        one = (*whole[:axis], whole[axis] // len(recipe.parts), *whole[axis + 1 :])
        if _source(recipe) not in stored:
            stored[_source(recipe)] = emit.reform(tensor, parts=recipe.parts[:1], shape=one, outer=1)
        result = _repeat(emit, stored[_source(recipe)], one, axis)
        if whole != recipe.shape:
            result = emit("Reshape", result, emit.const(list(recipe.shape)))
        layout = STACKED(axis) if one[axis] == 1 else FOLDED(axis)
        yield Conversion(recipe.value, str(SHARED), str(layout), len(emit.graph.nodes) - count)
        _put(emit, tensor, result, count)


def _source(recipe: Recipe) -> tuple[str, Weight, Transform]:
    """Returns a key of the bytes that a part of a recipe gives, whatever their shape."""
    return recipe.value, recipe.parts[0], recipe.transform


def _nbytes(recipe: Recipe) -> int:
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


def _repeat(emit: Emitter, tensor: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Returns `tensor`, in `shape`, once for each model along `axis`."""
    if emit.kind(tensor).dims != shape:
        tensor = emit("Reshape", tensor, emit.const(list(shape)))
    return emit("Concat", *(tensor,) * emit.models, axis=axis)


def _put(emit: Emitter, tensor: gs.Constant, result: Tensor, count: int) -> None:
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
