"""Files of old opsets: what they compute at a newer one is what ONNX Runtime computes of them as they are.

Each model is raised alone, and merged as a family with both proofs, which run the files themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from families import save
from onnx import helper, numpy_helper
from test_load import full

import netfuse_onnx
from netfuse_onnx.errors import FileFault, NotEquivalent
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


CASES |= {
    "average pool up": (11, "g (float[1,2,7,7] x) => (float[1,2,h,w] y) { y = AveragePool<kernel_shape=[3,3], "
        "strides=[2,2], pads=[1,0,1,0], ceil_mode=1, count_include_pad=1>(x) }"),
    "max pool up": (11, "g (float[1,2,7,8] x) => (float[1,2,h,w] y, int64[1,2,h,w] i) { y, i = MaxPool"
        "<kernel_shape=[2,3], strides=[2,2], dilations=[2,1], pads=[1,1,0,1], ceil_mode=1>(x) }"),
    "transposed": (11, "g (float[1,2,4,4] x) => (float[1,3,h,w] y) <int64[4] s = {2,3,3,3}> { w = ConstantOfShape<value=float[1]{0.5}>(s) "
        "y = ConvTranspose<strides=[2,2], pads=[1,1,0,0], output_padding=[1,0]>(x, w) }"),
    "cubic": (11, "g (float[1,1,5,4] x) => (float[1,1,h,w] y) <float[0] r = {}, float[4] s = {1,1,1.5,2.5}> "
        '{ y = Resize<mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1>(x, r, s) }'),
    "to sizes": (11, "g (float[1,1,5,4] x) => (float[1,1,7,3] y) <float[0] r = {}, int64[4] s = {1,1,7,3}> "
        '{ y = Resize<mode="nearest", nearest_mode="round_prefer_ceil", '
        'coordinate_transformation_mode="align_corners">(x, r, r, s) }'),
    "cropped": (11, "g (float[1,1,6,6] x) => (float[1,1,3,3] y) <float[8] r = {0,0,0.1,0.2,1,1,0.7,0.8}, "
        "float[0] e = {}, int64[4] s = {1,1,3,3}> { y = Resize<mode=\"linear\", extrapolation_value=2.0, "
        'coordinate_transformation_mode="tf_crop_and_resize">(x, r, e, s) }'),
    "pixels of torch": (11, "g (float[1,1,5,4] x) => (float[1,1,1,8] y) <float[0] r = {}, int64[4] s = {1,1,1,8}> "
        '{ y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, r, r, s) }'),
    "steps back": (10, "g (float[4,6] x) => (float[a,b] y) <int64[2] s = {-1,4}, int64[2] e = {-99,0}, "
        "int64[2] a = {0,1}, int64[2] t = {-1,-2}> { y = Slice(x, s, e, a, t) }"),
    "smallest": (11, "g (float[4,6] x) => (float[4,2] v, int64[4,2] i) <int64[1] k = {2}> "
        "{ v, i = TopK<axis=-1, largest=0>(x, k) }"),
    "last of equals": (12, "g (float[4,6] x) => (int64[4,1] y) <float z = {0}> { c = Max(x, z) "
        "y = ArgMin<axis=1, select_last_index=1>(c) }"),
    "scattered": (11, "g (float[4,3] x) => (float[4,3] y) <int64[2,1] i = {3,1}, float[2,3] u = {1,2,3,4,5,6}> "
        "{ y = ScatterND(x, i, u) }"),
    "by elements": (11, "g (float[3,3] x) => (float[3,3] y, float[3,3] z) <int64[3,3] i = {0,-1,2,1,1,0,2,0,-3}> "
        "{ y = ScatterElements<axis=1>(x, i, x) z = GatherElements<axis=0>(x, i) }"),
    "summed up": (11, "g (float[3,4] x) => (float[3,4] y) <int32 a = {-1}> { y = CumSum<exclusive=1, reverse=1>(x, a) }"),
    "one hot of 11": (11, "g (int64[2,3] x) => (float[2,4,3] y) <int64 d = {4}, float[2] v = {-1, 3}> "
        "{ y = OneHot<axis=1>(x, d, v) }"),
    "limits": (11, "g (float[3,4] x) => (float[3,4] y) <float high = {0.5}> { y = Clip(x, , high) }"),
    "numbers": (11, "g (float[3,4] x) => (int32[3,4] y) <int32 three = {3}> { a = Cast<to=6>(x) y = Mod(a, three) }"),
    "powers": (7, "g (float[3,4] x) => (float[3,4] y) <float[4] p = {2,1,0,3}> { y = Pow(x, p) }"),
    "quantised": (13, "g (float[2,3] x) => (float[2,3] y) <float[3] s = {0.1,0.2,0.3}, int8[3] z = {1,-2,3}> "
        "{ a = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(a, s, z) }"),
    "sequences": (11, "g (float[2,6] x) => (float[2,6] y) <int64[3] p = {1,2,3}> "
        "{ a = SplitToSequence<axis=1>(x, p) y = ConcatFromSequence<axis=1>(a) }"),
    "sums of letters": (12, 'g (float[2,3,4] x) => (float[4,2] y) { y = Einsum<equation="bik->kb">(x) }'),
    "grid": (16, "g (float[1,1,5,5] x, float[1,3,3,2] t) => (float[1,1,3,3] y, float[1,1,3,3] z) { g = Tanh(t) "
        'y = GridSample<mode="bicubic", padding_mode="reflection">(x, g) z = GridSample<align_corners=1>(x, g) }'),
    "transform": (17, "g (float[2,5,4,1] x) => (float[2,5,4,2] y, float[2,5,3,2] z) "
        "{ y = DFT(x) z = DFT<axis=2, onesided=1>(x) }"),
    "a recurrence": (9, "g (float[3,5,2] x) => (float[3,1,5,4] y) <int64[3] s = {1,16,2}, "
        "int64[3] t = {1,16,4}> { w = ConstantOfShape<value=float[1]{0.5}>(s) "
        "r = ConstantOfShape<value=float[1]{0.25}>(t) y = LSTM<hidden_size=4>(x, w, r) }"),
    "norms": (14, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] s = {1,2,3}> "
        "{ y = BatchNormalization<training_mode=0, epsilon=0.5>(x, s, s, s, s) }"),
    "a shape that is kept": (13, "g (float[2,3,4] x) => (float[2,12] y) <int64[2] s = {0,-1}> { y = Reshape(x, s) }"),
    "space": (10, "g (float[1,8,2,3] x) => (float[1,2,4,6] y, float[1,8,2,3] z) { y = DepthToSpace<blocksize=2>(x) "
        "z = SpaceToDepth<blocksize=2>(y) }"),
    "loop of 11": (11, """g (float[2,3] x) => (float[2,3] y, float[k,2] z) <int64 m = {4}, bool t = {1}> {
        y, z = Loop(m, t, x) <body = b (int64 i, bool c, float[2,3] a) => (bool d, float[2,3] e, float[2] f) {
            d = Identity(c) s = ReduceSum<axes=[1], keepdims=0>(a) f = Neg(s) u = Unsqueeze<axes=[1]>(f)
            e = Add(a, u) }> }"""),
}  # fmt: skip
EXPERIMENTAL = {
    "affine": "Affine<alpha=2.0, beta=-1.0>", "plain affine": "Affine", "scale": "Scale<scale=0.5>",
    "image": "ImageScaler<scale=0.5, bias=[1.0, 2.0, 3.0]>", "tanh": "ScaledTanh<alpha=2.0, beta=0.5>",
    "softplus": "ParametricSoftplus<alpha=0.5, beta=3.0>", "crop": "Crop<border=[1, 2, 0, 1]>",
    "crop to a size": "Crop<border=[1, 2, 0, 0], scale=[2, 3]>",
    "normalised": "MeanVarianceNormalization<across_channels=0, normalize_variance=1>",
    "normalised across": "MeanVarianceNormalization<across_channels=1, normalize_variance=1>",
}  # fmt: skip
CASES |= {
    f"experimental {name}": (8, f"g (float[2,3,5,6] x) => (float[2,3,h,w] y) {{ y = {node}(x) }}")
    for name, node in EXPERIMENTAL.items()
}


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
    result = full(load(save(folder / "old.onnx", proto), opset=version))
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


@pytest.mark.parametrize("goal", [13, 17, 25])
@pytest.mark.parametrize("name", [name for name in CASES if name not in STAYS])
def test_old_files_compute_the_same_at_a_newer_opset(name: str, goal: int, tmp_path: Path) -> None:
    version, text = CASES[name]
    if name == "regions" and goal == 25:
        pytest.skip("ONNX Runtime has no kernel for RoiAlign 22")
    goal = max(goal, version)
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


@pytest.mark.parametrize("node", ["Crop", "Crop<border=[1]>", "ImageScaler", 'Affine<alpha="much">'])
def test_experimental_operators_with_other_attributes(node: str, tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx", model(f"g (float[2,3,4,4] x) => (float[2,3,h,w] y) {{ y = {node}(x) }}", 8)
    )
    with pytest.raises(NotEquivalent, match="are not those of the operator"):
        load(path, opset=17)


# --------------------------------------------------------------------------- networks


def net(text: str, version: int, shapes: dict[str, tuple[int, ...]], seed: int) -> onnx.ModelProto:
    """A network with weights drawn from `seed`; those whose name begins with v are positive."""
    rng = np.random.default_rng(seed)
    draws = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    return model(text, version, {name: abs(v) + 0.5 if name[0] == "v" else v for name, v in draws.items()})


RESIDUAL = """g (float[n,3,8,8] x) => (float[n,4] y) {
    a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
    b = BatchNormalization<spatial=1, epsilon=0.001>(a, s1, b2, m1, v1)
    c = Relu(b)
    d = Conv<pads=[1,1,1,1]>(c, w2)
    e = BatchNormalization(d, s1, b2, m1, v1)
    f = Add(e, c)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(f)
    u = Upsample<mode="linear", scales=[1.0, 1.0, 2.0, 2.0]>(p)
    q = PRelu(u, r1)
    h = Dropout<ratio=0.3>(q)
    i = GlobalAveragePool(h)
    j = Flatten(i)
    k = Gemm<transB=1>(j, w3, b3)
    y = Softmax(k)
}"""
RESIDUAL_SHAPES = {
    "w1": (6, 3, 3, 3), "b1": (6,), "s1": (6,), "b2": (6,), "m1": (6,), "v1": (6,), "w2": (6, 6, 3, 3),
    "r1": (6, 1, 1), "w3": (4, 6), "b3": (4,),
}  # fmt: skip
RECURRENT = """g (float[5,n,3] x, float[1,n,4] h) => (float[5,n,2] y, float[n,4] last) {
    a, b, c = LSTM<hidden_size=4>(x, w1, r1, b1, , h)
    d = Squeeze<axes=[1]>(a)
    e, f = GRU<hidden_size=4, linear_before_reset=1>(d, w2, r2, b2)
    i, j = RNN<hidden_size=4, direction="reverse">(d, w4, r4)
    g = Squeeze<axes=[1]>(e)
    k = Squeeze<axes=[1]>(i)
    m = Sum(g, k, d)
    y = MatMul(m, w3)
    last = Squeeze<axes=[0]>(c)
}"""
RECURRENT_SHAPES = {
    "w1": (1, 16, 3), "r1": (1, 16, 4), "b1": (1, 32), "w2": (1, 12, 4), "r2": (1, 12, 4), "b2": (1, 24),
    "w4": (1, 4, 4), "r4": (1, 4, 4), "w3": (4, 2),
}  # fmt: skip
ATTENTION = """g (int64[n,t] ids, float[n,t] mask) => (float[n,t,8] y, float[n,3] z)
    <int64 one = {1}, int64[4] heads = {0, 0, 2, 4}, int64[3] flat = {0, 0, 8}, float two = {2.0},
     float big = {-10000.0}, float eps = {0.00001}> {
    x = Gather(table, ids)
    q = MatMul(x, w1) q4 = Reshape(q, heads) qt = Transpose<perm=[0,2,1,3]>(q4)
    k = MatMul(x, w2) k4 = Reshape(k, heads) kt = Transpose<perm=[0,2,3,1]>(k4)
    v = MatMul(x, w4) v4 = Reshape(v, heads) vt = Transpose<perm=[0,2,1,3]>(v4)
    s = MatMul(qt, kt) d = Div(s, two)
    m = Unsqueeze<axes=[1,2]>(mask) mb = Mul(m, big) dm = Add(d, mb)
    p = Softmax<axis=3>(dm) c = MatMul(p, vt) ct = Transpose<perm=[0,2,1,3]>(c) cf = Reshape(ct, flat)
    r = Add(cf, x)
    mean = ReduceMean<axes=[-1]>(r) cen = Sub(r, mean) sq = Mul(cen, cen) var = ReduceMean<axes=[-1]>(sq)
    ve = Add(var, eps) sd = Sqrt(ve) nn = Div(cen, sd) ng = Mul(nn, g1) y = Add(ng, b1)
    first = Slice<axes=[1], starts=[0], ends=[1]>(y) f2 = Squeeze<axes=[1]>(first)
    o = MatMul(f2, w3) ob = Add(o, b3) z = Tanh(ob)
}"""
ATTENTION_SHAPES = {
    "table": (20, 8), "w1": (8, 8), "w2": (8, 8), "w4": (8, 8), "g1": (8,), "b1": (8,), "w3": (8, 3), "b3": (3,),
}  # fmt: skip
NETWORKS = {
    "residual": (RESIDUAL, RESIDUAL_SHAPES),
    "recurrent": (RECURRENT, RECURRENT_SHAPES),
    "attention": (ATTENTION, ATTENTION_SHAPES),
}


@pytest.mark.parametrize("version", [7, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_opsets_7_and_8(name: str, version: int, tmp_path: Path) -> None:
    text, shapes = NETWORKS[name]
    report = proven(tmp_path, [net(text, version, shapes, seed) for seed in range(3)])
    left = {row.op for row in report.lowered.replicated}
    assert left <= {"LSTM", "GRU", "RNN"}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_several_opsets(name: str, tmp_path: Path) -> None:
    """A family of opsets 7, 8, 11 and 17: newer files are raised from the older text."""
    text, shapes = NETWORKS[name]
    protos = [net(text, 7, shapes, 0), net(text, 8, shapes, 1)]
    for seed, version in ((2, 11), (3, 17), (4, 18)):
        protos.append(raised(tmp_path, net(text, 8, shapes, seed), version))
    report = proven(tmp_path, protos)
    assert {row.op for row in report.lowered.replicated} <= {"LSTM", "GRU", "RNN"}


SCAN = """g (%s float[b,3] s, float[b,t,3] x, float[b,t,3] z) => (float[b,3] last, float[b,t,3] y, float[b,t,3] u) {
    last, y, u = Scan<num_scan_inputs=2 %s, body = f (float[3] h, float[3] v, float[3] w)
        => (float[3] n, float[3] o, float[3] p) {
        a = Mul(h, k) c = Add(a, v) n = Tanh(c) o = Mul(n, w) p = Softmax<axis=0>(c) }>(%s, s, x, z)
}"""


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("directions", ["", ", directions = [0, 1]"])
def test_scans_of_batches(directions: str, lengths: bool, tmp_path: Path) -> None:
    text = SCAN % ("int64[b] l, " if lengths else "", directions, "l" if lengths else "")
    protos = [net(text.replace("%s", ""), 8, {"k": (3,)}, seed) for seed in range(2)]
    rng = np.random.default_rng(0)
    feeds = {"s": rng.standard_normal((3, 3)), "x": rng.standard_normal((3, 5, 3))}
    feeds = {name: values.astype("f") for name, values in {**feeds, "z": feeds["x"] * 2}.items()}
    if lengths:
        feeds["l"] = np.array([5, 2, 3])
    other = raised(tmp_path, protos[0])
    for ours, theirs in zip(run(protos[0], feeds), run(other, feeds), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-6)
    if lengths:
        np.savez(tmp_path / "in.npz", **{f"m{k}/{name}": v for k in range(2) for name, v in feeds.items()})
    proven(tmp_path, protos, **({"inputs": str(tmp_path / "in.npz")} if lengths else {}))


# --------------------------------------------------------------------------- older than ONNX Runtime


A = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 11
OLD: dict[str, tuple[int, str, Array]] = {
    "by channel": (6, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] b = {1,2,3}> "
        "{ y = Mul<broadcast=1, axis=1>(x, b) }", A * np.float32([[1], [2], [3]])),
    "by channel from the back": (6, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] b = {1,2,3}> "
        "{ y = Sub<broadcast=1, axis=-2>(x, b) }", A - np.float32([[1], [2], [3]])),
    "of the last": (6, "g (float[2,3,4] x) => (float[2,3,4] y) <float[4] b = {1,2,3,4}> "
        "{ y = Add<broadcast=1>(x, b) }", A + np.float32([1, 2, 3, 4])),
    "slopes": (6, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] b = {1,2,3}> { y = PRelu(x, b) }",
        np.where(A < 0, A * np.float32([[1], [2], [3]]), A)),
    "cast": (5, 'g (float[2,3,4] x) => (int64[2,3,4] y) { y = Cast<to="INT64">(x) }', A.astype(np.int64)),
    "reshape": (1, "g (float[2,3,4] x) => (float[4,6] y) { y = Reshape<shape=[4,-1], consumed_inputs=[0]>(x) }",
        A.reshape(4, 6)),
    "concat": (1, "g (float[2,3,4] x) => (float[2,6,4] y) { y = Concat(x, x) }", np.concatenate([A, A], 1)),
    "pad": (1, "g (float[2,3,4] x) => (float[2,3,6] y) { y = Pad<paddings=[0,0,1,0,0,1]>(x) }",
        np.pad(A, [(0, 0), (0, 0), (1, 1)])),
    "tile": (1, "g (float[2,3,4] x) => (float[2,6,4] y) <int64 n = {2}, int64 a = {1}> { y = Tile(x, n, a) }",
        np.tile(A, (1, 2, 1))),
    "split": (1, "g (float[2,3,4] x) => (float[2,1,4] y, float[2,2,4] z) <int64[2] s = {1,2}> "
        "{ y, z = Split<axis=1>(x, s) }", A[:, :1]),
    "tested": (6, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] s = {1,1,1}, float[3] m = {0,1,2}> { "
        "a = BatchNormalization<is_test=1, epsilon=3.0>(x, s, m, m, s) y = Dropout<is_test=1>(a) }",
        (A - np.float32([[0], [1], [2]])) / 2 + np.float32([[0], [1], [2]])),
    "selu": (1, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Selu<consumed_inputs=[0]>(x) }",
        np.float32(1.0507) * np.where(A > 0, A, np.float32(1.6732) * (np.exp(A) - 1))),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_files_that_onnx_runtime_does_not_load(name: str, tmp_path: Path) -> None:
    """It has no kernels for them, so they are compared with what the standard says. The merge is right, and
    only the proof that would run the sources can't be had."""
    version, text, wanted = OLD[name]
    proto = model(text, version)
    found = run(raised(tmp_path, proto), {"x": A})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found.dtype == wanted.dtype
    paths = [save(tmp_path / f"m{k}.onnx", proto) for k in range(2)]
    netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), verify=False)
    feeds = {"m0/x": A, "m1/x": -A}
    both = run(onnx.load(tmp_path / "merged.onnx"), feeds)
    np.testing.assert_allclose(both[0], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("version", "node", "said"),
    [
        (6, "y = Dropout(x)", "training mode"),
        (1, 'y = Cast<to="FLOAT99">(x)', "no type"),
        (6, "y = Add<broadcast=1, axis=0>(x, z)", "ranks are not known"),
    ],
)
def test_old_files_that_can_not_be_raised(version: int, node: str, said: str, tmp_path: Path) -> None:
    text = f"g (float[2] x, float z) => (float[2] y) {{ {node} }}"
    proto = model(text, version)
    proto.graph.input[1].type.tensor_type.ClearField("shape")
    with pytest.raises(FileFault, match=said):
        load(save(tmp_path / "m.onnx", proto))


FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data"
"""The models that come with the onnx package, of opsets 6 to 12, with the outputs that they must give."""


def tensors(folder: Path, what: str) -> list[Array]:
    files = sorted(folder.glob(f"test_data_set_0/{what}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    return [numpy_helper.to_array(onnx.load_tensor(str(path))) for path in files]


@pytest.mark.parametrize("kind", ["pytorch-converted", "pytorch-operator"])
def test_onnx_s_own_models_of_opset_6(kind: str, tmp_path: Path) -> None:
    paths = sorted((FOLDER / kind).glob("*/model.onnx"))
    assert len(paths) > 30
    for path in paths:
        other = raised(tmp_path, onnx.load(path))
        feeds = dict(zip((i.name for i in other.graph.input), tensors(path.parent, "input"), strict=True))
        for ours, theirs in zip(run(other, feeds), tensors(path.parent, "output"), strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, path
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5, err_msg=str(path))
