"""Shapes that exporters compute at run time, although the types say what comes out."""

import pytest
from oracle import check, draw, fails_or_is_right, graph, sweep

OPS = ("Expand", "Reshape", "Resize")
SIZES = {"B": 3, "S": 4}

BATCH = "bs = Shape<start = 0, end = 1>(x)"
BOTH = "bs = Shape<start = 0, end = 2>(x)"


def shaped(x: str, sizes: str, op: str, opset: int = 18, taken: str = BATCH):
    """`op` of x, its shape the first sizes of x and then `sizes`."""
    body = f"{taken}  rest = Constant<value_ints = [{sizes}]>()  t = Concat<axis = 0>(bs, rest)  {op}"
    return graph(f"float[{x}] x", body, opset)


@pytest.mark.parametrize(
    ("x", "sizes"), [("B,12", "3,4"), ("B,3,4", "12"), ("B,3,4", "2,6"), ("B,3,4", "3,2,2"), ("B,6,2", "6,2")]
)
@pytest.mark.parametrize("attrs", ["", "<allowzero = 1>"])
def test_reshape(x, sizes, attrs, tmp_path):
    model = shaped(x, sizes, f"y = Reshape{attrs}(x, t)")
    sweep(model, tmp_path, sizes=SIZES)
    sweep(model, tmp_path, sizes={"B": 0}, models=(3,))


WRONG = [
    ("B,12", "3,4", "y = Reshape(x, t)", "2,3,4"),
    ("B,3,1", "3,4", "y = Expand(x, t)", "2,3,4"),
]


@pytest.mark.parametrize(("x", "sizes", "op", "declared"), WRONG)
def test_declared_sizes_of_an_output_are_not_believed(x, sizes, op, declared, tmp_path):
    """Exporters write the sizes of their example where nobody told them that an output is dynamic."""
    model = shaped(x, sizes, op)
    for dim, size in zip(model.graph.output[0].type.tensor_type.shape.dim, declared.split(","), strict=True):
        dim.dim_value = int(size)
    check(model, draw(model, 3, sizes=SIZES), {"x": "input"}, tmp_path)


@pytest.mark.parametrize("sizes", [SIZES, {"B": 0, "S": 4}, {"B": 3, "S": 0}])
@pytest.mark.parametrize(("x", "tail"), [("B,S,6", "2,3"), ("B,S,2,3", "6")])
def test_reshape_of_two_open_dims(x, tail, sizes, tmp_path):
    """Each is copied from its place: also where one turns out empty."""
    sweep(shaped(x, tail, "y = Reshape(x, t)", taken=BOTH), tmp_path, sizes=sizes)


def test_reshape_that_swaps_open_dims(tmp_path):
    body = """s = Shape(x)  swap = Constant<value_ints = [1, 0, 2]>()  t = Gather(s, swap)
              y = Reshape(x, t)"""
    sweep(graph("float[B,S,2] x", body), tmp_path, sizes=SIZES)


@pytest.mark.parametrize("target", [[-1, 3, 4], [-1, 12], [-1, 3, 2, 2], [6, -1], [-1, 4]])
@pytest.mark.parametrize("x", ["B,3,4", "2,3,4"])
def test_reshape_where_0_would_be_a_size_but_none_is(x, target, tmp_path):
    """The newer exporter always says allowzero."""
    model = graph(f"float[{x}] x, int64[{len(target)}] t", "y = Reshape<allowzero = 1>(x, t)")
    sweep(model, tmp_path, given={"t": target}, sizes={"B": 2})


@pytest.mark.parametrize(
    ("x", "sizes"),
    [("B,1", "4"), ("B,3,1", "3,4"), ("B,1,4", "3,4"), ("B,3,1", "1,4"), ("B,3", "3"), ("1,3", "3")],
)
def test_expand(x, sizes, tmp_path):
    sweep(shaped(x, sizes, "y = Expand(x, t)"), tmp_path, sizes=SIZES, thorough=x == "B,3,1")


@pytest.mark.parametrize("shape", [[1, 1, 4], [1, 4], [1, 3, 2], [3, 1, 4], [3, 3, 4], [2, 1, 3, 4]])
@pytest.mark.parametrize("x", ["3,3,5", "B,3,5"])
def test_expand_in_the_layout_of_a_convolution(x, shape, tmp_path):
    """A pool keeps the models in its channels, and the broadcast may, too."""
    body = f"r = GlobalAveragePool(x)  t = Constant<value_ints = {shape}>()  y = Expand(r, t)"
    sweep(graph(f"float[{x}] x", body), tmp_path, sizes=SIZES)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_resize(mode, opset, tmp_path):
    """The batch and channels of x, then a size: from opset 18 on only the resized axes are named."""
    body = f"""s = Shape<start = 0, end = 2>(x)  rest = Constant<value_ints = [5, 6]>()
               t = Concat<axis = 0>(s, rest)  y = Resize<mode = "{mode}">(x, , , t)"""
    sweep(graph("float[B,3,4,3] x", body, opset), tmp_path, sizes=SIZES, keep_opset=True)


def test_resize_of_the_batch_by_a_computed_size(tmp_path):
    """Nothing says that the batch stays as it is."""
    body = """two = Constant<value_ints = [2]>()  s = Shape<start = 0, end = 1>(x)  b = Mul(s, two)
              rest = Constant<value_ints = [3, 5, 6]>()  t = Concat<axis = 0>(b, rest)
              y = Resize<mode = "nearest">(x, , , t)"""
    model = graph("float[B,3,4,3] x", body, 18)
    for io in ("separate", "stacked"):
        fails_or_is_right(model, draw(model, 3, sizes=SIZES), {"x": "input"}, tmp_path, io=io)
