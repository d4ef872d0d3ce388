"""ONNX Runtime's attention operators."""

import numpy as np
import pytest
from contrib_graphs import graph, shapes_agree
from oracle import IO, check, draw

OPS = tuple(
    f"com.microsoft.{op}"
    for op in ("Attention", "GroupQueryAttention", "MultiHeadAttention", "RotaryEmbedding")
)
SIZES = {"B": 3, "S": 4, "P": 2, "T": 6}


def values_of(model, n, **drawn):
    """`drawn[name]` is (low, high) of an integer input."""
    rng = np.random.default_rng(n)
    values = draw(model, n, sizes=SIZES)
    for name, (low, high) in drawn.items():
        values[name] = rng.integers(low, high, values[name].shape).astype(values[name].dtype)
    return values


def every(model, folder, cases, fixed=None, alike=(), **drawn):
    """Check the model with each of `cases`, a role for every input, and what the shape functions say of it."""
    for turn, case in enumerate(cases):
        n = (3, 2)[turn % 2]
        values = values_of(model, n, **drawn)
        for name, value in (fixed or {}).items():
            values[name] = np.stack([np.asarray(value, values[name].dtype)] * n)
        if not turn:
            shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
        check(model, values, case, folder, io=IO[turn % 2], alike=alike)


def cases(model, **roles):
    """Roles for all inputs: each of `roles` in turn, all others fed. Some input differs between the models."""
    names = [info.name for info in model.graph.input]
    every = [dict.fromkeys(names, "input")]
    for key, options in roles.items():
        every = [{**case, **dict.fromkeys(key.split("_"), option)} for case in every for option in options]
    return [role for role in every if {"input", "weight"} & set(role.values())]


WEIGHTS = ("weight", "shared weight", "input")
ATTENTION = "float[B,S,8] x, float[8,24] w, float[24] b"


@pytest.mark.parametrize("more", ["", ", unidirectional = 1", ", scale = 0.3"])
def test_attention(more, tmp_path):
    model = graph(ATTENTION, f"y = com.microsoft.Attention<num_heads = 2{more}>(x, w, b)")
    roles = cases(model, x=("input", "shared input"), w=WEIGHTS, b=WEIGHTS[:2])
    every(model, tmp_path, roles)


def test_attention_of_other_sizes(tmp_path):
    model = graph("float[3,S,6] x, float[6,20] w, float[20] b",
                  "y = com.microsoft.Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 4]>(x, w, b)")  # fmt: skip
    every(model, tmp_path, cases(model, w_b=WEIGHTS))


@pytest.mark.parametrize(
    ("mask", "low", "high"), [("B", 1, 5), ("B,S", 0, 2), ("B,S,S", 0, 2), ("1,1", 1, 2)]
)
def test_attention_with_a_mask(mask, low, high, tmp_path):
    model = graph(f"{ATTENTION}, int32[{mask}] m", "y = com.microsoft.Attention<num_heads = 2>(x, w, b, m)")
    wanted = cases(model, w_b=WEIGHTS[:2], m=("input", "shared input"))
    every(model, tmp_path, wanted, m=(low, high))


def test_attention_with_ends_and_starts(tmp_path):
    """A mask [2 B] holds all ends, then all starts: joined, it would be read wrongly."""
    model = graph("float[3,4,8] x, float[8,24] w, float[24] b, int32[6] m",
                  "y = com.microsoft.Attention<num_heads = 2>(x, w, b, m)")  # fmt: skip
    values = values_of(model, 2, m=(0, 2))
    values["m"][:, :3] = 4
    for kind in ("weight", "shared weight"):
        check(model, values, cases(model, w_b=(kind,))[0], tmp_path, reason="batch")


@pytest.mark.parametrize("mask", [False, True])
def test_attention_with_a_cache(mask, tmp_path):
    extra, name = (", int32[B,T] m", "m") if mask else ("", "")
    model = graph(
        f"{ATTENTION}{extra}, float[2,B,2,P,4] p",
        f"y, c = com.microsoft.Attention<num_heads = 2, unidirectional = 1>(x, w, b, {name}, p)",
    )
    wanted = cases(model, w_b=WEIGHTS[:2], x=("input", "shared input"), p=("input", "shared input"))
    every(model, tmp_path, wanted, alike="c", **({"m": (0, 2)} if mask else {}))


def test_attention_that_starts_a_cache(tmp_path):
    model = graph(ATTENTION, "y, c = com.microsoft.Attention<num_heads = 2>(x, w, b)")
    every(model, tmp_path, cases(model, w_b=WEIGHTS[:2]))


@pytest.mark.parametrize("bias", ["B,2,S,S", "1,2,S,S", "1,1,S,S"])
def test_attention_with_a_bias_of_the_scores(bias, tmp_path):
    model = graph(
        f"{ATTENTION}, float[{bias}] a", "y = com.microsoft.Attention<num_heads = 2>(x, w, b, , , a)"
    )
    every(
        model,
        tmp_path,
        cases(model, w_b=WEIGHTS[:2], a=("input", "shared input", "weight")[: 3 - ("B" in bias)]),
    )


# ------------------------------------------------------------------------ without weights

QKV = "float[B,S,8] q, float[B,T,8] k, float[B,T,8] v"


def test_multi_head(tmp_path):
    model = graph(QKV, "y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)")
    every(model, tmp_path, cases(model, q=("input", "shared input"), k=("input", "shared input", "weight")))


@pytest.mark.parametrize("b", WEIGHTS)
def test_multi_head_with_a_bias(b, tmp_path):
    model = graph(f"{QKV}, float[24] b", "y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, b)")
    every(model, tmp_path, cases(model, q=("input", "shared input"), b=(b,)))
    if b == "weight":
        every(model, tmp_path, cases(model, q_k_v=("shared input",), b=(b,)))


@pytest.mark.parametrize(("mask", "low", "high"), [("B", 1, 7), ("B,T", 0, 2), ("B,S,T", 0, 2)])
def test_multi_head_with_a_mask(mask, low, high, tmp_path):
    model = graph(
        f"{QKV}, int32[{mask}] m", "y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, , m)"
    )
    every(model, tmp_path, cases(model, m=("input", "shared input")), m=(low, high))


@pytest.mark.parametrize("bias", ["B,2,S,T", "1,2,S,T"])
def test_multi_head_with_a_bias_of_the_scores(bias, tmp_path):
    model = graph(f"{QKV}, float[{bias}] a, float[24] b",
                  "y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, b, , a)")  # fmt: skip
    every(model, tmp_path, cases(model, b=WEIGHTS[:2], a=("input", "shared input")))


def test_multi_head_with_a_cache(tmp_path):
    model = graph(
        "float[B,S,8] q, float[B,S,8] k, float[B,S,8] v, float[B,2,P,4] c, float[B,2,P,4] d, float[24] b",
        "y, e, f = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, b, , , c, d)",
    )
    every(model, tmp_path, cases(model, b=WEIGHTS[:2], c_d=("input", "shared input")))


def test_multi_head_with_keys_of_another_model(tmp_path):
    """Cross attention: key and value come as [B, heads, T, size]."""
    model = graph("float[B,S,8] q, float[B,2,T,4] k, float[B,2,T,4] v",
                  "y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)")  # fmt: skip
    every(model, tmp_path, cases(model, k_v=("input", "shared input")))


# ------------------------------------------------------------------------ decoders

GQA = "float[B,S,32] q, float[B,S,16] k, float[B,S,16] v, float[B,2,P,8] c, float[B,2,P,8] d, int32[B] n, int32 t"


def grouped(inputs, arguments, attributes=""):
    text = f"y, e, f = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2{attributes}>({arguments})"
    return graph(inputs, text)


def test_grouped_queries(tmp_path):
    model = grouped(
        "float[B,S,32] q, float[B,S,16] k, float[B,S,16] v, int32[B] n, int32 t", "q, k, v, , , n, t"
    )
    for steer in ("shared weight", "shared input"):
        roles = cases(model, t=(steer,), n=("shared weight", "input"), q=("input", "shared input"))
        every(model, tmp_path, roles, {"n": [3, 3, 3], "t": 4})


def test_grouped_queries_packed_and_rotated(tmp_path):
    inputs = "float[B,S,128] q, int32[B] n, int32 t, float[9,8] z, float[9,8] w"
    model = grouped(inputs, "q, , , , , n, t, z, w", ", do_rotary = 1")
    same = {"n": [3, 3, 3], "t": 4}
    every(model, tmp_path, cases(model, t=("shared weight",), z_w=("shared weight",)), same)
    values = values_of(model, 2)
    values["n"][:], values["t"][:] = 3, 4
    role = cases(model, t=("shared weight",), z_w=("weight",))[0]
    check(model, values, role, tmp_path, reason="'z' differs")


def test_grouped_queries_with_a_cache(tmp_path):
    """Beside a cache the operator takes several tokens of one sequence only: here of each model."""
    model = grouped(GQA, "q, k, v, c, d, n, t")
    assert SIZES["S"] > 1
    values = draw(model, 3, sizes={**SIZES, "B": 1})
    values["n"][:], values["t"][:] = 5, 6
    for io in IO:
        check(model, values, cases(model, t=("shared weight",))[0], tmp_path, io=io, reason="one sequence")


def test_a_length_per_model(tmp_path):
    model = grouped(
        "float[B,S,32] q, float[B,S,16] k, float[B,S,16] v, int32[B] n, int32 t", "q, k, v, , , n, t"
    )
    values = values_of(model, 2)
    values["n"][:], values["t"][:] = 3, 4
    check(model, values, cases(model, t=("input",))[0], tmp_path, reason="'t' differs")


@pytest.mark.parametrize("x", ["B,S,8", "B,2,S,4"])
@pytest.mark.parametrize("more", ["", ", interleaved = 1"])
def test_rotary(x, more, tmp_path):
    heads = ", num_heads = 2" if x.count(",") == 2 else ""
    attributes = (more + heads).removeprefix(", ")
    call = f"y = com.microsoft.RotaryEmbedding{f'<{attributes}>' if attributes else ''}(x, p, c, s)"
    model = graph(f"float[{x}] x, int64[B,S] p, float[6,2] c, float[6,2] s", call)
    wanted = cases(model, c_s=("shared weight", "shared input"), p=("input", "shared input"))
    every(model, tmp_path, wanted, p=(0, 6))
    model = graph(f"float[{x}] x, int64[1] p, float[6,2] c, float[6,2] s", call)
    every(
        model, tmp_path, cases(model, c_s=("shared weight",), p=("shared weight", "shared input")), p=(1, 2)
    )
    values = values_of(model, 2, p=(0, 2))
    check(model, values, cases(model, c_s=("shared weight",))[0], tmp_path, reason="'p' differs")
