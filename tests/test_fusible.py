"""Convolutions that are fused with a sum and Relu for CUDA: what becomes one operator, and that it computes the same."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
from contrib_graphs import graph
from oracle import as_models, check, draw, family, sweep

import netfuse_onnx
from netfuse_onnx.rules.conv import ACTIVATIONS

SIZES = {"B": 3, "H": 5, "C": 4}
IMAGES = "float[B,3,5,5] x, float[4,3,3,3] w, float[4] b, float[4,3,3,3] v"


def operators(model, folder, target="cuda", values=None, **more):
    """The operators of the graph of a family before the plan, and the nodes."""
    role = {info.name: "weight" for info in model.graph.input if info.name in "wbv"}
    role = {info.name: "input" for info in model.graph.input} | role | more
    drawn = draw(model, 2, sizes=SIZES, given=values)
    corr = family(as_models(model, drawn, role, folder), target=target)
    return collections.Counter(node.op for node in corr.graph.nodes), corr.graph.nodes


FUSED = [
    ("float[B,3,H,5] x, float[4,3,3,3] w", "a = Conv<pads = [1, 1, 1, 1]>(x, w) y = Relu(a)"),
    ("float[B,3,5] x, float[4,3,3] w, float[4] b", "a = Conv(x, w, b) y = Relu(a)"),
    ("float[B,3,5,5] x, float[6,1,3,3] w, float[6] b", "a = Conv<group = 3>(x, w, b) y = Relu(a)"),
    ("float[2,2,3,3,3] x, float[2,2,2,2,2] w", "a = Conv(x, w) y = Relu(a)"),
    (
        "float[B,3,6,5] x, float[4,3,3,3] w",
        "a = Conv<pads = [2, 1, 2, 1], strides = [2, 1]>(x, w) y = Relu(a)",
    ),
    ("float[B,4,5,5] x, float[4,4,1,1] w, float[4] b", "a = Conv(x, w, b) s = Add(a, x) y = Relu(s)"),
    ("float[B,4,5,5] x, float[4,4,1,1] w", "a = Conv(x, w) s = Add(x, a) y = Relu(s)"),
    (
        "float[B,4,5,5] x, float[4,2,3,3] w, float[4] b",
        "a = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w, b) s = Add(x, a) y = Relu(s)",
    ),
]


@pytest.mark.parametrize(("inputs", "body"), FUSED, ids=range(len(FUSED)))
def test_one_operator(inputs, body, tmp_path):
    model = graph(inputs, body)
    assert list(operators(model, tmp_path)[0]) == ["FusedConv"]
    sweep(model, tmp_path, sizes=SIZES, target="cuda")


BIASES = [("(x, w, b)", "(x, v)"), ("(x, w)", "(x, v, c)"), ("(x, w, b)", "(x, v, c)"), ("(x, w)", "(x, v)")]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(("first", "second"), BIASES)
def test_two_convolutions_that_are_added(first, second, stored, tmp_path):
    """One of them does the sum, and both biases where they are stored; the other stays."""
    inputs = "float[B,3,5,5] x, float[4,3,3,3] w, float[4,3,3,3] v"
    inputs += "".join(f", float[4] {name}" for name in "bc" if name in first + second)
    model = graph(inputs, f"a = Conv{first} d = Conv{second} s = Add(a, d) y = Relu(s)")
    names = {info.name for info in model.graph.input} & set("bc")
    found, nodes = operators(model, tmp_path, **dict.fromkeys(names, "weight" if stored else "input"))
    joined = stored and names == {"b", "c"}
    assert found == {"FusedConv": 1, "Conv": 1, **({"Add": 1} if joined else {})}
    (conv,) = (node for node in nodes if node.op == "Conv")
    assert len(conv.inputs) == (2 if stored or "c" not in names else 3)
    fixed = dict.fromkeys(names, "weight" if stored else "input")
    sweep(model, tmp_path, sizes=SIZES, target="cuda", fixed=fixed)


@pytest.mark.parametrize(
    ("low", "becomes"), [(0.0, "FusedConv"), (0.5, "FusedConv"), (-0.5, "Conv"), (None, "Conv")]
)
@pytest.mark.parametrize("opset", [9, 17])
def test_a_clip_from_zero_on_stays_behind_relu(opset, low, becomes, tmp_path):
    inputs = "float[B,4,5,5] x, float[4,4,3,3] w, float[4] b"
    if opset < 11:
        least = "" if low is None else f"min = {low}, "
        model = graph(inputs, f"a = Conv(x, w, b) y = Clip<{least}max = 1.5>(a)", opset)
        more = {}
    else:
        call = "Clip(a, l, h)" if low is not None else 'Clip(a, "", h)'
        inputs += ", float l, float h" if low is not None else ", float h"
        model = graph(inputs, f"a = Conv(x, w, b) y = {call}".replace('""', ""), opset)
        more = {"h": np.float32(1.5)} | ({} if low is None else {"l": np.float32(low)})
    role = dict.fromkeys(more, "shared weight")
    assert operators(model, tmp_path, values=more, **role)[0] == {becomes: 1, "Clip": 1}
    sweep(model, tmp_path, sizes=SIZES, target="cuda", given=more)


def test_a_clip_whose_bound_is_below_zero_in_one_model(tmp_path):
    model = graph("float[B,4,5,5] x, float[4,4,3,3] w, float l", "a = Conv(x, w) y = Clip(a, l)")
    values = draw(model, 3, sizes=SIZES) | {"l": np.array([0.0, -1.0, 0.5], np.float32)}
    role = {"x": "input", "w": "weight", "l": "weight"}
    corr = family(as_models(model, values, role, tmp_path), target="cuda")
    assert [node.op for node in corr.graph.nodes] == ["Conv", "Clip"]


def test_a_sum_before_a_clip(tmp_path):
    body = "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) s = Add(x, a) y = Clip(s, l)"
    model = graph("float[B,4,5,5] x, float[4,4,3,3] w, float[4] b, float l", body)
    bound = {"l": np.float32(0)}
    assert operators(model, tmp_path, values=bound, l="shared weight")[0] == {"FusedConv": 1, "Clip": 1}
    sweep(model, tmp_path, sizes=SIZES, target="cuda", given=bound)


def test_a_sum_of_an_image_that_differs_with_one_that_does_not(tmp_path):
    """The convolution need not run for each model."""
    model = graph(
        "float[2,3,4,4] x, float[4,3,1,1] w, float[2,4,4,4] z",
        "a = Conv(x, w) s = Add(a, z) y = Relu(s)",
    )
    role = {"x": "shared input", "w": "shared weight", "z": "input"}
    for n in (3, 2, 4):
        check(model, draw(model, n), role, tmp_path, target="cuda")


@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
def test_a_sum_apart_from_its_convolution(activation, tmp_path):
    """Every activation of a FusedConv is an operator again, with its parameters."""
    name = f', activation = "{activation}"' if activation else ""
    params = [0.3, 0.4][: len(ACTIVATIONS.get(activation, ()))]
    more = f", activation_params = {params}" if params else ""
    model = graph(
        "float[2,3,4,4] x, float[4,3,1,1] w, float[4] b, float[2,4,4,4] z",
        f"y = com.microsoft.FusedConv<kernel_shape = [1, 1]{name}{more}>(x, w, b, z)",
    )
    role = {"x": "shared input", "w": "shared weight", "b": "shared weight", "z": "input"}
    for io in ("separate", "stacked"):
        check(model, draw(model, 4), role, tmp_path, io=io)


STAY = [  # inputs, body, the operators that are not fused
    ("float[B,3,5,5] x, float[4,3,3,3] w", "a = Conv(x, w) y = Relu(a) z = Neg(a)", "Conv Relu Neg"),
    ("float[B,3,5,5] x, float[4,3,3,3] w", "a = Conv(x, w) y = Tanh(a)", "Conv Tanh"),
    ("float16[B,3,5,5] x, float16[4,3,3,3] w", "a = Conv(x, w) y = Relu(a)", "Conv Relu"),
    ("float[B,3,5,5] x, float[4,3,3,3] w", "a = Conv(x, w) s = Add(a, a) y = Relu(s)", "Conv Add Relu"),
    ("float[B,4,5,5] x, float[4,4,1,1] w, float[4,1,1] z", "a = Conv(x, w) s = Add(a, z) y = Relu(s)",
     "Conv Add Relu"),
    ("float[B,4,5,5] x, float[4,4,1,1] w, float[B,4,5,5] z", "a = Conv(x, w) s = Add(a, z) y = Relu(s)",
     "Conv Add Relu"),
    ("float[B,4,H,5] x, float[4,4,3,3] w", "a = Conv<pads = [1, 1, 1, 1]>(x, w) s = Add(a, x) y = Relu(s)",
     "Conv Add Relu"),
    ("float[B,4,5] x, float[4,4,1] w", "a = Conv(x, w) s = Add(a, x) y = Relu(s)", "Conv Add Relu"),
    ("float[B,4,5,5] x, float[4,4,2,2] w", "a = Conv<pads = [1, 0, 0, 1]>(x, w) s = Add(a, x) y = Relu(s)",
     "Conv Add Relu"),
    ("float[B,4,5,5] x, float[4,4,2,2] w", "a = Conv<pads = [0, 0, 1, 1]>(x, w) y = Relu(a)", "Conv Relu"),
    ("float[B,4,5,5] x, float[4,4,2,2] w", 'a = Conv<auto_pad = "SAME_UPPER">(x, w) y = Relu(a)', "Conv Relu"),
    ("float[B,4,5,5] x, float[4,4,1,1] w", "a = Conv(x, w) s = Add(a, x) y = Relu(s) z = Neg(s)",
     "Conv Add Relu Neg"),
]  # fmt: skip
"""A value that others read; another activation; a type without a kernel; sums of shapes that need not be equal,
or whose rank is not 4; a border that is wider on one side."""


@pytest.mark.parametrize(("inputs", "body", "stay"), STAY, ids=range(len(STAY)))
def test_what_one_operator_would_not_do(inputs, body, stay, tmp_path):
    model = graph(inputs, body)
    assert operators(model, tmp_path)[0] == collections.Counter(stay.split())


def test_a_convolution_that_is_an_output(tmp_path):
    model = graph("float[B,3,5,5] x, float[4,3,3,3] w", "a = Conv(x, w) y = Relu(a)")
    model.graph.output.add(name="a")
    assert operators(onnx.shape_inference.infer_shapes(model), tmp_path)[0] == {"Conv": 1, "Relu": 1}


def test_other_targets_leave_it_to_the_runtime(tmp_path):
    model = graph(*FUSED[5])
    for target in ("generic", "cpu"):
        assert operators(model, tmp_path, target)[0] == {"Conv": 1, "Add": 1, "Relu": 1}


def test_the_operator_bears_the_name_of_the_convolution(tmp_path):
    model = graph(*FUSED[5])
    for node in model.graph.node:
        node.name = f"the {node.op_type}"
    (node,) = operators(model, tmp_path)[1]
    assert node.name == "the Conv" and node.inputs[3] == "x" and node.outputs == ("y",)


def test_a_sum_without_a_bias_gets_one_of_zeros(tmp_path):
    """The kernel for CUDA reads the bias that stands before a sum without asking for it."""
    model = graph(*FUSED[6])
    (node,) = operators(model, tmp_path)[1]
    assert all(node.inputs)


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_verify_repeats_it(io, tmp_path):
    """All three proofs of a file that is merged for CUDA pass on the CPU, now and later."""
    text = IMAGES + ", float[4,4,3,3] u"
    body = """a = Conv(x, w, b) r = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(r, u) s = Add(c, r) t = Relu(s)
              p = MaxPool<kernel_shape = [2, 2]>(t) y = GlobalAveragePool(p)"""
    model = graph(text.replace(", float[4,3,3,3] v", ""), body)
    role = {"x": "input", "w": "weight", "b": "weight", "u": "weight"}
    paths = [str(path) for path in as_models(model, draw(model, 3, sizes=SIZES), role, tmp_path)]
    out = str(tmp_path / "merged.onnx")
    report = netfuse_onnx.merge(paths, out, target="cuda", io=io)
    assert report.proof is not None and report.proof.ok
    merged = onnx.load(out)
    assert collections.Counter(node.op_type for node in merged.graph.node)["FusedConv"] >= 2
    again = netfuse_onnx.verify(out, paths)
    assert again.ok and again.graph.ok and not again.graph.note
