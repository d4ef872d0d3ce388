"""Operators along axes."""

import numpy as np
import pytest
from oracle import check, draw, graph, sweep

REDUCE = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
OPS = (
    *REDUCE, "ArgMax", "ArgMin", "CumProd", "CumSum", "Hardmax", "LogSoftmax", "LpNormalization",
    "Softmax", "TopK", "Trilu",
)  # fmt: skip
SIZES = {"B": 3, "S": 4}

AXES = [[1], [-1], [0], [0, 2], [-3, 1], None]


def reduction(op, axes, attributes, opset, x="float[2,3,4]"):
    """A reduction over `axes`, None for all: an input of the operator, or an attribute in older opsets."""
    if axes is None:
        return graph(f"{x} x", f"y = {op}<{attributes}>(x)", opset)
    if opset >= 18 or (op == "ReduceSum" and opset >= 13):
        body = f"a = Constant<value_ints = {axes}>()  y = {op}<{attributes}>(x, a)"
    else:
        body = f"y = {op}<{attributes}, axes = {axes}>(x)"
    return graph(f"{x} x", body, opset)


@pytest.mark.parametrize("op", REDUCE)
@pytest.mark.parametrize("opset", [13, 18])
def test_every_reduction(op, opset, tmp_path):
    for keep, axes in ((1, [1]), (0, [-1])):
        model = reduction(op, axes, f"keepdims = {keep}", opset)
        check(model, draw(model, 3, low=0.2), {"x": "input"}, tmp_path, keep_opset=True)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("opset", [11, 18])
def test_axes(keep, axes, opset, tmp_path):
    sweep(reduction("ReduceSum", axes, f"keepdims = {keep}", opset), tmp_path, keep_opset=True)


@pytest.mark.parametrize(
    "x", ["float", "float[3]", "float[B,3]", "float[B,S,2]", "float[0,3]", "float[2,0,3]"]
)
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions_of_any_shape(x, keep, tmp_path):
    for axes in (None, [0]) if x != "float" else (None,):
        sweep(
            reduction("ReduceSum", axes, f"keepdims = {keep}", 18, x),
            tmp_path,
            sizes=SIZES,
            alike="y" if "0" in x else "",
        )


def test_no_axes(tmp_path):
    """An empty list of axes means all of them, or none where the attribute says so."""
    for noop in (0, 1):
        text, body = "float[2,3,4] x, int64[0] a", f"y = ReduceSum<noop_with_empty_axes = {noop}>(x, a)"
        sweep(graph(text, body, 18), tmp_path, given={"a": []})
        sweep(graph("float[2,3,4] x", f"y = ReduceMax<noop_with_empty_axes = {noop}>(x)", 18), tmp_path)


def test_axes_that_the_caller_gives_are_replicated(tmp_path):
    model = graph("float[2,3,4] x, int64[1] a", "y = ReduceSum(x, a)")
    values = draw(model, 3, given={"a": [1]})
    check(model, values, {"x": "input", "a": "shared input"}, tmp_path, reason="'a' is computed at run time")
    values["a"] = np.array([[0], [1], [2]])
    check(model, values, {"x": "input", "a": "input"}, tmp_path, reason="'a' differs between the models")


@pytest.mark.parametrize("dtype", ["double", "int64", "int32", "float16"])
def test_reductions_of_other_types(dtype, tmp_path):
    sweep(reduction("ReduceSum", [1], "keepdims = 0", 17, f"{dtype}[2,3,4]"), tmp_path, high=9)


# ------------------------------------------------------------------------ Softmax and its like


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_softmax(op, axis, tmp_path):
    sweep(graph("float[2,3,4] x", f"y = {op}<axis = {axis}>(x)"), tmp_path)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("opset", [9, 11])
def test_softmax_that_flattens(op, axis, opset, tmp_path):
    """Before opset 13 it works on all axes from `axis` on at once."""
    sweep(graph("float[2,3,4] x", f"y = {op}<axis = {axis}>(x)", opset), tmp_path, keep_opset=True)


@pytest.mark.parametrize("x", ["3", "B,S", "0,3", "B,3,S,2"])
def test_softmax_of_any_shape(x, tmp_path):
    sweep(graph(f"float[{x}] x", "y = Softmax(x)"), tmp_path, sizes=SIZES, thorough=True)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lp_normalization(axis, tmp_path):
    sweep(graph("float[2,3,4] x", f"y = LpNormalization<axis = {axis}, p = 1>(x)"), tmp_path)


# ------------------------------------------------------------------------ order


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_arg(op, keep, axis, tmp_path):
    text = f"y = {op}<axis = {axis}, keepdims = {keep}, select_last_index = 1>(x)"
    sweep(graph("float[3,2,4] x", text), tmp_path)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_top_k(axis, tmp_path):
    model = graph("float[3,2,4] x, int64[1] k", f"v, i = TopK<axis = {axis}, largest = 0>(x, k)")
    sweep(model, tmp_path, given={"k": [2]}, steer=("shared weight", "shared input"))


def test_top_k_with_its_own_k_is_replicated(tmp_path):
    """Its outputs have another shape in each model."""
    model = graph("float[3,4] x, int64[1] k", "v, i = TopK(x, k)")
    values = draw(model, 3) | {"k": np.array([[1], [2], [4]])}
    for role in ("weight", "input"):
        if role == "input":
            check(model, values, {"x": "input", "k": role}, tmp_path, reason="'k' differs between the models")


@pytest.mark.parametrize("opset", [9, 10, 21])
def test_top_k_opsets(opset, tmp_path):
    if opset == 9:
        sweep(graph("float[B,4] x", "v, i = TopK<k = 2>(x)", 9), tmp_path, sizes=SIZES, keep_opset=True)
    else:
        model = graph("float[B,4] x, int64[1] k", "v, i = TopK(x, k)", opset)
        sweep(model, tmp_path, sizes=SIZES, given={"k": [2]}, keep_opset=True)


@pytest.mark.parametrize(("op", "opset"), [("CumSum", 11), ("CumSum", 17), ("CumProd", 26)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cumulative(op, opset, axis, tmp_path):
    model = graph("float[3,2,4] x, int64 a", f"y = {op}<exclusive = 1, reverse = 1>(x, a)", opset)
    sweep(model, tmp_path, given={"a": axis}, keep_opset=True)


def test_cumulative_along_an_axis_of_the_caller_is_replicated(tmp_path):
    model = graph("float[3,4] x, int64 a", "y = CumSum(x, a)")
    values = draw(model, 3, given={"a": 1})
    check(model, values, {"x": "input", "a": "shared input"}, tmp_path, reason="'a' is computed at run time")


@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(upper, tmp_path):
    sweep(graph("float[B,3,4] x", f"y = Trilu<upper = {upper}>(x)"), tmp_path, sizes=SIZES)
    model = graph("float[3,4] x, int64 k", f"y = Trilu<upper = {upper}>(x, k)")
    sweep(model, tmp_path, given={"k": -1}, steer=("shared weight", "shared input"))
