"""The models for which each part of a merged weight stands.

A value that several models hold is stored once (emit/repeat.py). The proof of the bytes compares it with the
file of each of these models, and the indices by which the graph reads it with the values that they have.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import ModelProto

from netfuse_onnx.ops import walk
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.tailed import owner
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
    if (model := owner(family, recipe.value)) is not None:
        return [Holder(k, part.own, family.names[model]) for k, part in enumerate(recipe.parts)]
    if len(whole) < 2 or len(whole) != family.models:
        return [Holder(k, part.own, "") for k, part in enumerate(recipe.parts)]
    key: Callable[[Weight], Hashable] = id if len(recipe.parts) == len(whole) else _same
    models: dict[Hashable, list[int]] = {}
    for m, held in enumerate(whole):
        models.setdefault(key(held), []).append(m)
    return [
        Holder(k, whole[m].own, family.names[m])
        for k, part in enumerate(recipe.parts)
        for m in models.get(key(part), ())
    ]


def _same(weight: Weight) -> Weight:
    """Return the weight itself: those that are equal are one."""
    return weight


def wrong_indices(model: ModelProto, recipes: Mapping[str, Recipe], family: Correspondence) -> Iterator[str]:
    """Yield a sentence for each stored index by which a model would read another one's weight."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    chosen = {node.output[0]: node.input[0] for node in walk.nodes(model.graph) if node.op_type == "Gather"}
    for node in walk.nodes(model.graph):
        recipe = recipes.get(node.input[0]) if node.op_type == "Gather" and not node.domain else None
        whole = family.weights.get(recipe.value, ()) if recipe else ()
        # A call that chooses models takes their indices by ids.
        indices = constants.get(chosen.get(node.input[1], node.input[1])) if recipe else None
        if recipe is None or indices is None or not 1 < len(recipe.parts) < len(whole):
            continue
        places = {part: k for k, part in reversed(list(enumerate(recipe.parts)))}
        right = [places.get(weight, -1) for weight in whole]
        ids = onnx.numpy_helper.to_array(indices).reshape(-1).tolist()
        for name, have, want in zip(family.names, ids, right, strict=False):
            if have != want:
                told = f"Model {name} reads value {have} of {recipe.value!r} by node {node.name!r}"
                yield f"{told}, and its own is {want}."
        if len(ids) != len(right):
            yield f"Node {node.name!r} reads {len(ids)} values of {recipe.value!r} for {len(right)} models."
