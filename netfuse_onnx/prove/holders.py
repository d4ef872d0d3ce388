"""The models for which each part of a merged weight stands.

A value that several models hold is stored once (emit/repeat.py). The proof of the bytes compares it with the
file of each of these models, and the indices by which the graph reads it with the values that they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import ModelProto

from netfuse_onnx.ops import walk
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Correspondence, Weight


@dataclass(frozen=True, slots=True)
class Holder:
    """A model's own weight, and the position of the part that must equal it. `model` is '' where one weight
    is all models'."""

    part: int
    weight: Weight
    model: str


def holders(recipe: Recipe, family: Correspondence) -> list[Holder]:
    """Return the weights with which a merged weight is compared, in the order of its parts."""
    whole = family.weights.get(recipe.value, ())
    if len(whole) < 2 or len(whole) != family.models:
        return [Holder(k, part.own, "") for k, part in enumerate(recipe.parts)]
    if len(recipe.parts) == len(whole):
        each = [(k, k) for k, _ in enumerate(whole)]
    else:
        each = [(k, m) for k, part in enumerate(recipe.parts) for m, w in enumerate(whole) if w == part]
    return [Holder(k, whole[m].own, family.names[m]) for k, m in each]


def wrong_indices(model: ModelProto, recipes: Mapping[str, Recipe], family: Correspondence) -> Iterator[str]:
    """Yield a sentence for each stored index by which a model would read another one's weight."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in walk.nodes(model.graph):
        recipe = recipes.get(node.input[0]) if node.op_type == "Gather" and not node.domain else None
        whole = family.weights.get(recipe.value, ()) if recipe else ()
        if recipe is None or not 1 < len(recipe.parts) < len(whole) or node.input[1] not in constants:
            continue
        right = [recipe.parts.index(weight) if weight in recipe.parts else -1 for weight in whole]
        ids = onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
        for name, have, want in zip(family.names, ids, right, strict=False):
            if have != want:
                told = f"Model {name} reads value {have} of {recipe.value!r} by node {node.name!r}"
                yield f"{told}, and its own is {want}."
        if len(ids) != len(right):
            yield f"Node {node.name!r} reads {len(ids)} values of {recipe.value!r} for {len(right)} models."
