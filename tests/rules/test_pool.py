"""Pooling and resampling."""

import pytest
from oracle import draw, fails_or_is_right, graph, sweep

OPS = (
    "AveragePool", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LRN", "LpPool",
    "MaxPool", "Resize", "SpaceToDepth", "Upsample",
)  # fmt: skip
SIZES = {"B": 3, "H": 4}

POOLS = [
    ("AveragePool", "<kernel_shape = [2, 3]>", 17),
    ("AveragePool", "<kernel_shape = [2, 2], pads = [1, 0, 0, 1]>", 17),
    ("AveragePool", "<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>", 19),
    ("AveragePool", "<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>", 11),
    ("MaxPool", "<kernel_shape = [2, 2], strides = [2, 1]>", 17),
    ("MaxPool", "<kernel_shape = [2, 2], dilations = [2, 1]>", 12),
    ("MaxPool", '<kernel_shape = [3, 3], auto_pad = "SAME_LOWER">', 9),
    ("LpPool", "<kernel_shape = [2, 2], p = 2>", 17), ("GlobalAveragePool", "", 17), ("GlobalMaxPool", "", 9),
    ("GlobalLpPool", "<p = 2>", 17), ("LRN", "<size = 3, alpha = 0.1>", 17),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attributes", "opset"), POOLS)
def test_pools(op, attributes, opset, tmp_path):
    sweep(graph("float[2,3,4,5] x", f"y = {op}{attributes}(x)", opset), tmp_path, keep_opset=True)


@pytest.mark.parametrize("x", ["2,3,5", "B,3,H", "2,3,4,4,4", "B,C,H,H", "0,3,4"])
@pytest.mark.parametrize("op", ["MaxPool", "GlobalAveragePool"])
def test_pools_of_any_rank(x, op, tmp_path):
    kernel = [2] * (x.count(",") - 1)
    attributes = f"<kernel_shape = {kernel}>" if op == "MaxPool" else ""
    sweep(
        graph(f"float[{x}] x", f"y = {op}{attributes}(x)"),
        tmp_path,
        sizes=SIZES | {"C": 3},
        thorough=x == "B,3,H",
    )


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("x", ["3,3,4,5", "B,3,H", "0,3,4"])
def test_max_pool_with_indices(x, order, tmp_path):
    """The indices count through the whole batch, so each model must get its own."""
    kernel = [2] * (x.count(",") - 1)
    attributes = f"<kernel_shape = {kernel}, storage_order = {order}>"
    sweep(graph(f"float[{x}] x", f"y, i = MaxPool{attributes}(x)"), tmp_path, sizes=SIZES, alike="i")


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode, tmp_path):
    sweep(
        graph("float[B,12,2,3] x", f'y = DepthToSpace<blocksize = 2, mode = "{mode}">(x)'),
        tmp_path,
        sizes=SIZES,
    )
    sweep(graph("float[2,3,4,H] x", "y = SpaceToDepth<blocksize = 2>(x)"), tmp_path, sizes=SIZES)


# ------------------------------------------------------------------------ Resize

MODES = [
    'mode = "nearest"',
    'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
    'mode = "linear"', 'mode = "linear", coordinate_transformation_mode = "align_corners"',
    'mode = "cubic", coordinate_transformation_mode = "pytorch_half_pixel"',
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_resize_by_scales(mode, tmp_path):
    model = graph("float[B,3,3,4] x, float[4] scales", f"y = Resize<{mode}>(x, , scales)")
    sweep(model, tmp_path, sizes=SIZES, given={"scales": [1, 1, 2, 1.5]})


@pytest.mark.parametrize("mode", MODES[1:4])
@pytest.mark.parametrize("x", ["2,3,3,4", "B,3,3,4"])
def test_resize_by_sizes(mode, x, tmp_path):
    model = graph(f"float[{x}] x, int64[4] sizes", f"y = Resize<{mode}>(x, , , sizes)")
    sweep(model, tmp_path, sizes=SIZES, given={"sizes": [3 if "B" in x else 2, 3, 5, 6]})


def test_resize_by_computed_sizes(tmp_path):
    """As torch exports it: batch and channels of x, the rest of another value."""
    body = """s = Shape(x)  t = Shape(z)  low = Constant<value_ints = [0]>()
              two = Constant<value_ints = [2]>()  four = Constant<value_ints = [4]>()
              head = Slice(s, low, two)  tail = Slice(t, two, four)
              sizes = Concat<axis = 0>(head, tail)  y = Resize<mode = "linear">(x, , , sizes)"""
    model = graph("float[B,3,H,W] x, float[B,1,2,5] z", body)
    sweep(model, tmp_path, sizes=SIZES | {"W": 2}, fixed={"z": "input"})
    sweep(model, tmp_path, sizes=SIZES | {"W": 2}, fixed={"z": "shared input"})


def test_resize_of_named_axes(tmp_path):
    for key, value, kind in (("scales", [2, 1.5], "float"), ("sizes", [5, 6], "int64")):
        where = ", " if key == "scales" else ", , "
        for axes in ([2, 3], [-2, -1], [3, 2]):
            text = f"float[B,3,3,4] x, {kind}[2] {key}"
            model = graph(text, f'y = Resize<mode = "linear", axes = {axes}>(x, {where}{key})', 18)
            sweep(model, tmp_path, sizes=SIZES, given={key: value})


def test_resize_of_channels_never_folds_them(tmp_path):
    model = graph("float[2,3,4] x, float[3] scales", "y = Resize(x, , scales)")
    sweep(model, tmp_path, given={"scales": [1, 2, 1]})
    for mode in ("half_pixel", "align_corners"):
        body = f'y = Resize<coordinate_transformation_mode = "{mode}">(x, , , sizes)'
        sweep(graph("float[2,3,4] x, int64[3] sizes", body), tmp_path, given={"sizes": [2, 5, 4]})


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("shape", ["B,3,4", "3,4"])
def test_resize_of_small_ranks(mode, shape, tmp_path):
    rank = shape.count(",") + 1
    last = [1] * (rank - 1)
    for key, kind, value in (("scales", "float", [*last, 2.5]), ("sizes", "int64", [3, 3, 7][-rank:])):
        text = f"float[{shape}] x, {kind}[{rank}] {key}"
        model = graph(text, f'y = Resize<mode = "{mode}">(x, {", " if key == "scales" else ", , "}{key})')
        steer = ("shared weight", "shared input") if mode == "linear" else ("shared weight",)
        sweep(model, tmp_path, sizes=SIZES, given={key: value}, steer=steer)
    model = graph(f"float[{shape}] x, float[1] s", f'y = Resize<mode = "{mode}", axes = [-1]>(x, , s)', 18)
    sweep(model, tmp_path, sizes=SIZES, given={"s": [2.5]})


@pytest.mark.parametrize("sizes", [[2, 3, 8], [2, 6, 4], [4, 3, 4]])
def test_resize_of_channels_or_batch_by_a_size_of_the_caller(sizes, tmp_path):
    """It fails where the folded axis would be resized, which would blend two models."""
    model = graph("float[B,C,4] x, int64[3] sizes", 'y = Resize<mode = "linear">(x, , , sizes)')
    values = draw(model, 3, sizes={"B": 2, "C": 3}, given={"sizes": sizes})
    for io in ("separate", "stacked"):
        fails_or_is_right(model, values, {"x": "input", "sizes": "shared input"}, tmp_path, io=io)


@pytest.mark.parametrize("opset", [9, 10, 11, 13])
def test_old_resize(opset, tmp_path):
    text = "float[2,3,3,4] x, float[4] scales"
    given = {"scales": [1, 1, 2, 2]}
    if opset < 11:
        op = "Upsample" if opset == 9 else "Resize"
        model = graph(text, f'y = {op}<mode = "nearest">(x, scales)', opset)
    else:
        text, given = text + ", float[0] roi", given | {"roi": []}
        model = graph(text, 'y = Resize<mode = "linear">(x, roi, scales)', opset)
    sweep(model, tmp_path, given=given, keep_opset=True)
