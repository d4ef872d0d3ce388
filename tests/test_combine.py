"""Combined outputs: the merged graph gives the mean, the sum or the vote of the sources' outputs, by every lowering,
and the proofs tell where it does not."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import oracle
import pytest
from cases import Array, draw, graph, some_roles, turns
from commands import Run, refused
from families import MLP_TEXT, family, model, save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from learned import table

import netfuse_onnx
from netfuse_onnx import combining
from netfuse_onnx.errors import NotCombinable, UsageFault
from netfuse_onnx.layouts import PER_MODEL
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.planner import candidates
from netfuse_onnx.prove.combined import may_win
from netfuse_onnx.rewrite.combine import with_combinations
from netfuse_onnx.rules import combine


def vote_of(each: Array) -> Array:
    """The most frequent of N labels, of several the smallest, counted one by one."""
    flat = each.reshape(len(each), -1)
    won = []
    for column in flat.T.tolist():
        votes = Counter(column)
        won.append(min(votes, key=lambda label: (-votes[label], label)))
    return np.array(won, each.dtype).reshape(each.shape[1:])


def wanted(how: str, values: Sequence[Array]) -> Array:
    each = np.stack(values)
    if how == "vote":
        return vote_of(each.argmax(axis=-1) if each.dtype.kind == "f" else each)
    if each.dtype.kind != "f":
        return each.sum(axis=0, dtype=each.dtype)
    wide = each.astype(np.float64)
    return (wide.mean(axis=0) if how == "mean" else wide.sum(axis=0)).astype(each.dtype)


def check(model: onnx.ModelProto, how: str, folder: Path, *, opset: bool = False, **more: object) -> set[str]:
    """Every combination of roles, every lowering, in turns of N and of I/O. Returns the layouts that were combined."""
    (out,) = model.graph.output
    names = [info.name for info in model.graph.input]
    taken: set[str] = set()
    combinations = some_roles(names)
    for turn, role in enumerate(combinations):
        for n, io in turns((3, 2, 5, 1), turn, len(combinations)):
            values = draw(model, n, **more)
            paths = oracle.as_models(model, values, role, folder)
            corr = dataclasses.replace(oracle.family(paths, keep_opset=opset), combined={out.name: how})
            corr = with_combinations(corr, oracle.shared(role))
            want = wanted(how, [single[out.name] for single in oracle.run_apart(paths, values, role)])
            for at, (plan, merged, what) in enumerate(oracle.every_merge(corr, role, io)):
                taken |= {str(take) for low in plan.lowerings[-1:] for take in low.takes}
                for level in oracle.LEVELS[at % 2 :][:1]:
                    got = oracle.run(merged, oracle.merged_feeds(values, role, io, corr.names), level)
                    assert list(got) == [out.name], what
                    assert got[out.name].dtype == want.dtype and got[out.name].shape == want.shape, what
                    oracle.close(got[out.name], want, f"{how} {what}")
    return taken


BODIES = {
    "product": ("float[2,3] x, float[3,3] w", "y = MatMul(x, w)"),
    "wide": ("float[2,3,4] x, float[4,5] w, float[5] b", "h = MatMul(x, w) y = Add(h, b)"),
    "images": ("float[3,2,4,5] x, float[3,2,1,1] w", "y = Conv(x, w)"),
    "axes": ("float[3,4] x, float[3,4] w", "h = Mul(x, w) y = Transpose<perm=[1,0]>(h)"),
    "vector": ("float[3] x, float[3] w", "y = Mul(x, w)"),
}


@pytest.mark.parametrize("how", ["mean", "sum", "vote"])
@pytest.mark.parametrize("body", BODIES)
def test_every_lowering(body: str, how: str, tmp_path: Path) -> None:
    taken = check(graph(*BODIES[body]), how, tmp_path)
    assert "STACKED(0)" in taken
    assert how == "vote" or "PER_MODEL" in taken


@pytest.mark.parametrize(("how", "kind"), [("mean", "float16"), ("sum", "float16"), ("mean", "double")])
def test_other_floats(how: str, kind: str, tmp_path: Path) -> None:
    check(graph(f"{kind}[2,3] x, {kind}[2,3] w", "y = Mul(x, w)"), how, tmp_path)


def test_halves_are_added_in_float32(tmp_path: Path) -> None:
    """A sum of halves that leaves their range on its way, and comes back: their mean is one."""
    paths = []
    for m in range(4):
        proto = model("g (float16[n, 2] x) => (float16[n, 2] y) { y = Mul(x, w) }")
        w = np.full(2, 40000 if m < 2 else -39936, np.float16)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
        paths.append(save(tmp_path / f"{m}.onnx", proto))
    for target in ("generic", "cpu"):
        report = merge(paths, tmp_path, "sum", share=["x"], target=target, verify=False)
        want = np.float16(2 * 40000 - 2 * 39936)
        np.testing.assert_array_equal(run(report, x=np.ones((1, 2), np.float16)), np.full((1, 2), want))
        ends = [node.op_type for node in onnx.load(report.out).graph.node]
        assert ends[-3:] in (["Cast", "ReduceSum", "Cast"], ["Cast", "Sum", "Cast"])


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_votes_of_other_floats(kind: str, tmp_path: Path) -> None:
    check(graph(f"{kind}[2,3] x, {kind}[2,3] w", "y = Mul(x, w)"), "vote", tmp_path)


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_sums_of_whole_numbers(kind: str, tmp_path: Path) -> None:
    check(graph(f"{kind}[2,3] x, {kind}[3] w", "y = Add(x, w)"), "sum", tmp_path, low=-9, high=9)


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "int8"])
def test_votes_of_labels(kind: str, tmp_path: Path) -> None:
    inputs, body = f"{kind}[2,3] x, bool[3] w, {kind}[2,3] z", "y = Where(w, x, z)"
    check(graph(inputs, body), "vote", tmp_path, low=0, high=2)


def test_votes_of_truths(tmp_path: Path) -> None:
    check(graph("bool[2,3] x, bool[3] w", "y = Xor(x, w)"), "vote", tmp_path)


@pytest.mark.parametrize("how", ["mean", "sum", "vote"])
def test_older_opsets(how: str, tmp_path: Path) -> None:
    """Axes are attributes of reductions before opset 18, of ReduceSum before 13."""
    for opset in (11, 13, 18):
        check(graph("float[2,3] x, float[3,3] w", "y = MatMul(x, w)", opset), how, tmp_path, opset=True)


def test_what_is_equal_in_all_models(tmp_path: Path) -> None:
    """No weight of a model reaches it: its mean and vote are itself, its sum is N times as much."""
    text = "g (float[n, 3] x) => (float[n, 3] y) { y = Abs(x) }"
    paths, x = family(tmp_path, text, count=3), np.array([[1, -2, 3]], np.float32)
    for how, want in (("mean", abs(x)), ("sum", 3 * abs(x)), ("vote", np.array([2]))):
        report = merge(paths, tmp_path, how, share=["x"])
        np.testing.assert_array_equal(run(report, x=x), want)


# --------------------------------------------------------------------------- votes, by chance


LABELS = st.sampled_from([-(2**63), -1, 0, 1, 2, 2**62, 2**63 - 2, 2**63 - 1])


def given_back(folder: Path, how: str, dtype: type = np.int64) -> bytes:
    """The combination of seven models that give what they are fed."""
    folder.mkdir(exist_ok=True)
    kind = "float" if dtype is np.float32 else np.dtype(dtype).name
    for m in range(7):
        proto = model(f"g ({kind}[n, 4] x) => ({kind}[n, 4] y) {{ y = Mul(x, one) }}")
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, dtype), "one"))
        save(folder / f"{m}.onnx", proto)
    paths = [str(folder / f"{m}.onnx") for m in range(7)]
    netfuse_onnx.merge(paths, str(folder / "m.onnx"), io="stacked", combine=how, verify=False)
    return (folder / "m.onnx").read_bytes()


@pytest.fixture(scope="module")
def voters(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, bytes]:
    return 7, given_back(tmp_path_factory.mktemp("voters"), "vote")


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_sums_of_whole_numbers_are_exact_and_wrap_around(dtype: type, tmp_path: Path) -> None:
    """Kernels of ReduceSum compute in floats: of 64 bits on the CPU, of 32 on CUDA."""
    merged, rng = given_back(tmp_path / "sum", "sum", dtype), np.random.default_rng(0)
    most = np.iinfo(dtype)
    each = rng.integers(most.min, most.max, (7, 5, 4), dtype, endpoint=True)
    (got,) = oracle.session(merged, oracle.LEVELS[0]).run(None, {"x": each})
    np.testing.assert_array_equal(got, each.sum(axis=0, dtype=dtype))
    assert not [node for node in onnx.load_from_string(merged).graph.node if "Reduce" in node.op_type]


def test_the_mean_of_the_least_floats_is_one(tmp_path: Path) -> None:
    """Scores are masked with the least float. A sum of them is not finite."""
    each = np.full((7, 2, 4), np.finfo(np.float32).min)
    merged = given_back(tmp_path / "mean", "mean", np.float32)
    (got,) = oracle.session(merged, oracle.LEVELS[0]).run(None, {"x": each})
    np.testing.assert_allclose(got, each[0], rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(arrays.arrays(np.int64, st.tuples(st.just(7), st.integers(0, 3), st.just(4)), elements=LABELS))
def test_any_labels(voters: tuple[int, bytes], each: Array) -> None:
    """The vote is exact for any int64, and the smallest of several labels with as many votes wins."""
    session = oracle.session(voters[1], oracle.LEVELS[0])
    (got,) = session.run(None, {"x": each})
    np.testing.assert_array_equal(got, vote_of(each))
    np.testing.assert_array_equal(combining.majority(each), vote_of(each))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.frozensets(st.integers(0, 3), min_size=1), min_size=1, max_size=5), st.integers(0, 3))
def test_labels_that_may_win(may: list[frozenset[int]], label: int) -> None:
    """Whatever can be the vote for some choice of each model's labels is allowed."""
    import itertools

    possible = {int(vote_of(np.array(choice))) for choice in itertools.product(*may)}
    assert may_win(label, may) or label not in possible


def test_no_other_label_may_win() -> None:
    assert not may_win(1, [frozenset({0}), frozenset({0}), frozenset({1, 2})])
    assert not may_win(1, [frozenset({0}), frozenset({1})])
    assert may_win(0, [frozenset({0}), frozenset({1})])
    assert may_win(1, [frozenset({0, 1}), frozenset({1})])


# --------------------------------------------------------------------------- merge, verify, inspect


def merge(paths: Sequence[str], folder: Path, how: object, **more: object) -> netfuse_onnx.MergeReport:
    return netfuse_onnx.merge(list(paths), str(folder / "merged.onnx"), combine=how, **more)


def run(report: netfuse_onnx.MergeReport, **feeds: Array) -> Array:
    (got,) = oracle.run(report.out, feeds, oracle.LEVELS[0]).values()
    return got


def test_an_ensemble(tmp_path: Path) -> None:
    paths = family(tmp_path, count=3)
    report = merge(paths, tmp_path, "mean", share=["x"])
    assert report.ok and report.combined == {"y": "mean"}
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    each = [oracle.run(path, {"x": x}, oracle.LEVELS[0])["y"] for path in paths]
    np.testing.assert_allclose(run(report, x=x), np.mean(each, axis=0), rtol=1e-5)
    assert {row.merged for row in report.names if row.what == "output"} == {"y"}
    (row,) = report.proof.values.outputs
    assert (row.output, row.model, row.combined) == ("y", "all models", "mean")
    assert report.proof.values.isolation is None and report.proof.values.spread is None
    again = netfuse_onnx.verify(report.out, paths)
    assert again.ok and again.graph.made
    assert netfuse_onnx.inspect(report.out).combined == {"y": "mean"}


TWO = """g (float[n, 8] x) => (float[n, 4] y, float[n, 16] z) {
    h = MatMul(x, w1)
    z = Add(h, b1)
    r = Relu(z)
    y = MatMul(r, w2)
}"""
TWO_WEIGHTS = {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_some_outputs_differently(io: str, tmp_path: Path) -> None:
    """Further nodes read z, which is combined; the others keep their models."""
    paths = family(tmp_path, TWO, TWO_WEIGHTS, count=3)
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    each = [oracle.run(path, {"x": x}, oracle.LEVELS[0]) for path in paths]
    report = merge(paths, tmp_path, {"z": "sum"}, share=["x"], io=io)
    got = oracle.run(report.out, {"x": x}, oracle.LEVELS[0])
    assert set(got) == ({"z", "y"} if io == "stacked" else {"z", "a/y", "b/y", "c/y"})
    np.testing.assert_allclose(got["z"], sum(one["z"] for one in each), rtol=1e-4, atol=1e-5)
    for m, one in enumerate(each):
        mine = got["y"][m] if io == "stacked" else got[f"{'abc'[m]}/y"]
        np.testing.assert_allclose(mine, one["y"], rtol=1e-4, atol=1e-5)
    report = merge(paths, tmp_path, {"": "mean", "y": "vote"}, share=["x"], io=io)
    got = oracle.run(report.out, {"x": x}, oracle.LEVELS[0])
    np.testing.assert_array_equal(got["y"], wanted("vote", [one["y"] for one in each]))
    assert report.combined == {"y": "vote", "z": "mean"} and got["z"].shape == (2, 16)


def test_names_of_other_models(tmp_path: Path) -> None:
    """The combined output has the first model's name, whatever the others call theirs."""
    first = family(tmp_path)[0]
    other = save(tmp_path / "b.onnx", model(MLP_TEXT.replace("y", "score"), TWO_WEIGHTS, seed=1))
    report = merge([first, other], tmp_path, {"score": "mean"}, share=["x"])
    assert report.ok and report.combined == {"y": "mean"}


def test_a_value_that_a_body_reads(tmp_path: Path) -> None:
    text = """g (float[n, 8] x, bool t) => (float[n, 16] y, float[n, 16] z) {
        y = MatMul(x, w1)
        z = If (t) <
            then_branch = g1 () => (float[n, 16] p) { p = Neg(y) },
            else_branch = g2 () => (float[n, 16] q) { q = Abs(y) }
        >
    }"""
    paths = family(tmp_path, text, {"w1": (8, 16)}, count=3)
    report = merge(paths, tmp_path, {"y": "mean"}, share=["x", "t"])
    assert report.ok and netfuse_onnx.verify(report.out, paths).ok


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_own_inputs(io: str, tmp_path: Path) -> None:
    """An ensemble over different views: each model reads its own input. Unequal sizes fail."""
    paths = family(tmp_path, count=3)
    report = merge(paths, tmp_path, "mean", io=io)
    x = np.random.default_rng(0).standard_normal((3, 2, 8)).astype(np.float32)
    feeds = {"x": x} if io == "stacked" else {f"{'abc'[m]}/x": x[m] for m in range(3)}
    each = [oracle.run(p, {"x": x[m]}, oracle.LEVELS[0])["y"] for m, p in enumerate(paths)]
    np.testing.assert_allclose(run(report, **feeds), np.mean(each, axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["generic", "cpu"])
def test_unequal_batches_fail(target: str, tmp_path: Path) -> None:
    """A row of one model is never added to all rows of another."""
    report = merge(family(tmp_path), tmp_path, "sum", target=target, verify=False)
    x = np.ones((3, 8), np.float32)
    with pytest.raises(Exception, match=r"(?i)shape|dimension|concat"):
        run(report, **{"a/x": x, "b/x": x[:1]})


def classifiers(folder: Path, count: int = 3) -> list[str]:
    """Linear classifiers as sklearn's converter writes them: labels, and probabilities."""
    rng, paths = np.random.default_rng(0), []
    for m in range(count):
        attrs = {
            "coefficients": rng.standard_normal(9).tolist(), "intercepts": rng.standard_normal(3).tolist(),
            "classlabels_ints": [10, 20, 30], "post_transform": "SOFTMAX",
        }  # fmt: skip
        proto = table("LinearClassifier", attrs, outputs=(onnx.TensorProto.INT64, onnx.TensorProto.FLOAT))
        paths.append(save(folder / f"{'abcd'[m]}.onnx", proto))
    return paths


def test_classifiers(tmp_path: Path) -> None:
    """Labels are voted on, probabilities averaged."""
    paths = classifiers(tmp_path)
    report = merge(paths, tmp_path, {"y": "vote", "z": "mean"}, share=["x"])
    x = np.random.default_rng(1).standard_normal((50, 3)).astype(np.float32)
    each = [oracle.run(path, {"x": x}, oracle.LEVELS[0]) for path in paths]
    got = oracle.run(report.out, {"x": x}, oracle.LEVELS[0])
    np.testing.assert_array_equal(got["y"], vote_of(np.stack([one["y"] for one in each])))
    np.testing.assert_allclose(got["z"], np.mean([one["z"] for one in each], axis=0), rtol=1e-4, atol=1e-6)
    assert set(got["y"]) <= {10, 20, 30}


def test_a_sequence_of_maps(tmp_path: Path) -> None:
    """ZipMap's output is no tensor, and the hint says what to do."""
    paths = []
    for path in classifiers(tmp_path):
        proto = onnx.load(path)
        node = onnx.helper.make_node(
            "ZipMap", ["z"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[10, 20, 30]
        )
        proto.graph.node.append(node)
        proto.graph.output[1].CopyFrom(
            onnx.helper.make_value_info("maps", onnx.helper.make_sequence_type_proto(
                onnx.helper.make_map_type_proto(onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(1, []))
            ))
        )  # fmt: skip
        paths.append(save(Path(path), proto))
    with pytest.raises(NotCombinable, match="'maps' has no mean: it is not a tensor"):
        merge(paths, tmp_path, {"maps": "mean"}, share=["x"])
    assert merge(paths, tmp_path, {"y": "vote"}, share=["x"]).ok


def test_only_equal_shapes_are_added_without_a_join(tmp_path: Path) -> None:
    """An operator that broadcasts takes the models' own tensors where these surely have one shape."""
    corr = dataclasses.replace(oracle.family(family(tmp_path)), combined={"y": "sum"})
    for share, alone in ((frozenset[str](), False), (frozenset({"x"}), True)):
        found = candidates(with_combinations(corr, share), io="separate", share=share, cost=Cost(2))
        assert (PER_MODEL in {offer.takes[0] for offer in found.options[-1]}) == alone


# --------------------------------------------------------------------------- the proof tells


def without_last(real: combine.Reduction) -> combine.Reduction:
    """A combination that forgets the last model."""

    def reduced(site, x, axis, emit):
        ends = emit.const([site.models - 1])
        return real(site, emit("Slice", x, emit.const([0]), ends, emit.const([axis])), axis, emit)

    return reduced


@pytest.mark.parametrize("how", ["mean", "sum", "vote"])
def test_a_model_that_is_left_out_is_seen(how: str, tmp_path: Path) -> None:
    paths = family(tmp_path, count=3)
    assert merge(paths, tmp_path, how, share=["x"]).ok
    with mock.patch.object(combine, f"_{how}", without_last(getattr(combine, f"_{how}"))):
        with pytest.raises(netfuse_onnx.ValuesDiffer, match=f"Output y, the {how} of all models, differs"):
            merge(paths, tmp_path, how, share=["x"])
        wrong = merge(paths, tmp_path, how, share=["x"], verify=False)
    proof = netfuse_onnx.verify(wrong.out, paths)
    assert not proof.graph.ok and not proof.values.ok


@pytest.mark.parametrize("how", ["mean", "sum", "vote"])
def test_models_that_are_alike_are_said(how: str, tmp_path: Path) -> None:
    """One of two equal models may be counted twice, and nobody would see it."""
    paths = family(tmp_path, count=3)
    save(tmp_path / "b.onnx", onnx.load(paths[0]))
    report = merge(paths, tmp_path, how, share=["x"])
    (row,) = report.proof.values.telling
    assert ("a", "b") in row.alike and row.combined == how
    assert f"Output y, the {how} of all models, would look the same" in report.proof.blind[0]
    with pytest.raises(netfuse_onnx.NotProven, match="would look the same"):
        merge(paths, tmp_path, how, share=["x"], strict=True)


def test_models_that_differ_are_told(tmp_path: Path) -> None:
    report = merge(family(tmp_path, count=3), tmp_path, "mean", share=["x"], strict=True)
    (row,) = report.proof.values.telling
    assert not row.alike and not row.left_out and row.ratio > 10.0 and not report.proof.blind


def test_near_scores_are_ties(tmp_path: Path) -> None:
    """Two classes whose scores are equal but for rounding: either may be the vote of a model."""
    text = "g (float[n, 8] x) => (float[n, 2] y) { h = MatMul(x, w) y = MatMul(h, pair) }"
    rng, paths = np.random.default_rng(0), []
    for m in range(3):
        proto = model(text)
        w = rng.standard_normal((8, 64)).astype(np.float32)
        pair = np.repeat(rng.standard_normal((64, 1)), 2, axis=1).astype(np.float32)
        pair[:, 1] = pair[:, 1] * np.float32(1 + 1e-7)
        proto.graph.initializer.extend([
            onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(pair, "pair"),
        ])  # fmt: skip
        paths.append(save(tmp_path / f"{'abc'[m]}.onnx", proto))
    report = merge(paths, tmp_path, "vote", share=["x"])
    with mock.patch.object(combine, "_vote", flipped):
        tied = merge(paths, tmp_path, "vote", share=["x"])
    assert report.ok and tied.ok
    rows = [row for one in (report, tied) for row in one.proof.values.outputs]
    assert len(rows) == 2 and sum(row.ties for row in rows) > 0  # rounding, too, can flip a vote


def flipped(site, x, axis, emit):
    """The vote of two classes, the other way round."""
    one = emit.const(1)
    return emit("Sub", one, VOTE(site, x, axis, emit))


VOTE = combine._vote


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("inputs", "body", "how", "words"),
    [
        ("string[3] x", "y = Concat<axis=0>(x, x)", "vote", "strings"),
        ("int64[3] x, int64[3] w", "y = Add(x, w)", "mean", "sum and vote take them"),
        ("uint8[3] x", "y = Concat<axis=0>(x, x)", "sum", "can't be added up"),
        ("bool[3] x, bool[3] w", "y = Xor(x, w)", "sum", "can't be added up"),
        ("uint64[3] x, uint64[3] w", "y = Add(x, w)", "vote", "no labels"),
        ("float[3,1] x, float[3,1] w", "y = Add(x, w)", "vote", "one score"),
        ("float x, float w", "y = Add(x, w)", "vote", "one score"),
        ("float[3] x", "y = RandomNormalLike(x)", "mean", "random"),
        ("float[3] x", "y = NonZero(x)", "vote", "shape may differ"),
        ("float[4] x, int64[2] s", "y = SplitToSequence(x, s)", "mean", "not a tensor"),
    ],
)
def test_what_has_no_combination(inputs: str, body: str, how: str, words: str, tmp_path: Path) -> None:
    proto = graph(inputs, body)
    paths = [save(tmp_path / f"{name}.onnx", proto) for name in "ab"]
    with pytest.raises(NotCombinable, match=words) as error:
        merge(paths, tmp_path, how, verify=False)
    assert "'y'" in error.value.message and not (tmp_path / "merged.onnx").exists()


def test_an_input_that_is_an_output(tmp_path: Path) -> None:
    text = "g (float[n] x) => (float[n] y, float[n] x) { y = Abs(x) }"
    with pytest.raises(NotCombinable, match="no operator computes it"):
        merge(family(tmp_path, text), tmp_path, {"x": "mean"}, verify=False)


def test_words_that_make_no_sense(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    refused(run("merge", *paths, "-o", out, "--combine", "median"), 2, "median")
    refused(run("merge", *paths, "-o", out, "--combine", "z=mean"), 2, "'z'", "outputs are: y")
    refused(run("merge", *paths, "-o", out, "--combine", "mean", "--combine", "vote"), 2, "twice")


def test_calls_that_run_only_some_models(tmp_path: Path) -> None:
    corr = dataclasses.replace(oracle.family(family(tmp_path)), combined={"y": "mean"})
    for io, asked in (
        ("selected", "--io stacked --select"),
        ("slots", "--io routed"),
        ("index", "--io routed"),
    ):
        with pytest.raises(UsageFault, match=re.escape(f"with {asked} a call runs only some")):
            candidates(corr, io=io, share=frozenset(), cost=Cost(2))


def test_the_command_line(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path, TWO, TWO_WEIGHTS, count=3), tmp_path / "m.onnx"
    code, _, err = run(
        "merge", *paths, "-o", out, "--share-input", "x", "--combine", "mean", "--combine", "y=vote"
    )
    assert code == 0, err
    assert "Combined of all models: y (vote), z (mean)" in err
    assert "A model left out of" in err
    code, text, _ = run("inspect", out, "--json")
    assert json.loads(text)["combined"] == {"y": "vote", "z": "mean"}
    assert run("verify", out, *paths)[0] == 0


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("how", ["mean", "vote"])
def test_other_ways_combine_in_numpy(how: str, tmp_path: Path) -> None:
    """Every way gives what the merged file gives; no call wants some of the models only."""
    paths = family(tmp_path, count=3)
    out = merge(paths, tmp_path, how, share=["x"], verify=False).out
    report = netfuse_onnx.bench(
        out, paths, seconds=0, rounds=1, provider="cpu"
    )  # on CUDA, some settings take time
    assert report.ok and all(row.ran for row in report.rows), report.rows
    assert report.combined == {"y": how} and not report.waiting
    assert "waiting" not in {row.question for row in report.verdict.rows}


@pytest.mark.usefixtures("one_setting")
def test_bench_sees_another_combination(tmp_path: Path) -> None:
    paths = family(tmp_path, count=3)
    with mock.patch.object(combine, "_mean", without_last(combine._mean)):
        out = merge(paths, tmp_path, "mean", share=["x"], verify=False).out
    report = netfuse_onnx.bench(out, paths, seconds=0, rounds=1)
    assert not report.ok and "not equal" in report.fault.message


def test_metadata_that_lie(tmp_path: Path) -> None:
    """A file whose metadata name another combination is not what merging gives."""
    paths = family(tmp_path, count=3)
    report = merge(paths, tmp_path, "mean", share=["x"])
    proto = onnx.load(report.out)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "netfuse_onnx"]
    entry.value = entry.value.replace('"combined":{"y":"mean"}', '"combined":{"y":"sum"}')
    save(Path(report.out), proto)
    proof = netfuse_onnx.verify(report.out, paths)
    assert not proof.graph.ok and not proof.values.ok
