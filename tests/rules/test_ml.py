"""ai.onnx.ml: each row on its own. For attributes that differ between the models see test_attributes."""

import numpy as np
import pytest
from oracle import as_models, check, draw, family, graph, sweep

SUPPORT = """coefficients = [1.0, -1.0], rho = [0.5], kernel_params = [0.1, 0.0, 3.0], kernel_type = "RBF",
    support_vectors = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]"""
TREE = """nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2], nodes_featureids = [1, 0, 0],
    nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [0.1, 0.0, 0.0],
    nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0]"""
TARGETS = """n_targets = 1, target_treeids = [0, 0], target_nodeids = [1, 2], target_ids = [0, 0],
    target_weights = [1.5, 2.5]"""
CLASSES = """class_treeids = [0, 0], class_nodeids = [1, 2], class_ids = [0, 1], class_weights = [1.0, 1.0],
    classlabels_int64s = [4, 5]"""
LINEAR = "coefficients = [1.0, 2.0, -1.0, 0.5, 0.1, 1.0], intercepts = [0.1, 0.2]"
ROWS = {
    "Binarizer": "<threshold = 0.5>",
    "Imputer": "<imputed_value_floats = [9.0], replaced_value_float = 1.0>",
    "LinearClassifier": f"<{LINEAR}, classlabels_ints = [3, 7]>",
    "LinearRegressor": f"<{LINEAR}, targets = 2>",
    "Normalizer": '<norm = "L2">',
    "Scaler": "<offset = [1.0, 0.0, 2.0], scale = [1.0, 2.0, 3.0]>",
    "SVMClassifier": f"<{SUPPORT}, vectors_per_class = [1, 1], classlabels_ints = [0, 1]>",
    "SVMRegressor": f"<{SUPPORT}, n_supports = 2>",
    "TreeEnsembleClassifier": f"<{TREE}, {CLASSES}>",
    "TreeEnsembleRegressor": f"<{TREE}, {TARGETS}>",
}
TWO = ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")
OPS = tuple(f"ai.onnx.ml.{op}" for op in (*ROWS, "CategoryMapper", "LabelEncoder", "OneHotEncoder"))
SIZES = {"B": 4}


def tell(model, folder):
    """Separate and stacked, by as many models as rows and by two."""
    for n, io in ((3, "separate"), (3, "stacked"), (2, "separate")):
        check(model, draw(model, n, sizes=SIZES), {"x": "input"}, folder, io=io, alike=("y", "z"))


@pytest.mark.parametrize("op", ROWS)
@pytest.mark.parametrize("rows", ["3", "B"])
def test_rows(op, rows, tmp_path):
    outs = "y, z" if op in TWO else "y"
    model = graph(f"float[{rows},3] x", f"{outs} = ai.onnx.ml.{op}{ROWS[op]}(x)")
    tell(model, tmp_path)


def test_labels(tmp_path):
    encode = "<keys_int64s = [0, 1, 2], values_floats = [0.5, 1.5, 2.5], default_float = -1.0>"
    sweep(graph("int64[3,2] x", f"y = ai.onnx.ml.LabelEncoder{encode}(x)"), tmp_path, low=0, high=4)
    hot = "<cats_int64s = [0, 1, 2], zeros = 1>"
    sweep(graph("int64[3,2] x", f"y = ai.onnx.ml.OneHotEncoder{hot}(x)"), tmp_path, low=0, high=4)
    names = '<cats_int64s = [1, 2], cats_strings = ["a", "ab"], default_int64 = 0>'
    sweep(graph("string[3,4] x", f"y = ai.onnx.ml.CategoryMapper{names}(x)"), tmp_path)


@pytest.mark.parametrize("x", ["3,4", "2,3,4", "4"])
@pytest.mark.parametrize("i", ["2", "1,2", "2,1", ""])
def test_features(x, i, tmp_path):
    """Indices that are equal in all models, and each model's own."""
    values = np.array([3, 1]).reshape([int(d) for d in i.split(",")]) if i else np.array(3)
    model = graph(f"float[{x}] x, int64{i and f'[{i}]'} i", "y = ai.onnx.ml.ArrayFeatureExtractor(x, i)")
    sweep(model, tmp_path, given={"i": values})
    sweep(model, tmp_path, low=0, high=3)


def test_the_label_of_a_class(tmp_path):
    """As converters of scikit-learn write it: the classes are a vector, and the row that comes out is flattened."""
    body = (
        "i = ArgMax<axis = 1>(x) l = ai.onnx.ml.ArrayFeatureExtractor(c, i) m = Constant<value_ints = [-1]>()"
    )
    for kind in ("int64", "string"):
        model = graph(f"float[B,3] x, {kind}[3] c", f"{body} y = Reshape(l, m)")
        sweep(model, tmp_path, sizes=SIZES, alike=("y",), given={} if kind == "int64" else {"c": WORDS})
        count = len(family(as_models(model, draw(model, 3, sizes=SIZES), ROLE, tmp_path)).graph.nodes)
        assert count == 3


WORDS = np.array(["red", "green", "blue"], object)
ROLE = {"x": "input", "c": "shared weight"}


def test_features_that_an_output_reads_as_well(tmp_path):
    """The row [1, K] stays where anything but a Reshape to [-1] reads it."""
    body = "y = ai.onnx.ml.ArrayFeatureExtractor(c, i) m = Constant<value_ints = [-1]>() z = Reshape(y, m)"
    sweep(graph("float[3] c, int64[2] i", body), tmp_path, low=0, high=2)
    body = "l = ai.onnx.ml.ArrayFeatureExtractor(c, i) m = Constant<value_ints = [1, -1]>() z = Reshape(l, m)"
    sweep(graph("float[3] c, int64[2] i", body), tmp_path, low=0, high=2)
