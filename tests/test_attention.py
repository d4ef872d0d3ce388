"""Attention that is written out becomes the operator for CUDA, where it computes the same."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from contrib_graphs import graph
from oracle import as_models, check, draw, family, sweep

import netfuse_onnx

SIZES = {"B": 3, "S": 4, "T": 5, "C": 3}
ROWS = "float[B,S,8] a, float[B,T,8] c, float[B,T,8] d"
SPLIT = """
    split = Constant<value_ints = [0, 0, 2, 4]>() whole = Constant<value_ints = [0, 0, 8]>()
    q = Reshape(a, split) k = Reshape(c, split) v = Reshape(d, split)
    qt = Transpose<perm = [0, 2, 1, 3]>(q) vt = Transpose<perm = [0, 2, 1, 3]>(v)
    kt = Transpose<perm = [0, 2, 3, 1]>(k)"""
SCALED = "half = Constant<value_float = 0.5>() raw = MatMul(qt, kt) scores = Mul(raw, half)"
ENDS = "o = MatMul(p, vt) ot = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(ot, whole)"
LOWEST = float(np.finfo(np.float32).min)


def written(middle="p = Softmax(scores)", inputs=ROWS, split=SPLIT, scaled=SCALED, ends=ENDS, opset=17):
    return graph(inputs, f"{split} {scaled} {middle} {ends}", opset)


def nodes(model, folder, target="cuda"):
    """The operators and attributes of the graph of a family before the plan."""
    role = {info.name: "input" for info in model.graph.input}
    corr = family(as_models(model, draw(model, 2, sizes=SIZES), role, folder), target=target)
    return [(node.op, str(node.attrs)) for node in corr.graph.nodes]


def operators(model, folder, target="cuda"):
    """The operators of that graph, counted."""
    return collections.Counter(op for op, _ in nodes(model, folder, target))


def fed(names):
    """Roles of inputs, of which some may be the same for all models."""
    every = itertools.product(("input", "shared input"), repeat=len(names))
    return [dict(zip(names, roles, strict=True)) for roles in every if "input" in roles]


def fuses(model, folder):
    return operators(model, folder)["Attention"] == 1


def masked(number, mask="bool[B,1,S,T] m", guard=False):
    """Keys that `m` leaves out get a number added to their score; with `guard` NaN becomes 0."""
    last = "n = IsNaN(z) p = Where(n, none, z)" if guard else "p = Identity(z)"
    middle = f"""none = Constant<value_float = 0.0>() mark = Constant<value_float = -9.0>()
        added = Where(m, none, mark) total = Add(scores, added) z = Softmax(total) {last}"""
    return with_mark(written(middle, f"{ROWS}, {mask}"), number)


def with_mark(model, number):
    """The model with another number for a masked key: the text form has no infinity."""
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] == "mark":
            node.attribute[0].f = float(number)
    return model


SPELLINGS = {
    "a quotient": SCALED.replace("half = Constant<value_float = 0.5>()", "two = Constant<value_float = 2.0>()")
    .replace("Mul(raw, half)", "Div(raw, two)"),
    "both operands": """root = Constant<value_float = 0.7>() qs = Mul(qt, root) ks = Mul(root, kt)
        scores = MatMul(qs, ks)""",
    "no scale": "scores = MatMul(qt, kt)",
}  # fmt: skip


@pytest.mark.parametrize("scaled", SPELLINGS.values(), ids=SPELLINGS)
def test_scale(scaled, tmp_path):
    model = written(scaled=scaled)
    assert fuses(model, tmp_path)
    sweep(model, tmp_path, sizes=SIZES, target="cuda", roles=fed)


def test_nothing_changes_for_other_targets(tmp_path):
    for target in ("generic", "cpu"):
        assert "Attention" not in operators(written(), tmp_path, target)


SWAPPED = {
    "one more Transpose": "k1 = Transpose<perm = [0, 2, 1, 3]>(k) kt = Transpose<perm = [0, 1, 3, 2]>(k1)",
    "as torch writes it": """
        k1 = Transpose<perm = [0, 2, 1, 3]>(k) sizes = Shape(k1) end = Constant<value_ints = [4]>()
        zero = Constant<value_ints = [0]>() two = Constant<value_ints = [2]>() three = Constant<value_ints = [3]>()
        all = Constant<value_ints = [-1]>()
        outer = Slice(sizes, zero, two) rows = Slice(sizes, two, three) size = Slice(sizes, three, end)
        flat = Concat<axis = 0>(all, rows, size) back = Concat<axis = 0>(outer, size, rows)
        k2 = Reshape(k1, flat) k3 = Transpose<perm = [0, 2, 1]>(k2) kt = Reshape(k3, back)""",
}


@pytest.mark.parametrize("swapped", SWAPPED.values(), ids=SWAPPED)
def test_keys(swapped, tmp_path):
    model = written(split=SPLIT.replace("kt = Transpose<perm = [0, 2, 3, 1]>(k)", swapped))
    assert fuses(model, tmp_path)
    sweep(model, tmp_path, sizes=SIZES, target="cuda", models=(3, 2), roles=fed)


# --------------------------------------------------------------------------- masks

MASKED = [(LOWEST, False), (LOWEST, True), (-1e30, False), ("-inf", True), (-10000.0, False)]
FORCED = [(LOWEST, False), ("-inf", True)]
"""Those that go through every lowering. The others differ from the first in a constant alone."""
MASKS = ("B,1,S,T", "1,1,S,T", "S,T", "B,1,1,T", "B,2,S,1", "C,1,S,T")
"""C is 1, or the batch."""


@pytest.mark.parametrize(("number", "guard"), MASKED)
@pytest.mark.parametrize("dims", MASKS)
def test_masks(number, guard, dims, tmp_path):
    """Rows without any key are what the sources make of them, too."""
    mask, forced = f"bool[{dims}] m", (number, guard) in FORCED
    model = masked(number, mask, guard)
    assert fuses(model, tmp_path)
    assert forced or nodes(model, tmp_path) == nodes(masked(LOWEST, mask), tmp_path)
    for n, sizes in ((3, SIZES), (2, {**SIZES, "C": 1})):
        values = draw(model, n, sizes=sizes)
        rows = np.random.default_rng(n).integers(0, 3, values["m"].shape[:-1]) > 0
        values["m"] &= rows[..., None]
        assert not values["m"].any(-1).all(), "no row lacks a key"
        role = dict.fromkeys("acdm", "input")
        check(model, values, role, tmp_path, target="cuda", forced=forced)
        check(model, values, {**role, "m": "shared input"}, tmp_path, target="cuda", forced=forced)


def test_a_mask_that_makes_nan_stays(tmp_path):
    """Attention gives 0 for a row without any key, where a softmax of -inf gives NaN."""
    assert not fuses(masked("-inf"), tmp_path)


@pytest.mark.parametrize("kind", ["float[B,1,S,T] m", "float[T] m"])
def test_a_mask_that_is_fed_stays(kind, tmp_path):
    """It might hold any number, -inf and the lowest one among them."""
    model = written("total = Add(scores, m) p = Softmax(total)", f"{ROWS}, {kind}")
    assert not fuses(model, tmp_path)


def test_two_marks_of_one_key_stay(tmp_path):
    """Two of the lowest numbers are -inf."""
    middle = """none = Constant<value_float = 0.0>() mark = Constant<value_float = -9.0>()
        one = Where(m, none, mark) other = Where(l, none, mark)
        sum = Add(scores, one) total = Add(sum, other) p = Softmax(total)"""
    model = written(middle, f"{ROWS}, bool[B,1,S,T] m, bool[S,T] l")
    assert fuses(with_mark(model, -5.0), tmp_path)
    assert not fuses(with_mark(model, LOWEST), tmp_path)


def test_a_number_between_a_score_and_a_mark_stays(tmp_path):
    assert not fuses(masked(-1e25), tmp_path)


def test_a_mask_that_hides_nothing_is_left_out(tmp_path):
    """Exports of torch have one where they were given none."""
    middle = f"""none = Constant<value_float = 0.0>() mark = Constant<value_float = {LOWEST}>()
        one = Constant<value_ints = [1]>() yes = Cast<to = 9>(one)
        rows = Shape<end = 1>(a) some = Shape<start = 1, end = 2>(a) keys = Shape<start = 1, end = 2>(c)
        sizes = Concat<axis = 0>(rows, one, some, keys) wide = Expand(yes, sizes)
        added = Where(wide, none, mark) total = Add(scores, added) p = Softmax(total)"""
    model = written(middle)
    assert fuses(model, tmp_path)
    assert "Where" not in operators(model, tmp_path)
    check(model, draw(model, 3, sizes=SIZES), dict.fromkeys("acd", "input"), tmp_path, target="cuda")


def test_zeros_that_widen_the_batch_are_added(tmp_path):
    """Scores of one sequence have as many as the mask, which a batch of another input decides."""
    middle = """none = Constant<value_float = 0.0>() mark = Constant<value_float = -1e30>()
        one = Constant<value_ints = [1]>() yes = Cast<to = 9>(one) rows = Shape<end = 1>(m)
        sizes = Concat<axis = 0>(rows, one, one, one) wide = Expand(yes, sizes)
        added = Where(wide, none, mark) total = Add(scores, added) p = Softmax(total)"""
    model = written(middle, f"{ROWS}, float[C] m")
    assert operators(model, tmp_path)["Where"] == 1
    for size in (1, SIZES["B"]):
        values = draw(model, 3, sizes={**SIZES, "C": size})
        check(model, values, dict.fromkeys("acdm", "input"), tmp_path, target="cuda")


@pytest.mark.parametrize("dims", ["2,4,5", "1,2,4,5", "4,1"])
def test_biases_of_positions(dims, tmp_path):
    """A bias for each head is a weight, the same for all sequences of a model."""
    model = written("total = Add(b, scores) p = Softmax(total)", f"{ROWS}, float[{dims}] b")
    role = {**dict.fromkeys("acd", "input"), "b": "weight"}
    values = draw(model, 3, sizes=SIZES)
    corr = family(as_models(model, values, role, tmp_path), target="cuda")
    assert any(node.op == "Attention" for node in corr.graph.nodes)
    for kind in ("weight", "shared weight"):
        check(model, values, {**role, "b": kind}, tmp_path, target="cuda")


def test_a_huge_bias_stays(tmp_path):
    model = written("total = Add(b, scores) p = Softmax(total)", f"{ROWS}, float[4,5] b")
    values = draw(model, 2, sizes=SIZES)
    values["b"][1, 0, 0] = -1e35
    role = {**dict.fromkeys("acd", "input"), "b": "weight"}
    corr = family(as_models(model, values, role, tmp_path), target="cuda")
    assert not any(node.op == "Attention" for node in corr.graph.nodes)


def test_two_attentions_share_a_mask(tmp_path):
    """The one whose softmax comes second gives its result first."""
    more = """total2 = Add(raw, added) z2 = Softmax(total2) o2 = MatMul(z2, vt)
        t2 = Transpose<perm = [0, 2, 1, 3]>(o2) y2 = Reshape(t2, whole)"""
    model = graph(
        f"{ROWS}, bool[B,1,S,T] m",
        f"""{SPLIT} {SCALED} raw2 = MatMul(qt, kt)
        none = Constant<value_float = 0.0>() mark = Constant<value_float = {LOWEST}>()
        added = Where(m, none, mark) total = Add(scores, added) p = Softmax(total)
        {more.replace("raw", "raw2")} {ENDS}""",
    )
    count = operators(model, tmp_path)
    assert (count["Attention"], count["Expand"], count["Where"]) == (2, 1, 1)
    check(model, draw(model, 3, sizes=SIZES), dict.fromkeys("acdm", "input"), tmp_path, target="cuda")


# --------------------------------------------------------------------------- linear layers around it

LAYERS = "float[B,S,8] x, " + ", ".join(f"float[8,8] w{n}, float[8] b{n}" for n in "qkvo")
ROWS_OF = "".join(f"{n}w = MatMul(x, w{n}) {r} = Add({n}w, b{n}) " for n, r in zip("qkv", "acd", strict=True))
BEHIND = ENDS.replace("y = ", "r = ") + " rw = MatMul(r, wo) y = Add(bo, rw)"


def layers(middle="p = Softmax(scores)", inputs=LAYERS, ends=BEHIND):
    return graph(inputs, f"{ROWS_OF} {SPLIT} {SCALED} {middle} {ends}")


def weights_left(model, folder, role=None, values=None):
    """The weights that the graph of a family still reads, and the operators of nodes that read them."""
    role = role or {info.name: "input" if info.name in "xm" else "weight" for info in model.graph.input}
    paths = as_models(model, values or draw(model, 2, sizes=SIZES), role, folder)
    graph_ = family(paths, target="cuda").graph
    return {name: {n.op for n in graph_.nodes if name in n.inputs} for name in graph_.weights}


def test_biases_of_keys_go_and_those_of_values_move(tmp_path):
    """Both are gone from the rows of a call. What is computed of them is computed when a session loads."""
    model = layers()
    left = weights_left(model, tmp_path)
    assert not {"bk", "bv"} & left.keys()
    assert left["bv/1x8"] == {"MatMul"}
    assert left["bo"] == {"Add"}
    values = draw(model, 3, sizes=SIZES, low=-1, high=1)
    for weights in ("weight", "shared weight"):
        role = {info.name: weights for info in model.graph.input} | {"x": "input"}
        check(model, values, role, tmp_path, target="cuda", tolerance=1e-4)
    role = {info.name: "weight" for info in model.graph.input} | {"x": "shared input", "bv": "shared weight"}
    check(model, values, role, tmp_path, target="cuda", tolerance=1e-4)


KEEPS_VALUES = {
    "no bias behind": (layers(ends=BEHIND.replace("y = Add(bo, rw)", "y = Relu(rw)")), {"Add"}),
    "another reader": (layers(ends=BEHIND + " z = Relu(r)"), {"Add"}),
}


@pytest.mark.parametrize(("model", "readers"), KEEPS_VALUES.values(), ids=KEEPS_VALUES)
def test_a_bias_of_values_stays(model, readers, tmp_path):
    assert weights_left(model, tmp_path)["bv"] == readers


def test_a_bias_of_values_stays_where_rows_may_be_zero(tmp_path):
    """Attention gives 0 for a row all of whose keys have -inf, and a bias would be added to that."""
    middle = """none = Constant<value_float = 0.0>() mark = Constant<value_float = -9.0>()
        added = Where(m, none, mark) total = Add(scores, added) z = Softmax(total)
        n = IsNaN(z) p = Where(n, none, z)"""
    inputs = LAYERS.replace("B,S,8", "B,4,8") + ", bool[1,1,4,4] m"
    model = with_mark(layers(middle, inputs), -9.0)
    assert "bv" not in weights_left(model, tmp_path)
    model = with_mark(model, -np.inf)
    assert weights_left(model, tmp_path)["bv"] == {"Add"}
    values = draw(model, 2, sizes=SIZES)
    values["m"][:, :, :, 1] = False
    role = {info.name: "input" if info.name in "xm" else "weight" for info in model.graph.input}
    check(model, values, role, tmp_path, target="cuda", tolerance=1e-4)


def test_a_bias_of_keys_that_others_read_stays(tmp_path):
    model = layers(ends=BEHIND + " z = Relu(c)")
    assert weights_left(model, tmp_path)["bk"] == {"Add"}


def test_a_bias_that_is_no_number_stays(tmp_path):
    """A score of NaN or infinity is no sum that softmax does not see."""
    model = layers()
    for odd in (np.nan, np.inf):
        values = draw(model, 2, sizes=SIZES)
        values["bk"][1, 0] = values["bv"][1, 0] = odd
        left = weights_left(model, tmp_path, values=values)
        assert left["bk"] == {"Add"}
        assert left["bv"] == {"Add"}


# --------------------------------------------------------------------------- what is no attention

OTHERS = {
    "read twice": ("p = Softmax(scores) w = Identity(scores)", ENDS + " x = Relu(w)"),
    "another axis": ("p = Softmax<axis = 1>(scores)", ENDS),
    "scaled behind a mask": ("""none = Constant<value_float = 0.0>() mark = Constant<value_float = -1e30>()
        yes = Constant<value_ints = [1, 0, 1, 1, 0]>() m = Cast<to = 9>(yes) added = Where(m, none, mark)
        sum = Add(scores, added) total = Mul(sum, half) p = Softmax(total)""", ENDS),
    "another order": ("p = Softmax(scores)", ENDS.replace("[0, 2, 1, 3]", "[0, 2, 3, 1]")),
    "double": ("d64 = Cast<to = 11>(scores) s64 = Softmax(d64) p = Cast<to = 1>(s64)", ENDS),
}  # fmt: skip


@pytest.mark.parametrize(("middle", "ends"), OTHERS.values(), ids=OTHERS)
def test_other_graphs_stay(middle, ends, tmp_path):
    assert not fuses(written(middle, ends=ends), tmp_path)


def test_operands_of_two_batches_stay(tmp_path):
    """The product of a batch of queries with one of keys broadcasts, Attention does not."""
    assert not fuses(written(inputs=ROWS.replace("float[B,T,8] c", "float[1,T,8] c")), tmp_path)


# --------------------------------------------------------------------------- whole merges


def test_merge_and_verify(tmp_path):
    model = masked(LOWEST)
    paths = as_models(model, draw(model, 2, sizes=SIZES), dict.fromkeys("acdm", "input"), tmp_path)
    out = str(tmp_path / "merged.onnx")
    report = netfuse_onnx.merge([str(p) for p in paths], out, names=["x", "y"], target="cuda", provider="cpu")
    assert report.proof.ok
    merged = onnx.load(out)
    assert {entry.domain: entry.version for entry in merged.opset_import}[""] == 23
    assert [node.op_type for node in merged.graph.node].count("Attention") in (1, len(paths))
    assert netfuse_onnx.verify(out, [str(p) for p in paths], provider="cpu").ok
    assert ort.InferenceSession(out, providers=["CPUExecutionProvider"])
