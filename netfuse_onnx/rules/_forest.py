"""Tree ensembles of several models as one: the trees of all, each model with targets of its own.

Model m of N, which reads C features and gives T targets, has the targets m*T.. of the one ensemble. Its trees
read the features that all models share, or those from m*C on, where rows of all models are side by side.
Trees of different models have nothing in common, so each target is the sum that it was, in the same order;
ONNX Runtime runs the trees of a large ensemble on several threads, which may round a sum in another way.

What it does not refuse itself, but reads from elsewhere, would read another model's data in the one ensemble:
features, targets and nodes that do not exist are refused here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from netfuse_onnx.rules._build import need
from netfuse_onnx.storage.weights import array, weight_of

NODE_LISTS = (
    "nodes_falsenodeids", "nodes_featureids", "nodes_modes", "nodes_nodeids", "nodes_treeids",
    "nodes_truenodeids",
)  # fmt: skip
TRACKS = "nodes_missing_value_tracks_true"
EXACT = 1 << 24
"""A float32 holds all whole numbers up to this one."""
SELDOM = 0.02
"""Weights that a tree has in common with others, of all weights. More are votes, not chance."""
MOST_TREES = 1 << 20
"""ONNX Runtime keeps the number of a tree in 32 bits."""
Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Forest:
    """The trees of one model. `weights` are those of leaves: for targets, or for classes."""

    attrs: Attributes
    leaves: str
    targets: int

    @property
    def nodes(self) -> int:
        return len(self.attrs.get("nodes_treeids") or ())

    @property
    def trees(self) -> int:
        """The number of trees. ONNX Runtime begins one wherever the number of the tree changes."""
        ids = self.attrs["nodes_treeids"]
        return sum(i == 0 or one != ids[i - 1] for i, one in enumerate(ids))

    def listed(self, name: str) -> Sequence[Any]:
        """A list of the leaves' weights: `ids`, `nodeids` or `treeids`."""
        return self.attrs.get(f"{self.leaves}_{name}") or ()

    def numbers(self, name: str) -> NDArray[Any]:
        """A list of floats, which may be a tensor."""
        held = self.attrs.get(f"{name}_as_tensor")
        return np.array(self.attrs.get(name) or (), np.float32) if held is None else array(weight_of(held))

    @property
    def weights(self) -> NDArray[Any]:
        return self.numbers(f"{self.leaves}_weights")

    @property
    def base(self) -> NDArray[Any]:
        """The base value of each target. ONNX Runtime ignores any other number of them."""
        given = self.numbers("base_values")
        return given if len(given) == self.targets else np.zeros(self.targets, given.dtype)

    @property
    def at_leaves(self) -> Counter[tuple[int, int]]:
        """The number of weights of each leaf, by its tree and node; leaves without weights included."""
        count = Counter(dict.fromkeys(self._leaves(), 0))
        count.update(
            pair for pair in zip(self.listed("treeids"), self.listed("nodeids"), strict=True) if pair in count
        )
        return count

    def _leaves(self) -> list[tuple[int, int]]:
        nodes = zip(
            self.attrs["nodes_treeids"], self.attrs["nodes_nodeids"], self.attrs["nodes_modes"], strict=True
        )
        return [(tree, node) for tree, node, mode in nodes if mode == b"LEAF"]

    # ------------------------------------------------------------------ of classifiers

    def scores_all(self) -> bool:
        """True where every row has a score for every class: a base value, or a tree of which every leaf has a
        weight for it. ONNX Runtime leaves out a class without a score when it looks for the largest."""
        if len(self.numbers("base_values")):
            return True
        size = Counter(tree for tree, _ in self._leaves())
        given = set(zip(self.listed("treeids"), self.listed("nodeids"), self.listed("ids"), strict=True))
        leaves = set(self._leaves())
        count = Counter((tree, one) for tree, node, one in given if (tree, node) in leaves)
        sure = {one for (tree, one), number in count.items() if number == size[tree]}
        return sure >= set(range(self.targets))

    def bounded(self) -> bool:
        """True where no sum of weights is infinite or NaN."""
        total = np.abs(self.weights.astype(np.float64)).sum() + np.abs(self.base.astype(np.float64)).sum()
        return bool(total < np.finfo(np.float32).max / 2)

    def ties(self) -> bool:
        """True where two classes may have one score but for rounding, as votes of one weight have. Then the
        order of the sum decides. Sums of multiples of a power of 2 are exact."""
        values = np.concatenate([self.weights, self.base])
        values = values[values != 0].astype(np.float64)
        if not len(values) or np.abs(values).sum() < EXACT * np.ldexp(1.0, _lowest_bit(values)):
            return False
        pairs = set(zip(self.weights.tolist(), self.listed("treeids"), strict=True))
        trees = Counter(value for value, _ in pairs if value)
        return sum(trees[value] > 1 for value, _ in pairs if value) > SELDOM * len(pairs)

    # ------------------------------------------------------------------ checks

    def check(self, features: int | None) -> None:
        """Refuse what is not one ensemble, or would read what belongs to another. `features`: how many a row
        has, where rows of all models are side by side."""
        lengths = {len(self.attrs.get(name) or ()) for name in NODE_LISTS} | {
            len(self.numbers("nodes_values"))
        }
        need(lengths == {self.nodes} and self.nodes > 0, "the lists of its nodes are not equally long")
        leaves = {len(self.listed(name)) for name in ("ids", "nodeids", "treeids")} | {len(self.weights)}
        need(len(leaves) == 1, "the lists of its weights are not equally long")
        need(len(self.attrs.get(TRACKS) or ()) <= self.nodes, "the lists of its nodes are not equally long")
        trees = self.attrs["nodes_treeids"]
        need(min(trees) >= 0 and max(trees) < MOST_TREES, "the numbers of its trees are out of range")
        read = self.attrs["nodes_featureids"]
        need(min(read) >= 0, "a node reads a feature that does not exist")
        need(features is None or max(read) < features, "a node reads a feature that does not exist")
        if self.targets > 1:
            ids = self.listed("ids")
            need(
                all(0 <= one < self.targets for one in ids),
                "a leaf has a weight for a target that does not exist",
            )
        else:  # ONNX Runtime takes the first weight of a leaf, and its split where it has none
            need(set(self.at_leaves.values()) == {1}, "a leaf has not exactly one weight")


def together(forests: Sequence[Forest], features: int, base: bool) -> dict[str, Any]:
    """The attributes of one TreeEnsembleRegressor for the trees of all models. `features`: by how many the
    features of a model lie behind those of the one before, 0 where all models read the same."""
    made: dict[str, Any] = {name: [] for name in NODE_LISTS}
    made |= {f"target_{name}": [] for name in ("ids", "nodeids", "treeids")}
    first = 0
    for m, forest in enumerate(forests):
        for name in NODE_LISTS:
            made[name] += forest.attrs[name]
        count = forest.nodes
        made["nodes_featureids"][-count:] = [m * features + one for one in forest.attrs["nodes_featureids"]]
        made["nodes_treeids"][-count:] = [first + one for one in forest.attrs["nodes_treeids"]]
        own = forest.listed("ids") if forest.targets > 1 else [0] * len(forest.listed("ids"))
        made["target_ids"] += [m * forest.targets + one for one in own]
        made["target_nodeids"] += forest.listed("nodeids")
        made["target_treeids"] += [first + one for one in forest.listed("treeids")]
        first += max(forest.attrs["nodes_treeids"]) + 1
    if any(any(forest.attrs.get(TRACKS) or ()) for forest in forests):
        made[TRACKS] = [one for forest in forests for one in _padded(forest)]
    made |= _floats("nodes_values", [forest.numbers("nodes_values") for forest in forests])
    made |= _floats("target_weights", [forest.weights for forest in forests])
    if base and any(forest.base.any() for forest in forests):
        made |= _floats("base_values", [forest.base for forest in forests])
    return {**made, "n_targets": len(forests) * forests[0].targets}


def _padded(forest: Forest) -> list[int]:
    given = list(forest.attrs.get(TRACKS) or ())
    return given + [0] * (forest.nodes - len(given))


def _floats(name: str, parts: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """A list of floats, or a tensor of doubles."""
    values = np.concatenate(parts)
    if values.dtype == np.float64:
        return {f"{name}_as_tensor": numpy_helper.from_array(values, name)}
    return {name: values.astype(np.float32).tolist()}


def _lowest_bit(values: NDArray[np.float64]) -> int:
    """The exponent of the lowest bit that is set in any of these numbers, none of which is 0."""
    fractions, exponents = np.frexp(values)
    whole = np.abs(np.ldexp(fractions, 53)).astype(np.int64)
    low = whole & -whole
    return int((exponents - 53 + np.log2(low).astype(np.int64)).min())
