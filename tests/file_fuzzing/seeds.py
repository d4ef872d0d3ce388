"""Small families of two models with many features, and files merged from them: what is mutated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

import netfuse_onnx

Weights = dict[str, tuple[int, ...]]

TEXTS: dict[str, tuple[str, Weights]] = {
    "mlp": (
        "g (float[n, 8] x) => (float[n, 4] y) { h = MatMul(x, w1) i = Add(h, b1) r = Relu(i) y = MatMul(r, w2) }",
        {"w1": (8, 6), "b1": (6,), "w2": (6, 4)},
    ),
    "conv": (
        """g (float[n, 3, 8, 8] x) => (float[n, 2] y) {
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b)
            m = BatchNormalization (c, s, b, mean, var)
            r = Relu (m) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (r)
            q = GlobalAveragePool (p) f = Flatten (q) y = Gemm <transB = 1> (f, v) }""",
        {"w": (4, 3, 3, 3), "b": (4,), "s": (4,), "mean": (4,), "var": (4,), "v": (2, 4)},
    ),
    "attention": (
        """g (float[n, s, 8] x) => (float[n, s, 8] y) {
            shape = Constant <value = int64[4] {0, 0, 2, 4}> () back = Constant <value = int64[3] {0, 0, 8}> ()
            q0 = MatMul (x, wq) k0 = MatMul (x, wk) v0 = MatMul (x, wv)
            q1 = Reshape (q0, shape) k1 = Reshape (k0, shape) v1 = Reshape (v0, shape)
            q = Transpose <perm = [0, 2, 1, 3]> (q1) k = Transpose <perm = [0, 2, 3, 1]> (k1)
            v = Transpose <perm = [0, 2, 1, 3]> (v1)
            a = MatMul (q, k) p = Softmax <axis = -1> (a) o = MatMul (p, v)
            t = Transpose <perm = [0, 2, 1, 3]> (o) f = Reshape (t, back)
            z = Add (f, x) y = LayerNormalization <axis = -1> (z, scale, bias) }""",
        {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "scale": (8,), "bias": (8,)},
    ),
    "lstm": (
        """g (float[t, n, 3] x) => (float[t, 1, n, 2] y, float[1, n, 2] h) {
            y, h, c = LSTM <hidden_size = 2, direction = "forward"> (x, w, r, b) }""",
        {"w": (1, 8, 3), "r": (1, 8, 2), "b": (1, 16)},
    ),
    "if": (
        """g (float[2, 3] x, bool flag) => (float[2, 3] y) {
            y = If (flag) <then_branch = t () => (float[2, 3] a) { a = Mul (x, w) },
                           else_branch = e () => (float[2, 3] b) { u = Neg (x) b = Add (u, w) }> }""",
        {"w": (2, 3)},
    ),
    "loop": (
        """g (float[2, 2] x) => (float[2, 2] y, float[m, 2, 2] all) {
            count = Constant <value = int64 {3}> () go = Constant <value = bool {1}> ()
            y, all = Loop (count, go, x) <body = b (int64 i, bool c, float[2, 2] s) =>
                (bool d, float[2, 2] z, float[2, 2] k) { d = Identity (c) z = MatMul (s, w) k = Relu (z) }> }""",
        {"w": (2, 2)},
    ),
    "scan": (
        """g (float[2] first, float[5, 2] x) => (float[2] last, float[5, 2] y) {
            last, y = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] e) => (float[2] o, float[2] v)
                { o = Add (s, e) v = Mul (o, w) }> (first, x) }""",
        {"w": (2,)},
    ),
    "qdq": (
        """g (float[n, 4] x) => (float[n, 3] y) {
            xs = Constant <value = float {0.1}> () xz = Constant <value = uint8 {128}> ()
            q = QuantizeLinear (x, xs, xz) d = DequantizeLinear (q, xs, xz)
            wq = Cast <to = 3> (w) wz = Constant <value = int8 {0}> () v = DequantizeLinear (wq, xs, wz)
            y = MatMul (d, v) }""",
        {"w": (4, 3)},
    ),
    "sequence": (
        """g (float[4, 3] x) => (float[2, 3] y, int64 n) {
            two = Constant <value = int64 {2}> () one = Constant <value = int64 {1}> ()
            s = SplitToSequence <axis = 0> (x, two) t = SequenceInsert (s, w) y = SequenceAt (t, one)
            n = SequenceLength (t) }""",
        {"w": (2, 3)},
    ),
    "constants": (
        """g (float[n, 4] x) => (float[n, 8] y) {
            a = Constant <value_ints = [1, 2]> () lim = Constant <value = int64 {4}> ()
            zero = Constant <value_int = 0> () one = Constant <value_int = 1> ()
            r = Range (zero, lim, one) e = ConstantOfShape <value = float[1] {0.5}> (a)
            t = Tile (e, a) u = Concat <axis = 1> (t, t) z = Expand (u, a) s = Shape (x)
            n = Gather (s, zero) k = Unsqueeze (n, q) l = Constant <value_ints = [8]> ()
            m = Concat <axis = 0> (k, l) q = Constant <value_ints = [0]> ()
            j = MatMul (x, w) f = Reshape (j, m) y = Add (f, b) }""",
        {"w": (4, 8), "b": (8,)},
    ),
    "resize": (
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y) {
            scales = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
            p = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}> () e = Pad (c, p) c = Mul (x, w)
            k = Constant <value = int64[4] {0, 0, 4, 4}> () i = Constant <value = int64[4] {0, 0, 0, 0}> ()
            s = Slice (e, i, k) y = Resize <mode = "nearest"> (s, , scales) }""",
        {"w": (1, 2, 1, 1)},
    ),
    "topk": (
        """g (float[n, 6] x) => (float[n, 2] y, int64[n, 2] i) {
            k = Constant <value_ints = [2]> () h = MatMul (x, w) y, i = TopK <axis = -1> (h, k) }""",
        {"w": (6, 6)},
    ),
    "embedding": (
        """g (int64[n, t] x) => (float[n, 4] y) {
            e = Gather (table, x) p = Constant <value_ints = [1]> () m = ReduceMean <axes = [1], keepdims = 0> (e)
            z = Einsum <equation = "ni,ij->nj"> (m, w) h = Split (z) y = LeakyRelu <alpha = 0.1> (z) }""".replace(
            "h = Split (z) ", ""
        ),
        {"table": (5, 4), "w": (4, 4)},
    ),
    "contrib": (
        """g (float[2, 4] x) => (float[2, 4] y) {
            a = com.microsoft.Gelu (x) b = com.microsoft.FusedMatMul <transB = 1> (a, w)
            c = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (d, d, s) q = Unsqueeze (b, z)
            z = Constant <value_ints = [0]> () d = Identity (q) e = Squeeze (c, z) y = Add (e, x) }""",
        {"w": (4, 4), "s": (4,)},
    ),
    "optional": (
        """g (float[2, 2] x) => (float[2, 2] y) {
            m = Mul (x, w) o = Optional (m) h = OptionalHasElement (o) g = OptionalGetElement (o)
            y = Where (h, g, x) }""",
        {"w": (2, 2)},
    ),
    "strings": (
        """g (string[n] x) => (int64[n] y) {
            s = StringNormalizer <case_change_action = "LOWER"> (x)
            y = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [1, 2], default_int64 = -1> (s)
        }""",
        {},
    ),
    "half": (
        "g (float16[n, 4] x) => (float16[n, 4] y) { k = Cast <to = 10> (w) y = MatMul (x, k) }",
        {"w": (4, 4)},
    ),
}
OPSETS = '"": 17, "ai.onnx.ml": 3, "com.microsoft": 1'


@dataclass(frozen=True)
class Family:
    """Two serialised models by file name, and the data files beside them. `merged`: a file made of them, or
    b'' for what the compiler refuses."""

    name: str
    models: tuple[bytes, bytes]
    data: dict[str, bytes]
    merged: bytes = b""


@functools.cache
def families(folder: Path) -> tuple[Family, ...]:
    """All seeds. The merged ones are made in `folder`."""
    made = [_family(name, functools.partial(_text, *entry)) for name, entry in TEXTS.items()]
    others: dict[str, Callable[[int], ModelProto]] = {
        "trees": _trees, "trees 5": _trees_5, "vectorised": _vectorised, "functions": _functions, "sparse": _sparse,
        "old": lambda k: _text("g (float[n, 4] x) => (float[n, 4] y) { h = Dropout (x) y = Scale_(h) }"
                               .replace("Scale_(h)", "MatMul (h, w)"), {"w": (4, 4)}, k, '"": 11'),
    }  # fmt: skip
    made += [_family(name, build) for name, build in others.items()]
    made.append(_external())
    return tuple(_with_merged(family, folder) for family in made)


def _family(name: str, build: Callable[[int], ModelProto]) -> Family:
    return Family(name, (build(0).SerializeToString(), build(1).SerializeToString()), {})


def _text(text: str, weights: Weights, seed: int, opsets: str = OPSETS) -> ModelProto:
    rng = np.random.default_rng(seed)
    model = _parsed(text, opsets)
    for name, shape in weights.items():
        values = np.abs(rng.standard_normal(shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    _sort(model)
    return model


def _parsed(text: str, opsets: str = OPSETS) -> ModelProto:
    model: ModelProto = onnx.parser.parse_model(f"<ir_version: 9, opset_import: [{opsets}]> {text}")
    return model


def _sort(model: ModelProto) -> None:
    """The nodes in an order that ONNX Runtime takes."""
    nodes, ready = list(model.graph.node), {"", *(t.name for t in model.graph.initializer)}
    ready |= {value.name for value in model.graph.input}
    del model.graph.node[:]
    while nodes:
        node = next(n for n in nodes if ready.issuperset(n.input))
        nodes.remove(node)
        model.graph.node.append(node)
        ready.update(node.output)


def _trees_5(seed: int) -> ModelProto:
    """A TreeEnsemble of ai.onnx.ml 5, whose thresholds and leaves are attributes that hold tensors."""
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, aggregate_function=1, post_transform=0,
        tree_roots=[0], nodes_featureids=[0], nodes_truenodeids=[0], nodes_falsenodeids=[1],
        nodes_trueleafs=[1], nodes_falseleafs=[1], leaf_targetids=[0, 0],
        nodes_modes=numpy_helper.from_array(np.zeros(1, np.uint8)),
        nodes_splits=numpy_helper.from_array(np.float32([0.5 + seed])),
        leaf_weights=numpy_helper.from_array(np.float32([1.0, 2.0 + seed])),
    )  # fmt: skip
    model = _model([node], [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 1])])
    for entry in model.opset_import:
        entry.version = {"": 17, "ai.onnx.ml": 5}.get(entry.domain, entry.version)
    return model


def _trees(seed: int) -> ModelProto:
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1.0, 2.0 + seed],
    )  # fmt: skip
    return _model([node], [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 1])])


def _vectorised(seed: int) -> ModelProto:
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", scale=[1.0 + seed], offset=[0.5]),
        helper.make_node(
            "LinearClassifier", ["s"], ["label", "scores"], domain="ai.onnx.ml",
            coefficients=[1.0, -1.0, 0.5, 2.0], intercepts=[0.0, float(seed)], classlabels_ints=[0, 1],
        ),
        helper.make_node("ZipMap", ["scores"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]  # fmt: skip
    model = _model(nodes, [("x", TensorProto.FLOAT, ["n", 2])], [("label", TensorProto.INT64, ["n"])])
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output.append(helper.make_value_info("map", helper.make_sequence_type_proto(kind)))
    return model


def _functions(seed: int) -> ModelProto:
    text = f"""<ir_version: 9, opset_import: ["": 17, "own": 1]>
        g (float[n, 2] x) => (float[n, 2] y) {{ h = own.twice <alpha = {seed + 1}.0> (x) y = own.outer (h) }}
        <domain: "own", opset_import: ["": 17]> twice <alpha> (a) => (b)
        {{ c = Constant <value_float: float = @alpha> () b = Mul (a, c) }}
        <domain: "own", opset_import: ["": 17, "own": 1]> outer (a) => (b)
        {{ c = own.twice <alpha = 2.0> (a) b = Add (c, a) }}"""
    model: ModelProto = onnx.parser.parse_model(text)
    return model


def _sparse(seed: int) -> ModelProto:
    values = numpy_helper.from_array(np.array([1.0, 2.0 + seed], np.float32), "w")
    places = numpy_helper.from_array(np.array([1, 6], np.int64), "places")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = _model([node], [("x", TensorProto.FLOAT, ["n", 4])], [("y", TensorProto.FLOAT, ["n", 2])])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 2]))
    return model


def _external() -> Family:
    made = []
    data = {}
    for k in range(2):
        model = _parsed("g (float[n, 30] x) => (float[n, 30] y) { h = MatMul (x, w) y = Add (h, v) }")
        rng = np.random.default_rng(k)
        blob = b""
        for name, shape in (("w", (30, 30)), ("v", (30,))):
            raw = rng.standard_normal(shape).astype(np.float32).tobytes()
            tensor = model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            places = (("location", f"w{k}.bin"), ("offset", str(len(blob))), ("length", str(len(raw))))
            for key, value in places:
                tensor.external_data.add(key=key, value=value)
            blob += raw
        data[f"w{k}.bin"] = blob
        made.append(model.SerializeToString())
    return Family("external", (made[0], made[1]), data)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[object]]],
    outputs: list[tuple[str, int, list[object]]],
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info(*entry) for entry in outputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _with_merged(family: Family, folder: Path) -> Family:
    """The family with what merge makes of it."""
    place = folder / family.name
    place.mkdir(parents=True)
    paths = [place / "a.onnx", place / "b.onnx"]
    for path, data in zip(paths, family.models, strict=True):
        path.write_bytes(data)
    for name, data in family.data.items():
        (place / name).write_bytes(data)
    out = place / "merged.onnx"
    netfuse_onnx.merge([str(path) for path in paths], str(out), verify=False)
    return Family(family.name, family.models, family.data, out.read_bytes())
