"""What the fuzzer found (tests/fuzz.py), as the smallest graph that showed it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import oracle
import pytest


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
    **options: object,
) -> None:
    """Check one graph in separate and stacked I/O. Inputs without a role are fed per model."""
    model = oracle.graph(inputs, text, opset)
    every = {info.name: role.get(info.name, "input") for info in model.graph.input}
    values = oracle.draw(model, models, sizes=sizes, low=low, high=high)
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
    """ONNX Runtime does not compare the two numbers: with the models in one batch, others' labels are read."""
    text = f'y = NegativeLogLikelihoodLoss<reduction = "{reduction}">(x, labels)'
    merge(text, "float[s,5,3] x, int64[1,3] labels", {"labels": "weight"}, tmp_path, sizes={"s": 1}, low=0, high=4,
          reason="may differ in number")  # fmt: skip
    merge(text, "float[s,5,3] x, int64[s,3] labels", {}, tmp_path, sizes={"s": 2}, low=0, high=4)


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


def test_quantised_product_without_columns(tmp_path: Path) -> None:
    inputs = "uint8[3,5,2] a, uint8[2,0] b, float s, uint8 zero"
    role = {"a": "weight", "b": "weight", "s": "shared weight", "zero": "weight"}
    text = "y = QLinearMatMul(a, s, zero, b, s, zero, s, zero)"
    merge(text, inputs, role, tmp_path, low=1, high=5, reason="has no columns")
