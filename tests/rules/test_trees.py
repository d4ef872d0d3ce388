"""Tree ensembles whose trees differ between the models: one ensemble gives what each model's gives alone."""

import numpy as np
import onnx
import oracle
import pytest
import test_tables
from learned import COLUMNS, agree, forest, said, saved, table
from onnx import TensorProto, numpy_helper

from netfuse_onnx.plan import costs, planner
from netfuse_onnx.types import Became

OPS = tuple(f"ai.onnx.ml.TreeEnsemble{kind}" for kind in ("", "Classifier", "Regressor"))
INT, STRING, FLOAT = TensorProto.INT64, TensorProto.STRING, TensorProto.FLOAT
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def regressor(seed, targets=1, kind=FLOAT, opset=17, version=3, **how):
    more = {key: how.pop(key) for key in ("aggregate_function", "post_transform", "base_values") & how.keys()}
    attrs = forest(seed, targets=targets, **how) | {"n_targets": targets} | more
    return table("TreeEnsembleRegressor", attrs, columns=COLUMNS, kind=kind, opset=opset, version=version)


def classifier(seed, classes=3, kind=FLOAT, labels=None, text=False, positive=False, **how):
    more = {key: how.pop(key) for key in ("post_transform", "base_values") & how.keys()}
    attrs = forest(seed, targets=1 if classes == 2 else classes, leaves="class", **how) | more
    if positive:
        attrs["class_weights"] = [abs(w) / 4 for w in attrs["class_weights"]]
    names = labels or list(range(5, 5 + classes))
    attrs |= {"classlabels_strings": [f"word {n}" for n in names]} if text else {"classlabels_int64s": names}
    return table(
        "TreeEnsembleClassifier", attrs, columns=COLUMNS, outputs=(STRING if text else INT, FLOAT), kind=kind
    )


def rows(models=3, batch=4, kind=np.float32, odd=False):
    x = np.random.default_rng(1).integers(-2, 3, (models, batch, COLUMNS)).astype(kind)
    if odd:
        x[:, 0] = np.nan
        x[:, 1, 0], x[:, 2, 1] = np.inf, -np.inf
    return x


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("base", [False, True])
def test_regressors(aggregate, targets, base, tmp_path):
    more = {"base_values": [0.5] * targets} if base else {}
    models = [regressor(m, targets, aggregate_function=aggregate, **more) for m in range(3)]
    agree(models, rows(), tmp_path)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("targets", [1, 2, 3])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE"])
def test_post_transforms(transform, targets, aggregate, tmp_path):
    models = [regressor(m, targets, post_transform=transform, aggregate_function=aggregate) for m in range(2)]
    agree(models, rows(2), tmp_path)


@pytest.mark.parametrize("models", [2, 3, 5])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_numbers_of_models_and_rows(models, batch, tmp_path):
    agree([regressor(m, 2) for m in range(models)], rows(models, batch), tmp_path)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_versions_of_the_domain(version, tmp_path):
    agree([regressor(m, 2, version=version) for m in range(3)], rows(), tmp_path)


@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_modes_and_missing_values(mode, tracks, tmp_path):
    """One model follows missing values, another does not; one has another comparison."""
    modes = [mode, mode, "BRANCH_LEQ"]
    models = [regressor(m, mode=modes[m], tracks=tracks and m != 1) for m in range(3)]
    agree(models, rows(odd=True), tmp_path)


def test_other_numbers_of_trees_and_nodes(tmp_path):
    hows = [{"trees": 1, "depth": 4}, {"trees": 5, "depth": 1}, {"trees": 2, "depth": 3}]
    bases = [{}, {"base_values": [2.0]}, {}]
    models = [regressor(m, **how, **base) for m, (how, base) in enumerate(zip(hows, bases, strict=True))]
    agree(models, rows(), tmp_path)
    means = [
        regressor(m, **how, **base, aggregate_function="AVERAGE")
        for m, (how, base) in enumerate(zip(hows, bases, strict=True))
    ]
    agree(means, rows(), tmp_path)


@pytest.mark.parametrize(("trees", "alone"), [(4, False), (40, True)])
def test_plans_for_a_cpu_run_large_ones_once_per_model(trees, alone, tmp_path):
    models = [regressor(m, 2, trees=trees, depth=1) for m in range(8)]
    corr = oracle.family(saved(models, tmp_path))
    for name in ("generic", "cpu"):
        plan = planner.plan(corr, io="stacked", cost=costs.cost(name, corr, {}))
        assert (plan.lowerings[0].became is Became.REPLICATED) == (alone and name == "cpu")


def test_trees_of_odd_numbers(tmp_path):
    """The numbers of trees begin anywhere, and may rise or fall."""
    models = [regressor(m) for m in range(3)]
    for model in models[1:]:
        for name in ("nodes_treeids", "target_treeids"):
            held = next(a for a in model.graph.node[0].attribute if a.name == name)
            held.ints[:] = [7 - 3 * one for one in held.ints]
    agree(models, rows(), tmp_path)


def test_doubles(tmp_path):
    """Thresholds, weights and base values are tensors."""
    models = [regressor(m, 2, kind=TensorProto.DOUBLE, base_values=[1.0, 2.0]) for m in range(3)]
    for model in models:
        node = model.graph.node[0]
        for name in ("nodes_values", "target_weights", "base_values"):
            held = next(a for a in node.attribute if a.name == name)
            values = np.array(held.floats, np.float64) + 0.1
            node.attribute.remove(held)
            node.attribute.append(
                onnx.helper.make_attribute(f"{name}_as_tensor", numpy_helper.from_array(values, name))
            )
    agree(models, rows(kind=np.float64), tmp_path)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_classifiers(classes, transform, tmp_path):
    """Ties are frequent: all weights are small whole numbers."""
    models = [classifier(m, classes, post_transform=transform) for m in range(3)]
    agree(models, rows(batch=9), tmp_path)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX"])
@pytest.mark.parametrize("base", [False, True])
def test_two_classes_without_negative_weights(base, transform, tmp_path):
    more = {"base_values": [0.25]} if base else {}
    models = [classifier(m, 2, positive=True, post_transform=transform, **more) for m in range(3)]
    agree(models, rows(batch=9), tmp_path)


def test_weights_of_both_signs_in_some_models(tmp_path):
    agree([classifier(m, 2, positive=m == 1) for m in range(3)], rows(batch=9), tmp_path)
    said(
        [classifier(m, 2, positive=m == 1, post_transform="LOGISTIC") for m in range(3)], tmp_path, "versions"
    )


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_labels(classes, text, tmp_path):
    own = [[10 * m + k for k in range(classes)] for m in range(3)]
    agree([classifier(m, classes, text=text, labels=own[m]) for m in range(3)], rows(), tmp_path)
    agree([classifier(m, classes, text=text) for m in range(3)], rows(), tmp_path)
    agree([classifier(m, classes, text=text, labels=[9, 4, 7][:classes]) for m in range(3)], rows(), tmp_path)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_whole_numbers_as_features(kind, tmp_path):
    numpy_kind = np.int64 if kind == TensorProto.INT64 else np.int32
    agree([classifier(m, kind=kind) for m in range(3)], rows(kind=numpy_kind), tmp_path)


@pytest.mark.parametrize("base", [[0.0] * 3, [1.0, -1.0, 0.0]])
def test_base_values_of_classes(base, tmp_path):
    agree([classifier(m, base_values=base) for m in range(3)], rows(batch=9), tmp_path)


def changed(models, name, change):
    for model in models:
        for held in model.graph.node[0].attribute:
            if held.name == name:
                field = held.ints or held.floats
                values = change(list(field))
                del field[:]
                field.extend(values)
    return models


HOSTILE = {
    "a feature of the next model": ("nodes_featureids", lambda v: [COLUMNS, *v[1:]], "feature that does not"),
    "a feature in front": ("nodes_featureids", lambda v: [-1, *v[1:]], "feature that does not exist"),
    "fewer nodes": ("nodes_values", lambda v: v[:-1], "lists of its nodes"),
    "fewer thresholds": ("nodes_truenodeids", lambda v: v[1:], "lists of its nodes"),
    "fewer weights": ("target_weights", lambda v: v[1:], "lists of its weights"),
    "a target of the next model": ("target_ids", lambda v: [2, *v[1:]], "target that does not exist"),
    "a target in front": ("target_ids", lambda v: [-1, *v[1:]], "target that does not exist"),
    "a tree in front": ("nodes_treeids", lambda v: [-1, *v[1:]], "numbers of its trees"),
    "a huge tree": ("nodes_treeids", lambda v: [2**31 - 1, *v[1:]], "numbers of its trees"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_lists_that_do_not_fit(name, tmp_path):
    attr, change, reason = HOSTILE[name]
    said(changed([regressor(m, 2) for m in range(2)], attr, change), tmp_path, reason)


def test_leaves_without_a_weight(tmp_path):
    """ONNX Runtime gives the threshold of such a leaf, where there is one target."""
    models = [regressor(m) for m in range(2)]
    for name in ("ids", "nodeids", "treeids", "weights"):
        changed(models, f"target_{name}", lambda v: v[1:])
    said(models, tmp_path, "not exactly one weight")


def test_votes(tmp_path):
    """Trees that add 0.1 to a class: the order of the sum decides between classes of equally many votes."""
    models = [classifier(m, 3, trees=5) for m in range(2)]
    said(changed(models, "class_weights", lambda v: [0.1 if w > 0 else 0.0 for w in v]), tmp_path, "vote")


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_weights_without_bounds(value, tmp_path):
    models = changed([classifier(m) for m in range(2)], "class_weights", lambda v: [value, value, *v[2:]])
    said(models, tmp_path, "may be infinite")


def test_classes_without_a_score(tmp_path):
    """A class for which a row has no score is never the largest, even where all others are negative."""
    models = [classifier(m) for m in range(2)]
    changed(models, "class_ids", lambda v: [0 if one == 2 else one for one in v])
    said(models, tmp_path, "no score for a class")


# --------------------------------------------------------------------------- version 5


@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
@pytest.mark.parametrize("targets", [1, 3])
def test_version_5(aggregate, targets, tmp_path):
    hows = [{}, {"count": 3}, {"depth": 4}]
    more = {"targets": targets, "aggregate_function": aggregate}
    agree([test_tables.forest(m, **how, **more) for m, how in enumerate(hows)], rows(), tmp_path)


@pytest.mark.parametrize(("targets", "transform"), [(1, 0), (1, 1), (1, 2), (1, 3), (2, 3), (3, 3)])
def test_post_transforms_of_version_5(targets, transform, tmp_path):
    models = [test_tables.forest(m, targets=targets, post_transform=transform) for m in range(2)]
    agree(models, rows(2), tmp_path)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_sets_and_missing_values(kind, tmp_path):
    """Nodes that ask for membership, in some models; tracks of missing values in others."""
    models = [test_tables.forest(m, categories=m != 1, dtype=kind, count=m + 1) for m in range(3)]
    node = models[1].graph.node[0]
    count = len(next(a for a in node.attribute if a.name == "nodes_featureids").ints)
    node.attribute.append(onnx.helper.make_attribute("nodes_missing_value_tracks_true", [1] * count))
    agree(models, rows(kind=kind, odd=True), tmp_path)


@pytest.mark.parametrize("transform", [1, 2, 3, 4])
def test_what_version_5_refuses(transform, tmp_path):
    """ONNX Runtime takes 1 for LOGISTIC and 2 for SOFTMAX, which ONNX has the other way round."""
    kind = np.float64 if transform == 3 else np.float32
    models = [test_tables.forest(m, targets=2, post_transform=transform, dtype=kind) for m in range(2)]
    said(models, tmp_path, "PROBIT|transforms doubles|differ")


UNRANKED = "rank of 'y' is unknown"  # onnx infers nothing from it
HOSTILE_5 = {
    "a feature of the next model": ("nodes_featureids", lambda v: [COLUMNS, *v[1:]], "feature that does not"),
    "a leaf of the next model": ("nodes_truenodeids", lambda v: [*v[:-1], 99], "son that does not exist"),
    "a node in front": ("nodes_falsenodeids", lambda v: [-1, *v[1:]], "son that does not exist"),
    "a target of the next model": ("leaf_targetids", lambda v: [2, *v[1:]], "target that does not exist"),
    "a root in front": ("tree_roots", lambda v: [-1], "no root"),
    "a root of the next model": ("tree_roots", lambda v: [99], "no root"),
    "fewer nodes": ("nodes_trueleafs", lambda v: v[1:], UNRANKED),
    "fewer leaves": ("leaf_targetids", lambda v: v[1:], UNRANKED),
    "one leaf": ("nodes_truenodeids", lambda v: [2, *v[1:]], "one leaf"),
}


@pytest.mark.parametrize("name", HOSTILE_5)
def test_lists_of_version_5_that_do_not_fit(name, tmp_path):
    attr, change, reason = HOSTILE_5[name]
    models = [test_tables.forest(m, targets=2) for m in range(2)]
    said(changed(models, attr, change), tmp_path, reason)


def test_sets_without_a_node(tmp_path):
    models = [test_tables.forest(m, categories=True) for m in range(2)]
    for model in models:
        held = next(a for a in model.graph.node[0].attribute if a.name == "membership_values")
        values = np.append(numpy_helper.to_array(held.t), np.array([1.0, np.nan], np.float32))
        held.t.CopyFrom(numpy_helper.from_array(values, "sets"))
    said(models, tmp_path, "sets are not one for each")
