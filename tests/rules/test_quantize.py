"""Quantisation. Products and convolutions of bytes are in test_qlinear."""

import pytest
from oracle import IO, check, draw, few_roles, graph, some_roles, sweep

OPS = ("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear")
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


@pytest.mark.parametrize(
    ("x", "scale", "axis", "zero"), [*((*case, False) for case in LINEAR), ("3,4", "4", 1, True)]
)
def test_sums_to_floats(x, scale, axis, zero, tmp_path):
    """A DequantizeLinear of int32, whose zero points are 0, is written out for CUDA."""
    text = f"{spell('int32', x)} x, {spell('float', scale)} s" + f", {spell('int32', scale)} z" * zero
    model = graph(text, f"y = DequantizeLinear<axis = {axis}>(x, s{', z' * zero})", 13)
    for turn, role in enumerate(some_roles("xs")):
        values = draw(model, 3, sizes=SIZES, low=0, high=2000)
        values["s"] = (0.2 + values["s"] / 1000).astype("f")
        if zero:
            values["z"][:] = 0
        kind = ("weight", "shared weight")[turn % 2]
        check(model, values, role | ({"z": kind} if zero else {}), tmp_path, io=IO[turn % 2], keep_opset=True)


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
