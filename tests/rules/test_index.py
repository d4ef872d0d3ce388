"""Operators that select and join along an axis."""

import numpy as np
import pytest
from oracle import PROVIDER, check, draw, fails_or_is_right, few_roles, graph, roles, sweep

OPS = ("Concat", "Gather", "GatherElements", "GatherND", "OneHot", "Slice", "Split")
SIZES = {"B": 3, "S": 4}

# ------------------------------------------------------------------------ Concat and Split


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_concat(axis, tmp_path):
    shape = [2, 3, 4]
    shape[axis] = 3
    other = ",".join(map(str, shape))
    sweep(
        graph(f"float[2,3,4] x, float[{other}] y", f"z = Concat<axis = {axis}>(x, y)"),
        tmp_path,
        roles=few_roles,
    )


@pytest.mark.parametrize(("x", "y"), [("B,3", "S,3"), ("B,S", "B,2"), ("3,0", "3,2")])
def test_concat_of_open_sizes(x, y, tmp_path):
    axis = 0 if x.startswith("B,3") else 1
    model = graph(f"float[{x}] x, float[{y}] y", f"z = Concat<axis = {axis}>(x, y)")
    sweep(model, tmp_path, sizes=SIZES, alike="z" if x == "3,0" else "")


def test_concat_of_one_and_of_the_same(tmp_path):
    sweep(graph("float[3,2] x", "y = Concat<axis = 1>(x, x, x)"), tmp_path)
    sweep(graph("int64[3] x", "y = Concat<axis = 0>(x)"), tmp_path, high=9)


def test_concat_of_channels_of_convolutions(tmp_path):
    """DenseNet: the models of a folded channel axis must not interleave with the parts."""
    text = "float[B,3,3,3] x, float[3,3,1,1] v, float[2,3,1,1] w"
    model = graph(text, "a = Conv(x, v)  b = Conv(x, w)  c = Concat<axis = 1>(a, b)  y = Relu(c)")
    for v, w in (("weight", "weight"), ("weight", "shared weight")):
        check(model, draw(model, 3, sizes=SIZES), {"x": "input", "v": v, "w": w}, tmp_path)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("opset", [11, 17, 18])
def test_split_evenly(axis, opset, tmp_path):
    attributes = f"axis = {axis}, num_outputs = 2" if opset >= 18 else f"axis = {axis}"
    sweep(graph("float[2,4,6] x", f"y, z = Split<{attributes}>(x)", opset), tmp_path, keep_opset=True)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_split_by_sizes(axis, tmp_path):
    sweep(
        graph("float[3,3,3] x, int64[2] s", f"y, z = Split<axis = {axis}>(x, s)"),
        tmp_path,
        given={"s": [2, 1]},
    )
    model = graph("float[3,3,3] x", f"y, z = Split<axis = {axis}, split = [1, 2]>(x)", 11)
    sweep(model, tmp_path, keep_opset=True)
    model = graph("float[3,3,3] x", f"y, z = Split<axis = {axis}, num_outputs = 2>(x)", 18)
    sweep(model, tmp_path)  # the last part is smaller


def test_split_by_sizes_that_nobody_knows_is_replicated(tmp_path):
    """onnx infers no rank for the parts, and without one they cannot be joined."""
    model = graph("float[3,4] x, int64[2] s", "y, z = Split<axis = 1>(x, s)")
    values = draw(model, 3, given={"s": [1, 3]})
    check(model, values, {"x": "input", "s": "shared input"}, tmp_path, reason="the rank of 'y' is unknown")
    values["s"] = np.array([[1, 3], [2, 2], [4, 0]])
    check(model, values, {"x": "input", "s": "input"}, tmp_path, reason="unknown")


# ------------------------------------------------------------------------ Slice

SLICES = [
    ([1], [3], None, None), ([1, 0], [3, 2], None, None), ([1], [9], [1], None), ([-2], [9], [-1], None),
    ([0, 1], [2, 4], [0, 2], None), ([3], [-9], [2], [-1]), ([0], [4], [-1], [2]),
    ([0, 0], [2, 1], [2, 0], [1, 1]), ([2], [2], [1], None),
]  # fmt: skip


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_slice(starts, ends, axes, steps, kind, tmp_path):
    given = {"s": starts, "e": ends, "a": axes, "t": steps}
    given = {name: value for name, value in given.items() if value is not None}
    text = ", ".join(f"{kind}[{len(value)}] {name}" for name, value in given.items())
    sweep(graph(f"float[3,3,4] x, {text}", f"y = Slice(x, {', '.join(given)})"), tmp_path, given=given)


@pytest.mark.parametrize("axes", ["", ", axes = [0, 2]", ", axes = [-1, 1]"])
def test_slice_with_attributes(axes, tmp_path):
    model = graph("float[B,3,4] x", f"y = Slice<starts = [1, 0], ends = [3, -1]{axes}>(x)", 9)
    sweep(model, tmp_path, sizes=SIZES, keep_opset=True)


def test_slice_by_bounds_of_the_caller(tmp_path):
    model = graph("float[B,S] x, int64[1] s, int64[1] e, int64[1] a", "y = Slice(x, s, e, a)")
    values = draw(model, 3, sizes=SIZES, given={"s": [1], "e": [3], "a": [1]})
    role = {"x": "input", "s": "shared input", "e": "shared input", "a": "shared weight"}
    check(model, values, role, tmp_path)
    check(model, values, role | {"a": "shared input"}, tmp_path, reason="'a' is computed at run time")
    values["s"] = np.array([[0], [1], [2]])
    for io in ("separate",):
        check(model, values, role | {"s": "input"}, tmp_path, io=io, reason="'s' differs between the models")


# ------------------------------------------------------------------------ Gather and its like

GATHERS = [
    ("5", "", 0), ("5", "3", 0), ("5", "2,3", 0), ("5,3", "2", 0), ("5,3", "", 0), ("3,5", "3", 1),
    ("3,5", "", -1), ("3,5", "2,2", 1), ("2,5,3", "2", 1), ("2,5,3", "2,3", -2), ("2,3,5", "", 2),
    ("2,3,5", "2,2", 2), ("B,5,S", "3", 1), ("5,4", "B,S", 0), ("5,4", "0", 0), ("0,5", "2", 1),
]  # fmt: skip


@pytest.mark.parametrize(("data", "indices", "axis"), GATHERS)
@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_gather(data, indices, axis, kind, tmp_path):
    """Indices from -5 to 4 into an axis of 5, in every role: embeddings are the case of two weights."""
    where = f"{kind}[{indices}]" if indices else kind
    model = graph(f"float[{data}] x, {where} i", f"y = Gather<axis = {axis}>(x, i)")
    if kind == "int32":
        role = {"x": "weight", "i": "input"}
        check(model, draw(model, 3, sizes=SIZES, low=-5, high=4), role, tmp_path)
    else:
        sweep(model, tmp_path, sizes=SIZES, low=-5, high=4, alike="y" if data == "5" and not indices else "")


@pytest.mark.parametrize("dtype", ["int64", "bool", "float16", "double"])
def test_gather_of_other_types(dtype, tmp_path):
    model = graph(f"{dtype}[5,3] x, int64[3] i", "y = Gather(x, i)")
    for role in roles(["x", "i"], ("weight", "input")):
        check(model, draw(model, 3, low=-5, high=4), role, tmp_path)


@pytest.mark.parametrize("indices", ["", "3", "B,S"])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("of", ["int32", "int64"])
def test_gather_of_bytes(kind, indices, of, tmp_path):
    """For CUDA they are one table, in which an index may reach neither the model before nor the next."""
    model = graph(f"{kind}[5,3] x, {of}{f'[{indices}]' if indices else ''} i", "y = Gather(x, i)")
    values = draw(model, 3, sizes=SIZES, low=0, high=4)
    values["x"] = np.arange(45).reshape(3, 5, 3).astype(kind)
    for negative in (0, 5):
        moved = values | {"i": values["i"] - negative}
        for role in roles(["x", "i"], ("weight", "input")):
            check(model, moved, role, tmp_path)
    for outside in (5, -6, 100):
        wrong = values | {"i": np.full_like(values["i"], outside)}
        failed = fails_or_is_right(model, wrong, {"x": "weight", "i": "input"}, tmp_path)
        assert failed == 4 or PROVIDER == "cuda", "2 forms, 2 levels; gaps.GATHER_GIVES_ZEROS"


@pytest.mark.parametrize("opset", [9, 11, 12, 13])
def test_gather_opsets(opset, tmp_path):
    """Before opset 12 there is no GatherND with a batch, and before 11 no negative index."""
    model = graph("float[5,3] x, int64[3] i", "y = Gather(x, i)", opset)
    for role in roles(["x", "i"]):
        values = draw(model, 3, low=0 if opset < 11 else -5, high=4)
        both = role["x"] in ("input", "weight") and role["i"] in ("input", "weight")
        reason = "GatherND has batch_dims" if both and opset < 12 else ""
        check(model, values, role, tmp_path, keep_opset=True, reason=reason)


@pytest.mark.parametrize(
    ("data", "indices", "axis"),
    [("5,3", "2,3", 0), ("3,5", "3,2", 1), ("2,5,3", "2,3,3", -2), ("B,5", "B,2", 1)],
)
def test_gather_elements(data, indices, axis, tmp_path):
    model = graph(f"float[{data}] x, int64[{indices}] i", f"y = GatherElements<axis = {axis}>(x, i)")
    sweep(model, tmp_path, sizes=SIZES, low=-5, high=4)


@pytest.mark.parametrize(
    ("data", "indices", "batch"),
    [("3,3", "2,2", 0), ("3,3,4", "3,1", 0), ("3,3,4", "3,2,1", 1), ("B,3,4", "B,2", 1)],
)
def test_gather_nd(data, indices, batch, tmp_path):
    model = graph(f"float[{data}] x, int64[{indices}] i", f"y = GatherND<batch_dims = {batch}>(x, i)")
    sweep(model, tmp_path, sizes=SIZES, low=-3, high=2)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize(("shape", "kind"), [("3,2", "int64"), ("B", "int64"), ("3", "int32")])
def test_one_hot(axis, shape, kind, tmp_path):
    """Indices from -4 to 3, in every role, and so the two values."""
    steer = ("shared weight", "shared input") if axis == 0 else ("shared weight",)
    model = graph(f"{kind}[{shape}] i, {kind} d, float[2] v", f"y = OneHot<axis = {axis}>(i, d, v)")
    sweep(model, tmp_path, sizes=SIZES, low=-4, high=3, given={"d": 4}, steer=steer, roles=few_roles)


def test_one_hot_with_a_depth_of_its_own_is_replicated(tmp_path):
    model = graph("int64[3] i, int64 d, float[2] v", "y = OneHot(i, d, v)")
    values = draw(model, 3, low=0, high=2) | {"d": np.array([3, 4, 5])}
    role = {"i": "input", "d": "input", "v": "shared weight"}
    check(model, values, role, tmp_path, reason="'d' differs between the models")
