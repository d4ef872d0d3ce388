"""Matrix products."""

import numpy as np
import onnx
import pytest
from oracle import (
    as_models,
    check,
    draw,
    every_merge,
    fails_or_is_right,
    family,
    few_roles,
    graph,
    some_roles,
    sweep,
)

from netfuse_onnx.rules.einsum import orders

OPS = ("Einsum", "Gemm", "MatMul")

SIZES = {"B": 3, "S": 2}
JOINING = ("Identity", "Squeeze", "Unsqueeze")


PAIRS = [
    ("4", "4"), ("4", "4,3"), ("4", "3,4,2"), ("4", "2,3,4,2"), ("3,4", "4"), ("3,4", "4,3"),
    ("3,4", "3,4,2"), ("3,4", "2,3,4,2"), ("2,3,4", "4"), ("2,3,4", "4,3"), ("3,2,4", "3,4,2"),
    ("3,2,4", "2,3,4,2"), ("2,3,2,4", "4"), ("2,3,2,4", "4,3"), ("2,3,2,4", "3,4,2"), ("2,3,2,4", "2,3,4,2"),
    ("1,3,4", "3,4,3"), ("3,3,4", "1,4,3"), ("1,2,4", "1,4,3"), ("3,1,2,4", "3,4,2"), ("0,4", "4,3"),
    ("2,0,4", "4,3"), ("B,4", "4,3"), ("B,S,4", "4,3"), ("B,S,4", "B,4,S"), ("B,3,S,4", "3,4,2"),
]  # fmt: skip


@pytest.mark.parametrize(("x", "w"), PAIRS)
def test_matmul_of_any_two_ranks(x, w, tmp_path):
    sweep(graph(f"float[{x}] x, float[{w}] w", "y = MatMul(x, w)"), tmp_path, sizes=SIZES, roles=few_roles)


def test_matmul_with_every_role_and_number(tmp_path):
    sweep(graph("float[B,3,4] x, float[4,3] w", "y = MatMul(x, w)"), tmp_path, sizes=SIZES, thorough=True)


@pytest.mark.parametrize("dtype", ["float16", "double", "int64", "int32"])
def test_matmul_of_other_types(dtype, tmp_path):
    model = graph(f"{dtype}[2,3,4] x, {dtype}[4,3] w", "y = MatMul(x, w)")
    for x in ("input", "shared input"):
        check(model, draw(model, 3), {"x": x, "w": "weight"}, tmp_path)


@pytest.mark.parametrize(
    ("x", "w", "roles", "emitted"),
    [
        ("B,3,4", "4,2", ("shared input", "weight"), ["Reshape", "MatMul", "Reshape"]),
        ("3,2,4", "4,2", ("shared input", "weight"), ["Reshape", "MatMul", "Reshape"]),
        ("B,3,4", "C,4,2", ("shared input", "input"), ["Shape", "Slice", "Concat", "Expand", "MatMul"]),
        ("3,4", "3,4,2", ("input", "shared weight"), ["Expand", "MatMul"]),
        ("B,1,3,4", "1,3,4,2", ("input", "weight"), ["Expand", "MatMul"]),
        ("3,2,4", "3,4,2", ("shared input", "input"), ["MatMul"]),
        ("B,3,4", "C,4,2", ("input", "input"), ["MatMul"]),
    ],
)
def test_one_side_alone_is_broadcast(x, w, roles, emitted, tmp_path):
    """A shared batch beside a matrix for each model would be mixed up on CUDA (gaps.BOTH_BROADCAST)."""
    model = graph(f"float[{x}] x, float[{w}] w", "y = MatMul(x, w)")
    role = dict(zip("xw", roles, strict=True))
    values = draw(model, 3, sizes={"B": 3, "C": 3})
    corr = family(as_models(model, values, role, tmp_path))
    forms = [
        [node.op_type for node in onnx.load_from_string(merged).graph.node if node.op_type not in JOINING]
        for plan, merged, _ in every_merge(corr, role, "stacked")
        if plan.lowerings[0].rule == "matmul"
    ]
    assert forms == [emitted]
    check(model, values, role, tmp_path)


def test_matmul_with_itself(tmp_path):
    sweep(graph("float[3,3] x", "y = MatMul(x, x)"), tmp_path)


@pytest.mark.parametrize("opset", [9, 13, 21])
def test_matmul_opsets(opset, tmp_path):
    """Vectors too: their axes come and go by Unsqueeze and Squeeze, whose form depends on the opset."""
    for x in ("4", "2,3,4"):
        sweep(
            graph(f"float[{x}] x, float[4] w", "y = MatMul(x, w)", opset),
            tmp_path,
            keep_opset=True,
            roles=few_roles,
        )


# ------------------------------------------------------------------------ Gemm


@pytest.mark.parametrize("trans", ["", "<transA = 1>", "<transB = 1>", "<transA = 1, transB = 1>"])
@pytest.mark.parametrize("bias", [None, "", "1", "4", "1,4", "3,1", "3,4"])
def test_gemm(trans, bias, tmp_path):
    a = "2,3" if "transA" in trans else "3,2"
    b = "4,2" if "transB" in trans else "2,4"
    c = "" if bias is None else f", float[{bias}] c" if bias else ", float c"
    model = graph(f"float[{a}] a, float[{b}] b{c}", f"y = Gemm{trans}(a, b{', c' if c else ''})")
    sweep(model, tmp_path, roles=few_roles if bias in ("", "1", "1,4") else some_roles)


@pytest.mark.parametrize("scale", ["alpha = 0.5", "beta = 0.25", "alpha = 2.0, beta = -1.5", "beta = 0.0"])
@pytest.mark.parametrize("dtype", ["float", "float16", "double"])
def test_gemm_scaled(scale, dtype, tmp_path):
    model = graph(f"{dtype}[3,2] a, {dtype}[2,4] b, {dtype}[4] c", f"y = Gemm<{scale}>(a, b, c)")
    for role in ("input", "shared input", "weight"):
        check(model, draw(model, 3), {"a": role, "b": "weight", "c": "weight"}, tmp_path)
    check(model, draw(model, 4), {"a": "input", "b": "shared weight", "c": "shared weight"}, tmp_path)


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_gemm_opsets(opset, tmp_path):
    model = graph("float[B,2] a, float[4,2] b, float[4] c", "y = Gemm<transB = 1>(a, b, c)", opset)
    sweep(model, tmp_path, sizes=SIZES, keep_opset=True, roles=few_roles)


def test_gemm_of_an_empty_batch(tmp_path):
    model = graph("float[B,2] a, float[2,4] b, float[4] c", "y = Gemm(a, b, c)")
    sweep(model, tmp_path, sizes={"B": 0}, roles=few_roles, tuned=False)


def test_an_empty_image_fails(tmp_path):
    """As a convolution, which a target may ask for. It does not give anything wrong."""
    model = graph("float[B,2] a, float[2,4] b", "y = Gemm(a, b)")
    values = draw(model, 3, sizes={"B": 0})
    assert fails_or_is_right(model, values, {"a": "input", "b": "weight"}, tmp_path) > 0


# ------------------------------------------------------------------------ Einsum


@pytest.mark.parametrize(
    ("equation", "x", "y"),
    [
        ("ij,jk->ik", "3,4", "4,2"), ("ij,jk", "3,4", "4,2"), ("ij,jk->ki", "3,4", "4,2"),
        ("i,i->", "3", "3"), ("bij,bjk->bik", "3,2,4", "3,4,2"), ("bid,bjd->bij", "B,3,4", "B,2,4"),
        ("i,j->ij", "3", "4"), ("...ij,...jk->...ik", "2,3,4", "2,4,3"), ("...ij,jk", "2,3,4", "4,3"),
        ("bhid, bhjd -> bhij", "2,3,2,4", "2,3,3,4"), ("ibnd,jbnd->bnij", "S,B,2,4", "3,B,2,4"),
        ("bnij,jbnd->ibnd", "B,2,S,3", "3,B,2,4"), ("bij,bjk->kbi", "3,S,4", "3,4,2"), ("Ab,bC->AC", "3,4", "4,2"), ("ba,ca", "3,4", "2,4"),
    ],
)  # fmt: skip
def test_einsum_of_two(equation, x, y, tmp_path):
    model = graph(f"float[{x}] x, float[{y}] y", f'z = Einsum<equation = "{equation}">(x, y)')
    sweep(model, tmp_path, sizes=SIZES, roles=few_roles)


@pytest.mark.parametrize(
    ("equation", "found"),
    [
        ("ibnd,jbnd->bnij", [[1, 2, 0, 3], [1, 2, 3, 0], [0, 1, 2, 3]]),
        ("bnij,jbnd->ibnd", [[0, 1, 2, 3], [1, 2, 0, 3], [2, 0, 1, 3]]),
        ("ij,jk->ki", [[0, 1], [0, 1], [1, 0]]), ("bij,bjk->bki", [[0, 1, 2], [0, 1, 2], [0, 2, 1]]),
        ("ibh,hnd->ibnd", None), ("bij,jk->bik", None), ("bij,bjk->ik", None), ("i,j->ij", None), ("ij,jk", None),
        ("ii,ij->ij", None), ("...ij,...jk->...ik", None), ("bij,bij->bi", None), ("ij->ji", None), ("bij,bjk->bik.", None), ("aij,jk->ik", None), ("ij,jkc->ik", None), ("ij,jk->ikc", None),
    ],
)  # fmt: skip
def test_what_is_a_product_of_matrices(equation, found):
    assert orders(equation) == found


@pytest.mark.parametrize("equation", ["ij->ji", "ij->", "ij->i", "ii->i", "ij", "ji", "...j->j..."])
def test_einsum_of_one(equation, tmp_path):
    sweep(graph("float[3,3] x", f'y = Einsum<equation = "{equation}">(x)'), tmp_path)


def test_einsum_of_three(tmp_path):
    text = "float[2,3] x, float[3,4] y, float[4] z"
    sweep(graph(text, 'v = Einsum<equation = "ij,jk,k->i">(x, y, z)'), tmp_path)


def test_einsum_has_no_letter_left(tmp_path):
    """An equation with all 52 letters cannot gain one."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    model = graph(f"float[{','.join('1' * 51)},2] x", f'y = Einsum<equation = "{letters}->z">(x)')
    check(model, draw(model, 2), {"x": "input"}, tmp_path, reason="letter")


def test_nan_beside_beta_zero(tmp_path):
    """Gemm does not read C where beta is 0."""
    model = graph("float[3,2] a, float[2,4] b, float[4] c", "y = Gemm<beta = 0.0>(a, b, c)")
    values = draw(model, 3)
    values["c"][:] = np.nan
    check(model, values, {"a": "input", "b": "weight", "c": "weight"}, tmp_path)
