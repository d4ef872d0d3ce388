"""Quantised operators."""

import pytest
from oracle import check, draw, few_roles, graph, some_roles, sweep

OPS = (
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "QuantizeLinear",
)  # fmt: skip
SIZES = {"B": 3, "S": 4}


def vary(model, folder, roles, *, sizes=SIZES, keep_opset=False, alike=()):
    """Bytes of 0 to 20, scales from 0.2 to 0.4: results that are neither 0 nor cut off."""
    for turn, role in enumerate(roles):
        values = draw(model, 3, sizes=sizes, low=0, high=20)
        for name, value in values.items():
            if value.dtype.kind == "f" and name != "x":
                values[name] = (0.2 + value / 100).astype(value.dtype)
        check(
            model,
            values,
            role,
            folder,
            io=("separate", "stacked")[turn % 2],
            keep_opset=keep_opset,
            alike=alike,
        )


LINEAR = [
    ("3,4", "", 1), ("3,4", "1", 1), ("3,4", "4", 1), ("3,4", "3", 0), ("2,3,4", "3", -2), ("B,3", "", 0),
    ("B,3,S", "3", 1), ("3", "", 0), ("", "", 0),
]  # fmt: skip


def spell(dtype, shape):
    return f"{dtype}[{shape}]" if shape else dtype


@pytest.mark.parametrize(("x", "scale", "axis"), LINEAR)
@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_linear(op, x, scale, axis, kind, tmp_path):
    data = "float" if op == "QuantizeLinear" else kind
    text = f"{spell(data, x)} x, {spell('float', scale)} s, {spell(kind, scale)} z"
    model = graph(text, f"y = {op}<axis = {axis}>(x, s, z)", 13)
    every = (x, scale, kind) == ("3,4", "", "uint8")
    vary(model, tmp_path, some_roles("xsz") if every else few_roles("xsz"), keep_opset=True)


@pytest.mark.parametrize("opset", [10, 19, 21])
def test_linear_opsets(opset, tmp_path):
    model = graph(
        "float[3,4] x, float s, uint8 z", "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)", opset
    )
    vary(model, tmp_path, [{"x": "input", "s": "shared weight", "z": "shared weight"}], keep_opset=True)
    if opset > 13:
        vary(model, tmp_path, [{"x": "input", "s": "weight", "z": "weight"}], keep_opset=True)


def test_linear_in_blocks(tmp_path):
    model = graph(
        "float[4,6] x, float[4,3] s, int8[4,3] z", "y = QuantizeLinear<axis = 1, block_size = 2>(x, s, z)", 21
    )
    vary(model, tmp_path, few_roles("xsz"))


@pytest.mark.parametrize("x", ["3,4", "B,S", "3", ""])
def test_dynamic(x, tmp_path):
    kind = f"float[{x}]" if x else "float"
    sweep(graph(f"{kind} x", "y, s, z = DynamicQuantizeLinear(x)"), tmp_path, sizes=SIZES, alike=("y", "z"))


@pytest.mark.parametrize(("a", "b"), [("3,4", "4,2"), ("2,3,4", "4,2"), ("3,4", "2,4,3"), ("B,S,4", "4,3")])
@pytest.mark.parametrize("points", ["", ", uint8 p", ", uint8 p, int8 q"])
def test_matmul_integer(a, b, points, tmp_path):
    names = "".join(part.split()[-1] for part in points.split(",") if part.strip())
    model = graph(f"uint8[{a}] a, int8[{b}] b{points}", f"y = MatMulInteger({', '.join('ab' + names)})")
    vary(model, tmp_path, few_roles("ab" + names) if names else some_roles("ab"))


def test_matmul_integer_with_a_zero_point_per_column(tmp_path):
    model = graph("uint8[3,4] a, uint8[4,2] b, uint8 p, uint8[2] q", "y = MatMulInteger(a, b, p, q)")
    vary(model, tmp_path, [{"a": "input", "b": "weight", "p": "weight", "q": "weight"}])


@pytest.mark.parametrize("points", ["", ", uint8 p", ", uint8 p, uint8 q"])
@pytest.mark.parametrize("group", [1, 3])
def test_conv_integer(points, group, tmp_path):
    names = "".join(part.split()[-1] for part in points.split(",") if part.strip())
    text = f"uint8[2,3,4,4] x, uint8[6,{3 // group},2,2] w{points}"
    model = graph(text, f"y = ConvInteger<group = {group}, pads = [1, 0, 0, 1]>({', '.join('xw' + names)})")
    vary(model, tmp_path, few_roles("xw" + names) if names else some_roles("xw"))


@pytest.mark.parametrize("per_filter", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_qlinear_conv(per_filter, bias, tmp_path):
    kind = "[6]" if per_filter else ""
    text = f"uint8[2,3,4,4] x, float a, uint8 b, uint8[6,3,2,2] w, float{kind} c, uint8{kind} d, float e"
    text += ", uint8 f, int32[6] g" if bias else ", uint8 f"
    model = graph(text, f"y = QLinearConv({', '.join('xabwcdef' + ('g' if bias else ''))})")
    names = [info.name for info in model.graph.input]
    shared = dict.fromkeys(names, "shared weight")
    roles = [
        shared | {"x": "input", "w": "weight"},
        shared | {"x": "input"},
        dict.fromkeys(names, "weight") | {"x": "input"},
    ]
    if per_filter:  # ONNX Runtime takes one zero point for all filters
        model.graph.node[0].input[5] = "f"
        model.graph.input.remove(next(info for info in model.graph.input if info.name == "d"))
        roles = [{name: kind for name, kind in role.items() if name != "d"} for role in roles]
        shared.pop("d")
    vary(model, tmp_path, [*roles, shared | {"x": "input", "a": "weight", "e": "weight"}])


def test_qlinear_matmul(tmp_path):
    text = "uint8[2,3,4] x, float a, uint8 b, uint8[4,2] w, float c, uint8 d, float e, uint8 f"
    model = graph(text, "y = QLinearMatMul(x, a, b, w, c, d, e, f)")
    names = [info.name for info in model.graph.input]
    shared = dict.fromkeys(names, "shared weight")
    roles = [shared | {"x": "input", "w": "weight"}, shared | {"w": "weight", "x": "shared input"}]
    vary(
        model,
        tmp_path,
        [*roles, dict.fromkeys(names, "weight") | {"x": "input"}, shared | {"x": "input", "e": "weight"}],
    )
