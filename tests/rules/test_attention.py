"""ONNX's operator Attention, from opset 23 on."""

import numpy as np
import pytest
from contrib_graphs import graph
from oracle import IO, check, draw, sweep

OPS = ("Attention",)
ROWS = "float[B,S,8] q, float[B,T,8] k, float[B,T,8] v"
SIZES = {"B": 3, "S": 4, "T": 5, "P": 2}
HEADS = "q_num_heads = 2, kv_num_heads = 2"


def attention(inputs, arguments="q, k, v", attrs=HEADS, results="y", opset=23):
    return graph(inputs, f"{results} = Attention<{attrs}>({arguments})", opset)


@pytest.mark.parametrize("more", ["", ", scale = 0.3", ", is_causal = 1", ", softcap = 2.0"])
def test_rows(more, tmp_path):
    sweep(attention(ROWS, attrs=HEADS + more), tmp_path, sizes=SIZES)


def test_heads(tmp_path):
    inputs = "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,6] v"
    sweep(attention(inputs, attrs="scale = 0.5"), tmp_path, sizes=SIZES)


def test_several_heads_read_the_keys_of_one(tmp_path):
    inputs = "float[B,S,16] q, float[B,T,8] k, float[B,T,4] v"
    sweep(attention(inputs, attrs="q_num_heads = 4, kv_num_heads = 2"), tmp_path, sizes=SIZES)


MASKS = ("S,T", "1,S,T", "2,S,T", "1,1,S,T", "1,2,S,T", "B,1,S,T", "B,2,S,T")


@pytest.mark.parametrize("dims", MASKS)
@pytest.mark.parametrize("kind", ["float", "bool"])
def test_mask(dims, kind, tmp_path):
    """A mask of fewer axes, or of one sequence, is that of all sequences of its model."""
    model = attention(f"{ROWS}, {kind}[{dims}] m", "q, k, v, m")
    roles = [
        ("input",) * 4,
        ("input", "input", "shared input", "shared input"),
        ("input", *["shared input"] * 3),
        ("shared input",) * 3 + ("input",),
        ("input",) * 3 + ("weight",),
        ("input",) * 3 + ("shared weight",),
    ]
    for turn, role in enumerate(roles):
        values = draw(model, (3, 2)[turn % 2], sizes=SIZES)
        check(model, values, dict(zip("qkvm", role, strict=True)), tmp_path, io=IO[turn % 2])


def test_mask_of_a_batch_of_its_own(tmp_path):
    """Only a run tells that the mask has one sequence, or as many as the queries."""
    model = attention(f"{ROWS}, float[C,1,S,T] m", "q, k, v, m")
    for size in (1, SIZES["B"]):
        values = draw(model, 3, sizes={**SIZES, "C": size})
        check(model, values, dict.fromkeys("qkvm", "input"), tmp_path)
        reason = "the batch of its input 'm' is not known"
        check(model, values, {**dict.fromkeys("qkv", "input"), "m": "shared input"}, tmp_path, reason=reason)


@pytest.mark.parametrize("results", ["y, a, b", "y, a, b, s"])
def test_cache(results, tmp_path):
    inputs = f"{ROWS}, float[B,2,P,4] p, float[B,2,P,4] o"
    model = attention(inputs, "q, k, v, , p, o", HEADS + ", is_causal = 1", results)
    sweep(model, tmp_path, sizes=SIZES, alike=("a", "b", "s"))


def test_lengths(tmp_path):
    model = attention(f"{ROWS}, int64[B] n", "q, k, v, , , , n", opset=24)
    values = draw(model, 3, sizes=SIZES)
    values["n"] = np.array([[1, 2, 5], [5, 4, 3], [2, 2, 1]], np.int64)
    for role in ("input", "shared input"):
        check(model, values, {**dict.fromkeys("qkv", "input"), "n": role}, tmp_path)
