"""Products as 1x1 convolutions, and what passes their layout on: chains in which the layouts meet."""

import numpy as np
import pytest
from oracle import check, draw, graph

OPS = ("Einsum", "Gemm", "MatMul", "Reshape", "Transpose")

SIZES = {"B": 2, "S": 3}


def merged(model, tmp_path, n, weights, io="separate", sizes=SIZES):
    role = {i.name: "weight" if i.name in weights else "input" for i in model.graph.input}
    check(model, draw(model, n, sizes=sizes), role, tmp_path, io=io)


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dims", ["B,4", "B,S,4", "2,B,S,4"])
def test_a_perceptron(dims, n, io, tmp_path):
    body = "h = MatMul(x, u) i = Add(h, b) j = Relu(i) k = MatMul(j, v) l = Add(k, c) y = Add(l, x)"
    model = graph(f"float[{dims}] x, float[4,6] u, float[6] b, float[6,4] v, float[1,4] c", body)
    merged(model, tmp_path, n, "ubvc", io)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_heads(n, tmp_path):
    """N = 4 is the number of heads times their width, 2 that of heads."""
    body = """s = Constant<value_ints = [0, 0, 2, 2]>() t = Constant<value_ints = [0, 0, 4]>()
        q = MatMul(x, u) q4 = Reshape(q, s) qt = Transpose<perm = [0, 2, 1, 3]>(q4)
        k = MatMul(x, v) k4 = Reshape(k, s) kt = Transpose<perm = [0, 2, 3, 1]>(k4)
        a = MatMul(qt, kt) p = Softmax(a) z = MatMul(p, qt) zt = Transpose<perm = [0, 2, 1, 3]>(z)
        o = Reshape(zt, t) y = MatMul(o, w)"""
    model = graph("float[B,S,4] x, float[4,4] u, float[4,4] v, float[4,4] w", body)
    merged(model, tmp_path, n, "uvw")
    merged(model, tmp_path, n, "uvw", sizes={"B": 4, "S": 4})


@pytest.mark.parametrize("slope", ["4", "1,4", "1", ""])
def test_broadcasting_per_channel(slope, tmp_path):
    op = f"float[B,S,4] x, float[4,4] u, float{f'[{slope}]' if slope else ''} s"
    merged(graph(op, "h = MatMul(x, u) y = Mul(h, s)"), tmp_path, 3, "us")
    merged(graph(op, "h = MatMul(x, u) y = Pow(s, h)"), tmp_path, 4, "us")


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("equation", ["abk,ko->abo", "abk,ok->abo", "abk,khd->abhd", "abhd,ohd->abo", "abhd,hdo->abo",
                                      "abhd,hdop->abop"])  # fmt: skip
def test_einsum_with_weights(equation, n, tmp_path):
    size = {"a": "B", "b": "S", "k": 4, "o": 3, "h": 2, "d": 4, "p": 2}
    x, w = (",".join(str(size[c]) for c in term) for term in equation.partition("->")[0].split(","))
    merged(
        graph(f"float[{x}] x, float[{w}] w", f'h = Einsum<equation = "{equation}">(x, w) y = Tanh(h)'),
        tmp_path,
        n,
        "w",
    )


def test_heads_by_einsum(tmp_path):
    """As XLNet has them, with a bias for each head."""
    body = """q = Einsum<equation = "ibh,hnd->ibnd">(x, u) r = Add(q, b) k = Einsum<equation = "ibh,hnd->ibnd">(x, v)
        s = Einsum<equation = "ibnd,jbnd->bnij">(r, k) p = Softmax(s) z = Einsum<equation = "bnij,jbnd->ibnd">(p, k)
        y = Einsum<equation = "ibnd,hnd->ibh">(z, w)"""
    inputs = "float[S,B,4] x, float[4,2,3] u, float[2,3] b, float[4,2,3] v, float[4,2,3] w"
    for n in (2, 3, 4):
        merged(graph(inputs, body), tmp_path, n, "ubvw")


def test_of_unequal_widths(tmp_path):
    """Channels of 1 beside channels of 4 would not be each model's own."""
    merged(graph("float[B,S,4] x, float[4,1] u", "h = MatMul(x, u) y = Add(x, h)"), tmp_path, 4, "u")
    merged(
        graph("float[B,S,4] x, float[B,1,4] z, float[4,4] u", "h = MatMul(x, u) y = Sub(z, h)"),
        tmp_path,
        3,
        "u",
    )


def test_the_oracle_sees_a_swap(tmp_path):
    values = draw(graph("float[B,4] x", "y = Relu(x)"), 3, sizes=SIZES)
    assert not np.array_equal(values["x"][0], values["x"][1])


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize(
    ("op", "x", "w"),
    [
        ("MatMul", "B,4", "4,3"), ("MatMul", "B,S,4", "4,3"), ("Gemm", "B,4", "4,3"), ("Gemm<transB = 1>", "B,4", "3,4"),
        ('Einsum<equation = "ak,ko->ao">', "B,4", "4,3"), ('Einsum<equation = "abk,ok->abo">', "B,S,4", "3,4"),
        ('Einsum<equation = "abk,khd->abhd">', "B,S,4", "4,2,3"),
    ],
)  # fmt: skip
def test_one_input_for_all(op, x, w, n, tmp_path):
    """One image, with the filters of all models."""
    model = graph(f"float[{x}] x, float[{w}] w", f"h = {op}(x, w) y = Tanh(h)")
    check(model, draw(model, n, sizes=SIZES), {"x": "shared input", "w": "weight"}, tmp_path, io="separate")
