"""Operators that treat each sample of a batch on its own."""

import numpy as np
import pytest
from oracle import check, draw, few_roles, graph, sweep

OPS = (
    "AffineGrid", "Attention", "CausalConvWithState", "Col2Im", "DeformConv", "GridSample", "LinearAttention",
    "MaxRoiPool", "ReverseSequence", "RoiAlign", "RotaryEmbedding", "StringNormalizer", "TensorScatter",
    "TfIdfVectorizer",
)  # fmt: skip
SIZES = {"B": 3, "S": 4}


@pytest.mark.parametrize("batch", ["2", "B", "3"])
def test_grid_sample(batch, tmp_path):
    model = graph(
        f"float[{batch},3,4,4] x, float[{batch},2,3,2] g", 'y = GridSample<mode = "linear">(x, g)', 20
    )
    sweep(model, tmp_path, sizes=SIZES, low=-0.9, high=0.9)


def test_affine_grid(tmp_path):
    model = graph("float[3,2,3] t, int64[4] s", "y = AffineGrid(t, s)", 20)
    sweep(model, tmp_path, given={"s": [3, 1, 2, 4]})


def test_col2im(tmp_path):
    model = graph("float[B,4,9] x, int64[2] i, int64[2] b", "y = Col2Im(x, i, b)", 18)
    sweep(
        model,
        tmp_path,
        sizes=SIZES,
        given={"i": [4, 4], "b": [2, 2]},
        steer=("shared weight", "shared input"),
    )


@pytest.mark.parametrize("op", ["RoiAlign", "MaxRoiPool"])
def test_regions(op, tmp_path):
    """The same regions for all models, or each its own, which are replicated."""
    boxes = [[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 3.0]]
    if op == "RoiAlign":
        model = graph(
            "float[2,3,4,4] x, float[2,4] r, int64[2] b",
            "y = RoiAlign<output_height = 2, output_width = 2>(x, r, b)",
        )
        given = {"r": boxes, "b": [1, 0]}
    else:
        model = graph("float[2,3,4,4] x, float[2,5] r", "y = MaxRoiPool<pooled_shape = [2, 2]>(x, r)")
        given = {"r": [[1.0, *boxes[0]], [0.0, *boxes[1]]]}
    sweep(model, tmp_path, given=given, steer=("shared weight", "shared input"))
    values = draw(model, 3, given=given)
    values["r"][1:, 0, 1] += np.float32(1)
    role = {"x": "input", "r": "input", "b": "shared weight"}
    role = {name: kind for name, kind in role.items() if name in values}
    check(model, values, role, tmp_path, reason="'r' differs between the models")


@pytest.mark.parametrize(("x", "time", "batch"), [("4,3", 0, 1), ("3,4,2", 1, 0), ("4,B", 0, 1)])
def test_reverse_sequence(x, time, batch, tmp_path):
    model = graph(
        f"float[{x}] x, int64[{x.split(',')[batch]}] n",
        f"y = ReverseSequence<time_axis = {time}, batch_axis = {batch}>(x, n)",
    )
    sweep(model, tmp_path, sizes=SIZES, low=1, high=4)


@pytest.mark.parametrize("parts", ["xwo", "xwob", "xwobm"])
@pytest.mark.parametrize(("group", "offsets"), [(1, 1), (2, 2), (2, 1)])
def test_deform_conv(parts, group, offsets, tmp_path):
    kinds = {
        "x": "2,4,4,4",
        "w": f"4,{4 // group},2,2",
        "o": f"2,{8 * offsets},3,3",
        "b": "4",
        "m": f"2,{4 * offsets},3,3",
    }
    text = ", ".join(f"float[{kinds[name]}] {name}" for name in parts)
    model = graph(text, f"y = DeformConv<group = {group}, offset_group = {offsets}>({', '.join(parts)})", 19)
    sweep(model, tmp_path, roles=few_roles, low=-1, high=1)


# ------------------------------------------------------------------------ sequences

MASKS = [
    "",
    "float[3,4] m",
    "float[1,1,3,4] m",
    "float[B,1,3,4] m",
    "float[2,3,4] m",
    "bool[3,4] m",
    "bool[B,2,3,4] m",
]


@pytest.mark.parametrize("batch", ["3", "B"])
@pytest.mark.parametrize("mask", MASKS)
def test_attention(mask, batch, tmp_path):
    mask = mask.replace("B", batch)
    text = f"float[{batch},2,3,4] q, float[{batch},2,4,4] k, float[{batch},2,4,4] v" + (
        f", {mask}" if mask else ""
    )
    model = graph(text, f"y = Attention(q, k, v{', m' if mask else ''})", 23)
    names = [info.name for info in model.graph.input]
    fed = [dict.fromkeys(names, "input"), dict.fromkeys(names, "shared input") | {"q": "input"}]
    for role in few_roles(names) if batch == "3" else fed:
        values = draw(model, 3, sizes=SIZES)
        if "m" in values and values["m"].dtype == bool:
            values["m"][..., 0] = True  # a row that sees nothing has no softmax
        check(model, values, role, tmp_path)


def test_attention_of_rank_3_with_a_cache(tmp_path):
    text = "float[B,3,8] q, float[B,3,8] k, float[B,3,8] v, float[B,2,S,4] p, float[B,2,S,4] r"
    model = graph(
        text, "y, s, t = Attention<q_num_heads = 2, kv_num_heads = 2, is_causal = 1>(q, k, v, , p, r)", 23
    )
    for sizes in (SIZES, {"B": 2, "S": 0}):
        check(model, draw(model, 2, sizes=sizes), dict.fromkeys("qkvpr", "input"), tmp_path)
    check(model, draw(model, 3, sizes=SIZES), dict.fromkeys("qkvpr", "input"), tmp_path, io="stacked")


@pytest.mark.parametrize("caches", ["6,2", "B,3,2"])
@pytest.mark.parametrize("batch", ["3", "B"])
def test_rotary_embedding(caches, batch, tmp_path):
    caches = caches.replace("B", batch)
    positions = f", int64[{batch},3] p" if caches == "6,2" else ""
    text = f"float[{batch},2,3,4] x, float[{caches}] c, float[{caches}] s{positions}"
    model = graph(text, f"y = RotaryEmbedding(x, c, s{', p' if positions else ''})", 23)
    sweep(model, tmp_path, sizes=SIZES, low=0, high=5, roles=few_roles)


@pytest.mark.parametrize("batch", ["3", "B"])
def test_tensor_scatter(batch, tmp_path):
    model = graph(
        f"float[{batch},2,5,3] x, float[{batch},2,2,3] u, int64[{batch}] i", "y = TensorScatter(x, u, i)", 24
    )
    sweep(model, tmp_path, sizes=SIZES, low=0, high=3, roles=few_roles)


def test_causal_conv(tmp_path):
    for parts in ("xw", "xwb", "xwbs"):
        kinds = {"x": "2,3,5", "w": "3,1,3", "b": "3", "s": "2,3,2"}
        text = ", ".join(f"float[{kinds[name]}] {name}" for name in parts)
        model = graph(text, f"y, t = CausalConvWithState({', '.join(parts)})", 27)
        sweep(model, tmp_path, roles=few_roles, alike="t")


@pytest.mark.parametrize("rule", ["linear", "gated"])
def test_linear_attention(rule, tmp_path):
    parts = "qkvsd" if rule == "gated" else "qkvs"
    kinds = {"s": "B,2,4,4", "d": "B,3,2"}
    text = ", ".join(f"float[{kinds.get(name, 'B,3,8')}] {name}" for name in parts)
    attributes = f'q_num_heads = 2, kv_num_heads = 2, update_rule = "{rule}"'
    model = graph(text, f"y, t = LinearAttention<{attributes}>({', '.join(parts)})", 27)
    for io in ("separate", "stacked"):
        check(
            model, draw(model, 3, sizes=SIZES, low=-1, high=0), dict.fromkeys(parts, "input"), tmp_path, io=io
        )


# ------------------------------------------------------------------------ text


@pytest.mark.parametrize("x", ["4", "1,4"])
def test_string_normalizer(x, tmp_path):
    sweep(
        graph(f"string[{x}] x", 'y = StringNormalizer<case_change_action = "UPPER", locale = "C">(x)'),
        tmp_path,
    )
    model = graph(
        f"string[{x}] x", 'y = StringNormalizer<stopwords = ["a"], is_case_sensitive = 1, locale = "C">(x)'
    )
    check(model, draw(model, 3), {"x": "input"}, tmp_path, reason="drops stop words")


def test_tf_idf(tmp_path):
    for shape in ("4", "3,4", "B,4"):
        attributes = 'mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0'
        pool = "ngram_counts = [0], ngram_indexes = [0, 1, 2], pool_int64s = [0, 1, 2]"
        model = graph(f"int64[{shape}] x", f"y = TfIdfVectorizer<{attributes}, {pool}>(x)")
        sweep(model, tmp_path, sizes=SIZES, low=0, high=4)
