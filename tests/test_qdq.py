"""Groups of DequantizeLinear, operator, QuantizeLinear: what they become, and that they compute the same."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from contrib_graphs import graph
from oracle import IO, as_models, check, draw, family

from netfuse_onnx.prove.lineage import family_lineages

SIZES = {"B": 3, "S": 4}
STEP = 1.01 / 100
"""One step of a result of 100 or so: where an operator on floats stands between two roundings."""

PARAMS = {"a": "b", "c": "d", "e": "f"}
"""Scale -> zero point: of the input, of the weight, of the result."""


def values_of(model, n):
    """Ranges as a calibration gives them: bytes of the whole range, results that use theirs."""
    rng = np.random.default_rng(n)
    values = draw(model, n, sizes=SIZES)
    for name, value in values.items():
        if name in "ace":
            values[name] = rng.uniform(0.01, 0.02, value.shape).astype(np.float32)
        elif value.dtype == np.int32:
            values[name] = rng.integers(-500, 500, value.shape).astype(np.int32)
        elif value.dtype.kind in "iu" and name != "t":
            low, high = (110, 146) if name in "bf" else (0, 256)
            shift = 128 if value.dtype == np.int8 else 0
            values[name] = (rng.integers(low, high, value.shape) - shift).astype(value.dtype)
    if "e" in values:
        values["e"] *= np.float32(0.4)
    if "s" in values:  # the scale of a bias is that of the sums
        values["s"] = (values["a"].reshape(n, -1) * values["c"].reshape(n, -1)).reshape(values["s"].shape)
    if "d" in values:
        values["d"][:] = 0
    return values


def operators(model, values, role, folder):
    """What the graph is made of before the plan."""
    corr = family(as_models(model, values, role, folder))
    return collections.Counter(node.op for node in corr.graph.nodes)


def quantised(call, x="uint8[B,3,4,4]", w="int8[5,3,3,3]", *, bias="", zero="uint8", after=True, opset=17):
    """x and w through DequantizeLinear, the operator, QuantizeLinear."""
    text = f"{x} x, float a, {zero} b" + (f", {w} w, float c, int8 d" if w else "")
    text += f", int32[{bias}] g, float s" if bias else ""
    text += f", float e, {zero} f" if after else ""
    body = "i = DequantizeLinear(x, a, b) " + ("j = DequantizeLinear(w, c, d) " if w else "")
    body += "k = DequantizeLinear(g, s) " if bias else ""
    body += call + (" y = QuantizeLinear(z, e, f)" if after else " y = Neg(z)")
    return graph(text, body, opset)


def shares(model, **roles):
    return {info.name: "shared weight" for info in model.graph.input} | {"x": "input"} | roles


GROUPS = [
    ("z = Conv<pads = [1, 1, 1, 1]>(i, j, k)", {"bias": "5"}, "QLinearConv"),
    ("z = Conv(i, j)", {}, "QLinearConv"),
    ("z = MatMul(i, j)", {"x": "uint8[B,S,6]", "w": "int8[6,4]"}, "QLinearMatMul"),
    ("z = MatMul(i, j)", {"x": "uint8[B,S,6]", "w": "int8[6,4]", "after": False}, "MatMulIntegerToFloat"),
    ("z = Gemm<transB = 1>(i, j, k)", {"x": "uint8[B,6]", "w": "int8[4,6]", "bias": "4"}, "QGemm"),
    ("z = Gemm(i, j)", {"x": "uint8[B,6]", "w": "int8[6,4]", "after": False}, "QGemm"),
    ("z = Sigmoid(i)", {"w": ""}, "QLinearSigmoid"),
    ("z = LeakyRelu<alpha = 0.1>(i)", {"w": ""}, "QLinearLeakyRelu"),
    ("z = GlobalAveragePool(i)", {"w": ""}, "QLinearGlobalAveragePool"),
    ("z = AveragePool<kernel_shape = [2, 2]>(i)", {"w": ""}, "QLinearAveragePool"),
]


@pytest.mark.parametrize(
    ("call", "form", "becomes"), GROUPS, ids=[f"{g[2]}-{i}" for i, g in enumerate(GROUPS)]
)
def test_groups_become_operators_on_bytes(call, form, becomes, tmp_path):
    model = quantised(call, **form)
    exact = becomes in ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat")
    own = [name for name in "acegws" if name in {info.name for info in model.graph.input}]
    points = [name for name in "bf" if name in {info.name for info in model.graph.input}]
    for turn, more in enumerate((own, [*own, *points], points)):
        values = values_of(model, 3)
        role = shares(model, **dict.fromkeys(more, "weight"))
        found = operators(model, values, role, tmp_path)
        assert found[becomes] == 1 and not found["DequantizeLinear"], found
        check(model, values, role, tmp_path, io=IO[turn % 2], tolerance=None if exact else STEP)


@pytest.mark.parametrize(("call", "form", "becomes"), GROUPS[:7], ids=[str(i) for i in range(7)])
def test_a_rewrite_changes_no_tolerance(call, form, becomes, tmp_path):
    """One step is allowed where the file ends in QuantizeLinear, whatever the last operator has become."""
    model = quantised(call, **form)
    values = values_of(model, 3)
    role = shares(model)
    role |= dict.fromkeys(role.keys() & set("acegws"), "weight")
    corr = family(as_models(model, values, role, tmp_path))
    assert becomes in {node.op for node in corr.graph.nodes}
    (line,) = family_lineages(corr).values()
    assert line.rounded == form.get("after", True)
    assert line.own and line.inputs == {"x"}


def test_groups_alike_in_all_models_stay(tmp_path):
    model = quantised("z = Conv(i, j)")
    values = values_of(model, 3)
    role = shares(model, w="weight", c="weight")
    assert operators(model, values, role, tmp_path)["DequantizeLinear"] == 2
    check(model, values, role, tmp_path, tolerance=STEP)


def test_a_relu_that_the_zero_point_implies(tmp_path):
    model = quantised("r = Conv(i, j) z = Relu(r)")
    for least, gone in ((0, True), (9, False)):
        values = values_of(model, 3)
        values["f"][:] = least
        role = shares(model, a="weight", e="weight", w="weight")
        assert (operators(model, values, role, tmp_path)["Relu"] == 0) == gone
        check(model, values, role, tmp_path, tolerance=STEP)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("call", "x"),
    [("t = Constant<value = int64[3] {0, -1, 2}>() z = Reshape(i, t)", "[B,3,4]"), ("z = Transpose<perm = [2, 0, 1]>(i)", "[B,3,4]"),
     ("z = MaxPool<kernel_shape = [2, 2]>(i)", "[B,3,4,4]"), ("z = Flatten(i)", "[B,3,4]"),
     ("t = Constant<value = int64[2] {2, 0}>() z = Gather<axis = 1>(i, t)", "[B,3,4]")],
)  # fmt: skip
def test_what_only_moves_works_on_bytes(call, x, kind, tmp_path):
    text = f"{kind}{x} x, float a, {kind} b"
    model = graph(text, f"i = DequantizeLinear(x, a, b) {call} y = QuantizeLinear(z, a, b)")
    for turn, kinds in enumerate(({"a": "weight"}, {"a": "weight", "b": "weight"})):
        values = values_of(model, 3)
        role = shares(model, **kinds)
        found = operators(model, values, role, tmp_path)
        assert not found["DequantizeLinear"] and not found["QuantizeLinear"]
        check(model, values, role, tmp_path, io=IO[turn])


def test_what_does_not_fit_is_left_alone(tmp_path):
    """A float bias, a bias of another scale, another type of the result, a result with two readers."""
    text = (
        "uint8[B,3,4,4] x, float a, uint8 b, int8[5,3,3,3] w, float c, int8 d, float[5] g, float e, uint8 f"
    )
    start = "i = DequantizeLinear(x, a, b) j = DequantizeLinear(w, c, d)"
    models = [
        graph(text, f"{start} z = Conv(i, j, g) y = QuantizeLinear(z, e, f)"),
        graph(text.replace(", float[5] g", ""), f"{start} z = Conv(i, j) y = QuantizeLinear(z, e, f) v = Neg(z)"),
        graph(text.replace(", float[5] g", "").replace("uint8 f", "int8 f"),
              f"{start} z = Conv(i, j) y = QuantizeLinear(z, e, f)"),
    ]  # fmt: skip
    for model in models:
        values = values_of(model, 3)
        role = shares(model, a="weight", e="weight", w="weight")
        assert operators(model, values, role, tmp_path)["Conv"] == 1
        check(model, values, role, tmp_path, tolerance=STEP)


def test_parameters_that_are_computed(tmp_path):
    model = quantised("z = Conv(i, j)")
    values = values_of(model, 3)
    role = shares(model, a="input", w="weight")
    assert operators(model, values, role, tmp_path)["Conv"] == 1
    role = shares(model, e="input")
    assert operators(model, values, role, tmp_path)["Conv"] == 1


def test_one_quantiser_for_two_readers(tmp_path):
    """A residual block: the input is read by a convolution and by the sum."""
    text = "uint8[B,3,4,4] x, float a, uint8 b, int8[3,3,3,3] w, float c, int8 d, float e, uint8 f, float u, uint8 v"
    body = """i = DequantizeLinear(x, a, b) j = DequantizeLinear(w, c, d)
              z = Conv<pads = [1, 1, 1, 1]>(i, j) q = QuantizeLinear(z, e, f)
              h = DequantizeLinear(q, e, f) n = Add(h, i) y = QuantizeLinear(n, u, v)"""
    model = graph(text, body)
    values = values_of(model, 3)
    values["u"] = np.full_like(values["u"], 0.03)
    values["v"][:] = 128
    role = shares(model, **dict.fromkeys("abcefw", "weight"))
    found = operators(model, values, role, tmp_path)
    assert found["QLinearConv"] == 1 and found["Add"] == 1 and found["DequantizeLinear"] == 2
    check(model, values, role, tmp_path, tolerance=STEP)
