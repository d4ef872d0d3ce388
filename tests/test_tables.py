"""Attributes that hold tensors, and operators whose attributes are weights: trees, vocabularies, tables.

Each family is merged with both proofs, which run the files themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from families import merged, save
from onnx import NodeProto, TensorProto, helper, numpy_helper
from test_attribute_proof import CASES, proof, table

import netfuse_onnx
from netfuse_onnx.errors import FileFault, NotEquivalent
from netfuse_onnx.load.loader import load
from netfuse_onnx.report import MergeReport

Array = np.ndarray[Any, Any]
TREES = {"": 17, "ai.onnx.ml": 5}


def single(
    node: NodeProto,
    out: tuple[int, Sequence[Any]],
    kind: int = TensorProto.FLOAT,
    dims: Sequence[Any] = ("n", 3),
    opsets: dict[str, int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info("y", *out)],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or TREES).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def trees(
    seed: int,
    *,
    count: int = 1,
    depth: int = 3,
    dtype: type = np.float32,
    targets: int = 1,
    categories: bool = False,
    **more: Any,
) -> NodeProto:
    """A TreeEnsemble of `count` complete trees over 3 features. With `categories`, the roots ask for membership
    in a set and the other nodes compare in all the ways that there are."""
    rng, inner = np.random.default_rng(seed), 2**depth - 1
    first = 2 ** (depth - 1) - 1  # inner nodes from here on have leaves
    sons = [
        (2 * i + 1, 2 * i + 2) if i < first else (2 * (i - first), 2 * (i - first) + 1) for i in range(inner)
    ]
    leaf = [int(i >= first) for i in range(inner)]
    modes = np.zeros(inner * count, np.uint8)
    attrs: dict[str, Any] = {"n_targets": targets, "aggregate_function": 1, "post_transform": 0, **more}
    if categories:
        modes = np.arange(inner * count, dtype=np.uint8) % 6
        modes[::inner] = 6
        sets = [[*rng.choice(4, 2, replace=False).astype(dtype), np.nan] for _ in range(count)]
        attrs["membership_values"] = tensor(np.array(sets, dtype).reshape(-1), "sets")
    splits = rng.standard_normal(inner * count).astype(dtype)
    if categories:
        splits[::inner] = 0
    leaves = first + 1
    shift = [(t * (inner if not son else 2 * leaves)) for t in range(count) for son in leaf]
    return helper.make_node(
        "TreeEnsemble",
        ["x"],
        ["y"],
        "trees",
        domain="ai.onnx.ml",
        tree_roots=[t * inner for t in range(count)],
        nodes_featureids=[i % 3 for _ in range(count) for i in range(inner)],
        nodes_modes=tensor(modes, "modes"),
        nodes_splits=tensor(splits, "splits"),
        nodes_truenodeids=[a + s for (a, _), s in zip(sons * count, shift, strict=True)],
        nodes_falsenodeids=[b + s for (_, b), s in zip(sons * count, shift, strict=True)],
        nodes_trueleafs=leaf * count,
        nodes_falseleafs=leaf * count,
        leaf_targetids=[i % targets for i in range(2 * leaves * count)],
        leaf_weights=tensor(rng.standard_normal(2 * leaves * count).astype(dtype), "leaves"),
        **attrs,
    )


def tensor(values: Array, name: str = "t") -> TensorProto:
    return numpy_helper.from_array(values, name)


def forest(seed: int, **how: Any) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(how.get("dtype", np.float32)))
    return single(trees(seed, **how), (kind, ["n", how.get("targets", 1)]), kind)


def proven(folder: Path, models: Sequence[onnx.ModelProto], **options: Any) -> tuple[str, MergeReport]:
    """The models in one file, with both proofs."""
    paths = [save(folder / f"m{k}.onnx", each) for k, each in enumerate(models)]
    out = str(folder / "merged.onnx")
    report = netfuse_onnx.merge(paths, out, **options)
    assert report.ok and report.proof is not None and report.proof.bytes.ok and report.proof.values.ok
    assert report.proof.graph.made and report.proof.graph.ok
    return out, report


def became(report: MergeReport) -> list[str]:
    return [row.became for row in report.lowered.nodes]


FORESTS: dict[str, Sequence[dict[str, Any]]] = {
    "float": [{}, {}, {}],
    "double": [{"dtype": np.float64}] * 2,
    "targets": [{"targets": 3, "aggregate_function": 0}] * 2,
    "categories": [{"categories": True, "count": 2}] * 2,
    "categories of double": [{"categories": True, "dtype": np.float64}] * 2,
    "categories in one": [{"categories": True}, {}],
    "large": [{"depth": 9, "count": 4}] * 2,
    "large double": [{"depth": 8, "count": 2, "dtype": np.float64, "categories": True}] * 2,
    "other numbers of trees": [{"count": 1}, {"count": 5, "depth": 8}, {"count": 2, "depth": 2}],
    "other aggregates": [{"aggregate_function": 1}, {"aggregate_function": 0, "count": 3}],
}


@pytest.mark.parametrize(("io", "shared"), [("separate", False), ("stacked", True)])
@pytest.mark.parametrize("name", FORESTS)
def test_tree_ensembles_of_version_5(name: str, io: str, shared: bool, tmp_path: Path) -> None:
    models = [forest(k, **how) for k, how in enumerate(FORESTS[name])]
    out, report = proven(tmp_path, models, io=io, share=["x"] if shared else [])
    assert became(report) == ["replicated" if name == "other aggregates" else "batched"]
    held = [node for node in onnx.load(out).graph.node if node.op_type == "TreeEnsemble"]
    assert len(held) == (len(models) if name == "other aggregates" else 1)


def test_attributes_that_are_tensors_stay_as_they_are(tmp_path: Path) -> None:
    models = [forest(k, **how) for k, how in enumerate(FORESTS["other aggregates"])]
    out, _ = proven(tmp_path, models)
    held = [node for node in onnx.load(out).graph.node if node.op_type == "TreeEnsemble"]
    for node, model in zip(held, models, strict=True):
        ours, theirs = ({a.name: a for a in each.attribute} for each in (node, model.graph.node[0]))
        for attr in ours.keys() | theirs.keys():
            if ours[attr].type == onnx.AttributeProto.TENSOR:
                values = [numpy_helper.to_array(each[attr].t) for each in (ours, theirs)]
                assert values[0].tobytes() == values[1].tobytes() and values[0].dtype == values[1].dtype
            else:
                assert ours[attr] == theirs[attr]


def test_lists_of_nothing(tmp_path: Path) -> None:
    """Some converters write lists that are empty, of floats here."""
    models = [table("SVMClassifier", CASES["SVMClassifier"].format(k)) for k in (1, 2)]
    for each in models:
        each.graph.node[0].attribute.add(name="prob_b", type=onnx.AttributeProto.FLOATS)
    out, _ = proven(tmp_path, models)
    held = [a for node in onnx.load(out).graph.node for a in node.attribute if a.name == "prob_b"]
    assert [a.type for a in held] == [onnx.AttributeProto.FLOATS] * 2
    proven(tmp_path, [models[0], models[0]])


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("depth", [3, 9])
def test_equal_trees_run_once_for_the_rows_of_all(io: str, depth: int, tmp_path: Path) -> None:
    out, report = proven(tmp_path, [forest(0, depth=depth)] * 3, io=io)
    assert became(report) == ["batched"]
    assert sum(node.op_type == "TreeEnsemble" for node in onnx.load(out).graph.node) == 1


def test_one_bit_of_a_tensor_in_an_attribute_is_refused(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"m{k}.onnx", forest(k, depth=9)) for k in range(2)]
    out = merged(tmp_path, paths)
    assert proof(out, paths).ok
    model = onnx.load(out)
    (node,) = [node for node in model.graph.node if node.op_type == "TreeEnsemble"]
    leaves = next(a for a in node.attribute if a.name == "leaf_weights")
    values = numpy_helper.to_array(leaves.t).copy()
    values[-1] = np.nextafter(values[-1], np.float32(1e9))
    leaves.t.CopyFrom(tensor(values))
    save(Path(out), model)
    assert not proof(out, paths).ok


def test_where_a_tensor_of_an_attribute_lies_means_nothing(tmp_path: Path) -> None:
    """In the raw field, in the typed one, or in a file beside the model: the trees are equal."""
    raw, typed = forest(0, depth=9), forest(0, depth=9)
    for attribute in typed.graph.node[0].attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            values = numpy_helper.to_array(attribute.t)
            attribute.t.CopyFrom(helper.make_tensor("other", attribute.t.data_type, values.shape, values))
    _, report = proven(tmp_path, [raw, typed])
    assert became(report) == ["batched"]
    onnx.save(
        raw, tmp_path / "out.onnx", save_as_external_data=True, location="out.data", convert_attribute=True
    )
    assert (tmp_path / "out.data").stat().st_size > 1024
    one, two = (load(str(tmp_path / name)).graph.nodes[0].attrs for name in ("m0.onnx", "out.onnx"))
    for name, value in one.items():
        if isinstance(value, TensorProto):
            assert numpy_helper.to_array(two[name]).tobytes() == numpy_helper.to_array(value).tobytes()


def branches(k: int, seed: int) -> onnx.ModelProto:
    """An If with trees in a branch, large ones."""
    node = trees(seed, depth=9)
    node.input[0] = "s"
    branch = helper.make_graph([node], "then", [], [helper.make_tensor_value_info("y", 1, ["n", 1])])
    other = helper.make_graph(
        [helper.make_node("ReduceSum", ["s", "one"], ["z"])],
        "else",
        [],
        [helper.make_tensor_value_info("z", 1, ["n", 1])],
    )
    rng = np.random.default_rng(k)
    nodes = [
        helper.make_node("Add", ["x", f"w{k}"], ["s"]),
        helper.make_node("If", ["c"], ["r"], then_branch=branch, else_branch=other),
    ]
    inputs = [helper.make_tensor_value_info("x", 1, ["n", 3]), helper.make_tensor_value_info("c", 9, [])]
    held = [tensor(rng.standard_normal(3).astype("f"), f"w{k}"), tensor(np.array([1]), "one")]
    out = [helper.make_tensor_value_info("r", 1, ["n", 1])]
    imports = [helper.make_opsetid(domain, version) for domain, version in TREES.items()]
    graph = helper.make_graph(nodes, "g", inputs, out, held)
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("share", [[], ["c"]])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_trees_inside_of_a_body(seeds: tuple[int, int], share: list[str], tmp_path: Path) -> None:
    """Equal in all models, or each model's own."""
    out, _ = proven(tmp_path, [branches(k, seed) for k, seed in enumerate(seeds)], share=share)
    paths = [str(tmp_path / f"m{k}.onnx") for k in range(2)]
    for c in (True, False):
        x = np.random.default_rng(1).standard_normal((2, 4, 3)).astype("f")
        feeds = {"c": np.array(c)} if share else {"m0/c": np.array(c), "m1/c": np.array(c)}
        both = ort.InferenceSession(out).run(None, {**feeds, "m0/x": x[0], "m1/x": x[1]})
        for k, path in enumerate(paths):
            alone = ort.InferenceSession(path).run(None, {"x": x[k], "c": np.array(c)})
            np.testing.assert_allclose(both[k], alone[0], rtol=1e-5)
    assert proof(out, paths).ok
    model = onnx.load(out)
    body = next(node for node in reversed(model.graph.node) if node.op_type == "If").attribute
    inner = next(node for a in body for node in a.g.node if node.op_type == "TreeEnsemble")
    leaves = next(a for a in inner.attribute if a.name == "leaf_weights")
    values = numpy_helper.to_array(leaves.t).copy()
    values[-1] = np.nextafter(values[-1], np.float32(1e9))
    leaves.t.CopyFrom(tensor(values))
    save(Path(out), model)
    assert not proof(out, paths).ok


INSIDE = """<ir_version: 9, opset_import: ["" : 17]> g (float[2,3] x, bool c) => (float[2,3] y) <float[3] w = {%s, 1.0, 2.0}> {
    z = Add(x, w)
    y = If(c) <then_branch = t () => (float[2,3] a) { i = If(c) <
          then_branch = u () => (float[2,3] d) { d = LeakyRelu<alpha = %s>(z) },
          else_branch = v () => (float[2,3] d) { d = Neg(z) }> a = LeakyRelu<alpha = %s>(i) },
      else_branch = e () => (float[2,3] a) { a = Elu<alpha = %s>(z) }> }"""
TURNED = """<ir_version: 9, opset_import: ["" : 17]> g (float[2] s, float[5,2] x) => (float[2] t, float[5,2] y) <float[2] w = {%s, 1.0}> {
    t, y = Scan<num_scan_inputs=1, scan_input_directions = [%s], body = b (float[2] a, float[2] v)
        => (float[2] n, float[2] o) { m = Mul(a, w) n = Add(m, v) o = LeakyRelu<alpha = %s>(n) }>(s, x) }"""


@pytest.mark.parametrize(
    ("text", "each"),
    [
        (INSIDE, [("0.5", "0.1", "0.2", "0.3"), ("0.25", "0.4", "0.2", "0.6")]),
        (INSIDE, [("0.5", "0.1", "0.2", "0.3"), ("0.25", "0.1", "0.7", "0.3"), ("1.5", "0.9", "0.2", "0.3")]),
        (TURNED, [("0.5", "0", "0.1"), ("0.25", "1", "0.1")]),
        (TURNED, [("0.5", "0", "0.1"), ("0.25", "1", "0.2")]),
    ],
)
def test_attributes_inside_of_bodies_that_differ(
    text: str, each: Sequence[tuple[str, ...]], tmp_path: Path
) -> None:
    models = [onnx.parser.parse_model(text % values) for values in each]
    with pytest.raises(NotEquivalent):
        proven(tmp_path, models)
    _, report = proven(tmp_path, models, partial=True)
    assert any("differ between the models" in row.reason for row in report.lowered.replicated)


def labels(kind: Array, values: Array, default: Array | None = None) -> NodeProto:
    more = {} if default is None else {"default_tensor": tensor(default, "d")}
    return helper.make_node(
        "LabelEncoder",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        keys_tensor=tensor(kind, "k"),
        values_tensor=tensor(values, "v"),
        **more,
    )


WORDS = np.array([f"word {i}" for i in range(300)], object)
ENCODERS: dict[str, Callable[[int], tuple[NodeProto, int, int]]] = {
    "int64 to float": lambda k: (
        labels(np.arange(500), np.random.default_rng(k).standard_normal(500).astype("f"), np.float32([k])),
        TensorProto.INT64,
        TensorProto.FLOAT,
    ),
    "double": lambda k: (
        labels(np.arange(3, dtype="d"), np.arange(3, dtype="d") + k, np.float64([-k])),
        TensorProto.DOUBLE,
        TensorProto.DOUBLE,
    ),
    "int64 to words": lambda k: (
        labels(np.arange(300), np.roll(WORDS, k), np.array([f"none {k}"], object)),
        TensorProto.INT64,
        TensorProto.STRING,
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_label_encoders_with_tensors(name: str, tmp_path: Path) -> None:
    models = []
    for k in range(2):
        node, source, target = ENCODERS[name](k)
        models.append(single(node, (target, ["n", 3]), source))
    proven(tmp_path, models)
    proven(tmp_path, [models[1], models[1]])


def test_tables_that_give_another_type_are_refused(tmp_path: Path) -> None:
    one, two = (labels(np.arange(3), np.zeros(3, kind)) for kind in (np.float32, np.float64))
    files = [single(one, (1, ["n", 3]), 7), single(two, (11, ["n", 3]), 7)]
    with pytest.raises(NotEquivalent, match="values_tensor"):
        proven(tmp_path, files)


def test_tables_of_other_lengths(tmp_path: Path) -> None:
    """Each model has its own vocabulary, and only one a default of its own."""
    model = '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]> g (int64[n] x) => (string[n] y) '
    node = "{{ y = ai.onnx.ml.CategoryMapper <cats_int64s = {}, cats_strings = {}{}> (x) }}"
    one = node.format("[0, 1]", '["a", "b"]', "")
    two = node.format("[3, 2, 1, 0]", '["a", "b", "c", "d"]', ', default_string = "none"')
    proven(tmp_path, [onnx.parser.parse_model(model + text) for text in (one, two)])


def test_texts_of_other_vocabularies(tmp_path: Path) -> None:
    model = '<ir_version: 8, opset_import: ["": 17]> g (int64[n, 6] x) => (float[n, 4] y) '
    node = (
        '{{ y = TfIdfVectorizer <max_gram_length = 2, max_skip_count = {}, min_gram_length = 1, mode = "{}", '
        "ngram_counts = [0, {}], ngram_indexes = {}, pool_int64s = {}, weights = {}> (x) }}"
    )
    one = node.format(0, "TF", 2, "[0, 1, 2, 3]", "[2, 3, 1, 2, 3, 1]", "[1.0, 2.0, 3.0, 4.0]")
    two = node.format(1, "TFIDF", 3, "[3, 2, 1, 0]", "[0, 1, 2, 1, 0]", "[0.5, 1.5, 2.5, 0.25]")
    wide = node.format(1, "TFIDF", 3, "[4, 2, 1, 0]", "[0, 1, 2, 1, 0]", "[0.5, 1.5, 2.5, 0.25]")
    files = [onnx.parser.parse_model(model + text) for text in (one, two, wide)]
    proven(tmp_path, files[:2])
    with pytest.raises(NotEquivalent, match="ngram_indexes"):
        proven(tmp_path, [files[0], files[2]])


@pytest.mark.parametrize("share", [[], ["s"]])
def test_a_tensor_that_fills(share: list[str], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[2] s, float[n, 3] x) => (float[a, b] y, float[n, 3] z)
        <float[3] w = {%s, 1.0, 2.0}> { y = ConstantOfShape <value = float[1] {2.5}> (s)  z = Add(x, w) }"""
    proven(tmp_path, [onnx.parser.parse_model(text % f"{k}.0") for k in range(2)], share=share)


def test_large_sparse_constants(tmp_path: Path) -> None:
    """As a Constant and as an initializer, by position and by coordinates, and against one that is dense."""

    def model(k: int, kind: str) -> onnx.ModelProto:
        rng = np.random.default_rng(k)
        full = np.where(rng.random((60, 40)) < 0.3, rng.standard_normal((60, 40)), 0).astype("f")
        at = np.flatnonzero(full) if kind != "pairs" else np.argwhere(full)
        sparse = helper.make_sparse_tensor(
            tensor(full[full != 0], "w"), tensor(at.astype("q"), "i"), [60, 40]
        )
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        if kind in ("node", "pairs"):
            nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
        x, y = (helper.make_tensor_value_info(n, 1, ["n", c]) for n, c in (("x", 60), ("y", 40)))
        graph = helper.make_graph(nodes, "g", [x], [y], [tensor(full, "w")] if kind == "dense" else [])
        if kind == "initializer":
            graph.sparse_initializer.append(sparse)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    kinds = ("dense", "node", "pairs", "initializer")
    proven(tmp_path, [model(k, kind) for k, kind in enumerate(kinds)])


def test_sparse_constants_that_do_not_fit(tmp_path: Path) -> None:
    for places, values in (([-1, 2], [1, 2]), ([0, 9], [1, 2]), ([0, 1, 2], [1])):
        sparse = helper.make_sparse_tensor(
            tensor(np.array(values, "f"), "w"), tensor(np.array(places), "i"), [3]
        )
        model = single(helper.make_node("Add", ["x", "w"], ["y"]), (1, ["n", 3]))
        model.graph.sparse_initializer.append(sparse)
        with pytest.raises(FileFault, match="indices of the sparse tensor"):
            load(save(tmp_path / "m.onnx", model))


def test_versions_that_only_add_attributes(tmp_path: Path) -> None:
    """A file imports version 1 of the tables, another version 3: the trees are the same operator."""
    text = '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": %d]> g (float[n,3] x) => (float[n,1] y) {'
    body = " y = ai.onnx.ml.TreeEnsembleRegressor <%s> (x) }"
    attrs = CASES["TreeEnsembleRegressor"]
    pairs = zip((1, 3), (1, 2), strict=True)
    proven(tmp_path, [onnx.parser.parse_model(text % v + body % attrs.format(k)) for v, k in pairs])
