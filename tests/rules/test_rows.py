"""Linear layers and what stands between them on rows: chains in which the layouts meet."""

import numpy as np
import pytest
from oracle import LEVELS, Every, check, close, draw, family, graph, materialise, run, sweep
from oracle import as_models as written

from netfuse_onnx.layouts import ROWS
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import planner as planning

OPS = ("LayerNormalization", "MatMul", "Reshape")

SIZES = {"B": 2, "S": 3}


def merged(model, tmp_path, n, weights, io="separate", sizes=SIZES):
    role = {i.name: "weight" if i.name in weights else "input" for i in model.graph.input}
    check(model, draw(model, n, sizes=sizes), role, tmp_path, io=io)


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("n", [1, 3, 6])
@pytest.mark.parametrize("dims", ["B,3,4", "2,S,4", "2,1,3,4", "B,S,4", "B,1,S,4"])
def test_a_perceptron(dims, n, io, tmp_path):
    """N = 6 is the number of rows."""
    body = "h = MatMul(x, u) i = Add(h, b) j = Relu(i) k = MatMul(j, v) l = Add(c, k) y = Add(l, x)"
    model = graph(f"float[{dims}] x, float[4,6] u, float[6] b, float[6,4] v, float[1,4] c", body)
    merged(model, tmp_path, n, "ubvc", io)


@pytest.mark.parametrize("dims", ["B,3,4", "2,S,4", "3,4,4", "B,S,4"])
def test_products_of_every_kind(dims, tmp_path):
    model = graph(f"float[{dims}] x, float[4,4] w", "h = MatMul(x, w) y = Tanh(h)")
    sweep(model, tmp_path, models=(3, 4, 2, 6), sizes=SIZES)


@pytest.mark.parametrize("operand", ["", "4", "1", "1,4", "1,1,4", "3,1", "2,3,4", "1,2,3,4"])
@pytest.mark.parametrize("op", ["Sub(h, s)", "Pow(s, h)", "PRelu(h, s)"])
def test_operands_beside_rows(op, operand, tmp_path):
    """N = 3 is a dim, N = 6 is the number of rows, N = 4 that of columns."""
    if op.startswith("PRelu") and operand.count(",") > 2:
        pytest.skip("its slope may have no more axes")
    text = f"float[2,3,4] x, float[4,4] u, float{f'[{operand}]' if operand else ''} s"
    model = graph(text, f"g = MatMul(x, u) h = Abs(g) y = {op}")
    sweep(model, tmp_path, models=(3, 6, 4), fixed={"x": "input", "u": "weight"}, low=0.5)


@pytest.mark.parametrize("dims", ["B,3,4", "2,S,4", "2,1,3,4", "B,S,4"])
def test_norms(dims, tmp_path):
    body = "h = MatMul(x, u) g = LayerNormalization(h, s, b) i = Add(g, x) y = MatMul(i, u)"
    model = graph(f"float[{dims}] x, float[4,4] u, float[4] s, float[4] b", body)
    sweep(model, tmp_path, models=(3, 6, 4), sizes=SIZES, fixed={"u": "weight"})


def test_the_statistics_of_a_norm(tmp_path):
    model = graph("float[2,3,4] x, float[4] s, float[4] b", "y, m, d = LayerNormalization(x, s, b)")
    merged(model, tmp_path, 3, "sb")


@pytest.mark.parametrize("n", [2, 3, 4, 6])
@pytest.mark.parametrize("rows", ["B,3", "2,S", "2,3", "B,S"])
def test_heads(rows, n, tmp_path):
    body = """s = Constant<value_ints = [0, 0, 2, 2]>() t = Constant<value_ints = [0, 0, 4]>()
        q = MatMul(x, u) q4 = Reshape(q, s) qt = Transpose<perm = [0, 2, 1, 3]>(q4)
        k = MatMul(x, v) k4 = Reshape(k, s) kt = Transpose<perm = [0, 2, 3, 1]>(k4)
        a = MatMul(qt, kt) p = Softmax(a) z = MatMul(p, qt) zt = Transpose<perm = [0, 2, 1, 3]>(z)
        o = Reshape(zt, t) y = MatMul(o, w)"""
    model = graph(f"float[{rows},4] x, float[4,4] u, float[4,4] v, float[4,4] w", body)
    merged(model, tmp_path, n, "uvw")


def in_rows(model, n, tmp_path):
    """A family whose every operator takes rows and gives rows, where it can, and its merged model."""
    role = {i.name: "input" if i.name == "x" else "weight" for i in model.graph.input}
    values = draw(model, n, sizes=SIZES)
    paths = written(model, values, role, tmp_path)
    corr = family(paths)
    found = planning.candidates(corr, io="stacked", share=frozenset(), cost=Every(n))
    found.options = [[o for o in offers if o.takes[0] == ROWS] for offers in found.options]
    return paths, lower(corr, planning.solved(corr, found, Every(n)), io="stacked")


BLOCK = """s = Constant<value_ints = [0, 0, 2, 2]>()
    h = MatMul(x, u) i = Add(h, b) j = Relu(i) k = MatMul(j, v) l = Add(k, x)
    m = LayerNormalization(l, g, e) q = MatMul(m, w) y = Reshape(q, s)"""
BLOCK_INPUTS = "float[B,3,4] x, float[4,6] u, float[6] b, float[6,4] v, float[4] g, float[4] e, float[4,4] w"


def test_a_chain_stays_in_rows(tmp_path):
    """Rows are made once where every operator works on them, and split by the source's own Reshape."""
    _, merged = in_rows(graph(BLOCK_INPUTS, BLOCK), 3, tmp_path)
    assert [node.op_type for node in merged.model.graph.node] == [
        "Reshape", "MatMul", "Add", "Relu", "MatMul", "Add", "LayerNormalization", "Mul", "Add", "MatMul", "Reshape",
    ]  # fmt: skip


@pytest.mark.parametrize("batch", [0, 1, 2, 3])
def test_a_chain_in_rows_computes_the_same(batch, tmp_path):
    """N = 3 is the number of rows of a batch of one; a batch may be empty, too."""
    paths, merged = in_rows(graph(BLOCK_INPUTS, BLOCK), 3, tmp_path)
    x = np.random.default_rng(batch).standard_normal((3, batch, 3, 4)).astype("f")
    got = run(materialise(merged), {"x": x}, LEVELS[0])["y"]
    for m, path in enumerate(paths):
        close(got[m], run(str(path), {"x": x[m]}, LEVELS[0])["y"], f"model {m}")


@pytest.mark.parametrize(
    ("dims", "target", "offered"),
    [("B,3,4", "0, 3, 2, 2", True), ("B,3,4", "-1, 3, 2, 2", True), ("B,4,4", "0, -1, 4", True),
     ("B,S,4", "0, 0, 2, 2", True), ("B,S,4", "0, -1, 2, 2", True), ("B,S,4", "-1, 2, 2", True), ("B,4,4", "2, -1, 4", True), ("B,4,4", "2, 4, 4", False), ("2,3,4", "2, 3, 2, 2", True)],
)  # fmt: skip
def test_which_reshapes_take_rows(dims, target, offered, tmp_path):
    """The target is written out, with one -1 at most. Other tensors tell further sizes."""
    body = f"t = Constant<value_ints = [{target}]>() h = Tanh(x) y = Reshape(h, t)"
    model = graph(f"float[{dims}] x", body)
    corr = family(written(model, draw(model, 2, sizes={"B": 2, "S": 3}), {"x": "input"}, tmp_path))
    found = planning.candidates(corr, io="separate", share=frozenset(), cost=Every(2))
    assert any(o.takes[0] == ROWS for o in found.options[-1]) == offered
    merged(model, tmp_path, 3, "")
