"""Graphs for which a form once gave other values or shapes: now it gives the same, or does not apply."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from families import save
from test_normal_forms import runnable

from netfuse_onnx.load import opset, spelled
from netfuse_onnx.load.loader import load

LAYER_NORM = """g (float[2,3,4] x) => (float y)
    <NUMBERS, float e = {0.001}, float[4] w = {1,2,3,4}> {
    m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) SQUARE v = ReduceMean<axes=[-1]>(q) a = Add(v, e) ROOT y = Mul(d, w) }"""


def _layer_norm(numbers: str, square: str, root: str) -> str:
    return LAYER_NORM.replace("NUMBERS", numbers).replace("SQUARE", square).replace("ROOT", root)


def _positions(indices: str) -> str:
    """Rows of x by indices that count from 0 to the size of a, which are broadcast to 5 of them."""
    return f"""g (float[5,4] x, float[n] a) => (float y)
        <int64[1] five = {{5}}, int64[1] zeros = {{0}}, int64 zero = {{0}}, int64 one = {{1}}> {{
        n = Shape(a) k = Squeeze(n, zeros) r = Range(zero, k, one) {indices} g = Gather<axis=0>(x, i) y = Relu(g) }}"""


GRAPHS = {
    "a Clip whose upper bound is below the lower one": "g (float[2,4] x) => (float y) "
    "<float t = {3.0}, float z = {0.0}, float h = {-6.0}> { a = Mul(x, t) b = Add(a, t) c = Clip(b, z, h) y = Div(c, h) }",
    "a bias that adds an axis before BatchNormalization": "g (float[5,4] x) => (float y) <float[4,5] w = "
    "{1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2,1,2,3,4}, float[1,1,5] b = {1,2,3,4,5}, float[5] s = {1,2,3,4,5}> "
    "{ p = MatMul(x, w) a = Add(p, b) y = BatchNormalization(a, s, s, s, s) }",
    "steps without axes": "g (float[6,6] x) => (float y) <int64[1] s = {1}, int64[1] e = {3}, int64[1] one = {1}, "
    "int64[1] zero = {0}, int64[1] two = {2}> { b = Slice(x, zero, two, zero) y = Slice(b, s, e, , one) }",
    "a square that adds an axis": _layer_norm("float[1,1,1,1] two = {2}", "q = Pow(c, two)", "r = Sqrt(a) d = Div(c, r)"),
    "a root that adds an axis": _layer_norm("float[1,1,1,1] h = {0.5}", "q = Mul(c, c)", "r = Pow(a, h) d = Div(c, r)"),
    "a reciprocal that adds an axis": _layer_norm(
        "float[1,1,1,1] h = {1}", "q = Mul(c, c)", "s = Sqrt(a) r = Div(h, s) d = Mul(c, r)"
    ),
    "keepdims of 2, which ONNX Runtime takes for 0": "g (float[2,3,4,5] x) => (float y) "
    "{ a = ReduceMean<axes=[2,3], keepdims=2>(x) y = Relu(a) }",
    "positions that are expanded": _positions("i = Expand(r, five)"),
    "positions that are moved and expanded": _positions("p = Add(r, n) q = Sub(p, n) i = Expand(q, five)"),
}  # fmt: skip
ENDS = {
    "Max": "g (float[n,4] x) => (float y) <float t = {0.5}> { y = Max(x, t) }",
    "Min": "g (float[n,4] x) => (float y) <float t = {0.5}> { y = Min(x, t) }",
    "Max and Min": "g (float[n,4] x) => (float y) <float t = {0.5}, float h = {2}> { a = Max(x, t) y = Min(a, h) }",
    "Clip from 0": "g (float[n,4] x) => (float y) <float z = {0}> { y = Clip(x, z) }",
    "Clip of Relu": "g (float[n,4] x) => (float y) <float t = {-1}, float h = {2}> { a = Relu(x) y = Clip(a, t, h) }",
}


def before_and_after(
    text: str, feeds: dict[str, np.ndarray], folder: Path, chosen: frozenset[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs of ONNX Runtime for a graph, and for its one spelling."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {text}')
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    source = opset.align([load(save(folder / "m.onnx", proto))])[0]
    (spelling,) = spelled.of_family([source], chosen)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    models = (proto.SerializeToString(), runnable(spelling.source))
    one, other = (onnxruntime.InferenceSession(each, options).run(None, feeds)[0] for each in models)
    return one, other


@pytest.mark.parametrize("name", GRAPHS)
def test_no_form_gives_other_values(name: str, tmp_path: Path) -> None:
    text = GRAPHS[name]
    dims = [int(size) for size in text[text.index("[") + 1 : text.index("]")].split(",")]
    feeds = {"x": np.random.default_rng(0).standard_normal(dims).astype("f")}
    if "float[n] a" in text:
        feeds["a"] = np.ones(1, "f")
    one, other = before_and_after(text, feeds, tmp_path, spelled.ALL)
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENDS)
def test_exact_forms_keep_infinity(name: str, tmp_path: Path) -> None:
    x = np.array([[np.nan, 1, -np.inf, np.inf]], "f")
    one, other = before_and_after(ENDS[name], {"x": x}, tmp_path, spelled.EXACT)
    np.testing.assert_array_equal(one, other)
