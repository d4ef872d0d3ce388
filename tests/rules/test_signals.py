"""Signals of one axis as images of one row: what takes and gives the layout IMAGE."""

import pytest
from oracle import Every, EveryOnCpu, as_models, check, draw, family, graph, sweep

from netfuse_onnx.layouts import IMAGE
from netfuse_onnx.plan.planner import candidates

OPS = ("AveragePool", "BatchNormalization", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
SIZES = {"B": 3, "L": 7}

# image, filters, attributes: whole blocks of channels, or each on its own where 4 models fill a block
BLOCKS = [
    ("2,16,7", "16,16,3", "<pads = [1, 1]>"), ("2,16,7", "16,16,3", "<pads = [2, 0], dilations = [2]>"),
    ("1,16,9", "32,16,3", "<strides = [2], pads = [0, 1]>"), ("B,16,L", "16,16,1", ""),
    ("2,32,7", "32,16,3", "<group = 2, kernel_shape = [3]>"), ("0,16,7", "16,16,3", ""),
    ("2,16,7", "16,16,3", '<auto_pad = "SAME_UPPER", strides = [2]>'),
    ("2,16,7", "16,16,2", '<auto_pad = "SAME_LOWER">'), ("2,16,7", "16,16,3", '<auto_pad = "VALID">'),
    ("1,16,7", "16,16,7", ""), ("B,4,5", "4,1,3", "<group = 4, pads = [2, 0]>"),
    ("2,8,5", "8,1,4", "<group = 8, pads = [3, 3], dilations = [2]>"),
]  # fmt: skip


def offered(model, folder, models, cost, sizes=SIZES):
    """The rules that are on offer for each node."""
    role = {i.name: "input" if i.name == "x" else "weight" for i in model.graph.input}
    paths = as_models(model, draw(model, models, sizes=sizes), role, folder)
    found = candidates(family(paths), io="separate", share=frozenset(), cost=cost(models))
    return [
        {offer.rule for offer in offers if IMAGE in (*offer.takes, *offer.gives)} for offers in found.options
    ]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("x", "w", "attributes"), BLOCKS)
def test_convolution(x, w, attributes, bias, tmp_path):
    more, name = (f", float[{w.split(',')[0]}] b", ", b") if bias else ("", "")
    model = graph(f"float[{x}] x, float[{w}] w{more}", f"y = Conv{attributes}(x, w{name})")
    assert offered(model, tmp_path, 4, EveryOnCpu) == [{"conv_of_a_row"}]
    sweep(model, tmp_path, models=(4, 16) if "group" in attributes else (3, 16, 2, 1), sizes=SIZES)


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [("2,12,7", "16,12,3", ""), ("2,16,7", "12,16,3", ""), ("2,3,5", "3,1,3", "<group = 3>"), ("1,16,7,3", "16,16,3,3", ""),
     ("2,16,7", "16,8,3", "<group = 2>"), ("2,4,5", "8,1,3", "<group = 4>")],
)  # fmt: skip
def test_what_no_kernel_for_images_is_faster_at(x, w, attributes, tmp_path):
    """Three models of three channels fill no block."""
    model = graph(f"float[{x}] x, float[{w}] w", f"y = Conv{attributes}(x, w)")
    assert offered(model, tmp_path, 3, EveryOnCpu) == [set()]


def test_other_providers_do_without(tmp_path):
    model = graph("float[2,16,7] x, float[16,16,3] w", "h = Conv(x, w) y = Relu(h)")
    assert offered(model, tmp_path, 3, Every) == [set(), set()]
    assert offered(model, tmp_path, 3, EveryOnCpu) == [{"conv_of_a_row"}, {"unary"}]


def test_one_signal_for_all_models(tmp_path):
    model = graph("float[B,16,5] x, float[16,16,3] w, float[16] b", "h = Conv(x, w, b) y = Tanh(h)")
    role = {"x": "shared input", "w": "weight", "b": "weight"}
    check(model, draw(model, 3, sizes=SIZES), role, tmp_path)


@pytest.mark.parametrize("attributes", ["<kernel_shape = [2]>", "<kernel_shape = [3], strides = [2], pads = [1, 1]>",
                                        '<kernel_shape = [2], auto_pad = "SAME_UPPER">', "<kernel_shape = [2], strides = [3], ceil_mode = 1>"])  # fmt: skip
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_pools(op, attributes, tmp_path):
    sweep(graph("float[B,3,L] x", f"y = {op}{attributes}(x)"), tmp_path, sizes=SIZES)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(op, tmp_path):
    sweep(graph("float[2,3,5] x", f"y = {op}(x)"), tmp_path)


@pytest.mark.parametrize("models", [2, 3])
def test_normalisation(models, tmp_path):
    inputs = "float[B,3,L] x, float[3] s, float[3] b, float[3] m, float[3] v"
    model = graph(inputs, "y = BatchNormalization(x, s, b, m, v)")
    sweep(model, tmp_path, sizes=SIZES, low=0.5, models=(models,))


@pytest.mark.parametrize(
    "c", ["16,1", "1,16,1", "1,1", "1", "", "2,16,7", "7", "1,7", "16,7", "2,1,7", "2,16,1"]
)
@pytest.mark.parametrize("role", ["weight", "shared weight", "input", "shared input"])
def test_broadcasting(c, role, tmp_path):
    """Beside a convolution's result: what the channels, the row or all elements share."""
    inputs = f"float[2,16,9] x, float[16,16,3] w, float{f'[{c}]' if c else ''} c"
    model = graph(inputs, "h = Conv(x, w) y = Sub(c, h)")
    for io in ("separate", "stacked"):
        check(model, draw(model, 3), {"x": "input", "w": "weight", "c": role}, tmp_path, io=io)


@pytest.mark.parametrize("role", ["weight", "input"])
def test_channels_of_another_number(role, tmp_path):
    """One channel per model beside sixteen would not be each model's own."""
    model = graph("float[2,16,9] x, float[16,16,3] w, float[2,1,7] c", "h = Conv(x, w) y = Sub(h, c)")
    for models in (2, 16):
        check(model, draw(model, models), {"x": "input", "w": "weight", "c": role}, tmp_path)


@pytest.mark.parametrize("slope", ["16,1", "1"])
def test_slopes(slope, tmp_path):
    """PRelu broadcasts one way."""
    model = graph(f"float[2,16,9] x, float[16,16,3] w, float[{slope}] s", "h = Conv(x, w) y = PRelu(h, s)")
    check(model, draw(model, 3), {"x": "input", "w": "weight", "s": "weight"}, tmp_path)


@pytest.mark.parametrize("models", [1, 2, 4, 16])
def test_a_network(models, tmp_path):
    """Convolutions with a skip, a pool and a join along the channels, with N a number of channels or samples."""
    inputs = "float[B,4,L] x, float[16,4,3] u, float[16,16,3] v, float[16] b, float[16,1,3] d, float[5,16] f"
    body = """a = Conv<pads = [1, 1]>(x, u) r = Relu(a) c = Conv<pads = [2, 0], dilations = [1]>(r, v, b)
        e = Conv<group = 16, pads = [1, 1]>(c, d) s = Add(e, r) l = LeakyRelu(s) j = Concat<axis = 1>(l, c)
        p = MaxPool<kernel_shape = [2]>(l) g = GlobalAveragePool(p) q = Flatten(g) y = Gemm<transB = 1>(q, f)
        z = Neg(j)"""
    model = graph(inputs, body)
    role = {i.name: "input" if i.name == "x" else "weight" for i in model.graph.input}
    for sizes in (SIZES, {"B": models, "L": 16}):
        check(model, draw(model, models, sizes=sizes), role, tmp_path)
    check(model, draw(model, models, sizes=SIZES), role, tmp_path, io="stacked")
