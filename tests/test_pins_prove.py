"""Small mistakes in the proof of the values, each of which one of these tests sees (tests/mutants).

What is wrong is a merged file, tampered with; the answer is that of `verify` about its values. So the tests hold
whatever the proof looks like inside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import family, merged, model, save, tampered
from onnx import helper, numpy_helper

import netfuse_onnx
from netfuse_onnx.proofs import GraphProof, ValuesProof
from netfuse_onnx.report import VerifyReport

Change = Callable[[onnx.ModelProto], None]

SUM = "g (float[n, 4] x) => (float[n, 4] y) { h = Add(x, w) y = Tanh(h) }"
LINE = "g (float[n, 4] x) => (float[n, 4] y) { y = Mul(x, w) }"


def values(folder: Path, paths: list[str], change: Change | None = None, **options: object) -> ValuesProof:
    """The proof by values of the family merged, and tampered with."""
    out = merged(folder, paths, **options)
    if change is not None:
        tampered(out, change)
    proof: ValuesProof = netfuse_onnx.verify(out, paths).values
    return proof


def behind(op: str, number: float | np.ndarray, output: str = "") -> Change:
    """A change that puts one more operator with a constant in front of the outputs, or of one."""

    def change(proto: onnx.ModelProto) -> None:
        for info in proto.graph.output:
            if output in ("", info.name):
                kind = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
                inner, constant = f"{info.name}/before", f"{info.name}/number"
                for node in proto.graph.node:
                    node.output[:] = [inner if name == info.name else name for name in node.output]
                proto.graph.initializer.append(numpy_helper.from_array(np.asarray(number, kind), constant))
                proto.graph.node.append(helper.make_node(op, [inner, constant], [info.name]))

    return change


# --------------------------------------------------------------------------- whose inputs


def reading_each_other(proto: onnx.ModelProto) -> None:
    """Model b is fed what model a is fed."""
    for node in proto.graph.node:
        node.input[:] = ["a/x" if name == "b/x" else name for name in node.input]


def test_a_model_that_reads_another_s_input_is_seen(tmp_path: Path) -> None:
    paths = family(tmp_path, SUM, {"w": (4,)})
    assert values(tmp_path, paths).ok
    proof = values(tmp_path, paths, reading_each_other)
    assert [row.ok for row in proof.outputs] == [True, False]


def test_models_that_are_fed_the_same_by_the_caller(tmp_path: Path) -> None:
    """One model twice: only what they are fed tells a mix-up."""
    one = family(tmp_path, SUM, {"w": (4,)}, count=1)
    paths = [*one, save(tmp_path / "b.onnx", onnx.load(one[0]))]
    assert not values(tmp_path, paths, reading_each_other).ok


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_models_in_another_order_are_seen(tmp_path: Path, io: str) -> None:
    def backwards(proto: onnx.ModelProto) -> None:
        swapped = {"a/y": "c/y", "c/y": "a/y"} if io == "separate" else {"y": "y/before"}
        for node in proto.graph.node:
            node.output[:] = [swapped.get(name, name) for name in node.output]
        if io == "stacked":
            proto.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "order"))
            proto.graph.node.append(helper.make_node("Gather", ["y/before", "order"], ["y"]))

    proof = values(tmp_path, family(tmp_path, SUM, {"w": (4,)}, count=3), backwards, io=io)
    assert [row.ok for row in proof.outputs] == [False, True, False]


# --------------------------------------------------------------------------- how much is allowed

ALLOWED = {"float": 1e-4, "double": 1e-9, "float16": 1e-2}
"""Element type -> relative error that rounding may make."""


@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize(("times", "right"), [(0.3, True), (4.0, False)])
def test_an_error_of_four_tolerances_is_seen(tmp_path: Path, kind: str, times: float, right: bool) -> None:
    text = LINE.replace("float", kind)
    paths = []
    for seed, name in enumerate("ab"):
        proto = model(text)
        weight = np.random.default_rng(seed).uniform(1, 2, 4)
        dtype = helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
        proto.graph.initializer.append(numpy_helper.from_array(weight.astype(dtype), "w"))
        paths.append(save(tmp_path / f"{name}.onnx", proto))
    assert values(tmp_path, paths, behind("Mul", 1 + times * ALLOWED[kind])).ok is right


def test_small_numbers_are_compared_as_what_they_are(tmp_path: Path) -> None:
    """An output of 1e-5 at most, that is no probability: 1.5e-7 is not nothing."""
    text = LINE.replace("y = Mul(x, w)", "t = Mul(x, w) y = Mul(t, s)")
    paths = [_with(path, "s", 1e-5) for path in family(tmp_path, text, {"w": (4,)})]
    assert values(tmp_path, paths).ok
    assert not values(tmp_path, paths, behind("Add", 1.5e-7)).ok


@pytest.mark.parametrize(("shape", "dims"), [((4,), "4"), ((4, 1), "4, 5"), ((1, 4), "5, 4")])
def test_a_small_channel_beside_large_ones(tmp_path: Path, shape: tuple[int, ...], dims: str) -> None:
    """Scores of a hundredth beside boxes in pixels, in one output: one percent of a score is seen, whichever axis
    tells them apart."""
    scale = np.array([1000, 1000, 0.01, 0.01]).reshape(shape)
    text = f"g (float[n, {dims}] x) => (float[n, {dims}] y) {{ t = Mul(x, w) y = Mul(t, s) }}"
    paths = [_with(path, "s", scale) for path in family(tmp_path, text, {"w": shape})]
    assert values(tmp_path, paths).ok
    wrong = np.where(np.arange(4) == 2, 1.01, 1.0).reshape(shape)
    assert not values(tmp_path, paths, behind("Mul", wrong)).ok


def _with(path: str, name: str, value: float | np.ndarray) -> str:
    proto = onnx.load(path)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return save(Path(path), proto)


@pytest.mark.parametrize("output", ["a/y", "b/y"])
def test_every_output_of_every_model_is_compared(tmp_path: Path, output: str) -> None:
    paths = family(tmp_path, SUM, {"w": (4,)})
    proof = values(tmp_path, paths, behind("Mul", 1.01, output))
    assert [row.model for row in proof.outputs if not row.ok] == [output[0]]
    assert not proof.ok


@pytest.mark.parametrize("batch", [1, 2])
def test_every_case_is_compared(tmp_path: Path, batch: int) -> None:
    """A fault that shows for one size of the batch only."""

    def change(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            assert tensor.name != "limit"
        proto.graph.initializer.append(numpy_helper.from_array(np.array(batch), "limit"))
        parts = [
            helper.make_node("Shape", ["b/x"], ["sizes"], start=0, end=1),
            helper.make_node("Equal", ["sizes", "limit"], ["hit"]),
            helper.make_node("Cast", ["hit"], ["one"], to=1),
            helper.make_node("Add", ["b/inner", "one"], ["b/y"]),
        ]
        for node in proto.graph.node:
            node.output[:] = ["b/inner" if name == "b/y" else name for name in node.output]
        proto.graph.node.extend(parts)

    proof = values(tmp_path, family(tmp_path, SUM, {"w": (4,)}), change)
    assert [row.ok for row in proof.outputs] == [True, False]
    assert proof.outputs[1].case == f"n={batch}"


# --------------------------------------------------------------------------- indices


@pytest.mark.parametrize("op", ["ArgMax", "TopK"])
def test_a_tie_excuses_no_other_index(tmp_path: Path, op: str) -> None:
    """The first row is all ties, the second is not: its index is wrong."""
    call = {"ArgMax": "y = ArgMax<axis = 1>(z)", "TopK": "v, y = TopK<axis = 1, largest = 1>(z, k)"}[op]
    proto = model(f"g (float[2, 4] x) => (int64[2, 1] y) {{ z = Mul(x, m) {call} }}")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([[0], [1]], np.float32), "m"))
    if op == "TopK":
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "k"))
    paths = [save(tmp_path / f"{name}.onnx", proto) for name in "ab"]
    assert values(tmp_path, paths).ok

    def other(to: onnx.ModelProto, rows: float) -> None:
        behind("Add", np.array([[1], [rows]]))(to)
        for info in to.graph.output:
            (added,) = (node for node in to.graph.node if node.output[0] == info.name)
            added.output[0] = f"{info.name}/sum"
            to.graph.initializer.append(numpy_helper.from_array(np.array(4), f"{info.name}/four"))
            to.graph.node.append(helper.make_node("Mod", [added.output[0], f"{info.name}/four"], [info.name]))

    assert values(tmp_path, paths, lambda to: other(to, 0)).ok
    assert not values(tmp_path, paths, lambda to: other(to, 1)).ok


def test_integers_are_exact(tmp_path: Path) -> None:
    text = "g (int64[n, 4] x) => (int64[n, 4] y) { y = Mul(x, x) }"
    paths = family(tmp_path, text)
    assert values(tmp_path, paths).ok
    assert not values(tmp_path, paths, behind("Add", 1)).ok


# --------------------------------------------------------------------------- what an output descends from


def test_the_least_precise_type_on_the_way_counts(tmp_path: Path) -> None:
    text = """g (float[n, 4] x) => (float[n, 4] y, float[n, 4] z, double[n, 4] d) {
        h = Cast<to = 10>(x) i = Add(h, h) y = Cast<to = 1>(i) z = Add(x, x) e = Cast<to = 11>(x) d = Add(e, e) }"""
    proof = values(tmp_path, family(tmp_path, text))
    found = {row.output: row.precision for row in proof.outputs}
    assert found == {"y": "float16", "z": "float32", "d": "float32"}


def test_what_follows_from_chance_is_random(tmp_path: Path) -> None:
    text = """g (float[n, 4] x) => (float[n, 4] y, float[n, 4] z) {
        r = RandomNormalLike(x) s = Add(r, x) t = Exp(s) y = Neg(t) z = Neg(x) }"""
    proof = values(tmp_path, family(tmp_path, text))
    assert {row.output for row in proof.outputs if row.precision.startswith("random")} == {"y"}
    assert proof.ok


# --------------------------------------------------------------------------- noise

TURNS = " ".join(
    f"a{k} = Mul(x{k}, x{k}) b{k} = Mul(four, a{k}) c{k} = Mul(four, x{k}) x{k + 1} = Sub(c{k}, b{k})"
    for k in range(30)
)
"""x -> 4x(1 - x), time and again: each turn doubles what rounding has changed."""


def chaotic(folder: Path, turns: int) -> list[str]:
    """Two models that amplify their own rounding by 2 to the power of `turns`."""
    body = TURNS.split(f" a{turns} = ")[0]
    text = f"g (float[n] x) => (float[n] y) {{ s = Add(x, w) x0 = Sigmoid(s) {body} y = Neg(x{turns}) }}"
    return [_with(path, "four", 4.0) for path in family(folder, text, {"w": (1,)})]


def noisy(folder: Path, paths: list[str], change: Change) -> VerifyReport:
    report: VerifyReport = netfuse_onnx.verify(
        tampered(merged(folder, paths), change), paths, dims={"n": 512}
    )
    return report


def test_noise_excuses_a_few_times_itself_and_no_more(tmp_path: Path) -> None:
    paths = chaotic(tmp_path, 10)
    rows = noisy(tmp_path, paths, behind("Add", 0.5)).values.outputs
    assert all(row.differs and row.noise and 1e-5 < row.noise < 5e-3 for row in rows)
    least = min(row.noise or 0.0 for row in rows)
    assert noisy(tmp_path, paths, behind("Add", least)).values.ok
    report = noisy(tmp_path, paths, behind("Add", 12 * least))
    assert not report.values.ok
    assert report.exit_code == 1


def test_noise_as_large_as_the_output_proves_nothing(tmp_path: Path) -> None:
    paths = chaotic(tmp_path, 30)
    report = noisy(tmp_path, paths, behind("Add", 0.05))
    assert all(row.unproven and not row.ok for row in report.values.outputs)
    assert (report.ok, report.values.unproven, report.exit_code) == (
        False,
        True,
        1 if report.graph.problems else 5,
    )
    alone = dataclasses.replace(report, graph=GraphProof(1))
    assert alone.exit_code == netfuse_onnx.NotProven.exit_code == 5
    assert "says little" in alone.failure or "noise" in alone.failure or "rounding" in alone.failure


# --------------------------------------------------------------------------- what could not have been shown


DEAD = """g (float[n, 4] x) => (float[n, 4] y, float[n, 4] z) {
    y = Mul(x, w) a = Mul(y, y) b = Neg(a) z = Relu(b) }"""
LIKE = "g (float[n, 4] x) => (float[n, 4] y, float[n, 4] z) { y = Mul(x, w) a = Mul(w, tiny) b = Add(x, a) z = Neg(b) }"


@pytest.mark.parametrize(("text", "said"), [(DEAD, "0.0 everywhere"), (LIKE, "can't tell a and b apart")])
def test_an_output_that_says_nothing_is_named(tmp_path: Path, text: str, said: str) -> None:
    paths = [_with(path, "tiny", 1e-6) for path in family(tmp_path, text, {"w": (4,)})]
    out = merged(tmp_path, paths)
    report = netfuse_onnx.verify(out, paths)
    (blind,) = report.blind
    assert blind.startswith("Output z ") and said in blind
    assert blind in report.warnings
    assert (report.ok, report.exit_code) == (True, 0)
    strict = netfuse_onnx.verify(out, paths, strict=True)
    assert (strict.ok, strict.exit_code, strict.failure) == (False, 5, blind)


def test_a_threshold_far_away_is_reached(tmp_path: Path) -> None:
    """Usual inputs are around 1; what a Clip does at 20 shows with larger ones."""

    def without(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            if node.op_type == "Clip":
                node.op_type = "Identity"
                del node.input[1:]

    text = "g (float[n, 4] x) => (float[n, 4] y) { h = Add(x, w) y = Clip(h, low, high) }"
    paths = [_with(_with(path, "low", -20.0), "high", 20.0) for path in family(tmp_path, text, {"w": (4,)})]
    assert values(tmp_path, paths).ok
    assert not values(tmp_path, paths, without).ok


def test_what_takes_too_much_memory_is_not_run(tmp_path: Path) -> None:
    """A tensor of 400 MB for each of two models, on the way to a few numbers."""
    text = """g (float[10000] x) => (float y) {
        a = Unsqueeze(x, first) b = Unsqueeze(x, last) c = Mul(a, b) d = Mul(c, w) y = ReduceMax<keepdims = 0>(d) }"""
    paths = family(tmp_path, text, {"w": (1,)})
    for path in paths:
        proto = onnx.load(path)
        for name, axis in (("first", 0), ("last", 1)):
            proto.graph.initializer.append(numpy_helper.from_array(np.array([axis]), name))
        save(Path(path), proto)
    out = merged(tmp_path, paths)
    with pytest.raises(netfuse_onnx.NotProven, match="within the memory allowed"):
        netfuse_onnx.verify(out, paths, max_memory="250MB")


# --------------------------------------------------------------------------- isolation


def reaching(what: str) -> Change:
    """A change by which model a's input reaches model b's output, where it is odd: times 0 it is nothing."""

    def change(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            node.output[:] = ["b/before" if name == "b/y" else name for name in node.output]
        proto.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
        parts = [
            helper.make_node("ReduceMax", ["a/x"], ["largest"], keepdims=0),
            helper.make_node(what, ["largest", "nothing"], ["share"]),
            helper.make_node("Add", ["b/before", "share"], ["b/y"]),
        ]
        proto.graph.node.extend(parts)

    return change


@pytest.mark.parametrize("thorough", [False, True])
def test_odd_values_that_reach_another_model_are_seen(tmp_path: Path, thorough: bool) -> None:
    paths = family(tmp_path, SUM, {"w": (4,)})
    out = merged(tmp_path, paths)
    whole = netfuse_onnx.verify(out, paths, isolation=thorough).values
    assert whole.isolation is not None and whole.isolation.ok
    assert whole.isolation.refused > 0
    report = netfuse_onnx.verify(tampered(out, reaching("Mul")), paths, isolation=thorough)
    assert all(row.ok for row in report.values.outputs), "the usual values don't show it"
    assert report.values.isolation is not None
    assert "Output y of model b changes when model a is fed NaN" in report.values.isolation.problems[0]
    assert (report.values.ok, report.exit_code) == (False, 1)


def test_models_of_unequal_sizes_that_run_and_are_wrong_are_seen(tmp_path: Path) -> None:
    """Model b gives as many rows as model a is fed."""

    def change(proto: onnx.ModelProto) -> None:
        proto.graph.ClearField("node")
        for name in "ab":
            proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), f"{name}/zero"))
        nodes = [
            helper.make_node("Identity", ["a/x"], ["a/y"]),
            helper.make_node("Shape", ["a/x"], ["sizes"]),
            helper.make_node("Expand", ["one", "sizes"], ["ones"]),
            helper.make_node("ReduceMean", ["b/x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Mul", ["mean", "ones"], ["b/y"]),
        ]
        proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.float32), "one"))
        proto.graph.node.extend(nodes)

    text = "g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }"
    report = netfuse_onnx.verify(
        tampered(merged(tmp_path, family(tmp_path, text)), change), family(tmp_path, text)
    )
    assert report.values.isolation is not None
    assert any("is fed other sizes than the rest" in problem for problem in report.values.isolation.problems)


# --------------------------------------------------------------------------- the graph


def idle(proto: onnx.ModelProto) -> None:
    """One more node, whose result nobody reads."""
    proto.graph.node.append(helper.make_node("Exp", ["a/x"], ["nobody's"]))


def turned(proto: onnx.ModelProto) -> None:
    """The inputs in another order: they are fed by name, but a caller may count."""
    inputs = list(proto.graph.input)[::-1]
    proto.graph.ClearField("input")
    proto.graph.input.extend(inputs)


@pytest.mark.parametrize(
    ("change", "said"), [(idle, "No output depends on"), (turned, "The file's inputs are b/x, a/x")]
)
def test_a_graph_that_is_another_although_it_computes_the_same(
    tmp_path: Path, change: Change, said: str
) -> None:
    paths = family(tmp_path, SUM, {"w": (4,)})
    report = netfuse_onnx.verify(tampered(merged(tmp_path, paths), change), paths)
    assert report.values.ok and report.bytes.ok
    assert any(said in problem for problem in report.graph.problems)
    assert (report.ok, report.exit_code) == (False, 1)
