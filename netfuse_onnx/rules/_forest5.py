"""TreeEnsemble of ai.onnx.ml 5 of several models as one, as _forest.py has it for the older operators.

Nodes and leaves are two lists, and a node names its sons by their places in one or the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from netfuse_onnx.rules._build import need
from netfuse_onnx.storage.weights import array, weight_of

Attributes = Mapping[str, Any]
SONS = (("nodes_truenodeids", "nodes_trueleafs"), ("nodes_falsenodeids", "nodes_falseleafs"))
TRACKS = "nodes_missing_value_tracks_true"
TENSORS = ("nodes_splits", "nodes_modes", "leaf_weights", "membership_values")
LEARNED = (
    *(name for pair in SONS for name in pair), *TENSORS, TRACKS, "nodes_featureids", "nodes_hitrates",
    "leaf_targetids", "tree_roots",
)  # fmt: skip
MEMBER = 6
"""The mode of a node that asks for membership in a set."""


def check(attrs: Attributes, targets: int, features: int | None) -> None:
    """Refuse what is not one ensemble, or would read what belongs to another. `features`: how many a row has,
    where rows of all models are side by side."""
    nodes, leaves = len(attrs["nodes_featureids"]), len(attrs["leaf_targetids"])
    lists = [*(attrs[name] for pair in SONS for name in pair), numbers(attrs, "nodes_splits")]
    lists.append(numbers(attrs, "nodes_modes"))
    need({len(one) for one in lists} == {nodes} and nodes > 0, "the lists of its nodes are not equally long")
    need(len(numbers(attrs, "leaf_weights")) == leaves, "the lists of its leaves are not equally long")
    need(len(attrs.get(TRACKS) or ()) in (0, nodes), "the lists of its nodes are not equally long")
    need(len(attrs["tree_roots"]) > 0 and _within(attrs["tree_roots"], nodes), "a tree has no root")
    need(
        _within(attrs["nodes_featureids"], features or 1 << 31), "a node reads a feature that does not exist"
    )
    need(_within(attrs["leaf_targetids"], targets), "a leaf has a weight for a target that does not exist")
    for ids, marks in SONS:
        for son, leaf in zip(attrs[ids], attrs[marks], strict=True):
            need(0 <= son < (leaves if leaf else nodes), "a node has a son that does not exist")
    (left, _), (right, _) = SONS
    need(all(attrs[left][root] != attrs[right][root] for root in attrs["tree_roots"]), "a tree is one leaf")
    need(_sets(attrs) is not None, "its sets are not one for each node that asks for membership")


def _within(values: Sequence[int], end: int) -> bool:
    return all(0 <= one < end for one in values)


def numbers(attrs: Attributes, name: str) -> NDArray[Any]:
    held = attrs.get(name)
    return array(weight_of(held)).reshape(-1) if isinstance(held, TensorProto) else np.zeros(0, np.float32)


def _sets(attrs: Attributes) -> NDArray[Any] | None:
    """The sets of the nodes that ask for membership, a NaN behind each; None for more or fewer."""
    values = numbers(attrs, "membership_values")
    if len(values) and not np.isnan(values[-1]):
        values = np.append(values, np.array(np.nan, values.dtype))
    asked = int((numbers(attrs, "nodes_modes") == MEMBER).sum())
    return values if int(np.isnan(values).sum()) == asked else None


def together(each: Sequence[Attributes], targets: int, features: int) -> dict[str, Any]:
    """The attributes of one TreeEnsemble for the trees of all models. `features`: by how many the features of
    a model lie behind those of the one before, 0 where all models read the same."""
    made: dict[str, Any] = {name: [] for pair in SONS for name in pair}
    made |= {"nodes_featureids": [], "tree_roots": [], "leaf_targetids": []}
    for m, attrs in enumerate(each):
        nodes, leaves = len(made["nodes_featureids"]), len(made["leaf_targetids"])
        made["nodes_featureids"] += [m * features + one for one in attrs["nodes_featureids"]]
        made["leaf_targetids"] += [m * targets + one for one in attrs["leaf_targetids"]]
        made["tree_roots"] += [nodes + root for root in attrs["tree_roots"]]
        for ids, marks in SONS:
            sons = zip(attrs[ids], attrs[marks], strict=True)
            made[ids] += [son + (leaves if leaf else nodes) for son, leaf in sons]
            made[marks] += attrs[marks]
    if any(any(attrs.get(TRACKS) or ()) for attrs in each):
        none = [[0] * len(attrs["nodes_featureids"]) for attrs in each]
        made[TRACKS] = [
            one for attrs, zero in zip(each, none, strict=True) for one in attrs.get(TRACKS) or zero
        ]
    for name in TENSORS[:3]:
        made[name] = numpy_helper.from_array(np.concatenate([numbers(attrs, name) for attrs in each]), name)
    sets = [values for attrs in each if (values := _sets(attrs)) is not None and len(values)]
    if sets:
        made["membership_values"] = numpy_helper.from_array(np.concatenate(sets), "membership_values")
    return {**made, "n_targets": len(each) * targets}
