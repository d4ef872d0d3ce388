"""Weights that are equal in all models, where a lowering reads one for each: stored once, and a Concat of it.

A session computes such a Concat when it loads the file, as it does everything that depends on stored tensors
alone, so that a call costs nothing more. Concat takes every element type that ONNX Runtime's operators join,
and is computed at load for each of them; Tile and Expand are not (gaps.TILE_STAYS).
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
"""Bytes of all copies together. Up to this many they are written out: two nodes and their names take up to
half of that, and shape inference reads what is part of the graph."""


def is_repeated(dtype: int, nbytes: int) -> bool:
    """True where copies that take `nbytes` together are made by a node, False where they are written out."""
    return nbytes > SMALL and dtype not in UNJOINABLE


def store_once(emit: Emitter) -> Iterator[Conversion]:
    """Replace each weight of the finished graph that repeats one source weight. Yields the conversion
    from one copy to one for each model."""
    read = list(emit.weights_read())
    stored = {_source(recipe): tensor for tensor, recipe in reversed(read) if len(recipe.parts) == 1}
    for tensor, recipe in read:
        alike = len(recipe.parts) > 1 and all(part == recipe.parts[0] for part in recipe.parts)
        if not alike or not is_repeated(recipe.dtype, _nbytes(recipe)):
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
    """The bytes that a part of a recipe gives, whatever their shape."""
    return recipe.value, recipe.parts[0], recipe.transform


def _nbytes(recipe: Recipe) -> int:
    if recipe.dtype == TensorProto.STRING:
        return sum(map(weights.nbytes, recipe.parts))
    return weights.recipe_nbytes(recipe)


def _joined(recipe: Recipe) -> tuple[tuple[int, ...], int]:
    """A shape of the merged weight, its own where possible, and the axis along which its parts stand."""
    shape, models = recipe.shape, len(recipe.parts)
    for axis, dim in enumerate(shape):
        if math.prod(shape[:axis]) == recipe.outer and dim % models == 0:
            return shape, axis
    return (recipe.outer, math.prod(shape) // recipe.outer), 1


def _repeat(emit: Emitter, tensor: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """`tensor`, seen in `shape`, once for each model along `axis`."""
    if emit.kind(tensor).dims != shape:
        tensor = emit("Reshape", tensor, emit.const(list(shape)))
    return emit("Concat", *(tensor,) * emit.models, axis=axis)


def _put(emit: Emitter, tensor: gs.Constant, result: Tensor, count: int) -> None:
    """Let all readers of `tensor` read `result`, whose nodes, from `count` on, come to the front."""
    nodes = emit.graph.nodes
    fresh = nodes[count:]
    del nodes[count:]
    nodes[0:0] = fresh
    for reader in list(tensor.outputs):
        for place, value in enumerate(reader.inputs):
            if value is tensor:
                reader.inputs[place] = result
