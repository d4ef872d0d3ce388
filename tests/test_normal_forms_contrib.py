"""Operators of ONNX Runtime and what the standard has for them are one architecture, and compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import save
from onnx import numpy_helper
from test_normal_forms import outputs, runnable

import netfuse_onnx
from netfuse_onnx.load import spelled
from netfuse_onnx.load.loader import load

PAIRS: dict[str, tuple[str, str]] = {
    "Gelu": ("y = com.microsoft.Gelu(x)", "y = Gelu(x)"),
    "BiasGelu": ("y = com.microsoft.BiasGelu(x, b)", "z = Add(x, b) y = Gelu(z)"),
    "FastGelu": ("y = com.microsoft.FastGelu(x, b)", 'z = Add(x, b) y = Gelu<approximate="tanh">(z)'),
    "FastGelu without a bias": ("z = Add(x, b) y = com.microsoft.FastGelu(z)", 'z = Add(x, b) y = Gelu<approximate="tanh">(z)'),
    "QuickGelu": ("z = Add(x, b) y = com.microsoft.QuickGelu<alpha=1.0>(z)", "z = Add(x, b) s = Sigmoid(z) y = Mul(z, s)"),
    "FusedMatMul": ("y = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, w)",
        "<float h = {0.5}> { t = Transpose<perm=[1,0]>(w) p = MatMul(x, t) y = Mul(p, h) }"),
    "SkipLayerNormalization": ("y = com.microsoft.SkipLayerNormalization<epsilon=0.001>(x, x, b, c)",
        "z = Add(x, x) y = LayerNormalization<epsilon=0.001>(z, b, c)"),
    "its sum": ("n,,,z = com.microsoft.SkipLayerNormalization(x, x, b, c, b) y = Mul(n, z)",
        "s = Add(x, x) z = Add(s, b) n = LayerNormalization<epsilon=1e-12>(z, b, c) y = Mul(n, z)"),
    "RMS": ("z = Add(x, b) y = SimplifiedLayerNormalization(z, c)", "z = Add(x, b) y = RMSNormalization(z, c)"),
    "RMS of a sum": ("y = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.00001>(x, x, b)",
        "z = Add(x, x) y = RMSNormalization(z, b)"),
}  # fmt: skip


def model(body: str, seed: int, opset: int) -> onnx.ModelProto:
    """A model of x [n, 3, 4] with weights w [4, 4], b [4] and c [4]."""
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> g (float[n,3,4] x) => (float[n,3,4] y)'
    proto = onnx.parser.parse_model(f"{head} {body if body.startswith('<') else '{ ' + body + ' }'}")
    rng = np.random.default_rng(seed)
    for name, dims in (("w", (4, 4)), ("b", (4,)), ("c", (4,))):
        if any(name in node.input for node in proto.graph.node):
            proto.graph.initializer.append(
                numpy_helper.from_array(rng.standard_normal(dims).astype("f"), name)
            )
    return proto


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("swapped", [False, True])
def test_what_the_runtime_fuses_merges_with_the_standard(name: str, swapped: bool, tmp_path: Path) -> None:
    fused, plain = PAIRS[name]
    opset = 23 if name.startswith("RMS") else 20
    protos = [model(fused, 0, opset if swapped else 17), model(plain, 1, opset)]
    paths = [
        save(tmp_path / f"m{k}.onnx", proto) for k, proto in enumerate(protos[::-1] if swapped else protos)
    ]
    report = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"))
    assert report.ok and report.proof is not None and report.proof.graph.made
    assert not report.lowered.replicated


@pytest.mark.parametrize("name", PAIRS)
def test_what_becomes_of_it_computes_the_same(name: str, tmp_path: Path) -> None:
    proto = model(PAIRS[name][0], 0, 17)
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("f")
    (spelling,) = spelled.of_family([load(save(tmp_path / "m.onnx", proto))])
    assert spelling.counts
    got, want = outputs(runnable(spelling.source), x), outputs(proto.SerializeToString(), x)
    assert got is not None and want is not None
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=2e-5)
