"""Hints at the end of a merge and a check: each is there where its fact holds, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Run, refused
from families import MLP, MLP_TEXT, save
from families import model as build
from low_rank import tuned
from pretended import pretend

import netfuse_onnx
from netfuse_onnx import api, hints, opened
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.plan import planner, targets
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.outlook import outlook
from netfuse_onnx.report import MergeReport
from netfuse_onnx.run import runtime
from netfuse_onnx.types import Became

RECURRENT = """g (float[B, 8] x, float[B, 4] {past}) => (float[B, 8] y, float[B, 4] {present}) {{
    both = Concat <axis = 1> (x, {past})
    y = MatMul (both, w)
    {present} = Tanh ({past})
}}"""
WIDE = """g (float[B, 64, 64] x) => (float[B, 64, 64] y) { p = Mul (x, w) y = Relu (p) }"""
WORK = "g (float[B, 64] x) => (float[B, 64] y) { p = MatMul (x, w) q = MatMul (p, v) y = MatMul (q, u) }"


def merged(folder: Path, text: str, weights: dict[str, tuple[int, ...]], **options: object) -> MergeReport:
    paths = [
        save(folder / f"{name}.onnx", build(text, weights, seed=k, opset=17)) for k, name in enumerate("ab")
    ]
    return netfuse_onnx.merge(paths, str(folder / "m.onnx"), **options)  # type: ignore[arg-type]


def about(report: MergeReport, word: str) -> list[str]:
    return [hint for hint in report.hints if word in hint]


def recurrent(folder: Path, past: str, present: str, **options: object) -> MergeReport:
    text = RECURRENT.format(past=past, present=present)
    return merged(folder, text, {"w": (12, 8)}, **options)


@pytest.mark.parametrize(
    ("past", "present"),
    [
        ("h", "hn"),
        ("h0", "h_out"),
        ("past_key_values_0_key", "present_0_key"),
        ("state", "stateN"),
        ("cache_in", "cache"),
    ],
)
def test_state_that_is_fed_back(tmp_path: Path, past: str, present: str) -> None:
    (hint,) = about(recurrent(tmp_path, past, present), "State is fed back")
    assert f"{past} (given as {present})" in hint
    assert not about(recurrent(tmp_path, "h", "hn", io="stacked"), "stacked")


@pytest.mark.parametrize(
    ("past", "present"), [("x2", "y2"), ("hidden_layer", "y2"), ("h", "last_hidden_state")]
)
def test_names_that_are_no_state(tmp_path: Path, past: str, present: str) -> None:
    assert not about(recurrent(tmp_path, past, present), "State")


def test_state_has_one_shape(tmp_path: Path) -> None:
    text = RECURRENT.format(past="h", present="hn").replace("float[B, 4] hn", "float[B] hn")
    text = text.replace("hn = Tanh (h)", "t = Tanh (h) hn = ReduceSum <keepdims = 0> (t, one)")
    text = text.replace("    both =", "    one = Constant <value = int64[1] {1}> ()\n    both =")
    assert not about(merged(tmp_path, text, {"w": (12, 8)}), "State")


def test_a_check_names_state_too(tmp_path: Path, run: Run) -> None:
    recurrent(tmp_path, "h", "hn")
    code, said, _ = run("check", tmp_path / "a.onnx", tmp_path / "b.onnx", "--json")
    assert (code, ["State" in hint for hint in json.loads(said)["hints"]]) == (0, [True])
    _, _, err = run("check", tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert "Hint: State is fed back: h (given as hn)." in err


def test_bytes_at_the_edge_beside_the_weights(tmp_path: Path) -> None:
    (hint,) = about(merged(tmp_path, WIDE, {"w": (64, 64)}), "--io stacked")
    assert "copies much" in hint
    assert not about(merged(tmp_path, WIDE, {"w": (64, 64)}, verify=False), "copies much"), "not known"
    assert not about(merged(tmp_path, WIDE, {"w": (64, 64)}, io="stacked"), "--io stacked")


def test_nodes_at_the_edge_of_small_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[B, 8] x) => (float[B, 8] y) { y = MatMul (x, w) }"
    report = merged(tmp_path, text, {"w": (8, 8)})
    (hint,) = about(report, "--io stacked")
    boundary = report.lowered.boundary_nodes
    assert hint.startswith(f"{boundary} of the {report.lowered.merged_nodes + boundary} nodes join inputs")
    assert not about(merged(tmp_path, MLP_TEXT, dict(MLP), share=["x"]), "--io stacked"), "most nodes work"
    monkeypatch.setattr(hints, "SMALL", 100)
    assert not about(merged(tmp_path, text, {"w": (8, 8)}), "--io stacked"), "larger models"


def test_no_hint_where_stacking_is_impossible(tmp_path: Path) -> None:
    """The number of rows that are not zero differs between the models."""
    text = "g (float[4] h) => (int64[1, K] y, float[4] hn) { p = Mul (h, w) y = NonZero (p) hn = Relu (p) }"
    assert not about(merged(tmp_path, text, {"w": (4,)}), "stacked")


# ------------------------------------------------------------------------------------ the target


def test_a_merge_without_a_target_says_what_one_is_expected_to_change(tmp_path: Path, run: Run) -> None:
    large = merged(tmp_path, WORK.replace("64", "512"), dict.fromkeys("wvu", (512, 512)), dims={"B": 64})
    assert "2 of the 3" in large.hints[0] or "3 of the 3" in large.hints[0] or "little" in large.hints[0]
    assert "(B=64)" in large.hints[0]
    assert large.hints[0].endswith("--tune measures it where it runs.")
    text = "g (float[B, 8] x) => (float[B, 8] y) { p = Relu (x) y = Mul (p, w) }"
    assert "change little" in merged(tmp_path, text, {"w": (8,)}).hints[0]
    unproven = merged(tmp_path, text, {"w": (8,)}, verify=False)
    assert unproven.hints[0].startswith("Planned without a target: all that can be batched is.")
    _, _, err = run("merge", tmp_path / "a.onnx", tmp_path / "b.onnx", "-o", tmp_path / "m.onnx")
    assert "\nHint: Planned without a target. " in err
    assert not merged(tmp_path, text, {"w": (8,)}, target="cpu", io="stacked").hints
    assert "(B=2)" in merged(tmp_path, text, {"w": (8,)}, dims={"B": (2, 4)}).hints[0]


def test_a_plan_that_was_measured_needs_no_hint_on_the_target(tmp_path: Path) -> None:
    text = "g (float[B, 8] x) => (float[B, 8] y) { p = Relu (x) y = Mul (p, w) }"
    plain = merged(tmp_path, text, {"w": (8,)}, io="stacked", verify=False)
    assert about(plain, "--tune")
    asked = hints.Asked("generic", "cpu", {})
    models = api.sources.read([str(tmp_path / f"{name}.onnx") for name in "ab"])
    family = opened.matched(models, ("a", "b"), False)
    made = api.remake.merge(family, io="stacked")
    assert hints.of_merge(plain, family, made, asked)
    assert not hints.of_merge(replace(plain, tuning=object()), family, made, asked)  # type: ignore[arg-type]


def test_the_outlook_prices_every_node_of_the_plan_both_ways(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{k}.onnx", build(MLP_TEXT, MLP, seed=k)) for k in range(3)]
    models = api.sources.read(paths)
    family = opened.matched(models, ("a", "b", "c"), False)
    plan = planner.plan(family, cost=cost("generic", family, {}))
    costs = cost("cpu", family, {})
    found = outlook(family, plan, costs)
    nodes = [one for one in plan.lowerings if one.became in (Became.BATCHED, Became.GROUPED)]
    assert (found.nodes, found.apart <= found.nodes) == (len(nodes), True)
    assert 0 < found.best <= found.batched
    assert found.batched == pytest.approx(
        planner.plan(family, cost=costs).prediction.alternatives["batched wherever possible"], rel=0.5
    )


# ------------------------------------------------------------------------------------ --target auto


@pytest.mark.parametrize("taken", ["cpu", "cuda"])
def test_auto_is_the_provider_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str) -> None:
    """The file is the one that the target's own name gives: metadata do not tell which was written."""
    pretend(monkeypatch)
    usable = runtime.choose
    monkeypatch.setattr(runtime, "choose", lambda name, libraries=(): usable(taken, libraries))
    report = merged(tmp_path, MLP_TEXT, dict(MLP), target="auto")
    assert report.target == taken
    assert about(report, f"--target auto took {taken}, the provider at hand.")
    auto = (tmp_path / "m.onnx").read_bytes()
    assert merged(tmp_path, MLP_TEXT, dict(MLP), target=taken).target == taken
    assert (tmp_path / "m.onnx").read_bytes() == auto
    assert netfuse_onnx.inspect(str(tmp_path / "m.onnx")).target == taken
    assert netfuse_onnx.verify(str(tmp_path / "m.onnx"), [str(tmp_path / f"{name}.onnx") for name in "ab"]).ok


def test_auto_follows_the_provider_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert targets.at_hand("auto", "cpu") == "cpu"
    assert targets.at_hand("generic") == "generic"
    pretend(monkeypatch)
    assert targets.at_hand("auto", "cuda") == "cuda"
    assert targets.at_hand("x.json", "cuda") == "x.json"


def test_auto_needs_onnx_runtime(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    merged(tmp_path, MLP_TEXT, dict(MLP), verify=False)

    def missing() -> object:
        raise UsageFault(*runtime.MISSING)

    monkeypatch.setattr(runtime, "onnxruntime", missing)
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx", "-o", tmp_path / "m.onnx", "--no-verify"]
    refused(run("merge", *files, "--target", "auto"), 2, "--target auto needs ONNX Runtime", "--target cpu")


@pytest.mark.parametrize(("rank", "said"), [(2, 1), (8, 1), (80, 0)])
@pytest.mark.parametrize("op", ["MatMul", "Conv"])
def test_differences_of_low_rank(tmp_path: Path, rank: int, said: int, op: str) -> None:
    conv = op == "Conv"
    text = (
        "g (float[n, 80, 3] x) => (float[n, 96, 3] y) { y = Conv(x, w) }"
        if conv
        else "g (float[n, 80] x) => (float[n, 96] y) { y = MatMul(x, w) }"
    )
    shape = {"w": (96, 80, 1) if conv else (80, 96)}
    paths, base = tuned(tmp_path, [{"w": rank}, {"w": rank}, {}], text, shape, size=1e-3)
    out = str(tmp_path / "m.onnx")
    assert len(about(api.merge(paths, out), "--low-rank")) == said
    assert not about(api.merge(paths, out, low_rank=0.0, base=base), "--low-rank")


def test_weights_trained_apart_are_not_of_low_rank(tmp_path: Path) -> None:
    assert not about(merged(tmp_path, WORK, {"w": (64, 64), "v": (64, 64), "u": (64, 64)}), "--low-rank")


def test_an_argument_that_no_verb_has_is_refused(tmp_path: Path) -> None:
    paths, _ = tuned(tmp_path, [{"w1": 1}, {"w1": 2}])
    out = str(tmp_path / "m.onnx")
    with pytest.raises(TypeError, match="share_input"):
        api.merge(paths, out, share_input=True)  # type: ignore[call-arg]
    api.merge(paths, out)
    with pytest.raises(TypeError, match="tol"):
        api.verify(out, paths, tol=1.0)  # type: ignore[call-arg]
