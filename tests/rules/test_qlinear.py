"""Products and convolutions of bytes whose zero points and scales differ between the models: bit for bit."""

import itertools

import numpy as np
import pytest
from contrib_graphs import graph
from oracle import IO, check, draw

OPS = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
SIZES = {"B": 3, "S": 4, "H": 5}
KINDS = [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")]


def values_of(model, n, scales="", points=""):
    """Whole ranges of bytes; scales near those that use the range of the result."""
    rng = np.random.default_rng(n)
    values = draw(model, n, sizes=SIZES)
    for name, value in values.items():
        if value.dtype.kind in "iu" and value.dtype.itemsize == 1:
            low, high = np.iinfo(value.dtype).min, np.iinfo(value.dtype).max + 1
            value = (
                rng.integers(low + 60, high - 60, value.shape)
                if name in points
                else rng.integers(low, high, value.shape)
            )
            values[name] = value.astype(values[name].dtype)
        elif name in scales:
            values[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif value.dtype == np.int32:
            values[name] = rng.integers(-3000, 3000, value.shape).astype(np.int32)
    return values


def every(model, folder, roles, *, up="", terms=8, **options):
    """`up` names the scale of the result, which brings sums of `terms` back into the range of a byte."""
    for turn, role in enumerate(roles):
        values = values_of(model, (3, 2)[turn % 2], **options)
        if up:
            values[up] = values[up] * np.float32(140 * terms**0.5)
        check(model, values, role, folder, io=IO[turn % 2])


def differing(model, names, x="input"):
    """Roles in which each subset of `names` differs between the models; everything else is shared."""
    shared = {info.name: "shared weight" for info in model.graph.input}
    for count in range(len(names) + 1):
        for some in itertools.combinations(names, count):
            yield {**shared, "x": x, **dict.fromkeys(some, "weight")}


# ------------------------------------------------------------------------ products


@pytest.mark.parametrize(("x", "w"), KINDS)
@pytest.mark.parametrize(
    ("a", "b"), [("3,4", "4,2"), ("B,S,4", "4,3"), ("2,B,3,7", "7,3"), ("3,2,4", "3,4,2")]
)
def test_matmul_integer(a, b, x, w, tmp_path):
    model = graph(f"{x}[{a}] x, {w}[{b}] w, {x} p, {w} q", "y = MatMulInteger(x, w, p, q)")
    every(model, tmp_path, differing(model, "wpq"))


@pytest.mark.parametrize(
    ("a", "b"), [("3,B,S", "3,S,B"), ("B,S,4", "B,4,S"), ("2,3,B,4", "2,3,4,S"), ("3,4", "B,4,2")]
)
def test_matmul_integer_of_activations(a, b, tmp_path):
    model = graph(f"uint8[{a}] x, uint8[{b}] w, uint8 p, uint8 q", "y = MatMulInteger(x, w, p, q)")
    roles = [
        {"x": "input", "w": "input", "p": kind, "q": kind} for kind in ("input", "weight", "shared weight")
    ]
    roles += [{"x": "input", "w": "shared input", "p": "weight", "q": "weight"},
              {"x": "shared input", "w": "input", "p": "input", "q": "shared weight"}]  # fmt: skip
    every(model, tmp_path, roles)


@pytest.mark.parametrize("q", ["weight", "shared weight", "input"])
def test_matmul_integer_with_a_zero_point_per_column(q, tmp_path):
    model = graph("uint8[B,3,4] x, int8[4,3] w, uint8 p, int8[3] q", "y = MatMulInteger(x, w, p, q)")
    for p, w in itertools.product(("input", "shared weight"), ("weight", "shared weight", "input")):
        every(model, tmp_path, [{"x": "input", "w": w, "p": p, "q": q}])


@pytest.mark.parametrize(("x", "w"), KINDS)
@pytest.mark.parametrize("depth", [258, 259, 514, 515, 1024, 1025, 2200])
def test_long_sums_are_exact(depth, x, w, tmp_path):
    """All products at their largest: floats hold a sum of so many, or not."""
    model = graph(f"{x}[2,2,{depth}] x, {w}[{depth},3] w, {x} p, {w} q", "y = MatMulInteger(x, w, p, q)")
    role = {"x": "input", "w": "weight", "p": "weight", "q": "weight"}
    values = values_of(model, 2)
    for name, kind in (("x", x), ("w", w), ("p", x), ("q", w)):
        ends = np.iinfo(kind)
        far = values[name] > (ends.min + ends.max) / 2
        values[name] = np.where(far, ends.max, ends.min).astype(kind)
    values["x"][..., 0], values["w"][:, 0] = np.iinfo(x).max - 1, np.iinfo(w).max - 2  # odd sums
    values["x"][0], values["w"][0], values["p"][0], values["q"][0] = (
        np.iinfo(x).max, np.iinfo(w).max, np.iinfo(x).min, np.iinfo(w).min
    )  # fmt: skip
    for kinds in ({}, {"q": "shared weight"}, {"p": "shared weight"}):
        check(model, values, role | kinds, tmp_path)


PRODUCT = "float a, {x} b, {w}[{dims}] w, float{per} c, {w}{per} d, float e, {x} f"


@pytest.mark.parametrize(("x", "w"), KINDS)
@pytest.mark.parametrize("per", ["", "[3]"])
def test_qlinear_matmul(per, x, w, tmp_path):
    text = PRODUCT.format(x=x, w=w, dims="6,3", per=per)
    model = graph(f"{x}[B,S,6] x, {text}", "y = QLinearMatMul(x, a, b, w, c, d, e, f)")
    roles = [
        role | {"w": "weight"}
        for role in differing(model, "abcdef")
        if x == "uint8" or role["d"] == role["b"]
    ]
    every(model, tmp_path, roles[:: 3 if w == "int8" else 7], up="e", scales="ace", points="bdf")


def test_qlinear_matmul_of_activations(tmp_path):
    model = graph("uint8[B,2,S,4] x, float a, uint8 b, uint8[B,2,4,S] w, float c, uint8 d, float e, uint8 f",
                  "y = QLinearMatMul(x, a, b, w, c, d, e, f)")  # fmt: skip
    for kind in ("weight", "shared weight"):
        role = dict.fromkeys("abcdef", kind) | {"x": "input", "w": "input"}
        every(model, tmp_path, [role, role | {"w": "shared input"}], up="e", scales="ace", points="bdf")


# ------------------------------------------------------------------------ convolutions

CONVS = [
    ("2,3,5", "4,3,3", ""), ("B,3,H,4", "6,3,2,3", "<pads = [1, 0, 0, 1]>"), ("1,4,3,3,3", "4,2,2,2,2", "<group = 2>"),
    ("B,4,5,5", "6,2,3,3", "<group = 2, pads = [1, 1, 1, 1], strides = [2, 2]>"), ("2,3,4,4", "3,1,3,3", "<group = 3, pads = [1, 1, 1, 1]>"),
    ("2,40,4,4", "3,40,3,3", "<pads = [1, 1, 1, 1], dilations = [1, 1]>"), ("3,3,1,1", "3,3,1,1", '<auto_pad = "VALID">'),
]  # fmt: skip


@pytest.mark.parametrize(("x", "w"), KINDS)
@pytest.mark.parametrize(("dims", "filters", "attributes"), CONVS)
def test_conv_integer(dims, filters, attributes, x, w, tmp_path):
    model = graph(
        f"{x}[{dims}] x, {w}[{filters}] w, {x} p, {w} q", f"y = ConvInteger{attributes}(x, w, p, q)"
    )
    roles = list(differing(model, "wpq"))
    every(model, tmp_path, roles if (x, w) == KINDS[0] else roles[-1:])


def test_conv_integer_of_inputs(tmp_path):
    model = graph(
        "uint8[2,3,4,4] x, uint8[3,3,2,2] w, uint8 p, uint8 q",
        "y = ConvInteger<pads = [1, 1, 0, 0]>(x, w, p, q)",
    )
    roles = [
        dict.fromkeys("xwpq", "input"),
        {"x": "shared input", "w": "weight", "p": "input", "q": "weight"},
    ]
    every(model, tmp_path, roles)


CONV = "float a, {x} b, {w}[{dims}] w, float{per} c, {w} d, float e, {x} f, int32[{count}] g"


@pytest.mark.parametrize(("x", "w"), KINDS)
@pytest.mark.parametrize(("dims", "filters", "attributes"), CONVS)
@pytest.mark.parametrize("per", [False, True])
def test_qlinear_conv(per, dims, filters, attributes, x, w, tmp_path):
    count = filters.split(",")[0]
    text = CONV.format(x=x, w=w, dims=filters, per=f"[{count}]" if per else "", count=count)
    model = graph(f"{x}[{dims}] x, {text}", f"y = QLinearConv{attributes}(x, a, b, w, c, d, e, f, g)")
    roles = [role | {"w": "weight", "g": "weight"} for role in differing(model, "abcdef")]
    step = {0: 5, 1: 11}.get(CONVS.index((dims, filters, attributes)), 31)
    terms = np.prod([int(d) for d in filters.split(",")[1:]])
    every(model, tmp_path, roles[(1 if per else 0) :: step], up="e", terms=terms, scales="ace", points="bdf")


def test_qlinear_conv_of_one_image(tmp_path):
    """One image for all models: their filters stand side by side."""
    text = CONV.format(x="uint8", w="int8", dims="4,3,3,3", per="", count="4")
    model = graph(
        f"uint8[B,3,5,5] x, {text}", "y = QLinearConv<pads = [1, 1, 1, 1]>(x, a, b, w, c, d, e, f, g)"
    )
    roles = [role | {"w": "weight", "g": "weight"} for role in differing(model, "cef", "shared input")]
    every(model, tmp_path, roles, up="e", scales="ace", points="bdf")


def test_qlinear_conv_without_a_bias(tmp_path):
    text = CONV.format(x="uint8", w="int8", dims="4,3,3,3", per="", count="4").rpartition(",")[0]
    model = graph(f"uint8[B,3,5,5] x, {text}", "y = QLinearConv<pads = [1, 1, 1, 1]>(x, a, b, w, c, d, e, f)")
    roles = [role | {"w": kind} for role in differing(model, "bdf") for kind in ("weight", "shared weight")]
    every(model, tmp_path, roles, up="e", scales="ace", points="bdf")
