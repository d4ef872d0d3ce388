"""Operators that act on each element."""

import numpy as np
import pytest
from oracle import check, draw, few_roles, graph, roles, some_roles, sweep

FLOAT = (
    "Acos", "Asin", "Atanh", "Abs", "Acosh", "Asinh", "Atan", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
OTHER = (
    "BitCast",
    "BitwiseNot",
    "Cast",
    "CastLike",
    "IsInf",
    "IsNaN",
    "Not",
    "RegexFullMatch",
    "StringConcat",
)
ARITHMETIC = ("Add", "Div", "Max", "Mean", "Min", "Mod", "Mul", "PRelu", "Pow", "Sub", "Sum")
COMPARE = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
LOGIC = ("And", "Or", "Xor")
BITS = ("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
OPS = (*FLOAT, *OTHER, *ARITHMETIC, *COMPARE, *LOGIC, *BITS, "Where")

DOMAIN = {"Acos": (-0.9, 0.9), "Asin": (-0.9, 0.9), "Atanh": (-0.9, 0.9), "Acosh": (1.1, 3), "Log": (0.1, 3),
          "Sqrt": (0.1, 3), "Reciprocal": (0.5, 2), "Tan": (-1, 1)}  # fmt: skip
SINCE = {"Gelu": 20, "Mish": 18, "Swish": 24}
ATTRIBUTES = {"Celu": "<alpha = 0.5>", "Elu": "<alpha = 0.5>", "LeakyRelu": "<alpha = 0.3>",
              "Shrink": "<lambd = 0.5, bias = 0.1>", "Gelu": '<approximate = "tanh">'}  # fmt: skip


@pytest.mark.parametrize("op", FLOAT)
def test_one_input(op, tmp_path):
    low, high = DOMAIN.get(op, (-2, 2))
    model = graph("float[3,4] x", f"y = {op}{ATTRIBUTES.get(op, '')}(x)", SINCE.get(op, 17))
    check(model, draw(model, 3, low=low, high=high), {"x": "input"}, tmp_path)


@pytest.mark.parametrize("shape", ["", "3", "1,3", "0,3", "B,3", "B,S,2"])
def test_one_input_of_any_shape(shape, tmp_path):
    sweep(graph(f"{typed(shape)} x", "y = Exp(x)"), tmp_path, sizes={"B": 3, "S": 4}, thorough=True)


@pytest.mark.parametrize("dtype", ["float16", "double", "int64", "int32"])
def test_one_input_of_other_types(dtype, tmp_path):
    sweep(graph(f"{dtype}[3,4] x", "y = Neg(x)"), tmp_path, high=9)


def test_cast(tmp_path):
    sweep(graph("float[3,4] x", "y = Cast<to = 7>(x)"), tmp_path, high=9)
    sweep(graph("int32[3,4] x", "y = Cast<to = 1>(x)"), tmp_path, high=9)
    sweep(graph("bool[3,4] x", "y = Cast<to = 10>(x)"), tmp_path)


def test_bits_and_truth(tmp_path):
    sweep(graph("bool[3,4] x", "y = Not(x)"), tmp_path)
    sweep(graph("int32[3,4] x", "y = BitwiseNot(x)", 18), tmp_path, high=9)
    for op, odd in (("IsNaN", np.nan), ("IsInf", np.inf)):
        model = graph("float[3,4] x", f"y = {op}(x)")
        values = draw(model, 3)
        values["x"][values["x"] > 0] = odd
        for role in roles(["x"]):
            check(model, values, role, tmp_path)


def test_strings(tmp_path):
    sweep(graph("string[3,2] x, string[2] y", "z = StringConcat(x, y)", 20), tmp_path)
    sweep(graph("string[3,4] x", 'y = RegexFullMatch<pattern = "a.*">(x)', 20), tmp_path)


def test_bit_cast(tmp_path):
    sweep(graph("float[3,4] x", "y = BitCast<to = 6>(x)", 26), tmp_path)


def test_cast_like_reads_only_the_type_of_its_second_input(tmp_path):
    sweep(
        graph("float[3,4] x, int64[2] t", "y = CastLike(x, t)", 19), tmp_path, high=9, fixed={"t": "weight"}
    )
    sweep(graph("float[3,4] x, int64[2] t", "y = CastLike(x, t)"), tmp_path, high=9, alike="y")


def test_dropout_is_a_no_op_at_inference(tmp_path):
    sweep(graph("float[3,4] x, float r, bool t", "y, m = Dropout(x, r, t)"), tmp_path, alike="m",
          given={"r": 0.5, "t": False})  # fmt: skip
    sweep(graph("float[3,4] x", "y = Dropout<ratio = 0.5>(x)", 11), tmp_path, keep_opset=True)
    model = graph("float[3,4] x, float r, bool t", "y = Dropout(x, r, t)")
    values = draw(model, 3, given={"r": 0.0, "t": True})
    check(
        model, values, {"x": "input", "r": "shared weight", "t": "shared weight"}, tmp_path, reason="random"
    )


# ------------------------------------------------------------------------ Clip


def test_clip_bounds_are_inputs(tmp_path):
    """Also bounds that differ between the models."""
    model = graph("float[3,4] x, float lo, float hi", "y = Clip(x, lo, hi)")
    for turn, role in enumerate(roles(["x", "lo", "hi"])):
        values = draw(model, 3) | {"lo": np.float32([-1, -0.5, -0.2]), "hi": np.float32([0.3, 0.6, 1])}
        check(model, values, role, tmp_path, io=("separate", "stacked")[turn % 2])


@pytest.mark.parametrize("present", ["lo", ", hi"])
def test_clip_with_one_bound(present, tmp_path):
    name = present.strip(", ")
    model = graph(f"float[B,3] x, float {name}", f"y = Clip(x, {present})")
    sweep(model, tmp_path, sizes={"B": 3}, low=0, high=1)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "double", "float16"])
def test_clip_of_other_types(dtype, tmp_path):
    model = graph(f"{dtype}[3,4] x, {dtype} lo, {dtype} hi", "y = Clip(x, lo, hi)")
    values = draw(model, 3, low=0, high=9) | draw(model, 3, given={"lo": 2, "hi": 5}, low=0, high=9)
    check(model, values, {"x": "input", "lo": "shared weight", "hi": "shared input"}, tmp_path)
    values["lo"] = values["lo"] + np.arange(3, dtype=values["lo"].dtype)
    reason = "no Max and Min" if dtype in ("int8", "uint8") else ""
    check(model, values, {"x": "input", "lo": "weight", "hi": "shared weight"}, tmp_path, reason=reason)


@pytest.mark.parametrize("opset", [9, 10])
def test_clip_with_attributes(opset, tmp_path):
    sweep(graph("float[3,4] x", "y = Clip<min = -0.5, max = 0.5>(x)", opset), tmp_path, keep_opset=True)


def test_clip_before_opset_12(tmp_path):
    sweep(graph("float[3,4] x, float lo", "y = Clip(x, lo)", 11), tmp_path, high=0.5, keep_opset=True)


# ------------------------------------------------------------------------ several inputs


@pytest.mark.parametrize("op", ARITHMETIC)
def test_two_inputs(op, tmp_path):
    body = f"z = {op}<fmod = 1>(x, y)" if op == "Mod" else f"z = {op}(x, y)"
    low = 0.5 if op in ("Pow", "Div", "Mod") else -2
    sweep(graph("float[2,3,4] x, float[3,4] y", body), tmp_path, low=low, roles=few_roles)


@pytest.mark.parametrize("op", [*COMPARE, "Add", "Mul", "Max", "Mod"])
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_integers(op, dtype, tmp_path):
    model = graph(f"{dtype}[3,4] x, {dtype}[4] y", f"z = {op}(x, y)")
    check(model, draw(model, 3, low=1, high=4), {"x": "input", "y": "weight"}, tmp_path)


@pytest.mark.parametrize("op", COMPARE)
def test_compare(op, tmp_path):
    sweep(graph("int64[3,4] x, int64[4] y", f"z = {op}(x, y)"), tmp_path, low=0, high=2, roles=few_roles)


@pytest.mark.parametrize("op", LOGIC)
def test_logic(op, tmp_path):
    sweep(graph("bool[3,4] x, bool[4] y", f"z = {op}(x, y)"), tmp_path, roles=few_roles)


@pytest.mark.parametrize("op", BITS)
def test_bits(op, tmp_path):
    call = f'{op}<direction = "LEFT">' if op == "BitShift" else op
    sweep(
        graph("uint32[3,4] x, uint32[4] y", f"z = {call}(x, y)", 18), tmp_path, low=0, high=9, roles=few_roles
    )


BROADCASTS = [
    ("3,4", "4"), ("3,4", "3,1"), ("3,4", "1,4"), ("3,4", "1"), ("3,4", ""), ("", ""), ("3", "3,1,1"),
    ("1,4", "3,1"), ("2,1,4", "3,1"), ("2,3,2,2", "3,1,1"), ("2,3,2,2", "1,3,1,1"), ("3,4", "1,1,1"),
    ("3,3,3", "3"), ("3,1", "2,3,1,3"), ("0,4", "4"), ("0,4", "1,1"), ("3,0", "3,1"),
    ("B,4", "4"), ("B,S,4", "4"), ("B,S,4", "B,1,1"), ("B,3,S", "3,1"), ("B,4", "B,4"), ("B,1", "S"),
    ("B,4", ""),
]  # fmt: skip


@pytest.mark.parametrize(("x", "y"), BROADCASTS)
def test_broadcasting(x, y, tmp_path):
    model = graph(f"{typed(x)} x, {typed(y)} y", "z = Sub(x, y)")
    sweep(model, tmp_path, sizes={"B": 3, "S": 2}, roles=some_roles if y in ("1,1,1", "B,1,1") else few_roles)


def typed(shape):
    return f"float[{shape}]" if shape else "float"


@pytest.mark.parametrize(
    ("x", "slope"),
    [("2,3,4,2", "3,1,1"), ("2,3,4,2", "1"), ("2,3,2", "3,2"), ("1,3,2", "1,3,1"), ("3,1", "1")],
)
def test_prelu_slope_of_any_shape(x, slope, tmp_path):
    """It broadcasts one way: also where x is the same for all models, only the slopes differ."""
    sweep(graph(f"float[{x}] x, float[{slope}] s", "y = PRelu(x, s)"), tmp_path, high=-0.5)


def test_pow_of_two_types(tmp_path):
    sweep(graph("float[3,4] x, int64[4] y", "z = Pow(x, y)"), tmp_path, low=1, high=3)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
def test_any_number_of_inputs(op, tmp_path):
    sweep(graph("float[3,4] x", f"y = {op}(x)"), tmp_path)
    sweep(graph("float[4] x, float[3,1] y, float[2,1,1] z", f"v = {op}(x, y, z)"), tmp_path, roles=few_roles)


def test_one_value_twice(tmp_path):
    sweep(graph("float[3,4] x", "y = Mul(x, x)"), tmp_path)


@pytest.mark.parametrize(
    ("c", "x", "y"), [("3,4", "3,4", "3,4"), ("3,1", "4", "1,1"), ("B,2,1", "2,4", ""), ("B", "2,B", "2,1")]
)
def test_where(c, x, y, tmp_path):
    text = f"bool[{c}] c, {typed(x)} x, {typed(y)} y"
    sweep(graph(text, "z = Where(c, x, y)"), tmp_path, sizes={"B": 3}, roles=few_roles)


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_two_inputs_of_other_types(dtype, tmp_path):
    sweep(graph(f"{dtype}[3,4] x, {dtype}[4] y", "z = Sub(x, y)"), tmp_path)


@pytest.mark.parametrize("opset", [9, 11, 13, 21])
def test_opsets(opset, tmp_path):
    sweep(
        graph("float[2,3,4] x, float[3,1] y", "z = Sub(x, y) v = Exp(z)", opset),
        tmp_path,
        keep_opset=True,
        roles=few_roles,
    )
