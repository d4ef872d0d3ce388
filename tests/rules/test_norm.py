"""Normalisations."""

import numpy as np
import pytest
from oracle import check, draw, few_roles, graph, roles, some_roles, sweep

OPS = (
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
)
SIZES = {"B": 3, "S": 4}


@pytest.mark.parametrize("x", ["2,3", "2,3,4", "2,3,2,2", "2,3,2,2,2", "B,3,S", "0,3,2"])
def test_batch_norm(x, tmp_path):
    """x, scale and mean in every role; bias and variance take what the others do not."""
    model = graph(
        f"float[{x}] x, float[3] s, float[3] b, float[3] m, float[3] v",
        "y = BatchNormalization(x, s, b, m, v)",
    )
    sweep(model, tmp_path, sizes=SIZES, low=0.5, high=2, roles=some_roles if x == "2,3,4" else few_roles)


def test_batch_norm_of_a_vector(tmp_path):
    """It has one channel, which is no axis: the models join the batch, or stay apart."""
    model = graph(
        "float[3] x, float[1] s, float[1] b, float[1] m, float[1] v", "y = BatchNormalization(x, s, b, m, v)"
    )
    values = draw(model, 3, low=0.5)
    check(model, values, {"x": "input", **dict.fromkeys("sbmv", "shared weight")}, tmp_path)
    check(
        model,
        values,
        {"x": "input", **dict.fromkeys("sbmv", "weight")},
        tmp_path,
        reason="no axis of channels",
    )


@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_norm_opsets(opset, tmp_path):
    text = "float[2,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v"
    model = graph(text, "y = BatchNormalization<epsilon = 0.01, momentum = 0.8>(x, s, b, m, v)", opset)
    role = dict.fromkeys("sbmv", "weight")
    for x in ("input", "shared input"):
        check(model, draw(model, 3, low=0.5), {"x": x, **role}, tmp_path, keep_opset=True)


@pytest.mark.parametrize("opset", [14, 15])
def test_batch_norm_in_training(opset, tmp_path):
    """The statistics of the batch are those of each channel, and the models are more channels."""
    text = "float[2,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v"
    model = graph(text, "y, p, q = BatchNormalization<training_mode = 1>(x, s, b, m, v)", opset)
    for role in (dict.fromkeys("sbmv", "weight"), dict.fromkeys("sbmv", "shared weight")):
        check(model, draw(model, 3, low=0.5), {"x": "input", **role}, tmp_path, keep_opset=True)
    model = graph(text, "y, p, q = BatchNormalization<training_mode = 1>(x, s, b, m, v)")
    sweep(model, tmp_path, low=0.5, alike="pq")


@pytest.mark.parametrize("x", ["2,3,4", "2,3,2,2", "B,3,S", "2,3,2,2,2"])
def test_instance_norm(x, tmp_path):
    model = graph(f"float[{x}] x, float[3] s, float[3] b", "y = InstanceNormalization(x, s, b)")
    sweep(model, tmp_path, sizes=SIZES, roles=some_roles if x == "2,3,4" else few_roles)


@pytest.mark.parametrize(("opset", "affine"), [(18, 2), (21, 4)])
@pytest.mark.parametrize("x", ["3,4,5", "B,4,2,S"])
def test_group_norm(opset, affine, x, tmp_path):
    text = f"float[{x}] x, float[{affine}] s, float[{affine}] b"
    model = graph(text, "y = GroupNormalization<num_groups = 2, epsilon = 0.01>(x, s, b)", opset)
    sweep(model, tmp_path, sizes=SIZES, roles=few_roles)


# ------------------------------------------------------------------------ over the last axes


@pytest.mark.parametrize(
    ("x", "axis", "scale"),
    [("3,4", -1, "4"), ("2,3,4", -1, "4"), ("2,3,4", 2, "4"), ("2,3,4", 1, "3,4"), ("2,3,4", -2, "3,4"),
     ("3,4", 0, "3,4"), ("B,S,4", -1, "4"), ("2,3,2,4", -1, "4"), ("0,4", -1, "4"), ("4", -1, "4")],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(x, axis, scale, bias, tmp_path):
    extra = f", float[{scale}] b" if bias else ""
    model = graph(
        f"float[{x}] x, float[{scale}] s{extra}",
        f"y = LayerNormalization<axis = {axis}, epsilon = 0.01>(x, s{', b' if bias else ''})",
    )
    sweep(model, tmp_path, sizes=SIZES, roles=few_roles)


@pytest.mark.parametrize(
    ("x", "axis", "scale"), [("2,3,4", -1, "4"), ("2,3,4", 1, "3,4"), ("B,S,4", -1, "4")]
)
def test_rms_norm(x, axis, scale, tmp_path):
    model = graph(f"float[{x}] x, float[{scale}] s", f"y = RMSNormalization<axis = {axis}>(x, s)", 23)
    sweep(model, tmp_path, sizes=SIZES)


@pytest.mark.parametrize("scale", ["3,4", "2,3,4", "2,1,4"])
def test_layer_norm_whose_scale_depends_on_the_axes_before(scale, tmp_path):
    """N equals the batch: a scale of [2, 3, 4] must not meet the model axis."""
    model = graph(f"float[2,3,4] x, float[{scale}] s, float[{scale}] b", "y = LayerNormalization(x, s, b)")
    sweep(model, tmp_path, models=(2, 3), roles=few_roles)
    check(model, draw(model, 2), {"x": "input", "s": "shared weight", "b": "shared weight"}, tmp_path)


def test_layer_norm_with_every_role_and_number(tmp_path):
    model = graph("float[B,3,4] x, float[4] s", "y = LayerNormalization(x, s)")
    sweep(model, tmp_path, sizes=SIZES, thorough=True)
    model = graph("float[B,3,4] x, float[4] s, float[4] b", "y = LayerNormalization(x, s, b)")
    for role in roles("xsb"):
        check(model, draw(model, 3, sizes=SIZES), role, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_layer_norm_of_other_types(dtype, tmp_path):
    model = graph(f"{dtype}[2,3,4] x, {dtype}[4] s, {dtype}[4] b", "y = LayerNormalization(x, s, b)")
    for kind in ("weight", "shared weight"):
        check(model, draw(model, 3), {"x": "input", "s": kind, "b": kind}, tmp_path)


def test_layer_norm_with_statistics(tmp_path):
    for text, call in (("", "(x, s)"), (", float[4] b", "(x, s, b)")):
        model = graph(f"float[2,3,4] x, float[4] s{text}", f"y, m, d = LayerNormalization{call}")
        sweep(model, tmp_path, alike="md")


def test_layer_norm_after_a_skip(tmp_path):
    """Add, then LayerNormalization: what ONNX Runtime fuses to SkipLayerNormalization must still be right."""
    text = "float[2,3,4] x, float[2,3,4] z, float[4] s, float[4] b"
    model = graph(text, "a = Add(x, z)  y = LayerNormalization(a, s, b)")
    role = {"x": "input", "z": "input", "s": "weight", "b": "weight"}
    for n in (1, 2, 3):
        values = draw(model, n)
        values["s"] += np.float32(1)
        check(model, values, role, tmp_path)
