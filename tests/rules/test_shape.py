"""Operators that move, add, drop or regroup axes."""

import itertools

import numpy as np
import pytest
from oracle import check, draw, graph, sweep

OPS = (
    "Expand", "Flatten", "Pad", "Reshape", "Shape", "Size", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
SIZES = {"B": 3, "S": 4}


@pytest.mark.parametrize(
    "perm", [*itertools.permutations(range(3)), *list(itertools.permutations(range(4)))[1::3]]
)
def test_transpose(perm, tmp_path):
    shape = "2,3,4" if len(perm) == 3 else "2,3,1,4"
    sweep(graph(f"float[{shape}] x", f"y = Transpose<perm = {list(perm)}>(x)"), tmp_path)


@pytest.mark.parametrize("x", ["float", "float[3]", "float[B,S]", "float[0,3]"])
def test_transpose_reverses_by_default(x, tmp_path):
    sweep(graph(f"{x} x", "y = Transpose(x)"), tmp_path, sizes=SIZES, thorough=x == "float[B,S]")


@pytest.mark.parametrize("dtype", ["int64", "bool", "float16"])
def test_transpose_of_other_types(dtype, tmp_path):
    sweep(graph(f"{dtype}[3,4] x", "y = Transpose(x)"), tmp_path, high=9)


# ------------------------------------------------------------------------ Unsqueeze and Squeeze


@pytest.mark.parametrize("axes", [[0], [1], [-1], [0, 1], [1, 3], [-2, 0], [2]])
def test_unsqueeze(axes, tmp_path):
    model = graph("float[3,4] x", f"a = Constant<value_ints = {axes}>() y = Unsqueeze(x, a)")
    sweep(model, tmp_path, thorough=axes == [1, 3])


@pytest.mark.parametrize("axes", [[0], [1], [-1], [1, 3]])
def test_unsqueeze_with_an_attribute(axes, tmp_path):
    sweep(graph("float[3,4] x", f"y = Unsqueeze<axes = {axes}>(x)", 11), tmp_path, keep_opset=True)


@pytest.mark.parametrize("axes", [[0], [1], [-2], [0, 1], None])
@pytest.mark.parametrize(("x", "opset"), [("1,1,3", 11), ("1,1,3", 17), ("1,1,S", 17)])
def test_squeeze(axes, x, opset, tmp_path):
    """Also with no axes given, where N = 1 must not go."""
    if axes is None:
        body = "y = Squeeze(x)"
    elif opset == 11:
        body = f"y = Squeeze<axes = {axes}>(x)"
    else:
        body = f"a = Constant<value_ints = {axes}>() y = Squeeze(x, a)"
    model = graph(f"float[{x}] x", body, opset)
    if axes is None and "S" in x:
        check(
            model, draw(model, 3, sizes=SIZES), {"x": "input"}, tmp_path, reason="the rank of .y. is unknown"
        )
    else:
        sweep(model, tmp_path, models=(3, 1), sizes=SIZES, keep_opset=True)


@pytest.mark.parametrize("op", ["Unsqueeze", "Squeeze"])
def test_axes_of_the_caller_are_replicated(op, tmp_path):
    """Nobody knows where the model axis would come to stand."""
    model = graph("float[3,1,2] x, int64[1] a", f"y = {op}(x, a)")
    values = draw(model, 3, given={"a": [1]})
    check(model, values, {"x": "input", "a": "shared input"}, tmp_path, reason="'a' is computed|rank of 'y'")


def test_squeeze_of_an_empty_list_of_axes_is_replicated(tmp_path):
    model = graph("float[1,2] x, int64[0] a", "y = Squeeze(x, a)")
    del model.graph.output[0].type.tensor_type.shape.dim[:]  # onnx says (1, 2), ONNX Runtime gives (2,)
    model.graph.output[0].type.tensor_type.shape.dim.add(dim_value=2)
    check(model, draw(model, 3), {"x": "input", "a": "shared weight"}, tmp_path, reason="empty list of axes")


def test_axes_of_a_scalar(tmp_path):
    sweep(graph("float x", "a = Constant<value_ints = [0]>() y = Unsqueeze(x, a)"), tmp_path, models=(3, 1))
    sweep(graph("float[1] x", "a = Constant<value_ints = [0]>() y = Squeeze(x, a)"), tmp_path, models=(3, 1))


# ------------------------------------------------------------------------ Flatten and Reshape


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
@pytest.mark.parametrize("x", ["2,3,4", "B,3,4", "B,S,4", "B,S,S", "0,3,4", "2,0,4"])
def test_flatten(x, axis, tmp_path):
    sweep(graph(f"float[{x}] x", f"y = Flatten<axis = {axis}>(x)"), tmp_path, sizes=SIZES)


@pytest.mark.parametrize("sizes", [{"B": 0, "S": 4}, {"B": 3, "S": 0}])
def test_flatten_of_what_turns_out_empty(sizes, tmp_path):
    for x, axis in (("B,3,4", 1), ("B,S,4", 1), ("B,S,4", 2), ("B,S", 1)):
        sweep(graph(f"float[{x}] x", f"y = Flatten<axis = {axis}>(x)"), tmp_path, sizes=sizes)


def test_flatten_of_small_ranks(tmp_path):
    sweep(graph("float x", "y = Flatten<axis = 0>(x)"), tmp_path)
    sweep(graph("float[3] x", "y = Flatten<axis = 0>(x)"), tmp_path)
    sweep(graph("float[3] x", "y = Flatten<axis = 1>(x)"), tmp_path)


RESHAPES = [
    ("2,3,4", [6, 4]), ("2,3,4", [2, 12]), ("2,3,4", [-1]), ("2,3,4", [0, -1]), ("2,3,4", [0, 0, 2, 2]),
    ("2,3,4", [-1, 3, 2, 2]), ("2,3,4", [4, 3, 2]), ("3,3,3", [3, 9]), ("3,3,3", [9, 3]), ("3,4", [1, 3, 4]),
    ("3,4", [3, 1, -1]), ("3,4", [12, 1]), ("6", [3, 2]), ("", [1]), ("1", []), ("", []), ("B,3,4", [-1, 12]),
    ("B,3,4", [0, 12]), ("B,S,4", [0, 0, 2, 2]), ("B,S,4", [0, -1, 4]), ("B,S,4", [-1, 4]),
    ("B,3,4", [0, 3, -1]), ("B,12", [-1, 3, 4]), ("B,6,2", [0, 3, -1]), ("0,4", [0, 2, 2]), ("0,4", [-1, 2]),
    ("B,4", [-1, 8]), ("2,4", [-1, 8]),
]  # fmt: skip


@pytest.mark.parametrize(("x", "target"), RESHAPES)
def test_reshape(x, target, tmp_path):
    """The target as a constant and as what the caller gives."""
    kind = f"float[{x}]" if x else "float"
    model = graph(f"{kind} x, int64[{len(target)}] t", "y = Reshape(x, t)")
    size = {"B": 2, "S": 4} if target == [-1, 8] else SIZES
    sweep(model, tmp_path, given={"t": target}, sizes=size, steer=("shared weight", "shared input"))


@pytest.mark.parametrize(("x", "target"), [("0,4", [4, 0]), ("2,3", [3, 2]), ("3,0,2", [0, 3])])
def test_reshape_where_0_is_a_size(x, target, tmp_path):
    model = graph(f"float[{x}] x, int64[{len(target)}] t", "y = Reshape<allowzero = 1>(x, t)")
    sweep(model, tmp_path, given={"t": target}, steer=("shared weight", "shared input"))


def test_reshape_to_a_shape_that_is_computed(tmp_path):
    """As exporters write it: the batch of x, then sizes that are known."""
    body = """s = Shape(x)  zero = Constant<value_int = 0>()  b = Gather(s, zero)
              first = Constant<value_ints = [0]>()  u = Unsqueeze(b, first)
              rest = Constant<value_ints = [2, -1]>()  t = Concat<axis = 0>(u, rest)  y = Reshape(x, t)"""
    sweep(graph("float[B,S,2] x", body), tmp_path, sizes=SIZES, thorough=True)


@pytest.mark.parametrize("sizes", [{"B": 3, "S": 2}, {"B": 0, "S": 2}, {"B": 2, "S": 0}], ids=str)
def test_reshape_to_sizes_that_are_computed(sizes, tmp_path):
    """No -1 in the source, so nothing is undefined where a size turns out 0."""
    body = """head = Shape<end = 1>(x)  tail = Shape<start = 1>(x)  all = ReduceProd(tail)
              t = Concat<axis = 0>(head, all)  y = Reshape<allowzero = 1>(x, t)"""
    sweep(graph("float[B,S,2] x", body), tmp_path, sizes=sizes)


def test_reshape_with_a_target_of_its_own_is_replicated(tmp_path):
    model = graph("float[2,6] x, int64[2] t", "y = Reshape(x, t)")
    values = draw(model, 3) | {"t": np.array([[3, 4], [4, 3], [2, 6]])}
    check(model, values, {"x": "input", "t": "input"}, tmp_path, reason="'t' differs between the models")


@pytest.mark.parametrize("opset", [9, 13, 21])
def test_reshape_opsets(opset, tmp_path):
    model = graph("float[B,6] x, int64[3] t", "y = Reshape(x, t)", opset)
    sweep(model, tmp_path, given={"t": [0, 3, 2]}, sizes=SIZES, keep_opset=True)


# ------------------------------------------------------------------------ Expand, Tile, Pad


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        ("3,1", [3, 4]), ("3,1", [2, 3, 4]), ("3,4", [1]), ("3,4", [4]), ("3,4", [3, 1]), ("2,3,1", [3, 4]),
        ("", [3]), ("", []), ("B,1", [1, 3]), ("1", [3, 0]), ("3", [3, 3, 3]), ("B,S,1", [1, 2]),
    ],
)  # fmt: skip
def test_expand(x, shape, tmp_path):
    kind = f"float[{x}]" if x else "float"
    model = graph(f"{kind} x, int64[{len(shape)}] s", "y = Expand(x, s)")
    sweep(model, tmp_path, given={"s": shape}, sizes=SIZES, steer=("shared weight", "shared input"))


@pytest.mark.parametrize(
    ("x", "repeats"), [("3,2", [1, 3]), ("3,2", [2, 2]), ("3", [3]), ("B,1,S", [1, 3, 1]), ("3,2", [0, 1])]
)
def test_tile(x, repeats, tmp_path):
    model = graph(f"float[{x}] x, int64[{len(repeats)}] r", "y = Tile(x, r)")
    sweep(model, tmp_path, given={"r": repeats}, sizes=SIZES, steer=("shared weight", "shared input"))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [[0, 1, 0, 2], [1, 0, 2, 0], [1, 2, 0, 1], [0, -1, 0, 1]])
def test_pad(mode, pads, tmp_path):
    model = graph("float[3,4] x, int64[4] p", f'y = Pad<mode = "{mode}">(x, p)', 19)
    sweep(model, tmp_path, given={"p": pads})


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21])
def test_pad_with_a_value(opset, tmp_path):
    if opset == 9:
        sweep(
            graph("float[3,B] x", "y = Pad<pads = [0, 1, 0, 2], value = 0.5>(x)", 9),
            tmp_path,
            sizes=SIZES,
            keep_opset=True,
        )
        return
    given = {"p": [0, 1, 0, 2], "v": 0.5}
    model = graph("float[3,B] x, int64[4] p, float v", "y = Pad(x, p, v)", opset)
    sweep(model, tmp_path, given=given, sizes=SIZES, keep_opset=True)


@pytest.mark.parametrize("axes", [None, [1]])
def test_pad_with_a_value_of_its_own(axes, tmp_path):
    pads = [0, 1, 2, 0] if axes is None else [1, 2]
    more = ", int64[1] a" if axes else ""
    model = graph(
        f"float[3,B] x, int64[{len(pads)}] p, float v{more}", f"y = Pad(x, p, v{', a' if axes else ''})", 18
    )
    given = {"p": pads} | ({"a": axes} if axes else {})
    sweep(model, tmp_path, given=given, sizes=SIZES)


@pytest.mark.parametrize("axes", [[1], [-1], [2, 0], [-3]])
def test_pad_of_named_axes(axes, tmp_path):
    pads = [1, 2][: len(axes)] + [0, 3][: len(axes)]
    text = f"float[B,3,4] x, int64[{len(pads)}] p, int64[{len(axes)}] a"
    model = graph(text, "y = Pad(x, p, , a)", 18)
    sweep(model, tmp_path, given={"p": pads, "a": axes}, sizes=SIZES)


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_pad_by_widths_of_the_caller(opset, tmp_path):
    model = graph("float[3,4] x, int64[4] p", "y = Pad(x, p)", opset)
    sweep(model, tmp_path, given={"p": [0, 1, 2, 0]}, steer=("shared input",), keep_opset=True)


# ------------------------------------------------------------------------ Shape and Size


@pytest.mark.parametrize(
    "attributes",
    [
        "", "<start = 1>", "<end = 2>", "<start = 1, end = 2>", "<start = -2>", "<end = -1>",
        "<start = -9, end = 9>", "<start = 2, end = 1>", "<start = 3>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("x", ["2,3,4", "B,3,S"])
def test_shape(attributes, x, tmp_path):
    """It is the same for all models, so a value that differs is made from it."""
    body = f"s = Shape{attributes}(x)  f = Cast<to = 1>(s)  t = ReduceSum<keepdims = 0>(f)  y = Mul(x, t)"
    alike = "y" if attributes in ("<start = 2, end = 1>", "<start = 3>") else ""
    model = graph(f"float[{x}] x", body)
    check(model, draw(model, 3, sizes=SIZES), {"x": "weight" if "B" in x else "input"}, tmp_path, alike=alike)
    check(model, draw(model, 2, sizes=SIZES), {"x": "input"}, tmp_path, alike=alike, io="stacked")


@pytest.mark.parametrize(
    ("x", "opset"), [(x, n) for n in (9, 13, 17) for x in ("", "3", "B,S,3")] + [("B,0", 17)]
)
@pytest.mark.parametrize("op", ["Shape", "Size"])
def test_shape_of_any_rank_and_opset(op, opset, x, tmp_path):
    kind = f"float[{x}]" if x else "float"
    sweep(graph(f"{kind} x", f"y = {op}(x)", opset), tmp_path, sizes=SIZES, alike="y", keep_opset=True)
