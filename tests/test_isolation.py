"""One model never sees another's data: on odd input a merged model fails, or each model gets its own."""

from __future__ import annotations

import re

import contrib_graphs
import numpy as np
import pytest
from oracle import LEVELS, as_models, draw, every_merge, fails_or_is_right, family, graph, merged_feeds, run

# ------------------------------------------------------------------------ unequal sizes

OPEN = {
    "conv": ("float[B,4,2] x, float[3,4,1] w", "y = Conv(x, w)"),
    "conv of open channels": ("float[B,C,2] x, float[3,4,1] w", "y = Conv(x, w)"),
    "conv after conv": ("float[B,4,S] x, float[4,4,1] w", "v = Conv(x, w)  r = Relu(v)  y = Conv(r, w)"),
    "matmul": ("float[B,4] x, float[4,3] w", "y = MatMul(x, w)"),
    "matmul of rank 3": ("float[B,S,4] x, float[4,3] w", "y = MatMul(x, w)"),
    "gemm": ("float[B,4] x, float[4,3] w", "y = Gemm(x, w)"),
    "elementwise": ("float[B,4] x, float[4] w", "y = Mul(x, w)"),
    "elementwise chain": ("float[B,S] x, float[1] w", "v = Mul(x, w)  r = Relu(v)  y = Transpose(r)"),
    "gather": ("float[5,4] w, int64[B] x", "y = Gather(w, x)"),
    "gather of rank 2": ("float[5,4] w, int64[B,S] x", "y = Gather(w, x)"),
    "pool": ("float[B,3,S] x", "y = MaxPool<kernel_shape = [2]>(x)"),
    "norm": ("float[B,4,S] x, float[4] w", "y = InstanceNormalization(x, w, w)"),
    "softmax of the batch": ("float[B,4] x, float[4] w", "v = Mul(x, w)  y = Softmax<axis = 0>(v)"),
    "concat": ("float[B,4] x, float[2,4] w", "y = Concat<axis = 0>(x, w)"),
    "flatten": ("float[B,4,S] x", "y = Flatten<axis = 2>(x)"),
    "transpose": ("float[B,S] x", "y = Transpose(x)"),
    "reshape": ("float[B,4] x", "t = Constant<value_ints = [-1, 2]>()  y = Reshape(x, t)"),
    "reshape to larger rows": ("float[B,4] x", "t = Constant<value_ints = [-1, 8]>()  y = Reshape(x, t)"),
    "reshape that copies": ("float[B,S] x", "t = Constant<value_ints = [0, 2, -1]>()  y = Reshape(x, t)"),
    "reshape to a row": ("float[B,4] x", "t = Constant<value_ints = [1, -1]>()  y = Reshape(x, t)"),
    "shape": ("float[B,4] x", "y = Shape(x)"),
    "size": ("float[B,4] x", "y = Size(x)"),
    "shape beside data": ("float[B,4] x, float[4] w", "s = Shape(x)  y = Cast<to = 1>(s)  z = Mul(x, w)"),
    "sizes of another value": (
        "float[B,1,S] x, int64[3] t",
        'y = Resize<mode = "linear", coordinate_transformation_mode = "asymmetric">(x, , , t)',
    ),
}  # fmt: skip
"""Small graphs on x and a weight w, over a batch B, channels C and a length S that the file leaves open."""

UNEQUAL = [
    [{"B": 2}, {"B": 4}, {"B": 3}],  # in all three times the middle one
    [{"B": 1}, {"B": 2}, {"B": 2}],
    [{"B": 2, "S": 6}, {"B": 3, "S": 4}, {"B": 4, "S": 3}],  # as many elements each
    [{"S": 2}, {"S": 4}, {"S": 6}],
    [{"C": 2}, {"C": 4}, {"C": 6}],
    [{"B": 0}, {"B": 2}, {"B": 1}],
]


def dims_of(inputs):
    """The open dims of the inputs of a graph."""
    return {
        dim for part in inputs.split("[")[1:] for dim in part.split("]")[0].split(",") if not dim.isdigit()
    }


CASES = [(name, sizes) for name in OPEN for sizes in UNEQUAL if sizes[0].keys() <= dims_of(OPEN[name][0])]


@pytest.mark.parametrize(("name", "sizes"), CASES, ids=str)
def test_unequal_sizes_fail_or_are_right(name, sizes, tmp_path):
    model = graph(*OPEN[name])
    each = [draw(model, 3, sizes={"B": 2, "C": 4, "S": 4} | more, low=1, high=3) for more in sizes]
    values = {key: [each[m][key][m] for m in range(3)] for key in each[0]}
    role = {"x": "input"}
    if "t" in values:
        role["t"] = "shared input"
        values["t"] = [np.array([2, 1, 4])] * 3
    for kind in ("weight", "shared weight") if "w" in values else ("",):
        fails_or_is_right(model, values, role | ({"w": kind} if kind else {}), tmp_path)


@pytest.mark.parametrize("name", ["conv", "matmul", "elementwise", "gather", "pool"])
def test_unequal_batches_fail(name, tmp_path):
    """Every lowering of these joins the batches, so every one must refuse."""
    model = graph(*OPEN[name])
    each = [draw(model, 2, sizes={"B": n, "S": 4}, low=1, high=3) for n in (1, 3)]
    values = {key: [each[m][key][m] for m in range(2)] for key in each[0]}
    role = {key: "input" if key == "x" else "weight" for key in values}
    paths = as_models(model, values, role, tmp_path)
    runs = len(LEVELS) * sum(1 for _ in every_merge(family(paths), role, "separate"))
    assert fails_or_is_right(model, values, role, tmp_path) == runs


def must_fail(merged, feeds, message, what):
    """The run ends in an error of ONNX Runtime that says so."""
    failed = ""
    try:
        run(merged, feeds, LEVELS[1])
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
        failed = str(error)
    assert re.search(message, failed, re.IGNORECASE), f"{what}: {failed or 'accepted'}"


def test_rows_that_divide_only_together_fail(tmp_path):
    """Two models with 3 rows of 4 have 24 numbers, 3 rows of 8; each alone has no whole number of rows."""
    model = graph(*OPEN["reshape to larger rows"])
    values = draw(model, 2, sizes={"B": 3})
    role = {"x": "input"}
    corr = family(as_models(model, values, role, tmp_path))
    for io in ("separate", "stacked"):
        feeds = merged_feeds(values, role, io, corr.names)
        for _, merged, what in every_merge(corr, role, io):
            must_fail(merged, feeds, "cannot be reshaped", what)


# ------------------------------------------------------------------------ indices out of range

INDEXED = {
    "Gather": ("float[3,4] x, int64[2] i", "y = Gather(x, i)"),
    "Gather of a column": ("float[4,3] x, int64[2] i", "y = Gather<axis = 1>(x, i)"),
    "GatherElements": ("float[3,4] x, int64[2,4] i", "y = GatherElements(x, i)"),
    "GatherND": ("float[3,4] x, int64[2,1] i", "y = GatherND(x, i)"),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize("index", [3, 5, 8, -4, -7])
def test_an_index_out_of_range_is_an_error(name, index, tmp_path):
    """3 to 8 would be rows of the neighbours in a table of all three models."""
    model = graph(*INDEXED[name])
    values = draw(model, 3, low=0, high=2)
    values["i"][1].flat[0] = index
    for x in ("input", "weight", "shared weight"):
        role = {"x": x, "i": "input"}
        paths = as_models(model, values, role, tmp_path)
        for io in ("separate", "stacked"):
            for _, merged, what in every_merge(family(paths), role, io):
                feeds = merged_feeds(values, role, io, ["m0", "m1", "m2"])
                must_fail(merged, feeds, "out of (data )?bounds|invalid ind|out of range", what)


# ------------------------------------------------------------------------ NaN and infinity

POISONED = {
    "conv": ("float[2,3,4] x, float[3,3,2] w", "y = Conv(x, w)"),
    "depthwise": ("float[2,3,4] x, float[3,1,2] w", "y = Conv<group = 3>(x, w)"),
    "transposed": ("float[2,3,4] x, float[3,3,2] w", "y = ConvTranspose(x, w)"),
    "matmul": ("float[2,3] x, float[3,4] w", "y = MatMul(x, w)"),
    "gemm": ("float[2,3] x, float[2] w", "y = Gemm<transB = 1>(x, x, w)"),
    "einsum": ("float[2,3] x, float[3] w", 'y = Einsum<equation = "ij,j->i">(x, w)'),
    "batch norm": ("float[2,3,4] x, float[3] w", "y = BatchNormalization(x, w, w, w, w)"),
    "instance norm": ("float[2,3,4] x, float[3] w", "y = InstanceNormalization(x, w, w)"),
    "layer norm": ("float[2,3] x, float[3] w", "y = LayerNormalization(x, w, w)"),
    "softmax": ("float[3,3] x, float[3] w", "v = Mul(x, w)  y = Softmax<axis = 0>(v)"),
    "reduce": ("float[3,3] x, float[3] w", "v = Mul(x, w)  y = ReduceMax<axes = [1]>(v)"),
    "cumulative": (
        "float[3,3] x, float[3] w",
        "a = Constant<value_int = 0>()  v = Mul(x, w)  y = CumSum(v, a)",
    ),
    "clip": ("float[3,3] x, float w", "y = Clip(x, w)"),
    "order": (
        "float[3,3] x, float[3] w",
        "k = Constant<value_ints = [2]>()  v = Mul(x, w)  y, i = TopK(v, k)",
    ),
    "pool": ("float[1,3,4] x, float[3,1] w", "v = Mul(x, w)  y = AveragePool<kernel_shape = [2]>(v)"),
    "resize": (
        "float[1,3,4] x, float[3,1] w",
        's = Constant<value_floats = [1.0, 1.0, 2.0]>()  v = Mul(x, w)  y = Resize<mode = "linear">(v, , s)',
    ),
    "response norm": ("float[1,3,2,2] x, float[3,1,1] w", "v = Mul(x, w)  y = LRN<size = 3>(v)"),
    "gather": ("int64[2] x, float[3,3] w", "y = Gather(w, x)"),
    "concat": ("float[2,3] x, float[2,3] w", "y = Concat<axis = 1>(x, w)"),
}  # fmt: skip


PLACES = [(name, place) for name in POISONED for place in "xw" if (name, place) != ("gather", "x")]


@pytest.mark.parametrize(("name", "poisoned"), PLACES)
def test_nan_and_infinity_stay_in_their_model(name, poisoned, tmp_path):
    model = graph(*POISONED[name])
    values = draw(model, 3, low=0, high=2)
    odd = {key: value.copy() for key, value in values.items()}
    odd[poisoned].reshape(3, -1)[1, [0, -1]] = np.nan, np.inf
    role = {"x": "input", "w": "weight"}
    runs = []
    for data in (values, odd):
        merges = every_merge(family(as_models(model, data, role, tmp_path)), role, "separate")
        feeds = merged_feeds(data, role, "separate", ["m0", "m1", "m2"])
        runs.append([(what, run(merged, feeds, level)) for _, merged, what in merges for level in LEVELS])
    clean, harmed = runs
    assert any(not np.array_equal(a["m1/y"], b["m1/y"]) for (_, a), (_, b) in zip(clean, harmed, strict=True))
    for (what, a), (_, b) in zip(clean, harmed, strict=True):
        for other in ("m0/y", "m2/y"):
            np.testing.assert_array_equal(a[other].view(np.int32), b[other].view(np.int32), err_msg=what)


# ------------------------------------------------------------------------ a model's own numbers

NLL = 'NegativeLogLikelihoodLoss<reduction = "mean", ignore_index = 1>'
SKIP = "com.microsoft.SkipLayerNormalization"
OWN = {
    "loss": ("float[B,3] x, int64[B] t", f"y = {NLL}(x, t)"),
    "loss with weights": ("float[B,3] x, int64[B] t, float[3] w", f"y = {NLL}(x, t, w)"),
    "loss of scores": ("float[B,3,2] x, int64[B,2] t", f"y, p = SoftmaxCrossEntropy{NLL[21:]}(x, t)"),
    "dynamic quantisation": ("float[B,5] x", "y, s, z = DynamicQuantizeLinear(x)"),
    "dynamic product": ("float[B,5] x, uint8[5,3] w, float s", "y = com.microsoft.DynamicQuantizeMatMul(x, w, s)"),
    "clip": ("float[B,5] x, float w", "y = Clip(x, w)"),
    "clip from above": ("float[B,5] x, float w", 'y = Clip(x, "", w)'),
    "skip norm": ("float[B,3,4] x, float[3,4] z, float[4] w, float[4] c", f"y, , , s = {SKIP}(x, z, w, , c)"),
}  # fmt: skip


RANGES = ("dynamic quantisation", "dynamic product")
"""Operators that look for the range of their input. onnx leaves open where that ends if the input has a NaN or an
infinity. Written out for CUDA, which has no kernel for them, they give a NaN where the CPU's kernel passes it by."""


@pytest.mark.parametrize("name", OWN)
def test_a_model_gives_what_it_gives_alone_of_numbers_that_spread(name, tmp_path):
    """A model stays alone where a sample is ignored, where a NaN is overlooked, where an infinity is cut off."""
    model = contrib_graphs.graph(*OWN[name], 14)
    values = {key: list(value) for key, value in draw(model, 3, sizes={"B": 4}, low=0, high=2).items()}
    if "t" in values:
        for labels in values["t"]:
            labels.reshape(-1)[:2] = 1, 0  # the first one is ignored, not all are
    role = {key: "weight" if key in "wc" else "input" for key in values}
    undefined = {1} if name in RANGES else set()
    for odd in (np.nan, np.inf, -np.inf, 3e38):
        for place in (0, 1, -1):
            own = {key: [part.copy() for part in parts] for key, parts in values.items()}
            own["x"][1].reshape(-1)[place] = odd
            failed = fails_or_is_right(model, own, role, tmp_path, undefined=undefined)
            assert failed == 0, "the sources take it"
