"""Proof (a) for tree ensembles of which a merge made one: their lists one after the other, model by model.

The trees of a model keep their nodes, thresholds and weights. The numbers of its trees, targets and features
may be moved, by one number for all of the model: no two models have a tree or a target in common, and each
reads the features of its own row, or all read one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.storage.weights import array, weight_of

ENSEMBLES = {
    "TreeEnsemble": "TreeEnsemble",
    "TreeEnsembleClassifier": "TreeEnsembleRegressor",
    "TreeEnsembleRegressor": "TreeEnsembleRegressor",
}
"""Operators of tree ensembles, and the one operator that a merge makes of several."""
AS_THEY_ARE = ("nodes_falsenodeids", "nodes_modes", "nodes_nodeids", "nodes_truenodeids")
TRACKS = "nodes_missing_value_tracks_true"
Attributes = Mapping[str, Any]


def is_one_ensemble(op: str, merged: Attributes, each: Sequence[Attributes]) -> bool:
    """True where a merged node has exactly the trees of all models, and their base values or none."""
    return _of_version_5(merged, each) if op == "TreeEnsemble" else _of_older_versions(merged, each)


def _of_older_versions(merged: Attributes, each: Sequence[Attributes]) -> bool:
    targets, rest = divmod(int(merged.get("n_targets", 0)), len(each))
    if rest or not targets or not _lists_fit(merged, each):
        return False
    same = all(
        _joined(merged, name) == [v for one in each for v in _joined(one, name)] for name in AS_THEY_ARE
    )
    return same and all(
        (
            _joined(merged, "target_nodeids")
            == [v for one in each for v in _joined(one, _own("nodeids", one))],
            _same_floats(_numbers(merged, "nodes_values"), [_numbers(one, "nodes_values") for one in each]),
            _same_floats(
                _numbers(merged, "target_weights"), [_numbers(one, _own("weights", one)) for one in each]
            ),
            _joined(merged, TRACKS) in (_tracks(each), [] if not any(_tracks(each)) else None),
            _moves_fit(merged, each, targets),
            base_fits(merged, each, targets),
        )
    )


def base_values(each: Sequence[Attributes], targets: int) -> NDArray[Any]:
    """The base values of all models. Those that are not one for each target have no effect."""
    given = [_numbers(one, "base_values") for one in each]
    return np.concatenate([one if len(one) == targets else np.zeros(targets, one.dtype) for one in given])


def base_fits(merged: Attributes, each: Sequence[Attributes], targets: int) -> bool:
    """True where the node has the base values of all models. The mean of trees has them in a constant."""
    mean = any(one.get("aggregate_function") == b"AVERAGE" for one in each)
    wanted, held = base_values(each, targets), _numbers(merged, "base_values")
    return mean or (not held.size and not wanted.any()) or _same_floats(held, [wanted])


def _own(name: str, attrs: Attributes) -> str:
    """The name of a list of leaves: a classifier has weights for classes."""
    return f"class_{name}" if "class_ids" in attrs else f"target_{name}"


def _joined(attrs: Attributes, name: str) -> list[Any]:
    return list(attrs.get(name) or ())


def _numbers(attrs: Attributes, name: str) -> NDArray[Any]:
    held = attrs.get(f"{name}_as_tensor")
    return np.array(attrs.get(name) or (), np.float32) if held is None else array(weight_of(held))


def _same_floats(held: NDArray[Any], parts: Sequence[NDArray[Any]]) -> bool:
    wanted = np.concatenate(parts)
    return held.dtype == wanted.dtype and held.tobytes() == wanted.tobytes()


def _tracks(each: Sequence[Attributes]) -> list[int]:
    """The tracks of missing values of all nodes, 0 where a list ends before the nodes do."""
    given = [(_joined(one, TRACKS), len(_joined(one, "nodes_treeids"))) for one in each]
    return [value for tracks, count in given for value in (tracks + [0] * count)[:count]]


def _lists_fit(merged: Attributes, each: Sequence[Attributes]) -> bool:
    for name in ("nodes_treeids", "nodes_featureids", "target_ids", "target_treeids"):
        own = name.removeprefix("target_")
        count = sum(len(_joined(one, name if own == name else _own(own, one))) for one in each)
        if len(_joined(merged, name)) != count:
            return False
    return True


def _moves_fit(merged: Attributes, each: Sequence[Attributes], targets: int) -> bool:
    """True where the trees, targets and features of each model are moved by one number, the right one."""
    node = leaf = end = 0
    steps: list[int | None] = []
    for m, one in enumerate(each):
        nodes, leaves = len(_joined(one, "nodes_treeids")), len(_joined(one, _own("ids", one)))
        cut, held = slice(node, node + nodes), slice(leaf, leaf + leaves)
        trees = _move(_joined(merged, "nodes_treeids")[cut], _joined(one, "nodes_treeids"))
        hung = _move(_joined(merged, "target_treeids")[held], _joined(one, _own("treeids", one)))
        read = _move(_joined(merged, "nodes_featureids")[cut], _joined(one, "nodes_featureids"))
        given = _joined(one, _own("ids", one)) if targets > 1 else [0] * leaves
        if trees is None or read is None or hung != trees:
            return False
        own = _joined(merged, "nodes_treeids")[cut]
        if min(own) < end or _move(_joined(merged, "target_ids")[held], given) != m * targets:
            return False
        node, leaf, end = node + nodes, leaf + leaves, max(own) + 1
        steps.append(read)
    return _side_by_side(steps, each)


def _side_by_side(steps: Sequence[int | None], each: Sequence[Attributes]) -> bool:
    """True where the features of all models are moved by multiples of one width, larger than each."""
    width = steps[1] or 0
    highest = max(value for one in each for value in _joined(one, "nodes_featureids"))
    return list(steps) == [m * width for m in range(len(each))] and (width == 0 or width > highest)


def _move(moved: Sequence[int], own: Sequence[int]) -> int | None:
    """The one number by which all elements are moved, or None."""
    moves = {a - b for a, b in zip(moved, own, strict=True)}
    return moves.pop() if len(moves) == 1 else None


# --------------------------------------------------------------------------- version 5

LEAVES = {"nodes_truenodeids": "nodes_trueleafs", "nodes_falsenodeids": "nodes_falseleafs"}


def _of_version_5(merged: Attributes, each: Sequence[Attributes]) -> bool:
    """True for one TreeEnsemble of ai.onnx.ml 5. Roots and sons are places among those of all."""
    targets, rest = divmod(int(merged.get("n_targets", 0)), len(each))
    lists = ("nodes_featureids", "leaf_targetids", "tree_roots", *LEAVES, *LEAVES.values())
    fits = all(len(_joined(merged, name)) == sum(len(_joined(one, name)) for one in each) for name in lists)
    if rest or not targets or not fits:
        return False
    tensors = all(
        _same_floats(_tensor(merged, name), [_tensor(one, name) for one in each])
        for name in ("nodes_splits", "nodes_modes", "leaf_weights")
    )
    marks = all(
        _joined(merged, name) == [v for one in each for v in _joined(one, name)] for name in LEAVES.values()
    )
    tracks = [v for one in each for v in _joined(one, TRACKS) or [0] * len(_joined(one, "nodes_featureids"))]
    tracked = _joined(merged, TRACKS) in ([tracks] if any(tracks) else [tracks, []])
    return tensors and marks and tracked and _sets_fit(merged, each) and _places_fit(merged, each, targets)


def _tensor(attrs: Attributes, name: str) -> NDArray[Any]:
    return array(weight_of(attrs[name])).reshape(-1) if name in attrs else np.zeros(0, np.float32)


def _sets_fit(merged: Attributes, each: Sequence[Attributes]) -> bool:
    """True where the sets are those of all models. A NaN may stand behind the last set of a model, or not."""
    parts = [values for one in each if len(values := _tensor(one, "membership_values"))]
    ended = [v if np.isnan(v[-1]) else np.append(v, v.dtype.type(np.nan)) for v in parts]
    held = _tensor(merged, "membership_values")
    return bool(np.array_equal(held, np.concatenate(ended), equal_nan=True)) if ended else not held.size


def _places_fit(merged: Attributes, each: Sequence[Attributes], targets: int) -> bool:
    """True where roots, sons, targets and features of each model are moved by the right numbers."""
    node = leaf = root = 0
    steps: list[int | None] = []
    for m, one in enumerate(each):
        nodes, leaves, roots = (
            len(_joined(one, k)) for k in ("nodes_featureids", "leaf_targetids", "tree_roots")
        )
        cut = slice(node, node + nodes)
        for ids, marks in LEAVES.items():
            sons = zip(_joined(one, ids), _joined(one, marks), strict=True)
            if _joined(merged, ids)[cut] != [son + (leaf if marked else node) for son, marked in sons]:
                return False
        if _joined(merged, "tree_roots")[root : root + roots] != [
            r + node for r in _joined(one, "tree_roots")
        ]:
            return False
        given = [m * targets + t for t in _joined(one, "leaf_targetids")]
        if _joined(merged, "leaf_targetids")[leaf : leaf + leaves] != given:
            return False
        steps.append(_move(_joined(merged, "nodes_featureids")[cut], _joined(one, "nodes_featureids")))
        node, leaf, root = node + nodes, leaf + leaves, root + roots
    return _side_by_side(steps, each)
