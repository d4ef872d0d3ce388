"""Families of different kinds, as small ONNX text, for the tests of routed files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import families
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIXES = "may mix the rows of a batch"


@dataclass(frozen=True)
class Kind:
    """A family: its graph, its weights by shape, the shapes of inputs for R rows, what some inputs hold, and
    why it is refused, by slots or by index, if it is."""

    text: str
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    integers: Mapping[str, int] = field(default_factory=dict)
    """Inputs of int64, and the number below which they are."""
    once: tuple[str, ...] = ()
    """Inputs without a batch axis."""
    shared: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Weights that are equal in all models."""
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    opset: int = 17
    finish: Callable[[onnx.ModelProto, int], None] | None = None

    def write(self, folder: Path, models: int) -> list[str]:
        paths = []
        for m in range(models):
            proto = families.model(self.text, self.weights, seed=m, opset=self.opset)
            rng = np.random.default_rng(99)
            for name, shape in self.shared.items():
                value = rng.standard_normal(shape).astype(np.float32)
                proto.graph.initializer.append(numpy_helper.from_array(value, name))
            for name, value in self.constants.items():
                proto.graph.initializer.append(numpy_helper.from_array(value, name))
            if self.finish:
                self.finish(proto, m)
            paths.append(families.save(folder / f"m{m}.onnx", proto))
        return paths

    def draw(self, rows: int, seed: int, once: int = 0) -> dict[str, np.ndarray]:
        """Inputs of some rows. Inputs that are fed once depend on `once` alone."""
        values = {}
        for k, (name, dims) in enumerate(self.inputs.items()):
            rng = np.random.default_rng([once if name in self.once else seed, k])
            shape = [rows if dim == "R" else int(dim) for dim in dims]
            if name in self.integers:
                values[name] = rng.integers(0, self.integers[name], shape)
            else:
                values[name] = rng.standard_normal(shape).astype(np.float32)
        return values


ATTENTION = """g (float[batch, 3, 8] x) => (float[batch, 3, 8] y) {
    s = Shape(x)
    b = Gather <axis: int = 0> (s, zero)
    bu = Unsqueeze(b, axes0)
    split = Concat <axis: int = 0> (bu, tail)
    join = Concat <axis: int = 0> (bu, joined)
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    qs = Reshape(q, split)  ks = Reshape(k, split)  vs = Reshape(v, split)
    qt = Transpose <perm: ints = [0, 2, 1, 3]> (qs)
    kt = Transpose <perm: ints = [0, 2, 3, 1]> (ks)
    vt = Transpose <perm: ints = [0, 2, 1, 3]> (vs)
    qk = MatMul(qt, kt)
    p = Softmax <axis: int = -1> (qk)
    o = MatMul(p, vt)
    ot = Transpose <perm: ints = [0, 2, 1, 3]> (o)
    oj = Reshape(ot, join)
    h = Add(oj, x)
    n = LayerNormalization <axis: int = -1> (h, scale, bias)
    y = MatMul(n, wo)
}"""
DECODER = """g (int64[batch, 1] token, float[batch, past, 8] cache, float[past1] bias)
    => (float[batch, 1, 5] y, float[batch, past1, 8] cache_out) {
    x = Gather <axis: int = 0> (table, token)
    k = MatMul(x, wk)
    cache_out = Concat <axis: int = 1> (cache, k)
    kt = Transpose <perm: ints = [0, 2, 1]> (cache_out)
    s = MatMul(x, kt)
    sb = Add(s, bias)
    p = Softmax <axis: int = -1> (sb)
    o = MatMul(p, cache_out)
    y = MatMul(o, head)
}"""
RECURRENT = """g (float[batch, 4, 3] x) => (float[batch, 5] y) {
    t = Transpose <perm: ints = [1, 0, 2]> (x)
    h, last = LSTM <hidden_size: int = 6> (t, w, r)
    l = Squeeze(last, axes0)
    y = MatMul(l, head)
}"""
QUANTISED = """g (float[batch, 8] x) => (float[batch, 4] y) {
    q = QuantizeLinear(x, sx, zx)
    d = DequantizeLinear(q, sx, zx)
    f = DequantizeLinear(wq, sw)
    m = MatMul(d, f)
    y = Relu(m)
}"""
LAST_TOKEN = """g (int64[batch, 4] ids, int64[batch] length) => (float[batch, 6] y) {
    x = Gather <axis: int = 0> (table, ids)
    h = MatMul(x, w)
    s = Shape(ids)
    b = Gather <axis: int = 0> (s, zero)
    row = Range(zero, b, step)
    ru = Unsqueeze(row, axes1)
    lu = Unsqueeze(length, axes1)
    at = Concat <axis: int = -1> (ru, lu)
    y = GatherND(h, at)
}"""


def _int8(proto: onnx.ModelProto, m: int) -> None:
    rng = np.random.default_rng(m)
    for name, value in (
        ("wq", rng.integers(-99, 99, (8, 4)).astype(np.int8)),
        ("sw", np.float32(0.01 * (m + 1))),
        ("sx", np.float32(0.05)),
        ("zx", np.int8(0)),
    ):
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _tree(proto: onnx.ModelProto, m: int) -> None:
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[m % 3, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.1 * m, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0],
        target_weights=[1.0 + m, -1.0 - m],
    )  # fmt: skip
    del proto.graph.node[:]
    proto.graph.node.append(node)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))


def _detector(proto: onnx.ModelProto, m: int) -> None:
    for name, dtype, values in (("most", TensorProto.INT64, [2]), ("iou", TensorProto.FLOAT, [0.5])):
        proto.graph.initializer.append(helper.make_tensor(name, dtype, [1], values))


ZERO = {"zero": np.int64(0), "axes0": np.array([0])}
KINDS = {
    "mlp": Kind(families.MLP_TEXT, families.MLP, {"x": ("R", 8)}),
    "cnn": Kind(
        """g (float[batch, 2, 5, 5] x) => (float[batch, 3] y) {
            c = Conv <pads: ints = [1, 1, 1, 1]> (x, k, b)
            r = Relu(c)
            p = GlobalAveragePool(r)
            f = Flatten <axis: int = 1> (p)
            y = Gemm <transB: int = 1> (f, w, v)
        }""",
        {"k": (4, 2, 3, 3), "b": (4,), "w": (3, 4), "v": (3,)},
        {"x": ("R", 2, 5, 5)},
    ),
    "frozen backbone": Kind(
        """g (float[batch, 2, 5, 5] x) => (float[batch, 3] y) {
            c = Conv <pads: ints = [1, 1, 1, 1]> (x, k)
            r = Relu(c)
            m = ReduceMean <axes: ints = [2, 3], keepdims: int = 0> (r)
            y = MatMul(m, w)
        }""",
        {"w": (4, 3)},
        {"x": ("R", 2, 5, 5)},
        shared={"k": (4, 2, 3, 3)},
    ),
    "adapters": Kind(
        """g (float[batch, 3, 8] x) => (float[batch, 3, 8] y) {
            h = MatMul(x, w)
            a1 = MatMul(x, a)
            b1 = MatMul(a1, b)
            y = Add(h, b1)
        }""",
        {"a": (8, 2), "b": (2, 8)},
        {"x": ("R", 3, 8)},
        shared={"w": (8, 8)},
    ),
    "transformer": Kind(
        ATTENTION,
        {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8), "scale": (8,), "bias": (8,)},
        {"x": ("R", 3, 8)},
        constants={**ZERO, "tail": np.array([3, 2, 4]), "joined": np.array([3, 8])},
    ),
    "decoder with a cache": Kind(
        DECODER,
        {"table": (7, 8), "wk": (8, 8), "head": (8, 5)},
        {"token": ("R", 1), "cache": ("R", 4, 8), "bias": (5,)},
        integers={"token": 7},
        once=("bias",),
    ),
    "lstm": Kind(
        RECURRENT,
        {"w": (1, 24, 3), "r": (1, 24, 6), "head": (6, 5)},
        {"x": ("R", 4, 3)},
        constants=ZERO,
        refused={"index": "a recurrent operator holds one set of weights"},
    ),
    "quantised": Kind(QUANTISED, {}, {"x": ("R", 8)}, finish=_int8),
    "trees": Kind(
        "g (float[batch, 3] x) => (float[batch, 1] y) { y = Identity(x) }",
        {},
        {"x": ("R", 3)},
        refused={"index": "its attributes differ between the models"},
        finish=_tree,
    ),
    "last token": Kind(
        LAST_TOKEN,
        {"table": (7, 5), "w": (5, 6)},
        {"ids": ("R", 4), "length": ("R",)},
        integers={"ids": 7, "length": 4},
        constants={**ZERO, "step": np.int64(1), "axes1": np.array([1])},
    ),
    "two heads": Kind(
        """g (float[batch, 8] x, float[batch, 8] z) => (float[batch, 4] y, float[batch, 2] s) {
            a = MatMul(x, w)
            b = MatMul(z, w)
            y = Add(a, b)
            t = MatMul(x, v)
            s = Sigmoid(t)
        }""",
        {"w": (8, 4), "v": (8, 2)},
        {"x": ("R", 8), "z": ("R", 8)},
    ),
    "detector": Kind(
        """g (float[batch, 3, 4] boxes, float[batch, 2, 3] scores) => (int64[n, 3] y) {
            t = Mul(boxes, w)
            y = NonMaxSuppression(t, scores, most, iou)
        }""",
        {"w": (3, 4)},
        {"boxes": ("R", 3, 4), "scores": ("R", 2, 3)},
        refused={"slots": MIXES, "index": MIXES},
        finish=_detector,
    ),
    "softmax over the batch": Kind(
        "g (float[batch, 8] x) => (float[batch, 4] y) { h = MatMul(x, w) y = Softmax <axis: int = 0> (h) }",
        {"w": (8, 4)},
        {"x": ("R", 8)},
        refused={"slots": MIXES, "index": MIXES},
    ),
    "centred": Kind(
        """g (float[batch, 8] x) => (float[batch, 4] y) {
            h = MatMul(x, w)
            m = ReduceMean <axes: ints = [0]> (h)
            y = Sub(h, m)
        }""",
        {"w": (8, 4)},
        {"x": ("R", 8)},
        refused={"slots": MIXES, "index": MIXES},
    ),
    "a row of its own": Kind(
        "g (float[batch, 8] x) => (float[batch, 4] y) { h = MatMul(x, w) y = Add(h, v) }",
        {"w": (8, 4), "v": (3, 4)},
        {"x": ("R", 8)},
        refused={"slots": MIXES, "index": MIXES},
    ),
    "entries of several rows in a pair": Kind(
        """g (float[batch, odd] x) => (float[batch, odd] y) {
            p = Reshape(x, to)
            s = Softmax <axis: int = 1> (p)
            h = Mul(s, w)
            d = Shape(x)
            y = Reshape(h, d)
        }""",
        {"w": (2,)},
        {"x": ("R", 3)},
        constants={"to": np.array([-1, 2])},
        refused={"slots": MIXES, "index": MIXES},
    ),
    "pairs of a row": Kind(
        """g (float[batch, 3, 4] x) => (float[batch, 3, 4] y) {
            p = Reshape(x, to)
            s = Softmax <axis: int = 1> (p)
            h = Mul(s, w)
            d = Shape(x)
            y = Reshape(h, d)
        }""",
        {"w": (2,)},
        {"x": ("R", 3, 4)},
        constants={"to": np.array([-1, 2])},
    ),
    "rows of pairs": Kind(
        """g (float[batch, 8] x) => (float[pairs, 16] y) { h = MatMul(x, w) y = Reshape(h, to) }""",
        {"w": (8, 8)},
        {"x": ("R", 8)},
        constants={"to": np.array([-1, 16])},
        refused={"slots": MIXES, "index": MIXES},
    ),
    "halves of rows": Kind(
        """g (float[batch, 8] x) => (float[halves, 4] y) { h = MatMul(x, w) y = Reshape(h, to) }""",
        {"w": (8, 8)},
        {"x": ("R", 8)},
        constants={"to": np.array([-1, 4])},
        refused={"slots": "has no leading axis", "index": "has no leading axis"},
    ),
}
"""The families by name."""
