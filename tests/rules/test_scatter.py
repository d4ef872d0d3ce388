"""Operators that write at indices."""

import pytest
from oracle import few_roles, graph, sweep

OPS = ("Scatter", "ScatterElements", "ScatterND")
SIZES = {"B": 3, "S": 2}


@pytest.mark.parametrize(
    ("data", "indices", "axis"),
    [("3,3", "2,3", 0), ("3,4", "3,2", 1), ("2,3,4", "2,3,1", -1), ("B,4", "S,4", 0)],
)
def test_scatter_elements(data, indices, axis, tmp_path):
    """Indices are distinct along the axis: of two writes to one place nobody says which wins."""
    text = f"float[{data}] x, int64[{indices}] i, float[{indices}] u"
    model = graph(text, f'y = ScatterElements<axis = {axis}, reduction = "add">(x, i, u)', 18)
    sweep(model, tmp_path, sizes=SIZES, low=-3, high=2, roles=few_roles)


@pytest.mark.parametrize("opset", [9, 11])
def test_scatter(opset, tmp_path):
    op = "Scatter" if opset == 9 else "ScatterElements"
    model = graph("float[3,4] x, int64[1,4] i, float[1,4] u", f"y = {op}(x, i, u)", opset)
    sweep(model, tmp_path, low=0, high=2, keep_opset=True)


ONE_WRITE = [("3", "1", ""), ("3", "1,1", "1"), ("3,3", "1,2", "1"), ("3,4", "1,1", "1,4"), ("B,4", "1", "4")]
WRITES = [
    ("3", "2,1", "2"), ("3,3", "2,2", "2"), ("3,4", "3,1", "3,4"), ("3,2,4", "2,2,1", "2,2,2,4"),
    ("B,4", "S,1", "S,4"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "indices", "updates", "reduction"),
    [(*row, "none") for row in ONE_WRITE] + [(*row, "add") for row in ONE_WRITE[:1] + WRITES],
)
def test_scatter_nd(data, indices, updates, reduction, tmp_path):
    """Where nothing is added there is one write, so that the order of several does not matter."""
    updated = f"float[{updates}]" if updates else "float"
    text = f"float[{data}] x, int64[{indices}] i, {updated} u"
    model = graph(text, f'y = ScatterND<reduction = "{reduction}">(x, i, u)', 18)
    sweep(model, tmp_path, sizes=SIZES, low=-2, high=1, roles=few_roles)
