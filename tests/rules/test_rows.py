"""Linear layers and what stands between them on rows: chains in which the layouts meet."""

import numpy as np
import pytest
from oracle import (
    LEVELS,
    Every,
    check,
    close,
    draw,
    fails_or_is_right,
    family,
    graph,
    materialise,
    run,
    sweep,
)
from oracle import as_models as written

from netfuse_onnx.layouts import ROWS
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import costs
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.cost import Cost

OPS = ("Einsum", "LayerNormalization", "MatMul", "Reshape")

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


@pytest.mark.parametrize(("s", "b"), [("1", "4"), ("4", "1"), ("1", "1")])
@pytest.mark.parametrize("dims", ["B,S,4", "2,3,4", "3,4", "2,3,1"])
def test_a_norm_with_one_number(dims, s, b, tmp_path):
    """A scale or bias may be one number for all columns."""
    s, b = ("1", "1") if dims.endswith(",1") else (s, b)
    model = graph(f"float[{dims}] x, float[{s}] s, float[{b}] b", "y = LayerNormalization(x, s, b)")
    merged(model, tmp_path, 3, "sb")
    values, role = draw(model, 3, sizes=SIZES), {"x": "input", "s": "weight", "b": "weight"}
    corr = family(written(model, values, role, tmp_path))
    (offers,) = planning.candidates(corr, io="stacked", share=frozenset(), cost=Every(3)).options
    assert ("norm_scaled" in {offer.rule for offer in offers}) == (s == b == dims[-1])


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


# ------------------------------------------------------------------------ sizes that rows do not tell


@pytest.mark.parametrize("sizes", [{"B": 1, "S": 1}, {"B": 1, "S": 3}, {"B": 8, "S": 2}, {"B": 3, "S": 3}, {"B": 0, "S": 2},
                                   {"B": 2, "S": 0}], ids=str)  # fmt: skip
@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_a_block_of_any_batch_and_length(sizes, io, tmp_path):
    """N = 3 is a batch and a length. Softmax and Shape between need the axes apart."""
    body = """e = LayerNormalization(x, g, c) h = MatMul(e, u) i = Add(h, c) n = Shape(i)
        two = Constant<value_ints = [2]>() m = Slice(n, zero, two)
        p = Softmax(i) k = MatMul(p, u) r = Add(k, e) f = LayerNormalization(r, g, c)
        t = Concat<axis = 0>(m, two, two) y = Reshape(f, t)"""
    model = graph(
        "float[B,S,4] x, float[4,4] u, float[4] g, float[4] c", f"zero = Constant<value_ints = [0]>() {body}"
    )
    role = {"x": "input", "u": "weight", "g": "weight", "c": "weight"}
    filled = 0 not in sizes.values()  # no convolution takes an empty image
    check(model, draw(model, 3, sizes=sizes), role, tmp_path, io=io, tuned=filled)


@pytest.mark.parametrize(
    "sizes",
    [((2, 3), (2, 3)), ((2, 3), (3, 2)), ((1, 6), (6, 1)), ((2, 3), (1, 3)), ((2, 3), (2, 1))],
    ids=str,
)
def test_two_inputs_with_one_name_for_their_sizes(sizes, tmp_path):
    """ONNX Runtime does not compare them: a row must not meet that of another token."""
    model = graph(
        "float[B,S,4] x, float[B,S,4] z, float[4,4] u", "h = MatMul(x, u) k = MatMul(z, u) y = Add(h, k)"
    )
    rng = np.random.default_rng(0)
    values = {
        "x": rng.standard_normal((3, *sizes[0], 4)).astype("f"),
        "z": rng.standard_normal((3, *sizes[1], 4)).astype("f"),
        "u": rng.standard_normal((3, 4, 4)).astype("f"),
    }
    role = {"x": "input", "z": "input", "u": "weight"}
    if sizes[0] == sizes[1]:
        check(model, values, role, tmp_path)
    else:
        fails_or_is_right(model, values, role, tmp_path)


@pytest.mark.parametrize("keep", [True, False])
def test_a_branch_with_rows(keep, tmp_path):
    """The sizes of a body's rows come from tensors that the body reads."""
    body = """y = If (c) <
        then_branch = t () => (float[B,S,4] a) { h = MatMul(x, u) i = Add(h, v) p = Softmax(i) a = MatMul(p, u) },
        else_branch = e () => (float[B,S,4] b) { b = Mul(x, v) }>"""
    model = graph("bool c, float[B,S,4] x, float[4,4] u, float[4] v", body)
    values = draw(model, 3, sizes=SIZES) | {"c": np.array([keep] * 3)}
    role = {"c": "shared input", "x": "input", "u": "weight", "v": "weight"}
    check(model, values, role, tmp_path)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("dims", ["2,3,4", "1,1,4", "B,S,4", "3,4"])
def test_an_add_before_a_scaled_norm_is_not_fused(dims, n, tmp_path):
    """SkipLayerNormalization takes one vector for all rows. The Reshape between is there at every level."""
    body = "h = MatMul(x, u) a = Add(h, x) b = LayerNormalization(a, s, c) y = MatMul(b, u)"
    model = graph(f"float[{dims}] x, float[4,4] u, float[4] s, float[4] c", body)
    merged(model, tmp_path, n, "usc")
    role = {"x": "input", "u": "weight", "s": "weight", "c": "weight"}
    corr = family(written(model, draw(model, n, sizes=SIZES), role, tmp_path))
    plan = planning.plan(corr, io="stacked", cost=costs.cost("cuda", corr, {}))
    (norm,) = [lowering for lowering in plan.lowerings if lowering.site.op == "LayerNormalization"]
    assert norm.rule == "norm_scaled"
    nodes = lower(corr, plan, io="stacked").model.graph.node
    (at,) = [i for i, node in enumerate(nodes) if node.op_type == "LayerNormalization"]
    made = {out: node.op_type for node in nodes for out in node.output}
    assert made[nodes[at].input[0]] == "Reshape"


@pytest.mark.parametrize(
    "equation",
    ["abh,hnd->abnd", "abnd,hnd->abh", "abh,ho->abo", "abh,oh->abo", "bnd,ndho->bho", "bh,hnd->bnd"],
)
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_einsum_with_weights(equation, n, shared, tmp_path):
    """Weights are read where they are: no Einsum is left. Its first operand may be equal in all models."""
    size = {"a": "B", "b": "S", "h": 4, "n": 2, "d": 3, "o": 3}
    x, w = (",".join(str(size[c]) for c in term) for term in equation.partition("->")[0].split(","))
    model = graph(f"float[{x}] x, float[{w}] w", f'h = Einsum<equation = "{equation}">(x, w) y = Tanh(h)')
    role = {"x": "shared input" if shared else "input", "w": "weight"}
    values = draw(model, n, sizes=SIZES)
    check(model, values, role, tmp_path)
    corr = family(written(model, values, role, tmp_path))
    share = frozenset("x" if shared else "")
    merged = lower(corr, planning.plan(corr, share=share), share=share)
    assert "Einsum" not in [node.op_type for node in merged.model.graph.node]


@pytest.mark.parametrize(("x", "w"), [("B,S,1", "4,3"), ("B,S,4", "1,3"), ("B,S,1", "1,3")])
def test_einsum_with_an_inner_axis_of_one(x, w, tmp_path):
    """It broadcasts in ONNX Runtime's Einsum, and not in MatMul."""
    model = graph(f"float[{x}] x, float[{w}] w", 'y = Einsum<equation = "abk,ko->abo">(x, w)')
    merged(model, tmp_path, 3, "w")


def test_sizes_are_made_once(tmp_path):
    """However many values are taken apart, one shape serves those with equal sizes."""
    body = "h = MatMul(x, u) p = Softmax(h) i = MatMul(p, u) q = Softmax(i) j = MatMul(q, u) y = Softmax(j)"
    model = graph("float[B,S,4] x, float[4,4] u", body)
    corr = family(written(model, draw(model, 2, sizes=SIZES), {"x": "input", "u": "weight"}, tmp_path))
    nodes = [
        node.op_type for node in lower(corr, planning.plan(corr, io="stacked"), io="stacked").model.graph.node
    ]
    assert nodes.count("Shape") == 2 and nodes.count("Concat") == 1 and nodes.count("MatMul") == 3


def test_what_was_not_measured_is_not_on_offer_to_the_cpu(tmp_path):
    body = """h = MatMul(x, u) a = LayerNormalization(h, s, s) t = Constant<value_ints = [0, 0, 2, 2]>()
        q = Reshape(a, t) y = Einsum<equation = "abnd,ndo->abo">(q, w)"""
    model = graph("float[B,S,4] x, float[4,4] u, float[4] s, float[2,2,3] w", body)
    role = {"x": "input", "u": "weight", "s": "weight", "w": "weight"}
    corr = family(written(model, draw(model, 2, sizes=SIZES), role, tmp_path))

    def offered(cost):
        found = planning.candidates(corr, io="stacked", share=frozenset(), cost=cost)
        options = [o.option for offers in found.options for o in offers if o.option is not None]
        return {option.rule for option in options if option.unmeasured or ROWS in option.layouts}

    assert offered(costs.cost("cpu", corr, {})) == set()
    new = {"linear_rows", "norm_rows", "reshape_rows", "einsum_rows"}
    assert offered(Cost(2)) == new
    assert offered(costs.cost("cuda", corr, {})) == {*new, "norm_scaled"}
