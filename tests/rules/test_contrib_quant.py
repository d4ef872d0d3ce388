"""ONNX Runtime's products of bytes."""

import itertools

import numpy as np
import pytest
from contrib_graphs import graph, shapes_agree
from oracle import IO, check, draw, fails_or_is_right

OPS = tuple(
    f"com.microsoft.{op}"
    for op in (
        "DequantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QGemm",
        "QLinearConv", "QuantizeLinear",
    )
)  # fmt: skip
SIZES = {"B": 3, "S": 4}
KINDS = [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")]


def values_of(model, n, up=None):
    """Whole ranges of bytes, zero points in the middle; `up[name]` makes a scale that much coarser."""
    rng = np.random.default_rng(n)
    values = draw(model, n, sizes=SIZES)
    for name, value in values.items():
        one = value.ndim == 1 or (name in "dz" and value.ndim == 2)  # a parameter: a scalar or per column
        if value.dtype == np.int32:
            values[name] = rng.integers(-3000, 3000, value.shape).astype(np.int32)
        elif value.dtype.kind in "iu":
            low, high = (100, 156) if one else (0, 256)
            shift = 128 if value.dtype == np.int8 else 0
            values[name] = (rng.integers(low, high, value.shape) - shift).astype(value.dtype)
        elif name in "acesu":
            values[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        values[name] = (values[name] * (up or {}).get(name, 1)).astype(value.dtype)
    return values


def every(model, folder, roles, *, up=None, tolerance=None):
    for turn, role in enumerate(roles):
        values = values_of(model, (3, 2)[turn % 2], up)
        if not turn:
            shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
        check(model, values, role, folder, io=IO[turn % 2], tolerance=tolerance)


def differing(model, names, step=1):
    """Roles in which some of `names` differ between the models; the input x does, or nothing of it."""
    shared = {info.name: "shared weight" for info in model.graph.input}
    some = [s for count in range(len(names) + 1) for s in itertools.combinations(names, count)]
    roles = [
        {**shared, "x": x, **dict.fromkeys(s, "weight")} for x in ("input", "shared input") for s in some
    ]
    roles = [role for role in roles if {"input", "weight"} & set(role.values())]
    return [*roles[::step], roles[-1]]


# ------------------------------------------------------------------------ Gemm

GEMM = "{x}[{a}] x, float a, {x} b, {w}[{dims}] w, float{per} c, {w}{per} d, int32[{bias}] g, float e, {x} f"


@pytest.mark.parametrize(("x", "w"), KINDS)
@pytest.mark.parametrize("per", ["", "[4]"])
@pytest.mark.parametrize("trans", [0, 1])
def test_gemm(trans, per, x, w, tmp_path):
    text = GEMM.format(x=x, w=w, a="B,6", dims="4,6" if trans else "6,4", per=per, bias="4")
    model = graph(text, f"y = com.microsoft.QGemm<transB = {trans}>(x, a, b, w, c, d, g, e, f)")
    every(model, tmp_path, differing(model, "wgabcdef", 37 if (x, w) == KINDS[0] else 97), up={"e": 400})


def test_gemm_of_the_other_forms(tmp_path):
    text = GEMM.format(x="uint8", w="int8", a="6,3", dims="6,4", per="", bias="1,4")
    model = graph(text, "y = com.microsoft.QGemm<transA = 1, alpha = 0.5>(x, a, b, w, c, d, g, e, f)")
    every(model, tmp_path, differing(model, "wgabcdef", 61), up={"e": 200})
    model = graph(text.rpartition(", float")[0], "y = com.microsoft.QGemm<transA = 1>(x, a, b, w, c, d, g)")
    every(model, tmp_path, differing(model, "wgabcd", 7))
    model = graph(text.rpartition(", int32")[0], "y = com.microsoft.QGemm<transA = 1>(x, a, b, w, c, d)")
    every(model, tmp_path, differing(model, "wabcd", 5))


# ------------------------------------------------------------------------ MatMul


@pytest.mark.parametrize(("x", "w"), KINDS)
@pytest.mark.parametrize("per", ["", "[3]"])
@pytest.mark.parametrize("bias", [True, False])
def test_to_floats(bias, per, x, w, tmp_path):
    text = f"{x}[B,S,6] x, {w}[6,3] w, float a, float{per} c, {x} b, {w}{per} d" + (
        ", float[3] g" if bias else ""
    )
    model = graph(text, f"y = com.microsoft.MatMulIntegerToFloat(x, w, a, c, b, d{', g' if bias else ''})")
    every(model, tmp_path, differing(model, "wacbd" + "g" * bias, 11 if bias else 7))


def test_to_floats_before_a_reshape(tmp_path):
    """ONNX Runtime moves a DequantizeLinear of one scale behind a Reshape, and loses the sign."""
    text = "uint8[B,S,6] x, int8[6,4] w, float a, float c, uint8 b, int8 d"
    body = """z = com.microsoft.MatMulIntegerToFloat(x, w, a, c, b, d)
              t = Constant<value = int64[4] {0, 0, 2, 2}>()  r = Reshape(z, t)  y = Relu(r)"""
    model = graph(text, body)
    for role in differing(model, "wbd"):
        check(model, values_of(model, 3), role, tmp_path)


@pytest.mark.parametrize("w", ["int8", "uint8"])
@pytest.mark.parametrize("form", ["", "d", "g", "dg"])
@pytest.mark.parametrize("per", ["", "[3]"])
def test_dynamic(per, form, w, tmp_path):
    text = f"float[B,S,6] x, {w}[6,3] w, float{per} c"
    text += f", {w}{per} d" * ("d" in form) + ", float[3] g" * ("g" in form)
    names = ["x", "w", "c", "d" if "d" in form else "", *(["g"] if "g" in form else [])]
    model = graph(text, f"y = com.microsoft.DynamicQuantizeMatMul({', '.join(names).rstrip(', ')})")
    every(model, tmp_path, differing(model, "wc" + form, 3))


# ------------------------------------------------------------------------ a few bits per weight


@pytest.mark.parametrize(("bits", "zeros"), [(4, ""), (4, "z"), (8, ""), (8, "z"), (2, "")])
@pytest.mark.parametrize("bias", [True, False])
def test_packed(bias, bits, zeros, tmp_path):
    n, k, block = 4, 32, 16
    blob, packed = block * bits // 8, 2 * bits // 8
    text = f"float[B,S,{k}] x, uint8[{n},{k // block},{blob}] w, float[{n},{k // block}] s"
    text += f", uint8[{n},{packed}] z" * bool(zeros) + f", float[{n}] g" * bias
    names = ", ".join(["x", "w", "s", "z" if zeros else "", "", *(["g"] if bias else [])]).rstrip(", ")
    attributes = f"bits = {bits}, block_size = {block}, N = {n}, K = {k}"
    model = graph(text, f"y = com.microsoft.MatMulNBits<{attributes}>({names})")
    shared = {info.name: "shared weight" for info in model.graph.input}
    own = dict.fromkeys(shared, "weight")
    every(
        model,
        tmp_path,
        [shared | {"x": "input"}, own | {"x": "shared input"}, shared | {"s": "weight", "x": "shared input"}],
    )
    values = values_of(model, 3)
    check(model, values, own | {"x": "input"}, tmp_path, reason="packed")


# ------------------------------------------------------------------------ attention

QKV = "uint8[B,S,8] x, {w}[8,24] w, float[24] g, float a, float{per} c"


@pytest.mark.parametrize("w", ["int8", "uint8"])
@pytest.mark.parametrize("per", ["", "[24]"])
def test_attention(per, w, tmp_path):
    text = QKV.format(w=w, per=per) + f", int32[B] m, uint8 b, {w}{per} d"
    model = graph(text, "y = com.microsoft.QAttention<num_heads = 2>(x, w, g, a, c, m, b, d)")
    shared = {info.name: "shared weight" for info in model.graph.input} | {"x": "input", "m": "input"}
    roles = [
        shared,
        *(shared | dict.fromkeys(s, "weight") for s in ("w", "g", "wgac", "wgacbd", "b", "d", "a")),
    ]
    roles.append(roles[4] | {"x": "shared input", "m": "shared input"})
    for turn, role in enumerate(roles):
        values = values_of(model, (3, 2)[turn % 2], {"a": 0.02, "c": 0.02})
        values["m"] = np.abs(values["m"]) % 4 + 1
        if not turn:
            shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
        check(model, values, role, tmp_path, io=IO[turn % 2], tolerance=1e-4)


@pytest.mark.parametrize("weights", ["weight", "shared weight"])
def test_attention_with_ends_and_starts(weights, tmp_path):
    """A mask [2 B] where the file says [B] holds all ends, then all starts: joined, models would be mixed."""
    text = QKV.format(w="int8", per="") + ", int32[B] m, uint8 b, int8 d"
    model = graph(text, "y = com.microsoft.QAttention<num_heads = 2>(x, w, g, a, c, m, b, d)")
    role = {info.name: "shared weight" for info in model.graph.input} | dict.fromkeys("xm", "input")
    values = values_of(model, 2, {"a": 0.02, "c": 0.02})
    masks = [[4, 4, 4, 1, 2, 0], [3, 4, 3, 0, 1, 2]]
    values["m"] = np.array(masks, np.int32)
    role |= dict.fromkeys("wg", weights)
    failed = fails_or_is_right(model, values, role, tmp_path)
    assert failed > 0


def test_attention_with_a_cache(tmp_path):
    text = QKV.format(w="int8", per="") + ", int32[B,6] m, uint8 b, int8 d, float[2,B,2,2,4] p"
    model = graph(
        text, "y, k = com.microsoft.QAttention<num_heads = 2, unidirectional = 1>(x, w, g, a, c, m, b, d, p)"
    )
    shared = {info.name: "shared weight" for info in model.graph.input} | dict.fromkeys("xmp", "input")
    for turn, some in enumerate(("", "wgacbd")):
        values = values_of(model, 3, {"a": 0.02, "c": 0.02})
        values["m"] = np.abs(values["m"]) % 2
        shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
        role = shared | dict.fromkeys(some, "weight")
        check(model, values, role, tmp_path, io=IO[turn], tolerance=1e-4)


# ------------------------------------------------------------------------ convolutions and conversions


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("attributes", ["pads = [1, 0, 0, 1]", "group = 2", "strides = [2, 1]"])
def test_conv(attributes, last, tmp_path):
    dims = "B,5,4,4" if last else "B,4,5,4"
    filters = "6,2,3,2" if "group" in attributes else "6,4,3,2"
    text = f"uint8[{dims}] x, float a, uint8 b, int8[{filters}] w, float[6] c, int8 d, float e, uint8 f, int32[6] g"
    call = f"y = com.microsoft.QLinearConv<channels_last = {last}, {attributes}>(x, a, b, w, c, d, e, f, g)"
    model = graph(text, call)
    every(model, tmp_path, differing(model, "wgabcdef", 37), up={"e": 600})


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16"])
def test_conversions(kind, tmp_path):
    model = graph(f"float[B,3,4] x, float u, {kind} z",
                  "q = com.microsoft.QuantizeLinear(x, u, z)  y = com.microsoft.DequantizeLinear(q, u, z)")  # fmt: skip
    for turn, some in enumerate(("weight", "shared weight", "input")):
        role = {"x": "input", "u": some, "z": some}
        check(model, values_of(model, 3, {"u": 0.02}), role, tmp_path, io=IO[turn % 2])
    model = graph(f"float[B,3,4] x, float[3] u, {kind}[3] z",
                  "q = com.microsoft.QuantizeLinear<axis = 1>(x, u, z)  y = com.microsoft.DequantizeLinear<axis = 1>(q, u, z)")  # fmt: skip
    for some in ("weight", "shared weight"):
        check(model, values_of(model, 3, {"u": 0.02}), {"x": "input", "u": some, "z": some}, tmp_path)
