"""Weights that steer no shape may differ between the models, even where such an input steers one as a rule.

The values are right, with both proofs; what would make shapes unequal is still refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from families import save
from onnx import numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import NotEquivalent

Array = np.ndarray[Any, Any]
MEL = "g (float[n,9] x) => (float[n,4] y) <int64 bins = {4}, int64 length = {16}> { " \
    "m = MelWeightMatrix(bins, length, rate, low, high) y = MatMul(x, m) }"  # fmt: skip
CROP = 'coordinate_transformation_mode="tf_crop_and_resize", mode="linear"'
CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "sampling rate": (MEL, [{"rate": 8000, "low": 0.0, "high": 4000.0}, {"rate": 16000, "low": 0.0, "high": 4000.0}]),
    "edges": (MEL, [{"rate": 8000, "low": 0.0, "high": 4000.0}, {"rate": 8000, "low": 300.0, "high": 3500.0}]),
    "region of sizes": (
        f"g (float[1,2,6,6] x) => (float[1,2,3,3] y) <int64[4] s = {{1,2,3,3}}> {{ y = Resize<{CROP}>(x, roi, , s) }}",
        [{"roi": np.float32([0, 0, a, a, 1, 1, b, b])} for a, b in ((0, 0.5), (0.25, 1))],
    ),
    "region of scales": (
        "g (float[1,2,6,6] x) => (float[a,b,c,d] y) <float[4] s = {1,1,0.5,0.5}> "
        f"{{ y = Resize<{CROP}>(x, roi, s) }}",
        [{"roi": np.float32([0, 0, a, a, 1, 1, b, b])} for a, b in ((0, 0.5), (0, 1))],
    ),
    "region that is not read": (
        "g (float[1,2,6,6] x) => (float[1,2,3,3] y) <float[4] s = {1,1,0.5,0.5}> { y = Resize(x, roi, s) }",
        [{"roi": np.zeros(8, "f")}, {"roi": np.ones(8, "f")}],
    ),
    "windows": (
        "g (float[n,8] x) => (float[n,3] y) <int64[1] a = {1}> { y = Slice(x, s, e, a) }",
        [{"s": np.array([0]), "e": np.array([3])}, {"s": np.array([4]), "e": np.array([7])}],
    ),
    "ranges": (
        "g (float[n,4] x) => (float[n,4] y) { r = Range(s, e, d) f = Cast<to=1>(r) y = Mul(x, f) }",
        [{"s": 0, "e": 4, "d": 1}, {"s": 10, "e": 2, "d": -2}],
    ),
    "axes": (
        "g (float[3,4,4] x) => (float[3,4] y) { y = ReduceSum<keepdims=0>(x, a) }",
        [{"a": np.array([1])}, {"a": np.array([2])}],
    ),
    "scales": (
        "g (float[1,1,4,4] x) => (float[1,1,6,6] y) { y = Resize<mode=\"linear\">(x, , s) }",
        [{"s": np.float32([1, 1, 1.5, 1.5])}, {"s": np.float32([1, 1, 1.6, 1.7])}],
    ),
    "axis of a transform": (
        "<ir_version: 9, opset_import: [\"\" : 20]> g (float[2,4,4,1] x) => (float[2,4,4,2] y) { y = DFT(x, , a) }",
        [{"a": 1}, {"a": 2}],
    ),
    "axis of a sum": ("g (float[n,3] x) => (float[n,3] y) { y = CumSum(x, a) }", [{"a": 0}, {"a": 1}]),
    "diagonal": ("g (float[3,3] x) => (float[3,3] y) { y = Trilu(x, k) }", [{"k": 0}, {"k": 1}]),
    "filling": (
        "g (float[n,2] x) => (float[n,4] y) <int64[4] p = {0,1,0,1}> { y = Pad(x, p, v) }",
        [{"v": np.float32(1)}, {"v": np.float32(2)}],
    ),
}  # fmt: skip


def files(folder: Path, text: str, each: list[dict[str, Any]]) -> list[str]:
    head = "" if text.startswith("<") else '<ir_version: 9, opset_import: ["" : 17]> '
    paths = []
    for k, held in enumerate(each):
        model = onnx.parser.parse_model(head + text)
        for name, value in held.items():
            array = np.float32(value) if isinstance(value, float) else np.asarray(value)
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        paths.append(save(folder / f"m{k}.onnx", model))
    return paths


def differ(paths: list[str]) -> bool:
    """Whether the models tell themselves apart on one input."""
    sessions = [ort.InferenceSession(path) for path in paths]
    shape = [size if isinstance(size, int) else 3 for size in sessions[0].get_inputs()[0].shape]
    x = np.random.default_rng(0).standard_normal(shape).astype("f")
    one, two = (session.run(None, {"x": x})[0] for session in sessions)
    assert one.shape == two.shape
    return not np.array_equal(one, two)


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("name", CASES)
def test_they_may_differ(name: str, io: str, tmp_path: Path) -> None:
    text, each = CASES[name]
    paths = files(tmp_path, text, each)
    report = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"), io=io)
    assert report.ok and report.proof is not None and report.proof.graph.made
    assert differ(paths) == (name != "region that is not read")


UNLIKE: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "longer windows": (
        "g (float[n,8] x) => (float[n,k] y) <int64[1] a = {1}> { y = Slice(x, s, e, a) }",
        [{"s": np.array([0]), "e": np.array([3])}, {"s": np.array([3]), "e": np.array([7])}],
    ),
    "windows of what is not known": (
        "g (float[n,8] x) => (float[m,8] y) <int64[1] a = {0}> { y = Slice(x, s, e, a) }",
        [{"s": np.array([0]), "e": np.array([3])}, {"s": np.array([4]), "e": np.array([7])}],
    ),
    "sizes on the way": (
        "g (float[n,8,2] x) => (float[a,b] y) <int64[1] m = {-1}> { h = Shape(x) t = Slice(h, s, e) "
        "r = Concat<axis=0>(t, m) y = Reshape(x, r) }",
        [{"s": np.array([1]), "e": np.array([2])}, {"s": np.array([2]), "e": np.array([3])}],
    ),
    "bins": (MEL.replace("int64 bins = {4}, ", "").replace("[n,4]", "[n,k]"), [
        {"bins": 4, "rate": 8000, "low": 0.0, "high": 4000.0}, {"bins": 5, "rate": 8000, "low": 0.0, "high": 4000.0}]),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKE)
def test_what_makes_shapes_unequal_is_refused(name: str, tmp_path: Path) -> None:
    text, each = UNLIKE[name]
    with pytest.raises(NotEquivalent, match="decides a shape, so it must be equal"):
        netfuse_onnx.merge(files(tmp_path, text, each), str(tmp_path / "out.onnx"))
