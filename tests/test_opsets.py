"""Files of old opsets: what they compute at a newer one is what ONNX Runtime computes of them as they are.

Each model is raised alone, and merged as a family with both proofs, which run the files themselves.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from families import save
from onnx import helper, numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import FileFault
from netfuse_onnx.load import opset, rebuild
from netfuse_onnx.load.loader import load
from netfuse_onnx.report import MergeReport

Array = np.ndarray[Any, Any]
Text = tuple[int, str]

CASES: dict[str, Text] = {
    "softmax 1": (8, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=1>(x) }"),
    "softmax of images": (9, "g (float[n,3,1,1] x) => (float[n,3,1,1] y) { y = Softmax(x) }"),
    "softmax 0": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=0>(x) }"),
    "softmax -2": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax<axis=-2>(x) }"),
    "hardmax": (8, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax(x) }"),
    "softmax last": (8, "g (float[2,3,n] x) => (float[2,3,n] y) { y = LogSoftmax<axis=2>(x) }"),
    "spatial": (8, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] s = {1,2,3}> "
        "{ y = BatchNormalization<spatial=1, momentum=0.5>(x, s, s, s, s) }"),
    "not spatial": (8, "g (float[2,3,2] x) => (float[2,3,2] y) <float[3,2] s = {1,2,3,4,5,6}> "
        "{ y = BatchNormalization<spatial=0, epsilon=0.125>(x, s, s, s, s) }"),
    "dropout": (7, "g (float[2,3] x) => (float[2,3] y) { a = Dropout<ratio=0.25>(x) y = Neg(a) }"),
    "max pool": (7, "g (float[1,2,6,6] x) => (float[1,2,3,3] y) "
        "{ y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,0]>(x) }"),
    "places": (8, "g (float[1,2,6,6] x) => (float[1,2,3,3] y, int64[1,2,3,3] i) "
        "{ y, i = MaxPool<kernel_shape=[2,2], strides=[2,2], storage_order=0>(x) }"),
    "average pool": (7, "g (float[1,2,6,6] x) => (float[1,2,3,3] y) { y = AveragePool"
        "<kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,0], count_include_pad=1>(x) }"),
    "lp pool": (8, "g (float[1,2,6,6] x) => (float[1,2,3,3] y) "
        "{ y = LpPool<kernel_shape=[2,2], strides=[2,2], p=2>(x) }"),
    "upsample nearest": (7, "g (float[1,2,3,4] x) => (float[1,2,6,10] y) "
        '{ y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.5]>(x) }'),
    "upsample linear": (8, "g (float[1,2,3,4] x) => (float[1,2,6,10] y) "
        '{ y = Upsample<mode="linear", scales=[1.0,1.0,2.0,2.5]>(x) }'),
    "upsample computed": (9, "g (float[1,2,3,4] x, float[2] a) => (float[b,c,d,e] y) <float[2] f = {1.0, 1.0}, "
        "float[2] two = {1.0, 1.5}> { p = Max(a, two) s = Concat<axis=0>(f, p) y = Upsample(x, s) }"),
    "resize up": (10, "g (float[1,2,3,4] x) => (float[1,2,6,10] y) <float[4] s = {1.0,1.0,2.0,2.5}> "
        "{ y = Resize(x, s) }"),
    "resize down": (10, "g (float[1,2,7,8] x) => (float[1,2,4,5] y) <float[4] s = {1.0,1.0,0.6,0.7}> "
        "{ y = Resize(x, s) }"),
    "resize both": (10, "g (float[1,2,7,4] x) => (float[1,2,4,6] y) <float[4] s = {1.0,1.0,0.6,1.5}> "
        "{ y = Resize(x, s) }"),
    "resize linear": (10, "g (float[1,2,7,4] x) => (float[1,2,4,6] y) <float[4] s = {1.0,1.0,0.6,1.5}> "
        '{ y = Resize<mode="linear">(x, s) }'),
    "resize computed": (10, "g (float[1,2,3,4] x, float[2] a) => (float[b,c,d,e] y) <float[2] f = {1.0, 1.0}, "
        "float[2] two = {1.0, 1.5}> { p = Max(a, two) s = Concat<axis=0>(f, p) y = Resize(x, s) }"),
    "clip": (8, "g (float[2,3] x) => (float[2,3] y) { a = Clip<min=-0.5>(x) b = Clip<max=0.25>(a) y = Neg(b) }"),
    "clip nothing": (8, "g (float[2,3] x) => (float[2,3] y) { a = Clip(x) y = Neg(a) }"),
    "pads": (8, "g (float[2,3] x) => (float[4,5] y) { y = Pad<pads=[1,0,1,2], value=1.5>(x) }"),
    "reflect": (8, 'g (float[2,3] x) => (float[2,7] y) { y = Pad<mode="reflect", pads=[0,2,0,2]>(x) }'),
    "edge": (8, 'g (float[2,3] x) => (float[2,7] y) { y = Pad<mode="edge", pads=[0,2,0,2]>(x) }'),
    "slice": (8, "g (float[4,6] x) => (float[2,3] y) { y = Slice<axes=[1,0], starts=[-4,1], ends=[-1,3]>(x) }"),
    "slice all": (8, "g (float[4,6] x) => (float[a,b] y) { y = Slice<starts=[1,2], ends=[9999,-1]>(x) }"),
    "top": (8, "g (float[2,5] x) => (float[2,3] v, int64[2,3] i) { v, i = TopK<k=3>(x) }"),
    "top 0": (9, "g (float[5,2] x) => (float[3,2] v, int64[3,2] i) { v, i = TopK<k=3, axis=0>(x) }"),
    "squeeze": (8, "g (float[2,1,3,1] x) => (float[3,2] y) { a = Squeeze(x) y = Transpose(a) }"),
    "squeeze axes": (8, "g (float[2,1,3,1] x) => (float[2,1,3,1,1] y) { a = Squeeze<axes=[1,3]>(x) "
        "y = Unsqueeze<axes=[1,3,4]>(a) }"),
    "split": (8, "g (float[2,6] x) => (float[2,2] a, float[2,4] b) { a, b = Split<axis=1, split=[2,4]>(x) }"),
    "equal parts": (8, "g (float[6,2] x) => (float[2,2] a, float[2,2] b, float[2,2] c) { a, b, c = Split(x) }"),
    "reduce": (8, "g (float[2,3,4] x) => (float[2,1,4] a, float[2] b, float[1,1,1] c, float[3] d) { "
        "a = ReduceSum<axes=[1]>(x) b = ReduceMean<axes=[1,2], keepdims=0>(x) c = ReduceMax(x) "
        "d = ReduceL2<axes=[0,2], keepdims=0>(x) }"),
    "arg": (8, "g (float[2,3] x) => (int64[2] a, int64[1,3] b) { a = ArgMax<axis=1, keepdims=0>(x) b = ArgMin(x) }"),
    "expand": (8, "g (float[3,1] x) => (float[2,3,4] y) <int64[3] s = {2,1,4}> { y = Expand(x, s) }"),
    "prelu": (7, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3,1] s = {0.1,0.2,0.3}> { y = PRelu(x, s) }"),
    "instance": (7, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] s = {1,2,3}> "
        "{ y = InstanceNormalization<epsilon=0.01>(x, s, s) }"),
    "cast": (7, "g (float[2,3] x) => (double[2,3] y) { a = Cast<to=7>(x) y = Cast<to=11>(a) }"),
    "gemm": (7, "g (float[2,3] x) => (float[2,2] y) <float[2,3] w = {1,2,3,4,5,6}, float[2] c = {1,2}> "
        "{ y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, c) }"),
    "flatten": (8, "g (float[2,3,4] x) => (float[6,4] y, float[1,24] z) { y = Flatten<axis=2>(x) "
        "z = Flatten<axis=0>(x) }"),
    "scatter": (9, "g (float[3,4] x) => (float[3,4] y) <int64[2,2] i = {1,0,2,1}, float[2,2] u = {5,6,7,8}> "
        "{ y = Scatter<axis=0>(x, i, u) }"),
    "one hot": (9, "g (int64[2,3] x) => (float[2,3,4] y) <int64[1] d = {4}, float[2] v = {-1, 3}> "
        "{ y = OneHot(x, d, v) }"),
    "tile": (8, "g (float[2,3] x) => (float[4,9] y) <int64[2] r = {2,3}> { y = Tile(x, r) }"),
    "max of three": (8, "g (float[2,3] x) => (float[2,3] y) <float[3] a = {0.1,0.2,-1}, float[1] b = {0}> "
        "{ c = Max(x, a, b) d = Mean(x, a, c) y = Sum(d, a, b) }"),
    "regions": (10, "g (float[1,2,8,8] x) => (float[2,2,3,3] y) <float[2,4] r = {0,0,4,5,1.5,2,6,7}, "
        "int64[2] b = {0,0}> { y = RoiAlign<output_height=3, output_width=3, sampling_ratio=2>(x, r, b) }"),
    "axis of quantisation": (10, "g (float[2,3] x) => (float[2,3] y) <float s = {0.1}, uint8 z = {128}> "
        "{ a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }"),
    "where and shapes": (9, "g (float[n,3] x) => (float[m,3] y) <float zero = {0}> { s = Shape(x) "
        "c = ConstantOfShape<value = float[1] {2.0}>(s) g = Greater(x, zero) y = Where(g, x, c) }"),
    "loop": (8, """g (float[2,3] x) => (float[2,3] y, float[4,2,3] z) <int64 m = {4}, bool t = {1}> {
        y, z = Loop(m, t, x) <body = b (int64 i, bool c, float[2,3] a) => (bool d, float[2,3] e, float[2,3] f) {
            d = Cast<to=9>(c) s = Slice<axes=[1], starts=[0], ends=[1]>(a) q = Softmax<axis=1>(a)
            f = Mul(q, s) e = Add(a, f) }> }"""),
    "if": (8, """g (float[2,3,4] x) => (float[2,3,4] y) <float zero = {0}> {
        s = ReduceSum<keepdims=0>(x) c = Greater(s, zero)
        y = If(c) <then_branch = t () => (float[2,3,4] o) { u = Unsqueeze<axes=[0]>(x) o = Squeeze<axes=[0]>(u) },
          else_branch = e () => (float[2,3,4] o) { o = Softmax<axis=1>(x) }> }"""),
    "scan 9": (9, """g (float[2] s, float[5,2] x) => (float[2] t, float[5,2] y) {
        t, y = Scan<num_scan_inputs=1, body = b (float[2] a, float[2] v) => (float[2] n, float[2] o) {
            n = Add(a, v) o = Clip<min=-1.0, max=1.0>(n) }>(s, x) }"""),
}  # fmt: skip


def model(text: str, version: int, weights: dict[str, Array] | None = None) -> onnx.ModelProto:
    found = onnx.parser.parse_model(f'<ir_version: 4, opset_import: ["" : {version}]> {text}')
    for name, values in (weights or {}).items():
        found.graph.initializer.append(numpy_helper.from_array(values, name))
    return found


def fed(proto: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    """Random values for the inputs; a symbolic size is 2."""
    rng = np.random.default_rng(seed)
    stored = {tensor.name for tensor in proto.graph.initializer}
    found: dict[str, Array] = {}
    for info in proto.graph.input:
        if info.name not in stored:
            shape = [dim.dim_value or 2 for dim in info.type.tensor_type.shape.dim]
            kind = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            draws = rng.integers(-3, 4, shape) if kind == np.int64 else rng.standard_normal(shape) * 2
            found[info.name] = draws.astype(kind)
    return found


def run(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: list[Array] = ort.InferenceSession(proto.SerializeToString(), options).run(None, feeds)
    return found


def raised(folder: Path, proto: onnx.ModelProto, version: int = 17) -> onnx.ModelProto:
    """The model at another opset, as load gives it."""
    source = load(save(folder / "old.onnx", proto), opset=version)
    result = rebuild.model(source)
    result.ir_version = 8
    return result


def equal(proto: onnx.ModelProto, other: onnx.ModelProto, count: int = 3) -> None:
    for seed in range(count):
        feeds = fed(proto, seed)
        for ours, theirs in zip(run(proto, feeds), run(other, feeds), strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-6)


def proven(folder: Path, protos: list[onnx.ModelProto], **options: Any) -> MergeReport:
    paths = [save(folder / f"m{k}.onnx", proto) for k, proto in enumerate(protos)]
    report = netfuse_onnx.merge(paths, str(folder / "merged.onnx"), **options)
    assert report.ok and report.proof is not None and report.proof.graph.made
    return report


STAYS = {"resize both", "resize computed"}
"""Those whose meaning no newer opset has."""


@pytest.mark.parametrize("goal", [13, 17, 18, 21])
@pytest.mark.parametrize("name", [name for name in CASES if name not in STAYS])
def test_old_files_compute_the_same_at_a_newer_opset(name: str, goal: int, tmp_path: Path) -> None:
    version, text = CASES[name]
    proto = model(text, version)
    other = raised(tmp_path, proto, goal)
    assert other.opset_import[0].version == goal
    equal(proto, other)


@pytest.mark.parametrize("name", CASES)
def test_old_files_merge(name: str, tmp_path: Path) -> None:
    version, text = CASES[name]
    proto = model(text, version)
    proven(tmp_path, [proto, proto])
    merged = onnx.load(tmp_path / "merged.onnx").opset_import
    assert {entry.version for entry in merged if not entry.domain} == {version if name in STAYS else 17}
