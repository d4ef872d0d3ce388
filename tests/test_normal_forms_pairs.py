"""Sources that are spelled differently merge with both proofs; what is only nearly the same is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import save
from onnx import ModelProto, numpy_helper
from test_normal_forms import outputs

import netfuse_onnx
from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load.loader import load
from netfuse_onnx.load.spelled import respelled
from netfuse_onnx.match.matcher import match
from netfuse_onnx.storage import weights

DIMS = {
    "k": (4, 3, 3, 3), "b": (4,), "s": (4,), "t": (4,), "m": (4,), "v": (4,), "c": (1, 4, 1, 1), "w": (8, 8), "u": (8, 8),
    "l": (8,), "q": (8, 5), "g": (5,), "r": (5, 8), "tk": (3, 2, 3, 3),
}  # fmt: skip
PICTURE, ROWS, WORDS = "n,3,6,6", "n,8", "n,4,8"
HEADS = """q0 = MatMul(x, w) q1 = Reshape(q0, h) q2 = Transpose<perm=[0,2,1,3]>(q1)
    k0 = MatMul(x, u) k1 = Reshape(k0, h) k2 = Transpose<perm=[0,2,3,1]>(k1)"""
SPLIT = "<int64[4] h = {0,4,2,4}, float a = {0.5}, float d = {2.0}, float e = {0.70710678}, float z = {0.25}>"
PAIRS: dict[str, tuple[str, str, str]] = {
    "BatchNormalization folded": (PICTURE, "{ y = Conv<pads=[1,1,1,1]>(x, k, b) }",
        "{ a = Conv<pads=[1,1,1,1]>(x, k) y = BatchNormalization<epsilon=0.001>(a, s, t, m, v) }"),
    "and written out": (PICTURE, "{ a = Conv(x, k, b) y = BatchNormalization(a, s, t, m, v) }",
        "{ a = Conv(x, k) p = Mul(a, c) y = Add(c, p) }"),
    "of groups, transposed": (PICTURE.replace("3", "3"), "{ a = ConvTranspose(x, tk, g2) y = Relu(a) }",
        "{ a = ConvTranspose(x, tk) n = BatchNormalization(a, s2, t2, m2, v2) y = Relu(n) }"),
    "of a product": (ROWS, "{ y = Gemm<transB=1>(x, r, g) }",
        "{ p = MatMul(x, q) a = Add(p, g) y = BatchNormalization(a, g, g, g, vg) }"),
    "Gemm or MatMul": (ROWS, "{ y = Gemm<transB=1>(x, r, g) }", "{ p = MatMul(x, q) y = Add(g, p) }"),
    "reshaped": (WORDS, "{ p = MatMul(x, w) y = Add(p, l) }",
        "<int64[2] f = {-1,8}, int64[3] o = {-1,4,8}> { a = Reshape(x, f) p = Gemm(a, w, l) y = Reshape(p, o) }"),
    "a scale of scores or queries": (WORDS, f"{SPLIT} {{ {HEADS} p = MatMul(q2, k2) y = Div(p, d) }}",
        f"{SPLIT} {{ {HEADS} q3 = Mul(q2, a) y = MatMul(q3, k2) }}"),
    "a scale of both": (WORDS, f"{SPLIT} {{ {HEADS} q3 = Mul(q2, e) k3 = Mul(k2, e) y = MatMul(q3, k3) }}",
        f"{SPLIT} {{ {HEADS.replace('q0 = MatMul(x, w)', 'qq = MatMul(x, w) q0 = Mul(qq, a)')} y = MatMul(q2, k2) }}"),
    "a pool": (PICTURE, "{ y = GlobalAveragePool(x) }", "<int64[2] a = {-1,-2}> { y = ReduceMean<axes=[2,3]>(x) }"),
    "padding": (PICTURE, "{ y = Conv<pads=[1,0,1,2]>(x, k) }",
        "<int64[8] p = {0,0,1,0,0,0,1,2}> { a = Pad(x, p) y = Conv(a, k) }"),
    "a bias": (PICTURE, "{ y = Conv(x, k, b) }",
        "<int64[4] o = {1,4,1,1}> { a = Conv(x, k) z = Reshape(b, o) y = Add(a, z) }"),
    "what is left over": (WORDS, "{ p = MatMul(x, w) y = Relu(p) }",
        "{ p = MatMul(x, w) d = Dropout(p) i = Cast<to=1>(d) t = Transpose<perm=[1,0,2]>(i) "
        "o = Transpose<perm=[1,0,2]>(t) y = Relu(o) }"),
    "a constant that is computed": (WORDS, "{ p = MatMul(x, w) y = Add(p, l) }",
        "{ t = Transpose(u) p = MatMul(x, t) y = Add(p, l) }"),
}  # fmt: skip
NEARLY: dict[str, tuple[str, str, str]] = {
    "another group": (PICTURE, "{ y = Conv<pads=[1,1,1,1]>(x, k, b) }",
        "{ a = Conv<pads=[0,0,0,0]>(x, k) y = BatchNormalization(a, s, t, m, v) }"),
    "read twice": (PICTURE, "{ y = Conv(x, k, b) }",
        "{ a = Conv(x, k) n = BatchNormalization(a, s, t, m, v) y = Add(n, a) }"),
    "a shift of columns": (PICTURE, "{ y = Conv(x, k, b) }", "{ a = Conv(x, k) y = Add(a, s) }"),
    "not along channels": (WORDS, "{ p = MatMul(x, w) y = Add(p, l) }",
        "{ p = MatMul(x, w) y = BatchNormalization(p, s, t, m, v) }"),
    "a scale that softmax needs": (WORDS, f"{SPLIT} {{ {HEADS} p = MatMul(q2, k2) f = Softmax(p) y = Mul(f, a) }}",
        f"{SPLIT} {{ {HEADS} p = MatMul(q2, k2) m = Mul(p, a) y = Softmax(m) }}"),
    "a mean over columns": (PICTURE, "{ y = GlobalAveragePool(x) }", "{ y = ReduceMean<axes=[1,3]>(x) }"),
    "padded by ones": (PICTURE, "{ y = Conv<pads=[1,0,1,2]>(x, k) }",
        "<int64[8] p = {0,0,1,0,0,0,1,2}, float o = {1.0}> { a = Pad(x, p, o) y = Conv(a, k) }"),
    "a batch normalisation in training": (PICTURE, "{ y = Conv(x, k, b) }",
        "{ a = Conv(x, k) y,n,o = BatchNormalization<training_mode=1>(a, s, t, m, v) }"),
}  # fmt: skip


def model(dims: str, body: str, seed: int, opset: int = 17) -> ModelProto:
    """A model with one input x and one output y; weights are random, variances positive."""
    out = {PICTURE: "n,a,b,c", ROWS: "n,o"}.get(dims, "")
    result = "float y" if not out else f"float[{out}] y"
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}]> g (float[{dims}] x) => ({result}) {body}'
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(seed)
    fixed = {tensor.name for tensor in proto.graph.initializer}
    made = {name for node in proto.graph.node for name in node.output} | {"x"}
    for name in sorted({name for node in proto.graph.node for name in node.input} - fixed - made):
        shape = (4,) if name.endswith("2") else DIMS.get(name, (5,))
        shape = (2,) if name in ("g2", "s2", "t2", "m2", "v2") else shape
        values = rng.standard_normal(shape) * 0.5
        values = np.abs(values) + 0.2 if name.startswith("v") else values
        proto.graph.initializer.append(numpy_helper.from_array(values.astype("f"), name))
    return proto


@pytest.mark.parametrize("order", [(0, 1), (1, 0, 0)])
@pytest.mark.parametrize("name", PAIRS)
def test_two_spellings_merge(name: str, order: tuple[int, ...], tmp_path: Path) -> None:
    dims, *bodies = PAIRS[name]
    protos = [model(dims, bodies[which], seed) for seed, which in enumerate(order)]
    paths = [save(tmp_path / f"m{k}.onnx", proto) for k, proto in enumerate(protos)]
    report = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"))
    assert report.ok and report.proof is not None and report.proof.graph.made
    assert netfuse_onnx.verify(str(tmp_path / "out.onnx"), paths).ok
    if name == "BatchNormalization folded":
        assert report.proof.bytes.elsewhere == 2


@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_the_same_is_refused(name: str, tmp_path: Path) -> None:
    dims, *bodies = NEARLY[name]
    paths = [save(tmp_path / f"m{k}.onnx", model(dims, body, k)) for k, body in enumerate(bodies)]
    with pytest.raises(NotEquivalent):
        netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"))


def test_a_convolution_that_others_read_is_not_computed_twice(tmp_path: Path) -> None:
    dims, _, body = NEARLY["read twice"]
    source = load(save(tmp_path / "m.onnx", model(dims, body, 0)))
    assert not respelled(source).counts and respelled(source).source.graph is source.graph


def test_the_record_tells_models_forms_and_places(tmp_path: Path) -> None:
    dims, *bodies = PAIRS["BatchNormalization folded"]
    paths = [save(tmp_path / f"m{k}.onnx", model(dims, body, k)) for k, body in enumerate(bodies)]
    told = match([load(path) for path in paths], ["a", "b"]).respelled
    assert told is not None and [(row.model, row.form, row.count) for row in told.rows] == [
        ("b", "batch-normalization-folded", 1)
    ]
    assert list(told.sentences()) == ["BatchNormalization was folded into the weights before it (1 in b)."]
    assert len(told.weights) == 2 and told.differing == told.rows and not told.opset


def test_folded_weights_are_those_that_torch_computes(tmp_path: Path) -> None:
    """W s and (b - mean) s + beta, within a unit in the last place of float32."""
    dims, _, body = PAIRS["BatchNormalization folded"]
    proto = model(dims, body, 0)
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    folded = model(dims, PAIRS["BatchNormalization folded"][1], 1)
    root = given["s"] / np.sqrt(given["v"] + np.float32(0.001))
    values = {"k": given["k"] * root[:, None, None, None], "b": given["t"] - given["m"] * root}
    for tensor in folded.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype("f")
    one, other = outputs(proto.SerializeToString(), x), outputs(folded.SerializeToString(), x)
    assert one is not None and other is not None
    np.testing.assert_allclose(one[0], other[0], atol=1e-5)
    paths = [save(tmp_path / "a.onnx", proto), save(tmp_path / "b.onnx", folded)]
    family = match([load(path) for path in paths], ["a", "b"])
    for name, wanted in (("k", values["k"]), ("b", values["b"])):
        parts = next(p for p in family.weights.values() if p[0].shape == wanted.shape)
        first = np.frombuffer(weights.proto(parts[0]).raw_data, np.float32)
        np.testing.assert_allclose(first, wanted.reshape(-1), rtol=3e-7, err_msg=name)
