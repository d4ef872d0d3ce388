"""What the fuzzer found (tests/fuzz.py), as the smallest graph that showed it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import oracle
import pytest

from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.types import Became, Plan


def merge(
    text: str,
    inputs: str,
    role: Mapping[str, str],
    folder: Path,
    *,
    models: int = 2,
    opset: int = 17,
    sizes: Mapping[str, int] | None = None,
    low: float = -2.0,
    high: float = 2.0,
    given: Mapping[str, object] | None = None,
    **options: object,
) -> None:
    """Check one graph in separate and stacked I/O. Inputs without a role are fed per model."""
    model = oracle.graph(inputs, text, opset)
    every = {info.name: role.get(info.name, "input") for info in model.graph.input}
    fixed = {name: np.asarray(value) for name, value in (given or {}).items()}
    values = oracle.draw(model, models, sizes=sizes, low=low, high=high, given=fixed)
    for name, kind in every.items():
        if kind.startswith("shared"):
            values[name][1:] = values[name][0]
    for io in oracle.IO:
        oracle.check(model, values, every, folder, io=io, **options)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- wrong values


@pytest.mark.parametrize("opset", [13, 17, 20, 21])
@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_dequantized_without_a_zero_point_keeps_its_sign(opset: int, dtype: str, tmp_path: Path) -> None:
    """ONNX Runtime moves the DequantizeLinear behind the Reshape that splits the models, as uint8."""
    merge("y = DequantizeLinear(x, scale)", f"{dtype}[4] x, float scale", {"scale": "shared weight"}, tmp_path,
          opset=opset, low=-9, high=9)  # fmt: skip


@pytest.mark.parametrize("opset", [13, 20, 21])
@pytest.mark.parametrize("dtype", ["int8", "int32"])
@pytest.mark.parametrize("scale", ["float scale", "float[1] scale"])
def test_dequantized_once_for_all_models_keeps_its_sign(
    opset: int, dtype: str, scale: str, tmp_path: Path
) -> None:
    """The node runs as in the source; the expansion to all models stands behind it."""
    role = {"x": "shared input", "scale": "shared weight"}
    merge("y = DequantizeLinear(x, scale) z = Neg(v)", f"{dtype}[4] x, {scale}, float[2] v", role, tmp_path,
          opset=opset, low=-9, high=9, alike=("y",))  # fmt: skip


@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_dequantized_once_per_model_keeps_its_sign(dtype: str, tmp_path: Path) -> None:
    merge("y = DequantizeLinear(x, scale)", f"{dtype}[4] x, float scale", {"scale": "weight"}, tmp_path,
          opset=12, low=-9, high=9, keep_opset=True, reason="before opset 13")  # fmt: skip


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_dequantized_in_a_body_keeps_its_sign(opset: int, dtype: str, tmp_path: Path) -> None:
    text = """y = If (go) <
        then_branch = t () => (float[4] p) { p = DequantizeLinear(x, scale) },
        else_branch = e () => (float[4] q) { q = Mul(v, w) }>"""
    role = {"x": "shared input", "scale": "shared weight", "go": "shared input", "w": "weight"}
    merge(text, f"{dtype}[4] x, float scale, bool go, float[4] v, float[4] w", role, tmp_path, opset=opset,
          low=-9, high=9, given={"go": True}, alike=("y",))  # fmt: skip


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("dtype", ["int8", "int32"])
@pytest.mark.parametrize("opset", [20, 21])
def test_dequantized_with_a_zero_point_loads(dtype: str, zero: int, opset: int, tmp_path: Path) -> None:
    """ONNX Runtime makes the pair behind the Reshape of two types at once."""
    role = {"x": "shared input", "scale": "shared weight", "zero": "shared weight"}
    merge("y = DequantizeLinear(x, scale, zero) z = Neg(v)", f"{dtype}[4] x, float scale, {dtype} zero, float[2] v",
          role, tmp_path, opset=opset, low=-9, high=9, given={"zero": zero}, alike=("y",))  # fmt: skip


def test_a_bias_stays_as_it_is(tmp_path: Path) -> None:
    """ONNX Runtime takes the whole group into one operator on bytes, in the merged model as in the source."""
    text = """a = DequantizeLinear(x, scale, zero) b = DequantizeLinear(w, scale, zero) c = DequantizeLinear(bias, scale)
        d = Conv(a, b, c) y = QuantizeLinear(d, scale, zero) z = Neg(v)"""
    inputs = "uint8[1,2,3,3] x, uint8[2,2,2,2] w, int32[2] bias, float scale, uint8 zero, float[2] v"
    model = oracle.graph(inputs, text)
    role = {"x": "shared input", "v": "input"} | dict.fromkeys(
        ("w", "bias", "scale", "zero"), "shared weight"
    )
    values = oracle.draw(model, 2, low=1, high=5)
    corr = oracle.family(oracle.as_models(model, values, role, tmp_path))
    for _, merged, what in oracle.every_merge(corr, role, "stacked"):
        ops = [node.op_type for node in onnx.load_from_string(merged).graph.node]
        assert ops.count("DequantizeLinear") == 3, what


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_the_mean_of_no_losses(dtype: str, tmp_path: Path) -> None:
    """ONNX Runtime calls it 0, not what is left of 0 / 0."""
    text = 'y = NegativeLogLikelihoodLoss<reduction = "mean">(x, labels) z = Neg(w)'
    merge(text, f"{dtype}[0,4,3] x, int64[0,3] labels, float[2] w", {}, tmp_path, alike=("y",))
    merge(
        text, f"{dtype}[s,4,3] x, int64[s,3] labels, float[2] w", {}, tmp_path, sizes={"s": 2}, low=0, high=3
    )


def test_two_equal_splits_into_unequal_numbers_of_parts(tmp_path: Path) -> None:
    """ONNX Runtime makes them one where their axes have become the same."""
    text = "a, b = Split<axis=0>(x) c, d, e, f = Split<axis=-1>(x)"
    merge(text, "int64[4] x", {}, tmp_path, opset=13, low=-99, high=99)


@pytest.mark.parametrize("differs", ["zero", "scale"])
def test_a_quantised_product_that_differs_only_in_its_output(differs: str, tmp_path: Path) -> None:
    """The product itself is the same for all models: what comes after has N on an axis that was not there."""
    inputs = "uint8[3,2] a, uint8[2,3] b, float scale, uint8 zero, float one, uint8 nought"
    role = dict.fromkeys(("a", "b", "scale", "zero", "one", "nought"), "shared weight") | {differs: "weight"}
    text = "y = QLinearMatMul(a, one, nought, b, one, nought, scale, zero)"
    merge(text, inputs, role, tmp_path, models=3, low=1, high=3)


# --------------------------------------------------------------------------- failures when it runs


def test_resize_of_three_axes_whose_first_may_change(tmp_path: Path) -> None:
    """Of rank 4 ONNX Runtime blends two axes, so the models stand before a fifth."""
    text = 'sizes = Constant<value_ints = [2, 2, 2]>() y = Resize<mode = "linear">(x, , , sizes)'
    merge(text, "float[n,n,4] x", {}, tmp_path, sizes={"n": 2})
    merge(text, "float[n,n,4] x", {}, tmp_path, sizes={"n": 3})


def test_center_crop_pad_between_transposes(tmp_path: Path) -> None:
    """ONNX Runtime permutes the axes that CenterCropPad names as if they were sizes. The plan with the models
    on axis 1 transposes before and after."""
    text = "sizes = Constant<value_ints = [1, 3]>() y = CenterCropPad<axes = [2, 1]>(x, sizes)"
    merge(text, "float[4,1,6] x", {}, tmp_path, opset=20)
    merge(text, "float[4,n,m] x", {}, tmp_path, opset=20, sizes={"n": 1, "m": 6})
    merge(text, "float[4,n,m] x", {}, tmp_path, opset=20, sizes={"n": 5, "m": 1})
    text = "y = CenterCropPad<axes = [1, 0]>(x, sizes)"
    merge(text, "float[n,m,2] x, int64[2] sizes", {"sizes": "shared input"}, tmp_path, opset=18,
          sizes={"n": 2, "m": 3}, low=1, high=5)  # fmt: skip


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_loss_of_as_many_labels_as_samples(reduction: str, tmp_path: Path) -> None:
    """ONNX Runtime does not compare the two numbers, and reads no more rows than there are labels."""
    text = f'y = NegativeLogLikelihoodLoss<reduction = "{reduction}">(x, labels)'
    for size in (1, 2):
        merge(text, "float[s,5,3] x, int64[1,3] labels", {"labels": "weight"}, tmp_path, sizes={"s": size}, low=0,
              high=4)  # fmt: skip
    merge(text, "float[s,5,3] x, int64[s,3] labels", {}, tmp_path, sizes={"s": 2}, low=0, high=4)


SCANNED = """y, u = Scan <num_scan_inputs = 1, body = b (float[2,4] s, float a) => (float[2,4] t, float v) {
        v = Neg(a) t = MeanVarianceNormalization<axes = [0, 1]>(x) }>(x, w)"""


def test_scan_of_what_has_a_shape_that_is_not_inferred(tmp_path: Path) -> None:
    """ONNX Runtime wants the shape of what a body gives, from netfuse_onnx.lower.interpreter import lower
    from netfuse_onnx.plan import planner as planning
    from netfuse_onnx.types import Became, Plan
    from the body where it can't tell."""
    merge(SCANNED, "float[2,4] x, float[3] w", {"x": "weight", "w": "weight"}, tmp_path, opset=21)


def test_loop_without_iterations_gives_the_shape_that_its_body_declares(tmp_path: Path) -> None:
    text = """y = Loop <body = b (int64 i, bool c) => (bool d, float[2,1] v) {
        d = Identity(c) k = Shape(i) v = ReduceMean<keepdims = 1>(x, axes) }>(trips, "")"""
    role = {"trips": "shared weight", "x": "weight", "axes": "shared input"}
    merge(text, "int64 trips, float[2,3] x, int64[1] axes", role, tmp_path, opset=18,
          given={"trips": 0, "axes": [1]}, alike=("y",))  # fmt: skip


def test_loop_without_a_condition_in_a_branch(tmp_path: Path) -> None:
    """Loop wants two inputs, the second of no name, in the copies of the branch too."""
    text = """go = Less(a, b) y = If (go) <
        then_branch = t () => (float[2] p) {
            q = Loop <body = l (int64 i, bool c) => (bool d, float[2] o) { d = Identity(c) o = Add(x, x) }>(trips, "")
            p = ReduceSum<keepdims = 0>(q, axis) },
        else_branch = e () => (float[2] r) { r = Neg(x) }>"""
    inputs = "float a, float b, int64 trips, float[2] x, int64[1] axis"
    role = {"b": "weight", "trips": "shared weight", "axis": "shared weight"}
    merge(text, inputs, role, tmp_path, given={"trips": 2, "axis": [0]}, reason="condition")


@pytest.mark.parametrize("attrs", ["kernel_shape = [2], strides = [2], pads = [1, 1]",
                                   "kernel_shape = [1], strides = [2]"])  # fmt: skip
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_pool_whose_last_window_starts_in_the_padding(op: str, attrs: str, tmp_path: Path) -> None:
    """onnx counts it, ONNX Runtime doesn't: the sizes behind it were wrong."""
    for size in (1, 2, 3, 4):
        text = f"v = {op}<ceil_mode = 1, {attrs}>(x) u = Mul(v, w) y = ReduceMax<keepdims = 1>(u)"
        for role in ("input", "weight"):
            merge(text, f"float[1,1,{size}] x, float[1] w", {"x": role, "w": "weight"}, tmp_path, opset=17)


def test_frequencies_of_an_stft_that_leaves_them_to_the_default(tmp_path: Path) -> None:
    """onnx takes `onesided` for 0 where it is absent."""
    merge('v = STFT(x, step, "", length) y = ReduceMax(v)', "float[1,8,1] x, int64 step, int64 length",
          {"step": "shared weight", "length": "shared weight"}, tmp_path, given={"step": 2, "length": 4})  # fmt: skip


def test_the_rank_behind_computed_axes(tmp_path: Path) -> None:
    """A run told it, for the axes that happened to be drawn: one of them twice."""
    role = {"axes": "shared input", "w": "weight"}
    merge("y = ReduceSum<keepdims = 0>(x, axes) z = MatMul(y, w)", "float[3,1,4,4] x, int64[2] axes, float[4,4] w",
          role, tmp_path, given={"axes": [1, 0]}, reason="computed at run time")  # fmt: skip


def test_the_rank_behind_a_squeeze_of_open_sizes(tmp_path: Path) -> None:
    """A run told it, for the sizes that happened to be drawn: an axis of size 1 is gone, others are not."""
    for size in (1, 5):
        merge("u = Squeeze(x) v = MatMul(u, w) y = ReduceSum<keepdims = 0>(v)", "float[5,n] x, float[5,5] w",
              {"w": "weight"}, tmp_path, sizes={"n": size}, reason="rank")  # fmt: skip


# --------------------------------------------------------------------------- failures of the merge


def test_quantised_convolution_of_an_open_number_of_channels(tmp_path: Path) -> None:
    """Refused while the node is emitted, when it was too late for another lowering."""
    inputs = "uint8[n,n,3,3] x, int8[3,2,2,2] w, float s, uint8 zero, int8 zero_w, uint8 zero_y"
    role = dict.fromkeys(("w", "s", "zero_w", "zero_y"), "weight") | {"zero": "shared weight"}
    text = "y = QLinearConv(x, s, zero, w, s, zero_w, s, zero_y)"
    merge(text, inputs, role, tmp_path, sizes={"n": 2}, low=1, high=5, opset=17)


@pytest.mark.parametrize(
    "op", ["ConvInteger(x, w, zero, zero_w)", "QLinearConv(x, s, zero, w, s, zero_w, s, zero)"]
)
def test_quantised_convolution_without_filters(op: str, tmp_path: Path) -> None:
    inputs = "uint8[2,2,3,3] x, int8[0,2,2,2] w, uint8 zero, int8 zero_w" + (
        ", float s" if "s," in op else ""
    )
    role = {"w": "weight", "zero": "shared weight", "zero_w": "weight", "s": "shared weight"}
    merge(f"y = {op}", inputs, role, tmp_path, low=1, high=5, reason="or 0")


@pytest.mark.parametrize("sizes", ["uint8[3,5,2] a, uint8[2,0] b", "uint8[0,2,5] a, uint8[0,5,1] b"])
def test_quantised_product_of_nothing(sizes: str, tmp_path: Path) -> None:
    inputs = f"{sizes}, float s, uint8 zero"
    role = {"a": "weight", "b": "weight", "s": "shared weight", "zero": "weight"}
    text = "y = QLinearMatMul(a, s, zero, b, s, zero, s, zero)"
    merge(text, inputs, role, tmp_path, low=1, high=5, reason="is empty")


def test_a_mean_that_no_model_makes_its_own_is_not_joined(tmp_path: Path) -> None:
    """LayerNormalization's mean does not depend on its scale. Where the node is made once per model, any of
    its means is everybody's."""
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[2,4] x, float[4] w) => (float[2,4] z, float[2,1] y) {
        z, mean, deviation = LayerNormalization <axis = -1> (x, w)
        y = Split <axis = 0, num_outputs = 1> (mean)
    }"""
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    scales = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    role = {"x": "shared input", "w": "weight"}
    proto = onnx.parser.parse_model(text)
    corr = oracle.family(oracle.as_models(proto, {"x": np.stack([x] * 3), "w": scales}, role, tmp_path))
    share, cost = frozenset({"x"}), oracle.Every(3)
    found = planning.candidates(corr, io="separate", share=share, cost=cost)
    found.options[0] = [option for option in found.options[0] if option.became is Became.REPLICATED]
    search = planning.Search(corr, found, cost)
    plan = Plan(search.chosen(search.solve()), 0.0, True)
    session = ort.InferenceSession(oracle.materialise(lower(corr, plan, share=share)))
    for mean in session.run(["m0/y", "m2/y"], {"x": x}):
        np.testing.assert_allclose(mean, x.mean(-1, keepdims=True), atol=1e-6)
