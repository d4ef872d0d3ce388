"""The verdict as the commands print it: what is predicted, what is counted, colours, and what is nearly not merged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import Run
from families import family, model, save
from onnx import TensorProto
from test_tables import single, trees

from cli.render_verdict import verdict as show
from cli.screen import Screen
from netfuse_onnx import expected, opened, sources, verdict
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.run import runtime
from netfuse_onnx.verdict import Compared, Outcome, judge

RANDOM = "g (float[n, 4] x) => (float[n, 4] y) { a = Mul(x, w)  b = Bernoulli(a)  c = Bernoulli(b)  y = Bernoulli(c) }"


def rows(out: str) -> dict[str, dict[str, object]]:
    return {row["question"]: row for row in json.loads(out)["verdict"]["rows"]}


# --------------------------------------------------------------------------- check


def test_check_predicts(tmp_path: Path, run: Run) -> None:
    code, _, err = run("check", *family(tmp_path, count=3))
    assert code == 0
    assert "Nodes: 4 in each model, 4 merged (4 batched)." in err
    assert "Verdict (merged with --target cpu against 3 sessions, predicted):" in err
    for words in ("Memory: ", "Files: ", "A call of all 3 models: ", "A call that wants one model: "):
        (line,) = (line for line in err.splitlines() if words in line)
        assert re.match(r"  (better|worse|equal|inconclusive) +", line), line
    assert "Note: Without --target, a call of all models is predicted at " in err
    assert "Note: Predicted for n=1." in err
    report = json.loads(run("check", *family(tmp_path, count=3), "--json")[1])
    assert report["became"] == {"batched": 4} and report["merged_nodes"] == 4
    found = {row["question"]: row["basis"] for row in report["verdict"]["rows"]}
    assert found == {
        "memory": "counted", "files": "predicted", "all": "predicted", "one": "predicted", "waiting": "predicted",
    }  # fmt: skip


def test_the_predicted_files_are_about_those_that_merge_writes(tmp_path: Path, run: Run) -> None:
    """Metadata come on top: in files as small as these they are most of it."""
    paths = family(tmp_path, "g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", {"w": (64, 64)})
    before = rows(run("check", *paths, "--json")[1])["files"]
    after = rows(run("merge", *paths, "-o", tmp_path / "m.onnx", "--no-verify", "--json")[1])["files"]
    assert after["merged"] == (tmp_path / "m.onnx").stat().st_size
    assert after["sessions"] == before["sessions"] == sum(Path(path).stat().st_size for path in paths)
    assert before["merged"] <= after["merged"] <= 1.2 * before["merged"]  # type: ignore[operator]
    assert (before["basis"], after["basis"]) == ("predicted", "counted")


def test_models_that_differ_have_no_verdict(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    save(tmp_path / "b.onnx", model("g (float[n, 8] x) => (float[n, 8] y) { y = Relu(x) }"))
    assert json.loads(run("check", *paths, "--json")[1])["verdict"] is None
    assert "Verdict" not in run("check", *paths)[2]


def test_check_predicts_for_the_provider_at_hand(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "provider", lambda: "cuda")
    err = run("check", *family(tmp_path))[2]
    assert "Verdict (merged with --target cuda against 2 sessions, predicted):" in err


def test_check_needs_no_runtime(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise UsageFault("There is no ONNX Runtime.", "")

    monkeypatch.setattr(runtime, "choose", missing)
    assert expected.provider() == "cpu"
    assert "merged with --target cpu" in run("check", *family(tmp_path))[2]


# --------------------------------------------------------------------------- merge


def test_merge_counts_and_predicts_what_its_target_knows(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    found = rows(run("merge", *paths, "-o", out, "--no-verify", "--json")[1])
    assert found.keys() == {"memory", "files"}
    found = rows(run("merge", *paths, "-o", out, "--no-verify", "--target", "cpu", "--json")[1])
    assert found.keys() == {"memory", "files", "all", "one", "waiting"}
    lowered = json.loads(run("inspect", out, "--json")[1])["lowered"]
    every = found["all"]
    assert every["merged"] == pytest.approx(sum(lowered["predicted"].values()) * 1e-6)
    assert every["sessions"] == pytest.approx(lowered["alternatives"]["once per model"] * 1e-6)


def test_only_hints_come_behind_the_verdict(tmp_path: Path, run: Run) -> None:
    err = run("merge", *family(tmp_path), "-o", tmp_path / "m.onnx")[2]
    first = next(i for i, line in enumerate(err.splitlines()) if line.startswith("Verdict"))
    assert all(line.startswith(("  ", "Hint: ")) for line in err.splitlines()[first + 1 :])


def test_what_is_refused_has_no_verdict(tmp_path: Path, run: Run) -> None:
    out = run(
        "merge", *family(tmp_path, RANDOM, {"w": (4,)}), "-o", tmp_path / "m.onnx", "--strict", "--json"
    )[1]
    assert json.loads(out)["verdict"] is None


def test_sources_that_are_gone_take_nothing_from_the_merge(tmp_path: Path) -> None:
    real, paths = expected.bytes_of_files, family(tmp_path)
    about = opened.matched(sources.read(paths), ["a", "b"], False)
    assert real(about) == sum(Path(path).stat().st_size for path in paths)
    Path(paths[1]).unlink()
    assert real(about) == 0


# --------------------------------------------------------------------------- nearly all is replicated


def test_it_warns_where_nearly_nothing_is_merged(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, RANDOM, {"w": (4,)}, count=3)
    said = "Nearly nothing is merged. 3 of the 4 nodes that differ between the models run once per model: "
    for words in (("check", *paths), ("merge", *paths, "-o", tmp_path / "m.onnx")):
        (line,) = (line for line in run(*words)[2].splitlines() if "Nearly nothing" in line)
        assert line.startswith(f"  worse         {said}the graph has ")
        assert run(*words, "--json")[1].count(said) == 1
    assert "Nearly nothing" not in run("check", *family(tmp_path))[2]


def test_trees_are_no_weights(tmp_path: Path, run: Run) -> None:
    """`0 bytes merged` would read like good news."""
    paths = [save(tmp_path / f"{i}.onnx", single(trees(i), (TensorProto.FLOAT, ("n", 1)))) for i in range(3)]
    err = run("check", *paths)[2]
    assert "Weights: none in tensors (trees and coefficients are attributes of operators)." in err
    assert "0 bytes" not in err
    assert "Memory" not in err and "  Files: " in err


def test_replicated_nodes_are_counted_by_reason(tmp_path: Path, run: Run) -> None:
    """Operators that share a reason share a line."""
    text = "g (float[n, 4] x) => (float[n, 4] y) { a = Mul(x, w)  b = Add(a, x)  y = Sub(b, w) }"
    paths = family(tmp_path, text, {"w": (4,)})
    err = run("merge", *paths, "-o", tmp_path / "m.onnx", "--no-verify", "--target", "cpu")[2]
    lines = [line for line in err.splitlines() if line.startswith("Replicated: ")]
    assert lines == [
        "Replicated: 3 nodes (1 x Mul, 1 x Add, 1 x Sub): by the costs measured for the target, once per model "
        "is cheaper"
    ]
    assert "Rejected plans: batched wherever possible " in err and "Instead" not in err


# --------------------------------------------------------------------------- printing

SOME = judge(
    2,
    memory=Compared(1000, 3000),
    load=Compared(3.0, 1.0),
    some={2: Compared(1.0, 1.2, 0.9, 1.4, "a pool")},
    warning="Nearly nothing is merged.",
)


def test_words_in_a_pipe_and_colours_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show(SOME, Screen(data=True))
    plain = capsys.readouterr().out
    assert "\x1b" not in plain
    assert [line.split()[0] for line in plain.splitlines()[1:]] == [
        "better", "worse", "inconclusive", "inconclusive", "worse",
    ]  # fmt: skip
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show(SOME, Screen(data=True))
    coloured = capsys.readouterr().out
    for code, word in (("32", "better"), ("31", "worse"), ("33", "inconclusive")):
        assert f"\x1b[{code}m{word}" in coloured


def test_nothing_is_printed_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show(None, Screen(data=True))
    show(judge(2), Screen(data=True))
    assert capsys.readouterr().out == ""
    show(judge(1, files=Compared(1, 2)), Screen(data=True))
    assert "against one session" in capsys.readouterr().out


def test_every_outcome_has_a_colour() -> None:
    from cli.render_verdict import COLOURS

    assert COLOURS.keys() == set(Outcome) and verdict.Outcome is Outcome
