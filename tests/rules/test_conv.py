"""Convolutions."""

import onnx
import pytest
from oracle import Every, EveryOnCpu, as_models, check, draw, every_merge, family, graph, sweep

from netfuse_onnx.plan.planner import candidates

OPS = ("Conv", "ConvTranspose")

# image, filters, attributes; the bias is added by the test
CONV = [
    ("2,3,5", "4,3,3", ""), ("2,3,4,5", "4,3,2,3", ""), ("1,3,3,4,4", "4,3,2,2,2", ""),
    ("2,4,5,5", "6,2,3,3", "<group = 2>"), ("2,3,5,5", "3,1,3,3", "<group = 3>"),
    ("2,3,5,5", "6,1,3,3", "<group = 3, pads = [1, 1, 1, 1]>"),
    ("2,3,6,5", "4,3,3,3", "<strides = [2, 1], pads = [1, 0, 2, 1], dilations = [2, 1]>"),
    ("2,3,5,5", "4,3,3,3", '<auto_pad = "SAME_UPPER", strides = [2, 2]>'),
    ("3,3,1,1", "3,3,1,1", ""), ("B,3,H,4", "4,3,3,3", "<pads = [1, 1, 1, 1]>"), ("0,3,4,4", "4,3,3,3", ""),
]  # fmt: skip
TRANSPOSED = [
    ("2,3,5", "3,4,3", ""), ("2,3,4,5", "3,4,2,3", "<strides = [2, 2]>"), ("1,3,2,3,3", "3,2,2,2,2", ""),
    ("2,4,4,4", "4,3,3,3", "<group = 2, output_padding = [1, 0], strides = [2, 1]>"),
    ("2,3,4,4", "3,1,2,2", "<group = 3>"),
    ("2,3,4,4", "3,2,3,3", "<pads = [1, 0, 1, 1], dilations = [1, 2]>"),
    ("2,3,4,4", "3,2,3,3", "<output_shape = [8, 8], strides = [2, 2]>"), ("B,3,H,4", "3,2,3,3", ""),
]  # fmt: skip
SIZES = {"B": 3, "H": 5}


@pytest.mark.parametrize(("x", "w", "attributes"), CONV)
def test_conv(x, w, attributes, tmp_path):
    """Without a bias every role; with one, as each exporter writes it."""
    sweep(graph(f"float[{x}] x, float[{w}] w", f"y = Conv{attributes}(x, w)"), tmp_path, sizes=SIZES)


@pytest.mark.parametrize(("x", "w", "attributes"), TRANSPOSED)
def test_conv_transpose(x, w, attributes, tmp_path):
    sweep(graph(f"float[{x}] x, float[{w}] w", f"y = ConvTranspose{attributes}(x, w)"), tmp_path, sizes=SIZES)


@pytest.mark.parametrize(
    ("op", "w", "b"), [("Conv", "4,3,3", 4), ("ConvTranspose", "3,4,3", 4), ("Conv", "6,1,3", 6)]
)
def test_bias(op, w, b, tmp_path):
    attributes = "<group = 3>" if w == "6,1,3" else ""
    model = graph(f"float[2,3,5] x, float[{w}] w, float[{b}] b", f"y = {op}{attributes}(x, w, b)")
    sweep(model, tmp_path)


@pytest.mark.parametrize(("op", "n"), [("Conv", 4), ("ConvTranspose", 4)])
def test_a_bias_of_open_size_is_as_long_as_there_are_filters(op, n, tmp_path):
    """CUDA does not compare them: with fewer numbers a model's filters would read the next one's bias. A
    Reshape to the size that it must have fails everywhere."""
    model = graph("float[2,3,5] x, float[4,3,3] w, float[n] b", "y = Conv(x, w, b)")
    if op == "ConvTranspose":
        model = graph("float[2,3,5] x, float[3,4,3] w, float[n] b", "y = ConvTranspose(x, w, b)")
    role = {"x": "input", "w": "weight", "b": "input"}
    check(model, draw(model, 3, sizes={"n": n}), role, tmp_path)
    corr = family(as_models(model, draw(model, 3, sizes={"n": n}), role, tmp_path))
    for plan, merged, what in every_merge(corr, role, "separate"):
        found = onnx.load_from_string(merged).graph
        stored = {each.name: onnx.numpy_helper.to_array(each).tolist() for each in found.initializer}
        made = {name: node for node in found.node for name in node.output}
        (bias,) = [made[node.input[2]] for node in found.node if node.op_type == op]
        if plan.lowerings[0].rule == "conv":
            assert bias.op_type == "Reshape" and stored[bias.input[1]] == [3 * n], what


def test_every_role_and_number(tmp_path):
    sweep(graph("float[2,3,5] x, float[3,3,3] w", "y = Conv(x, w)"), tmp_path, thorough=True)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float16"])
def test_other_types(op, dtype, tmp_path):
    model = graph(f"{dtype}[2,3,5] x, {dtype}[3,3,3] w, {dtype}[3] b", f"y = {op}(x, w, b)")
    check(model, draw(model, 3), {"x": "input", "w": "weight", "b": "weight"}, tmp_path)


@pytest.mark.parametrize("opset", [9, 11, 22])
def test_opsets(opset, tmp_path):
    model = graph("float[B,3,5] x, float[4,3,3] w, float[4] b", "y = Conv(x, w, b)", opset)
    for x in ("input", "shared input"):
        values = draw(model, 3, sizes=SIZES)
        check(model, values, {"x": x, "w": "weight", "b": "weight"}, tmp_path, keep_opset=True)


def test_a_block_of_a_network(tmp_path):
    """Convolutions, a skip and a 1x1 of which nothing has to move: channels stay folded."""
    text = "float[B,3,4,4] x, float[4,3,3,3] v, float[4] b, float[4,4,1,1] w, float[4,1,3,3] d"
    body = """a = Conv<pads = [1, 1, 1, 1]>(x, v, b)  r = Relu(a)  c = Conv(r, w)
              e = Conv<group = 4, pads = [1, 1, 1, 1]>(c, d)  y = Add(e, r)"""
    model = graph(text, body)
    role = {"x": "input", "v": "weight", "b": "weight", "w": "weight", "d": "weight"}
    check(model, draw(model, 3, sizes=SIZES), role, tmp_path)
    check(model, draw(model, 3, sizes=SIZES), role | {"w": "shared weight"}, tmp_path, io="stacked")


@pytest.mark.parametrize(
    ("x", "w"),
    [("B,3,6,5", "4,3,3,3"), ("2,1,5", "3,1,2"), ("B,7,H,4", "2,7,1,1"), ("1,2,H,B,3", "3,2,2,2,2")],
)
def test_channels_of_zeros(x, w, tmp_path):
    """Few channels are filled up for CUDA; the oracle forces that, and every other way."""
    model = graph(f"float[{x}] x, float[{w}] w, float[{w[0]}] b", "y = Conv(x, w, b)")
    check(model, draw(model, 3, sizes=SIZES), {"x": "input", "w": "weight", "b": "weight"}, tmp_path)


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [("1,3,4,5", "4,3,1,1", ""), ("1,3,5", "3,3,1", "<strides = [1]>"), ("1,2,3,2,2", "3,2,1,1,1", ""),
     ("1,3,1,1", "5,3,1,1", "<pads = [0, 0, 0, 0]>"), ("1,4,3,3", "6,4,1,1", '<auto_pad = "SAME_UPPER">')],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_a_point_of_one_image(x, w, attributes, bias, tmp_path):
    """A 1x1 convolution of one image may be a product for CUDA."""
    more, name = (f", float[{w[0]}] b", ", b") if bias else ("", "")
    sweep(graph(f"float[{x}] x, float[{w}] w{more}", f"y = Conv{attributes}(x, w{name})"), tmp_path)


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [("1,3,4,5", "4,3,1,1", "strides = [2, 1]"), ("1,3,4,5", "4,3,3,3", "pads = [1, 1, 1, 1]"),
     ("1,3,6,5", "3,3,2,3", "pads = [0, 1, 2, 0], strides = [2, 1]"), ("1,3,7", "4,3,3", "dilations = [2]"),
     ("1,4,3,3", "4,2,1,1", "group = 2"), ("1,6,5,4", "3,2,3,2", "group = 3, pads = [1, 0, 1, 1]"),
     ("1,3,4,4", "4,3,1,1", "pads = [1, 0, 1, 0]"), ("1,3,4,5", "4,3,1,1", 'auto_pad = "VALID", strides = [1, 2]'),
     ("1,3,5,6", "3,3,3,2", 'auto_pad = "SAME_LOWER", strides = [2, 3]'), ("1,2,6,5", "3,2,2,2", 'auto_pad = "SAME_UPPER"'),
     ("1,2,3,4,3", "3,2,2,3,2", "dilations = [1, 1, 2], pads = [1, 1, 0, 0, 1, 1]"), ("1,3,3,3", "5,3,3,3", "group = 1"),
     ("B,3,4,5", "4,3,1,1", "group = 1"), ("B,4,4,5", "4,2,3,2", "group = 2, pads = [1, 0, 1, 1]")],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_unfolded_windows(x, w, attributes, bias, tmp_path):
    """A convolution of one image may be a product of its unfolded windows for CUDA, whatever its window."""
    more, name = (f", float[{w[0]}] b", ", b") if bias else ("", "")
    model = graph(f"float[{x}] x, float[{w}] w{more}", f"y = Conv<{attributes}>(x, w{name})")
    assert "conv_as_product" in offered(model, tmp_path)
    sweep(model, tmp_path, sizes=SIZES)


@pytest.mark.parametrize(
    ("x", "w"),
    [("2,3,4,5", "4,3,1,1"), ("1,3,H,5", "4,3,3,1"), ("0,3,4,5", "4,3,1,1"), ("1,B,4,5", "4,3,1,1")],
)
def test_what_is_no_product(x, w, tmp_path):
    """The option is not offered for several images, or where a size is unknown."""
    rules = offered(graph(f"float[{x}] x, float[{w}] w", "y = Conv(x, w)"), tmp_path)
    assert "conv" in rules and "conv_as_product" not in rules


def offered(model, folder):
    """The names of all lowerings on offer where the input and the filters differ."""
    values = draw(model, 2, sizes=SIZES)
    role = {"x": "input"} | {name: "weight" for name in values if name != "x"}
    corr = family(as_models(model, values, role, folder))
    found = candidates(corr, io="separate", share=frozenset(), cost=Every(2))
    return {offer.rule for offers in found.options for offer in offers}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [("2,16,4,5", "12,16,3,3", "pads = [1, 1, 1, 1]"), ("B,16,H,4", "8,16,1,3", "strides = [2, 1]"),
     ("1,16,4,4", "20,16,3,3", "dilations = [1, 1]"), ("0,16,4,4", "9,16,2,2", "group = 1"),
     ("1,16,5,5", "17,16,3,3", "auto_pad = \"SAME_UPPER\", strides = [2, 2]")],
)  # fmt: skip
def test_filters_of_zeros(x, w, attributes, bias, tmp_path):
    """Filters that fill a block for a CPU, where measured times choose it."""
    more, name = (f", float[{w.split(',')[0]}] b", ", b") if bias else ("", "")
    model = graph(f"float[{x}] x, float[{w}] w{more}", f"y = Conv<{attributes}>(x, w{name})")
    role = {i.name: "input" if i.name == "x" else "weight" for i in model.graph.input}
    for models, io in ((3, "separate"), (16, "stacked")):
        values = draw(model, models, sizes=SIZES)
        check(model, values, role, tmp_path, io=io)
        found = candidates(
            family(as_models(model, values, role, tmp_path)),
            io=io,
            share=frozenset(),
            cost=EveryOnCpu(models),
        )
        assert "conv_filled" in {offer.rule for offer in found.options[-1]}
    sweep(model, tmp_path, models=(2,), sizes=SIZES)


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [("2,16,4,5", "16,16,3,3", ""), ("2,16,4,5", "7,16,3,3", ""), ("2,8,4,5", "12,8,3,3", ""), ("2,16,5", "12,16,3", ""),
     ("2,16,4,5", "12,16,1,1", ""), ("2,32,4,5", "12,16,3,3", "<group = 2>")],
)  # fmt: skip
def test_what_needs_no_filters_of_zeros(x, w, attributes, tmp_path):
    model = graph(f"float[{x}] x, float[{w}] w", f"y = Conv{attributes}(x, w)")
    paths = as_models(model, draw(model, 2), {"x": "input", "w": "weight"}, tmp_path)
    found = candidates(family(paths), io="separate", share=frozenset(), cost=EveryOnCpu(2))
    assert not any(offer.rule == "conv_filled" for offers in found.options for offer in offers)
