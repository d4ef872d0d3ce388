"""Dynamically quantised products for CUDA: MatMulInteger, Cast and Mul become one operator, which computes the same."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from contrib_graphs import graph
from oracle import IO, as_models, check, draw, family

SIZES = {"B": 3, "S": 4}
ONE, EACH = "float t", "float[3] t"
TAIL = "c = Cast<to = 1>(m) k = Mul(s, t) y = Mul(c, k)"


def linear(weights="int8[5,3] w", scale=ONE, tail=TAIL, *, zero="", x="float[B,S,5] x"):
    """A linear layer as dynamic quantisation writes it; `zero` declares the zero point of the weights."""
    inputs = f"{x}, {weights}, {scale}" + (f", {zero}" if zero else "")
    point = f", {zero.split()[-1]}" if zero else ""
    return graph(inputs, f"q, s, z = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, z{point}) {tail}")


def values_of(model, n=3):
    values = draw(model, n, sizes=SIZES)
    rng = np.random.default_rng(n)
    for name, value in values.items():
        if value.dtype.itemsize == 1:
            kind = np.iinfo(value.dtype)
            values[name] = rng.integers(kind.min, kind.max, value.shape).astype(value.dtype)
        elif name == "t":
            values[name] = rng.uniform(0.01, 0.02, value.shape).astype(np.float32)
    return values


def roles(model):
    weights = [info.name for info in model.graph.input if info.name != "x"]
    own = {"x": "input", **dict.fromkeys(weights, "weight")}
    yield own
    yield own | {"w": "shared weight"}
    yield own | {"t": "shared weight"}
    yield own | dict.fromkeys(weights, "shared weight") | {"w": "weight"}
    yield own | {"x": "shared input"}


def operators(model, folder, target="cuda"):
    corr = family(as_models(model, values_of(model), next(roles(model)), folder), target=target)
    return collections.Counter(node.op for node in corr.graph.nodes)


FUSED = {
    "one scale": linear(),
    "a scale for each column": linear(scale=EACH),
    "a zero point": linear("uint8[5,3] w", zero="uint8 p"),
    "zero points of columns": linear("uint8[5,3] w", EACH, zero="uint8[3] p"),
    "the other way round": linear(tail="c = Cast<to = 1>(m) k = Mul(t, s) y = Mul(k, c)"),
    "with a bias": linear(tail="c = Cast<to = 1>(m) k = Mul(s, t) a = Mul(c, k) y = Add(a, k)"),
    "weights of rank 3": linear("int8[4,5,3] w", x="float[4,B,5] x"),
}


@pytest.mark.parametrize("name", FUSED)
def test_a_product_that_becomes_floats(name, tmp_path):
    model = FUSED[name]
    found = operators(model, tmp_path)
    assert found["MatMulIntegerToFloat"] == 1 and not found["MatMulInteger"] and not found["Cast"]
    assert operators(model, tmp_path, "")["MatMulInteger"] == 1, "it is for CUDA alone"
    for turn, role in enumerate(roles(model)):
        alike = "y" if role["x"] == "shared input" and "weight" not in {*role.values()} else ""
        check(
            model,
            values_of(model, (3, 2)[turn % 2]),
            role,
            tmp_path,
            io=IO[turn % 2],
            target="cuda",
            alike=alike,
        )


STAYS = {
    "the sums are read twice": linear(tail=TAIL + " n = Neg(m)"),
    "the sums are an output": linear(tail="c = Cast<to = 1>(m) y = Neg(c)"),
    "float16": linear(tail="c = Cast<to = 10>(m) y = Neg(c)"),
    "the floats are read twice": linear(tail=TAIL + " n = Neg(c)"),
    "no product of scales": linear(tail="c = Cast<to = 1>(m) y = Mul(c, t)"),
    "a scale for each row": linear("int8[5,3] w", "float[4,1] t", x="float[4,5] x"),
    "a scale that makes it wider": linear("int8[5,1] w", EACH),
    "squared": linear(tail="c = Cast<to = 1>(m) y = Mul(c, c)"),
}


@pytest.mark.parametrize("name", STAYS)
def test_any_other_product_stays(name, tmp_path):
    assert operators(STAYS[name], tmp_path)["MatMulIntegerToFloat"] == 0
    if "wider" in name:  # the runtime's own fusion on the CPU loses the width of the source
        return
    role = next(roles(STAYS[name]))
    check(STAYS[name], values_of(STAYS[name]), role, tmp_path, target="cuda")
