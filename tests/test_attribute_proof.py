"""Proof (a) of what is learned and lies in attributes: counted, and refused where one bit differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Run
from families import merged, save
from onnx import numpy_helper

import netfuse_onnx
from netfuse_onnx import opened, sources
from netfuse_onnx.proofs import BytesProof
from netfuse_onnx.prove.prover import prove_bytes
from netfuse_onnx.prove.values import silent
from netfuse_onnx.write import metadata

TREE = """nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2], nodes_featureids = [1, 0, 0],
    nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [{0}.1, 0.0, 0.0],
    nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0]"""
SUPPORT = """coefficients = [{0}.0, -1.0], rho = [0.5], kernel_params = [0.1, 0.0, 3.0], kernel_type = "RBF",
    support_vectors = [1.0, 0.0, {0}.0, 0.0, 1.0, 0.0]"""
LINEAR = "coefficients = [{0}.0, 2.0, -1.0, 0.5, 0.1, {0}.5], intercepts = [0.1, {0}.2]"
CASES = {
    "Binarizer": "threshold = {0}.5",
    "Imputer": "imputed_value_floats = [{0}.0], replaced_value_float = 1.0",
    "LinearClassifier": f"{LINEAR}, classlabels_ints = [3, 7]",
    "LinearRegressor": f"{LINEAR}, targets = 2",
    "Normalizer": 'norm = "L2"',
    "SVMClassifier": f"{SUPPORT}, vectors_per_class = [1, 1], classlabels_ints = [0, 1]",
    "SVMRegressor": f"{SUPPORT}, n_supports = 2",
    "Scaler": "offset = [{0}.0, 1.0, 2.0], scale = [0.5, 2.0, {0}.5]",
    "TreeEnsembleClassifier": f"{TREE}, class_treeids = [0, 0], class_nodeids = [1, 2], class_ids = [0, 1], "
    "class_weights = [1.0, {0}.5], classlabels_int64s = [4, 5]",
    "TreeEnsembleRegressor": f"{TREE}, n_targets = 1, target_treeids = [0, 0], target_nodeids = [1, 2], "
    "target_ids = [0, 0], target_weights = [1.5, {0}.5]",
}
AS_OTHERS = ("Imputer", "LinearClassifier", "LinearRegressor", "Scaler", "TreeEnsembleRegressor")
"""Operators that are written as others, or as one for all models."""
TWO = ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")


def table(op: str, attrs: str) -> onnx.ModelProto:
    outs = "int64[n] y, float[n,2] z" if op in TWO else "float[n,k] y"
    names = "y, z" if op in TWO else "y"
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[n,3] x) => ({outs}) '
        f"{{ {names} = ai.onnx.ml.{op} <{attrs}> (x) }}"
    )


def tables(folder: Path, op: str, count: int = 2, first: int = 1) -> list[str]:
    """Models whose attributes differ in some numbers; equal ones where `CASES` names no number."""
    return [save(folder / f"m{k}.onnx", table(op, CASES[op].format(k + first))) for k in range(count)]


def proof(path: str, paths: list[str]) -> BytesProof:
    """The byte proof alone."""
    known = metadata.read(path)
    family = opened.matched(sources.read(paths), known.models, known.partial)
    return prove_bytes(path, metadata.recipes(known, family, path), family, silent)


def changed(path: str, change: Callable[[onnx.ModelProto], bool]) -> str:
    model = onnx.load(path)
    assert change(model), "there is nothing to change"
    return save(Path(path), model)


def next_number(model: onnx.ModelProto) -> bool:
    """The last float of the last attribute that holds floats, in the last node of tables, one bit up."""
    for node in reversed(model.graph.node):
        for attribute in reversed(node.attribute):
            if node.domain == "ai.onnx.ml" and attribute.floats:
                attribute.floats[-1] = np.nextafter(np.float32(attribute.floats[-1]), np.float32(1e9))
                return True
            if node.domain == "ai.onnx.ml" and attribute.type == attribute.FLOAT:
                attribute.f = float(np.nextafter(np.float32(attribute.f), np.float32(1e9)))
                return True
    return False


def next_constant(model: onnx.ModelProto) -> bool:
    """The last element of the last constant of floats, one bit up."""
    for tensor in reversed(model.graph.initializer):
        values = numpy_helper.to_array(tensor).copy()
        if values.dtype == np.float32 and values.any() and np.isfinite(values).all():
            values.reshape(-1)[-1] = np.nextafter(values.reshape(-1)[-1], np.float32(1e9))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            return True
    return False


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("op", CASES)
def test_attributes_are_counted(op: str, io: str, tmp_path: Path) -> None:
    paths = tables(tmp_path, op)
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), io=io)
    assert report.proof is not None
    held = report.proof.bytes
    attributes = len(onnx.load(paths[0]).graph.node[0].attribute)
    each = 1 if op == "Normalizer" else 2  # which is equal in both models, and counts once
    assert (held.weights, held.attributes, held.elsewhere) == (0, attributes * each, 0)
    assert held.attribute_bytes > 0
    again = netfuse_onnx.verify(str(tmp_path / "m.onnx"), paths)
    assert again.ok and again.graph.made and again.bytes == held


@pytest.mark.parametrize("op", [op for op in CASES if op not in ("Normalizer", *AS_OTHERS)])
def test_one_bit_of_an_attribute_is_refused(op: str, tmp_path: Path) -> None:
    paths = tables(tmp_path, op)
    held = proof(changed(merged(tmp_path, paths), next_number), paths)
    assert not held.ok
    assert "of m1: attribute" in held.problems[0]


@pytest.mark.parametrize("op", ["Imputer", "Scaler", "LinearClassifier", "LinearRegressor"])
def test_one_bit_of_a_constant_made_of_attributes_is_refused(op: str, tmp_path: Path) -> None:
    paths = tables(tmp_path, op)
    held = proof(changed(merged(tmp_path, paths), next_constant), paths)
    assert not held.ok
    assert "no node or constant" in held.problems[0]


def test_trees_of_two_models_exchanged_are_refused(tmp_path: Path) -> None:
    def exchange(model: onnx.ModelProto) -> bool:
        one, two = (node for node in model.graph.node if node.op_type == "TreeEnsembleClassifier")
        one.name, two.name = two.name, one.name
        return True

    paths = tables(tmp_path, "TreeEnsembleClassifier")
    held = proof(changed(merged(tmp_path, paths), exchange), paths)
    assert len(held.problems) == 2


LISTS = (
    "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes", "nodes_values", "nodes_truenodeids",
    "nodes_falsenodeids", "target_ids", "target_nodeids", "target_treeids", "target_weights",
)  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("at", [0, -1])
def test_one_element_of_the_trees_of_all_models_is_refused(name: str, at: int, tmp_path: Path) -> None:
    """The one ensemble of all models, in which any list is changed, of the first or the last model."""

    def change(model: onnx.ModelProto) -> bool:
        node = next(node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
        held = next(a for a in node.attribute if a.name == name)
        if held.strings:
            held.strings[at] = b"BRANCH_LT"
        elif held.ints:
            held.ints[at] += 1
        else:
            held.floats[at] = np.nextafter(np.float32(held.floats[at]), np.float32(1e9))
        return True

    paths = tables(tmp_path, "TreeEnsembleRegressor", 3)
    out = merged(tmp_path, paths)
    assert proof(out, paths).ok
    assert not proof(changed(out, change), paths).ok


@pytest.mark.parametrize("list_", ["target_ids", "nodes_featureids"])
def test_targets_and_features_of_two_models_exchanged_are_refused(list_: str, tmp_path: Path) -> None:
    def exchange(model: onnx.ModelProto) -> bool:
        node = next(node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
        held = next(a for a in node.attribute if a.name == list_)
        half = len(held.ints) // 2
        held.ints[:] = [*held.ints[half:], *held.ints[:half]]
        return True

    paths = tables(tmp_path, "TreeEnsembleRegressor")
    assert not proof(changed(merged(tmp_path, paths), exchange), paths).ok


def test_equal_tables_are_refused_where_one_bit_differs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.onnx", table("LinearClassifier", CASES["LinearClassifier"].format(1)))
    paths = [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    out = merged(tmp_path, paths)
    assert proof(out, paths).ok
    assert not proof(changed(out, next_number), paths).ok


def test_one_copy_of_equal_tables_is_refused_where_one_bit_differs(tmp_path: Path) -> None:
    """A vector has no rows for the models: there is a copy for each of them, all equal."""
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[3] x) => (float[1,1] y)
        <float[3] b = {%s}> {
        s = Add(x, b)
        y = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0, 3.0]> (s) }"""
    paths = [
        save(tmp_path / f"{k}.onnx", onnx.parser.parse_model(text % f"{k}.0, 1.0, 2.0")) for k in range(2)
    ]
    out = merged(tmp_path, paths)
    assert sum(node.op_type == "LinearRegressor" for node in onnx.load(out).graph.node) == 2
    assert proof(out, paths).ok
    assert not proof(changed(out, next_number), paths).ok


def test_a_table_inside_of_a_body_is_compared(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[n,3] x, bool c) => (float[n,k] y)
        <float[3] b = {%s}> {
        s = Add(x, b)
        y = If (c) <
            then_branch = t () => (float[n,k] p)
                { p = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0, 3.0], targets = 1> (s) },
            else_branch = e () => (float[n,k] q)
                { q = ai.onnx.ml.LinearRegressor <coefficients = [3.0, 2.0, 1.0], targets = 1> (s) }
        > }"""
    paths = [
        save(tmp_path / f"{k}.onnx", onnx.parser.parse_model(text % f"{k}.0, 1.0, 2.0")) for k in range(2)
    ]

    def change(model: onnx.ModelProto) -> bool:
        body = next(node for node in model.graph.node if node.op_type == "If").attribute[0].g
        node = next(node for node in body.node if node.op_type == "LinearRegressor")
        next(a for a in node.attribute if a.name == "coefficients").floats[1] = 2.5
        return True

    out = merged(tmp_path, paths)
    right = proof(out, paths)
    assert right.ok and right.attributes == 4
    assert not proof(changed(out, change), paths).ok


@pytest.mark.parametrize("op", ["LeakyRelu", "Elu", "ThresholdedRelu"])
def test_slopes_that_differ_are_compared_as_constants(op: str, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x) => (float[n,3] y) {{ y = {}<alpha = {}>(x) }}'
    paths = [
        save(tmp_path / f"{k}.onnx", onnx.parser.parse_model(text.format(op, 0.1 + 0.2 * k)))
        for k in range(3)
    ]
    report = netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), partial=True)
    assert report.proof is not None and report.proof.bytes.attributes == 3
    assert not proof(changed(str(tmp_path / "merged.onnx"), next_constant), paths).ok


def test_attributes_of_what_is_replicated_are_compared(tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,4,4] x) => (float[n,3,4,4] y) '
        "{{ y = LRN <alpha = {}, size = 3> (x) }}"
    )
    paths = [
        save(tmp_path / f"{k}.onnx", onnx.parser.parse_model(text.format(0.1 + 0.2 * k))) for k in range(2)
    ]
    netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), partial=True)
    right = proof(str(tmp_path / "merged.onnx"), paths)
    assert right.ok and right.attributes == 4

    def change(model: onnx.ModelProto) -> bool:
        node = [node for node in model.graph.node if node.op_type == "LRN"][1]
        next(a for a in node.attribute if a.name == "alpha").f = 0.31
        return True

    wrong = proof(changed(str(tmp_path / "merged.onnx"), change), paths)
    assert "of 1: attribute 'alpha'" in wrong.problems[0]


def test_coefficients_beside_models_without_intercepts(tmp_path: Path) -> None:
    with_bias = table("LinearRegressor", "coefficients = [1.0, 2.0, 3.0], intercepts = [5.0]")
    without = table("LinearRegressor", "coefficients = [3.0, 2.0, 1.0]")
    paths = [save(tmp_path / "a.onnx", with_bias), save(tmp_path / "b.onnx", without)]
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))
    assert report.proof is not None and report.proof.ok


@pytest.mark.parametrize(
    ("op", "attrs", "said"),
    [
        ("Relu", "", "Bytes: no weights to compare by bytes; proven by values and by the graph."),
        ("LeakyRelu", "<alpha = {}>", "Bytes: 2 attributes (8 bytes) equal the sources', bit for bit."),
    ],
)
def test_the_words(op: str, attrs: str, said: str, tmp_path: Path, run: Run) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x) => (float[n,3] y) {{ y = {} {} (x) }}'
    paths = [
        save(tmp_path / f"{k}.onnx", onnx.parser.parse_model(text.format(op, attrs.format(0.1 + k))))
        for k in range(2)
    ]
    code, _, err = run("merge", *paths, "-o", str(tmp_path / "m.onnx"), "--partial")
    assert code == 0
    assert said in err.splitlines()
    assert any(line.startswith("Graph: ") and line.endswith(" gives.") for line in err.splitlines())
