"""Every gap of ONNX Runtime that is worked around (netfuse_onnx/run/gaps.py), shown in the installed version.

A test fails when its gap is gone. Then the code that names the gap is looked at: it may go when the oldest
supported version has lost the gap as well.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.library import TELEMETRY_OFF
from netfuse_onnx.run import gaps, runtime

Array = np.ndarray[Any, Any]
GAPS = {
    name for name, value in vars(gaps).items() if isinstance(value, str) and re.fullmatch(r"1\.\d+", value)
}
ON_CUDA = {
    "BOTH_BROADCAST", "BROADCAST_OF_SEVERAL", "CUDA_LISTED", "FUSED_UNCHECKED", "GATHER_GIVES_ZEROS",
    "NO_AXIS_OF_VECTORS", "ONE_ZERO_POINT", "REDUCE_OF_NOTHING", "SCALE_PER_MODEL", "SPLIT_OF_NOTHING", "TF32",
}  # fmt: skip
SHOWN: dict[str, Callable[[], bool]] = {}
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def shows(show: Callable[[], bool]) -> Callable[[], bool]:
    """Register how a gap is shown; the function has its name and returns True where the gap is there."""
    SHOWN[show.__name__.upper()] = show
    return show


NOT_SHOWN = {
    "CACHE_OF_ITS_PAST": "test_grouped_queries_with_a_cache shows it, on CUDA",
    "INTEGER_PRODUCT_FUSED": "no small model was found that shows it in 1.32; the rules still keep away from it",
}
"""Gaps without a test, and why. The list may only shrink."""

GONE = {"EMPTY_MOVED": "1.32", "NO_MAX": "1.32"}
"""Gaps that the oldest supported versions have, and the first version that was seen without."""


def session(
    text: str, stored: Mapping[str, Array] = {}, *, level: bool = True, opset: int = 17, contrib: bool = False
) -> Any:
    """A session of a model as text, with stored tensors; `level`: with optimisations."""
    imports = f'"": {opset}' + (', "com.microsoft": 1' if contrib else "")
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> {text}")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    return loaded(model, level=level)


def loaded(model: onnx.ModelProto, *, level: bool = True) -> Any:
    ort = runtime.onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if level else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(text: str, feeds: Mapping[str, Array], stored: Mapping[str, Array] = {}, **how: Any) -> list[Any]:
    return list(session(text, stored, **how).run(None, dict(feeds)))


def fails(work: Callable[[], Any]) -> bool:
    try:
        work()
    except Exception:  # ONNX Runtime raises many kinds
        return True
    return False


def differs(text: str, feeds: Mapping[str, Array], stored: Mapping[str, Array] = {}, **how: Any) -> bool:
    """True where optimisations change what a model gives, or let it fail."""
    plain = run(text, feeds, stored, level=False, **how)
    try:
        optimised = run(text, feeds, stored, level=True, **how)
    except Exception:
        return True
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(plain, optimised, strict=True))


# --------------------------------------------------------------------------- types and kernels


@shows
def input_given_out() -> bool:
    found = session("g (float[2] x) => (float[2] x, float[2] y) { y = Neg(x) }")
    binding, ort = found.io_binding(), runtime.onnxruntime()
    places = {name: np.full(2, value, np.float32) for name, value in (("in", 3), ("x", 5), ("y", 5))}
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(places["in"]))
    for name in "xy":
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(places[name]))
    found.run_with_iobinding(binding)
    given = {"x": ort.OrtValue.ortvalue_from_numpy(places["in"])}
    shared = np.shares_memory(found.run_with_ort_values(["x"], given)[0].numpy(), places["in"])
    return places["x"].tolist() == [5, 5] and places["y"].tolist() == [-3, -3] and shared


@shows
def not_numpy() -> bool:
    x = np.ones(2, ml_dtypes.bfloat16)
    work = session("g (bfloat16[2] x) => (bfloat16[2] y) { y = Identity(x) }")
    return fails(lambda: work.run(None, {"x": x}))


@shows
def no_max() -> bool:
    text = "g ({0}[2] a, {0}[2] b) => ({0}[2] y) {{ y = {1}(a, b) }}"
    return all(
        fails(lambda dtype=dtype, op=op: session(text.format(dtype, op)))  # type: ignore[misc]
        for dtype in ("uint8", "int8")
        for op in ("Max", "Min")
    )


@shows
def tile_stays() -> bool:
    stored = {"w": np.ones((1, 4), np.float16), "n": np.array([3, 1])}
    text = "g (float16[3,4] x) => (float16[3,4] y) { t = Tile(w, n)  y = Add(x, t) }"
    joined = "g (float16[3,4] x) => (float16[3,4] y) { t = Concat<axis = 0>(w, w, w)  y = Add(x, t) }"
    computed_at_load = ["Tile" in optimised(text, stored), "Concat" in optimised(joined, {"w": stored["w"]})]
    bfloat = "g (bfloat16[1] x, int64[1] n) => (bfloat16[m] y) { y = Tile(x, n) }"
    return computed_at_load == [True, False] and fails(lambda: session(bfloat))


def optimised(text: str, stored: Mapping[str, Array], **how: Any) -> list[str]:
    """The operators that are left of a model when it is loaded."""
    ort = runtime.onnxruntime()
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    path = f"{os.environ['GAPS_FOLDER']}/optimised.onnx"
    options.optimized_model_filepath = path
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPS_FOLDER", str(tmp_path))


# --------------------------------------------------------------------------- wrong values


@shows
def gather_loses_strings() -> bool:
    x = np.array([["a", "b"], ["c", "d"]], object)
    text = (
        "g (string[2,2] x) => (string[2] y) { i = Constant<value = int64 {1}>()  y = Gather<axis = 0>(x, i) }"
    )
    return bool(run(text, {"x": x})[0].tolist() != ["c", "d"])


@shows
def resize_blends_all() -> bool:
    """A NaN in the other row of a Resize along the last axis alone."""
    text = 'g (float[1,2,4] x) => (float[1,2,8] y) { y = Resize<mode = "linear">(x, r, s) }'
    stored = {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2], np.float32)}
    spoilt = 0
    for row in range(2):
        x = np.ones((1, 2, 4), np.float32)
        x[0, row] = np.nan
        spoilt += int(np.isnan(run(text, {"x": x}, stored)[0][0, 1 - row]).sum())
    return spoilt > 0


@shows
def pad_axes_moved() -> bool:
    text = """g (float[2,3,4] x) => (float[a,b,c] y) {
        t = Transpose<perm = [2, 0, 1]>(x)  p = Pad(t, w, , k)  y = Transpose<perm = [1, 2, 0]>(p) }"""
    stored = {"w": np.array([1, 2]), "k": np.array([2])}
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return differs(text, {"x": x}, stored, opset=18)


@shows
def zero_point_lost() -> bool:
    text = "g (int8[4] x) => (float[2,2] y) { d = DequantizeLinear(x, s)  y = Reshape(d, t) }"
    stored = {"s": np.array(0.5, np.float32), "t": np.array([2, 2])}
    return differs(text, {"x": np.array([-2, -1, 1, 2], np.int8)}, stored, opset=17)


@shows
def splits_joined() -> bool:
    text = """g (float[12] x) => (float[m] p, float[n] q) {
        a, b = Split(x)  c, d, e = Split(x)  p = Add(a, b)  q = Add(c, d) }"""
    return differs(text, {"x": np.arange(12, dtype=np.float32)})


@shows
def concat_skips_empty() -> bool:
    text = "g (float[a,b] x, float[c,d] y) => (float[e,f] z) { z = Concat<axis = 1>(x, y) }"
    feeds = {"x": np.zeros((0, 8), np.float32), "y": np.ones((1, 8), np.float32)}
    return not fails(lambda: run(text, feeds))


@shows
def scales_per_axis_fused() -> bool:
    text = """g (uint8[2,3] x) => (uint8[2,3] y) {{
        d = DequantizeLinear<axis = 0>(x, s, z)  r = {0}(d)  y = QuantizeLinear<axis = 0>(r, s, z) }}"""
    stored = {"s": np.array([0.5, 0.25], np.float32), "z": np.array([1, 2], np.uint8)}
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    return all(differs(text.format(op), {"x": x}, stored) for op in ("Sigmoid", "LeakyRelu"))


@shows
def nan_unnoticed() -> bool:
    """The scale is NaN for a NaN in some places only."""
    text = "g (float[n] x) => (uint8[n] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }"
    work, seen = session(text), set()
    for place in range(40):
        x = np.linspace(-1, 1, 40, dtype=np.float32)
        x[place] = np.nan
        seen.add(bool(np.isnan(work.run(None, {"x": x})[1])))
    return seen == {True, False}


@shows
def skip_cut() -> bool:
    text = """g (float[1,2,4] x, float[2,2,4] s) => (float[a,b,c] y) {
        y = com.microsoft.SkipLayerNormalization(x, s, g) }"""
    feeds = {"x": np.ones((1, 2, 4), np.float32), "s": np.ones((2, 2, 4), np.float32)}
    got = run(text, feeds, {"g": np.ones(4, np.float32)}, contrib=True)
    return bool(got[0].shape == (1, 2, 4))


@shows
def vector_untransposed() -> bool:
    text = "g (float[3,3] x, float[3] v) => (float[n] y) { y = com.microsoft.FusedMatMul<transA = 1>(x, v) }"
    x, v = np.arange(9, dtype=np.float32).reshape(3, 3), np.array([1, 2, 3], np.float32)
    return not np.array_equal(run(text, {"x": x, "v": v}, contrib=True)[0], x.T @ v)


@shows
def no_axes_are_all() -> bool:
    text = "g (float[1,2] x) => (float[n] y) { y = Squeeze(x, a) }"
    got = run(text, {"x": np.ones((1, 2), np.float32)}, {"a": np.zeros(0, np.int64)}, level=False)
    return bool(got[0].shape == (2,))


@shows
def labels_missing() -> bool:
    text = """g (float[4,3] x, int64[n] t) => (float[m] y) {
        y = NegativeLogLikelihoodLoss<reduction = "none">(x, t) }"""
    feeds = {"x": np.ones((4, 3), np.float32), "t": np.zeros(2, np.int64)}
    return not fails(lambda: run(text, feeds))


@shows
def values_unsized() -> bool:
    text = """g (float[1,2,4] q, float[1,2,N] v) => (int64[3] s) {
        y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, v) s = Shape(y) }"""
    rows = np.ones((1, 2, 4), np.float32)
    return run(text, {"q": rows, "v": rows}, opset=23)[0].tolist() == [1, 2, 0]


@shows
def scale_per_model() -> bool:
    text = "g (float[2,1,3,4] x) => (float[2,1,3,4] y) { y = LayerNormalization(x, s) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    scale = np.array([1, 5], np.float32).reshape(2, 1, 1, 1) * np.ones((2, 1, 1, 4), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scale, "s"))
    x = np.random.default_rng(0).standard_normal((2, 1, 3, 4)).astype(np.float32)
    ort = runtime.onnxruntime()
    work = ort.InferenceSession(model.SerializeToString(), providers=[runtime.CUDA])
    return not np.allclose(work.run(None, {"x": x})[0], loaded(model).run(None, {"x": x})[0], atol=1e-4)


# --------------------------------------------------------------------------- control flow, speed


@shows
def outputs_untyped() -> bool:
    """A Loop that never runs collects as many numbers as its body declares."""
    info, graph = helper.make_tensor_value_info, helper.make_graph
    collected = []
    for dims in ([3], None):
        body = graph(
            [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["x"], ["o"])],
            "body",
            [info("i", INT64, []), info("c", TensorProto.BOOL, [])],
            [info("c2", TensorProto.BOOL, []), info("o", FLOAT, dims)],
        )
        loop = helper.make_node("Loop", ["n", "t"], ["y"], body=body)
        inputs = [info("n", INT64, []), info("t", TensorProto.BOOL, []), info("x", FLOAT, ["k"])]
        model = helper.make_model(
            graph([loop], "g", inputs, [info("y", FLOAT, None)]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        feeds = {"n": np.array(0), "t": np.array(True), "x": np.ones(7, np.float32)}
        collected.append(loaded(model).run(None, feeds)[0].shape)
    return collected[0] != collected[1]


@shows
def scalar_beside_ones() -> bool:
    text = "g (float[n,1] x) => (float[n,1] y) { y = Mul(x, s) }"
    x = np.ones((200_000, 1), np.float32)
    seconds = []
    for scale in (np.array(2, np.float32), np.full((1, 1), 2, np.float32)):
        work = session(text, {"s": scale})
        seconds.append(min(_timed(lambda work=work: work.run(None, {"x": x})) for _ in range(5)))  # type: ignore[misc]
    return seconds[0] > 3 * seconds[1]


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# --------------------------------------------------------------------------- sessions


@shows
def telemetry() -> bool:
    """The name of the variable stands in the library, which reads it."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    with open(state.__file__, "rb") as file:
        return TELEMETRY_OFF.encode() in file.read()


@shows
def errors_printed() -> bool:
    code = "import onnxruntime as o\ntry: o.InferenceSession(b'x')\nexcept Exception: pass\n" + PRINTED
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | QUIET
    )
    return bool(done.stderr.strip())


QUIET = {TELEMETRY_OFF: "1"}
PRINTED = """
from onnx import parser
t = '<ir_version: 8, opset_import: ["": 17]> g (float[a] x, float[b] z) => (float[c] y) { y = Add(x, z) }'
s = o.InferenceSession(parser.parse_model(t).SerializeToString(), providers=["CPUExecutionProvider"])
import numpy as np
try: s.run(None, {"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)})
except Exception: pass
"""


@shows
def cuda_listed() -> bool:
    return runtime.cuda_listed()


@shows
def weights_quantised() -> bool:
    text = """g (uint8[1,1,4,4] x) => (uint8[1,2,4,4] y)
        { d = DequantizeLinear(x, s, z) c = Conv(d, w) y = QuantizeLinear(c, s, z) }"""
    stored = {"w": np.float32([100.3, 0.4]).reshape(2, 1, 1, 1)}
    x = np.full((1, 1, 4, 4), 100, np.uint8)
    return differs(text, {"x": x}, {**stored, "s": np.float32(1), "z": np.uint8(0)})


@shows
def dequantize_stays() -> bool:
    text = "g (float[2,2] x) => (float[2,2] y) { w = DequantizeLinear(q, s, z) y = Mul(x, w) }"
    stored = {"q": np.ones((2, 2), np.int8), "s": np.float32(0.5), "z": np.int8(0)}
    return "DequantizeLinear" in optimised(text, stored)


def refused_on_cuda(text: str, opset: int = 17, **feeds: Array) -> bool:
    """True where a model loads on CUDA, and fails when it is run."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    ort = runtime.onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CUDAExecutionProvider"])
    return fails(lambda: session.run(None, feeds))


@shows
def one_zero_point() -> bool:
    text = (
        "g (int8[3,4] a, int8[4,5] b, int8 p, int8[5] q) => (int32[3,5] y) { y = MatMulInteger(a, b, p, q) }"
    )
    a, b, p, q = (np.ones(shape, np.int8) for shape in ((3, 4), (4, 5), (), (5,)))
    return refused_on_cuda(text, a=a, b=b, p=p, q=q)


@shows
def split_of_nothing() -> bool:
    text = "g (float[n] x) => (float[p] y, float[q] z) { y, z = Split<axis = 0, num_outputs = 2>(x) }"
    return refused_on_cuda(text, opset=18, x=np.ones(0, np.float32))


@shows
def reduce_of_nothing() -> bool:
    text = "g (int64[3, n] x) => (int64[3] y) { y = ReduceSum<keepdims = 0>(x, axes) }"
    text = text.replace("{", "<int64[1] axes = {1}> {")
    return refused_on_cuda(text, x=np.ones((3, 0), np.int64))


@shows
def fused_unchecked() -> bool:
    text = "g (float[2, 1, n] x, float[n] b) => (float[2, 1, n] y) { s = Add(x, b) y = Softmax(s) }"
    return not refused_on_cuda(text, x=np.ones((2, 1, 5), np.float32), b=np.ones(2, np.float32))


@shows
def no_axis_of_vectors() -> bool:
    text = "g (float[4] x, float[4] s, uint8[4] z) => (uint8[4] y) { y = QuantizeLinear<axis = 0>(x, s, z) }"
    x = np.ones(4, np.float32)
    return refused_on_cuda(text, x=x, s=x, z=x.astype(np.uint8))


def wrong_on_cuda(text: str, feeds: Mapping[str, Array], opset: int = 17) -> bool:
    """True where CUDA computes something else than the CPU, silently."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    ort, content = runtime.onnxruntime(), model.SerializeToString()
    want, got = (
        ort.InferenceSession(content, providers=runtime.providers(where, tf32=False)).run(None, dict(feeds))[
            0
        ]
        for where in ("cpu", "cuda")
    )
    return not np.allclose(want, got, rtol=1e-4, atol=1e-4)


@shows
def both_broadcast() -> bool:
    text = "g (float[1,3,2,4] x, float[3,1,4,5] w) => (float[3,3,2,5] y) { y = MatMul(x, w) }"
    rng = np.random.default_rng(0)
    sizes = {"x": (1, 3, 2, 4), "w": (3, 1, 4, 5)}
    return wrong_on_cuda(text, {name: rng.standard_normal(s).astype(np.float32) for name, s in sizes.items()})


@shows
def broadcast_of_several() -> bool:
    text = "g (float[2,3,4] x, float[1,3,4] z, float[2,3,1] w) => (float[2,3,4] y) { y = Sum(x, z, w) }"
    rng = np.random.default_rng(0)
    sizes = {"x": (2, 3, 4), "z": (1, 3, 4), "w": (2, 3, 1)}
    return wrong_on_cuda(text, {name: rng.standard_normal(s).astype(np.float32) for name, s in sizes.items()})


@shows
def gather_gives_zeros() -> bool:
    text = "g (float[3] x, int64[1] i) => (float[1] y) { y = Gather(x, i) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    providers = runtime.providers("cuda", tf32=False)
    session = runtime.onnxruntime().InferenceSession(model.SerializeToString(), providers=providers)
    (got,) = session.run(None, {"x": np.ones(3, np.float32), "i": np.int64([3])})
    return bool(got[0] == 0)


@shows
def tf32() -> bool:
    text = "g (float[256,256] x) => (float[256,256] y) { y = MatMul(x, x) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    ort = runtime.onnxruntime()
    got = [
        ort.InferenceSession(model.SerializeToString(), providers=runtime.providers("cuda", tf32=on)).run(
            None, {"x": x}
        )[0]
        for on in (True, False)
    ]
    return not np.array_equal(*got)


EMPTY_BATCH = """
import numpy, onnx, onnxruntime
text = "g (float[b,2,3] x, float[2,3,4] w) => (float[2,b,4] y) { t = Transpose<perm=[1,0,2]>(x) y = MatMul(t, w) }"
model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]>' + text)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.ones((0, 2, 3), "f"), "w": numpy.ones((2, 3, 4), "f")})
"""


@shows
def empty_moved() -> bool:
    """The process of the session ends by a signal."""
    done = subprocess.run([sys.executable, "-c", EMPTY_BATCH], capture_output=True, check=False, timeout=60)
    assert done.returncode <= 0, done.stderr[-500:]
    return done.returncode < 0


# --------------------------------------------------------------------------- the tests


def test_every_gap_is_shown() -> None:
    assert SHOWN.keys() | NOT_SHOWN.keys() == GAPS >= ON_CUDA
    assert not SHOWN.keys() & NOT_SHOWN.keys()


@pytest.mark.parametrize("name", sorted(SHOWN.keys() - GONE.keys()))
def test_the_gap_is_still_there(name: str) -> None:
    if name in ON_CUDA and (problem := runtime.cuda_problem()):
        pytest.skip(problem)
    version = runtime.onnxruntime().__version__
    assert SHOWN[name](), f"{name} is gone in {version}"


@pytest.mark.parametrize("name", GONE)
def test_the_gap_is_gone_where_it_is_said_to_be(name: str) -> None:
    version = runtime.onnxruntime().__version__
    newer = tuple(map(int, version.split(".")[:2])) >= tuple(map(int, GONE[name].split(".")))
    assert SHOWN[name]() is not newer, f"{name} in {version}"
