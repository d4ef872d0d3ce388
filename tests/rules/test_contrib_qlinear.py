"""ONNX Runtime's operators on bytes that are operators on floats between two roundings."""

import itertools

import numpy as np
import pytest
from contrib_graphs import graph, shapes_agree
from oracle import IO, check, draw

OPS = tuple(
    f"com.microsoft.{op}"
    for op in (
        "NhwcMaxPool", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool",
        "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
    )
)  # fmt: skip
SIZES = {"B": 3, "S": 4}
STEP = 1.01 / 100
"""Where the scales differ, one step of a result of 100 or so: its value may lie between two."""


def values_of(model, n, scale=1.0):
    rng = np.random.default_rng(n)
    values = draw(model, n, sizes=SIZES)
    for name, value in values.items():
        if value.dtype.kind == "f":
            values[name] = rng.uniform(0.01, 0.02, value.shape).astype(np.float32)
        elif value.dtype != np.bool_:
            low, high = (110, 150) if value.ndim == 1 else (0, 256)
            shift = 128 if value.dtype == np.int8 else 0
            values[name] = (rng.integers(low, high, value.shape) - shift).astype(value.dtype)
    return values


def every(model, folder, data, *, up=1.0, given=None):
    """All inputs but `data` are parameters; the last scale is that of the result, `up` times as coarse. Those
    `given` are the same for all models."""
    given = given or {}
    params = [info.name for info in model.graph.input if info.name not in {*data, *given}]
    last = [info.name for info in model.graph.input if info.type.tensor_type.elem_type == 1][-1]
    fixed = dict.fromkeys(given, "shared weight")
    shared = dict.fromkeys([*data, *params], "shared weight")
    roles = [shared | dict.fromkeys(data, "input")]
    roles += [shared | {data[0]: "input"} | {name: "weight"} for name in (*data[1:], *params)]
    roles += [
        dict.fromkeys(params, "weight") | dict.fromkeys(data, kind) for kind in ("input", "shared input")
    ]
    roles += [dict.fromkeys(params, "input") | dict.fromkeys(data, "input")]
    for turn, role in enumerate(roles):
        values = values_of(model, (3, 2)[turn % 2])
        values[last] = values[last] * np.float32(up)
        for name, value in given.items():
            values[name] = np.full_like(values[name], value)
        if not turn:
            shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
        exact = all(role[name].startswith("shared") for name in params)
        check(model, values, role | fixed, folder, io=IO[turn % 2], tolerance=0.0 if exact else STEP)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3,4", "3,4"),
        ("2,B,4", "4"),
        ("B,3,2,2", "B,3,2,2"),
        ("B,S,4", "1"),
        ("2,3,1,4", "3,5,1"),
        ("3", "B,3"),
    ],
)
def test_of_two(a, b, op, kind, tmp_path):
    text = f"{kind}[{a}] x, float s, {kind} p, {kind}[{b}] z, float t, {kind} q, float u, {kind} r"
    model = graph(text, f"y = com.microsoft.{op}(x, s, p, z, t, q, u, r)")
    every(model, tmp_path, "xz", up=2.0)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("call", ["QLinearSigmoid", "QLinearLeakyRelu<alpha = 0.1>"])
@pytest.mark.parametrize("x", ["3,4", "B,3,S", "2,3,2,2"])
def test_of_one(x, call, kind, tmp_path):
    text = f"{kind}[{x}] x, float s, {kind} p, float u, {kind} r"
    every(graph(text, f"y = com.microsoft.{call}(x, s, p, u, r)"), tmp_path, "x")


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("x", "attributes"),
    [("3,4", "axis = -1, opset = 13"), ("B,3,S", "axis = 1, opset = 13"), ("B,3,4", "axis = 2, opset = 12")],
)
def test_softmax(x, attributes, kind, tmp_path):
    """ONNX Runtime's result has a scale of 1/256, whatever the model says."""
    text = f"{kind}[{x}] x, float s, {kind} p, float u, {kind} r"
    model = graph(text, f"y = com.microsoft.QLinearSoftmax<{attributes}>(x, s, p, u, r)")
    every(model, tmp_path, "x", given={"u": 1 / 256, "r": 0 if kind == "uint8" else -128})


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(
    "call", ["QLinearGlobalAveragePool<channels_last = {}>",
             "QLinearAveragePool<channels_last = {}, kernel_shape = [2, 2], pads = [1, 0, 0, 1], strides = [1, 2]>"]
)  # fmt: skip
def test_pools(call, last, kind, tmp_path):
    x = "B,4,5,3" if last else "B,3,4,5"
    text = f"{kind}[{x}] x, float s, {kind} p, float u, {kind} r"
    every(graph(text, f"y = com.microsoft.{call.format(last)}(x, s, p, u, r)"), tmp_path, "x")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_concat(kind, axis, tmp_path):
    text = f"float u, {kind} r, {kind}[2,3,4] x, float s, {kind} p, {kind}[2,3,4] z, float t, {kind} q"
    model = graph(text, f"y = com.microsoft.QLinearConcat<axis = {axis}>(u, r, x, s, p, z, t, q)")
    params = "usptqr"
    shared = dict.fromkeys(params, "shared weight")
    roles = [shared | {"x": "input", "z": "input"}, shared | {"x": "input", "z": "shared weight"}]
    roles += [
        shared | {"x": "input", "z": z, name: "weight"} for name in params for z in ("input", "shared input")
    ]
    roles += [dict.fromkeys(params, "weight") | {"x": x, "z": "input"} for x in ("input", "weight")]
    for turn, role in enumerate(roles):
        values = values_of(model, (3, 2)[turn % 2])
        if not turn:
            shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
        check(model, values, role, tmp_path, io=IO[turn % 2], tolerance=STEP)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_where(kind, tmp_path):
    text = f"bool[B,3,4] c, {kind}[B,3,4] x, float s, {kind} p, {kind}[4] z, float t, {kind} q, float u, {kind} r"
    model = graph(text, "y = com.microsoft.QLinearWhere(c, x, s, p, z, t, q, u, r)")
    params = "sptqur"
    for turn, (some, c, z) in enumerate(
        itertools.product(("weight", "shared weight"), ("input", "shared input"), ("input", "weight"))
    ):
        values = values_of(model, (3, 2)[turn % 2])
        role = dict.fromkeys(params, some) | {"c": c, "x": "input", "z": z}
        if not turn:
            shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
        check(model, values, role, tmp_path, io=IO[turn % 2], tolerance=STEP)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_max_pool_of_last_channels(kind, tmp_path):
    model = graph(
        f"{kind}[B,5,4,3] x", "y = com.microsoft.NhwcMaxPool<kernel_shape = [2, 2], pads = [0, 1, 1, 0]>(x)"
    )
    for io in IO:
        values = values_of(model, 3)
        shapes_agree(model, {"x": values["x"][0]}, SIZES)
        check(model, values, {"x": "input"}, tmp_path, io=io)
