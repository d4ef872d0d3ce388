"""Tabular families from end to end, as converters of scikit-learn, XGBoost and LightGBM write them.

Every proof is made, and the number of nodes does not grow with the number of models, but for maps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from learned import forest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import netfuse_onnx

ML = "ai.onnx.ml"
FEATURES, CLASSES = 4, 3
Made = tuple[list[NodeProto], dict[str, np.ndarray]]


def scaled(rng: np.random.Generator, x: str, out: str) -> list[NodeProto]:
    """Missing values take the mean, then each column is scaled."""
    mean, scale = rng.standard_normal(FEATURES), rng.uniform(0.5, 2, FEATURES)
    filled = helper.make_node(
        "Imputer", [x], ["filled"], domain=ML, imputed_value_floats=mean, replaced_value_float=float("nan")
    )
    return [filled, helper.make_node("Scaler", ["filled"], [out], domain=ML, offset=mean, scale=scale)]


def logistic(rng: np.random.Generator) -> Made:
    line = helper.make_node(
        "LinearClassifier", ["scaled"], ["label", "raw"], domain=ML, post_transform="SOFTMAX", multi_class=1,
        coefficients=rng.standard_normal(CLASSES * FEATURES), intercepts=rng.standard_normal(CLASSES),
        classlabels_ints=list(range(CLASSES)),
    )  # fmt: skip
    rows = helper.make_node("Normalizer", ["raw"], ["scores"], domain=ML, norm="L1")
    return [*scaled(rng, "x", "scaled"), line, rows], {}


def named(rng: np.random.Generator) -> Made:
    """A regression whose scores come with the names of the classes, in a map."""
    nodes, weights = logistic(rng)
    nodes[-1].output[0] = "rows"
    names = helper.make_node(
        "ZipMap", ["rows"], ["scores"], domain=ML, classlabels_int64s=list(range(CLASSES))
    )
    return [*nodes, names], weights


def network(rng: np.random.Generator) -> Made:
    weights = {
        "w1": rng.standard_normal((FEATURES, 8)), "b1": rng.standard_normal((1, 8)),
        "w2": rng.standard_normal((8, CLASSES)), "b2": rng.standard_normal((1, CLASSES)),
    }  # fmt: skip
    held = {name: value.astype(np.float32) for name, value in weights.items()}
    names = np.array([f"class {k}" for k in range(CLASSES)], object)
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "b1"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"]),
        helper.make_node("Add", ["m2", "b2"], ["a2"]),
        helper.make_node("Softmax", ["a2"], ["scores"], axis=-1),
        helper.make_node("ArgMax", ["scores"], ["index"], axis=1),
        helper.make_node("ArrayFeatureExtractor", ["classes", "index"], ["row"], domain=ML),
        helper.make_node("Reshape", ["row", "flat"], ["label"]),
    ]
    return nodes, held | {"classes": names, "flat": np.array([-1])}


def boosted(rng: np.random.Generator) -> Made:
    attrs = forest(int(rng.integers(1 << 30)), trees=3, depth=3, whole=False, leaves="class")
    trees = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], domain=ML, classlabels_int64s=[0, 1],
        post_transform="LOGISTIC", base_values=[0.25], **attrs,
    )  # fmt: skip
    return [trees], {}


def averaged(rng: np.random.Generator) -> Made:
    attrs = forest(int(rng.integers(1 << 30)), trees=4, depth=3, whole=False)
    trees = helper.make_node(
        "TreeEnsembleRegressor", ["scaled"], ["scores"], domain=ML, n_targets=1, aggregate_function="AVERAGE",
        **attrs,
    )  # fmt: skip
    return [*scaled(rng, "x", "scaled"), trees], {}


FAMILIES: dict[str, Callable[[np.random.Generator], Made]] = {
    "logistic": logistic, "named": named, "network": network, "boosted": boosted, "averaged": averaged,
}  # fmt: skip


def written(name: str, folder: Path, count: int) -> list[str]:
    """The models of a family."""
    paths = []
    for m in range(count):
        nodes, weights = FAMILIES[name](np.random.default_rng(m))
        outs = [out for node in nodes for out in node.output if out in ("label", "scores")]
        infos = [_output(out, nodes) for out in outs]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", FEATURES])
        held = [numpy_helper.from_array(value, key) for key, value in weights.items()]
        graph = helper.make_graph(nodes, "g", [x], infos, held)
        imports = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
        paths.append(str(folder / f"m{m}.onnx"))
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), paths[-1])
    return paths


def _output(name: str, nodes: Sequence[NodeProto]) -> onnx.ValueInfoProto:
    if name == "scores" and nodes[-1].op_type == "ZipMap":
        value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        entry = onnx.TypeProto(map_type=onnx.TypeProto.Map(key_type=TensorProto.INT64, value_type=value))
        return helper.make_value_info(name, helper.make_sequence_type_proto(entry))
    if name == "scores":
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", None])
    text = nodes[-1].op_type == "Reshape"
    return helper.make_tensor_value_info(name, TensorProto.STRING if text else TensorProto.INT64, ["rows"])


EDGE = ("Gather", "Reshape", "Transpose", "Unsqueeze")
"""Operators that join inputs and split outputs; for more models the plan may take others of them."""
WAYS = [("separate", False), ("stacked", False), ("stacked", True)]


@pytest.mark.parametrize(("io", "shared"), WAYS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_proof_and_as_many_nodes_for_more_models(
    name: str, io: str, shared: bool, tmp_path: Path
) -> None:
    if name == "named" and io == "stacked":
        pytest.skip("maps can't be stacked")
    counts = []
    for models in (5, 9):
        paths = written(name, tmp_path, models)
        out = str(tmp_path / f"{models}.onnx")
        report = netfuse_onnx.merge(paths, out, io=io, share=["x"] if shared else [])
        assert report.ok and report.proof is not None and report.proof.ok and report.proof.graph.made
        again = netfuse_onnx.verify(out, paths)
        assert again.ok
        counts.append(Counter(node.op_type for node in onnx.load(out).graph.node))
        maps = counts[-1].pop("ZipMap", 0)
        assert maps == (models if name == "named" else 0)
        counts[-1] -= Counter(dict.fromkeys(EDGE, 1 << 20))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("target", ["generic", "cpu"])
@pytest.mark.parametrize("name", ["logistic", "boosted", "network"])
def test_targets(name: str, target: str, tmp_path: Path) -> None:
    paths = written(name, tmp_path, 4)
    for io in ("separate", "stacked"):
        assert netfuse_onnx.merge(paths, str(tmp_path / f"{io}.onnx"), io=io, target=target).ok
