"""ONNX Runtime's fusions in a merged graph: how bench/fusions.py counts them, and patterns kept in their order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import netfuse_onnx
from bench import fusions

GELU = (
    "a = MatMul(x, w) d = Div(a, r) e = Erf(d) f = Add(e, one) {products} z = Relu(g) y = MatMul(z, u)",
    "h = Mul(half, f) g = Mul(a, h)",
    "h = Mul(a, f) g = Mul(h, half)",
)


def _gelu(folder: Path, products: str, half: float = 0.5) -> list[str]:
    paths = []
    for seed in range(3):
        body = GELU[0].format(products=products)
        text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4, 8] x) => (float[n, 4, 8] y) {{ {body} }}'
        model, rng = onnx.parser.parse_model(text), np.random.default_rng(seed)
        numbers = {"r": 2**0.5, "one": 1.0, "half": half}
        drawn = {"w": rng.standard_normal((8, 16)), "u": rng.standard_normal((16, 8))}
        for name, value in {**numbers, **drawn}.items():
            tensor = onnx.numpy_helper.from_array(np.asarray(value, np.float32), name)
            model.graph.initializer.append(tensor)
        paths.append(str(folder / f"{seed}.onnx"))
        onnx.save(model, paths[-1])
    return paths


def _seen(path: str) -> Counter[str]:
    feeds = {name: np.ones((1, 4, 8), np.float32) for name in ("x", "0/x", "1/x", "2/x")}
    return fusions.seen(path, feeds, 1).ops


def test_gelu_is_written_in_the_order_that_is_fused(tmp_path: Path) -> None:
    paths, out = _gelu(tmp_path, GELU[1]), str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, out)
    assert _seen(paths[0])["Gelu"] == 0
    assert _seen(out)["Gelu"] == 1


@pytest.mark.parametrize(("products", "half"), [(GELU[2], 0.5), (GELU[1], 0.25)])
def test_other_products_stay(tmp_path: Path, products: str, half: float) -> None:
    out = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(_gelu(tmp_path, products, half), out)
    nodes = {node.output[0]: set(node.input) for node in onnx.load(out).graph.node}
    assert ("half" in nodes["g"]) == (products == GELU[2])


def test_what_stands_alone() -> None:
    graph = onnx.parser.parse_graph(
        "g (float[4, 8, 8] x) => (float[4, 8, 8] y) <float[4, 8, 8] w, float[4, 1, 8] b, float[8] ones> {"
        " [product] m = MatMul(x, w) [bias] n = Add(m, b) [sum] s = Add(n, x)"
        " [norm] l = LayerNormalization(s, ones) [scale] t = Mul(l, b) [shift] u = Add(t, b)"
        " [conv] c = Conv(u, w) [act] y = Relu(c) }"
    )
    for name in ("w", "b", "ones"):
        graph.initializer.append(onnx.TensorProto(name=name))
    assert fusions.roles(graph) == {
        "bias": fusions.BIAS,
        "sum": fusions.SKIP,
        "scale": fusions.AFFINE,
        "shift": fusions.AFFINE,
        "act": fusions.ACT,
    }
    found = fusions.count(graph, {"scale": 2.0, "shift": 1.0})
    assert found.roles[fusions.AFFINE] == 2 and found.role_seconds[fusions.AFFINE] == found.seconds == 3.0


def test_fusions_lost() -> None:
    source = {"SkipLayerNormalization": 24, "Gelu": 12, "MatMul": 84}
    assert fusions.lost(source, {"Gelu": 12, "LayerNormalization": 25}) == {"SkipLayerNormalization": 24}
    seen = fusions.Seen(Counter(source)), fusions.Seen(Counter(Gelu=12))
    assert "lost, cpu: 24 SkipLayerNormalization" in fusions.table(
        dict(zip(("source", "cpu"), seen, strict=True)), 4
    )
