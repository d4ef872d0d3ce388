"""The comparison on CUDA: each way loaded once, checked on two turns of inputs, with the same settings for all. It
runs on the CPU here, or over stub libraries that compute nothing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import Run
from families import family, merged
from pretended import CHOSEN, pretend
from stubs import python

import netfuse_onnx
from netfuse_onnx import opened, sources
from netfuse_onnx.compared import Question
from netfuse_onnx.measure import contenders, once
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contenders import Concurrent, InSequence, NotWaiting, OneGraph
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import Entry, MergedFile, entries
from netfuse_onnx.measure.once import ordered
from netfuse_onnx.measure.report import TIME_UP, BenchReport, Row
from netfuse_onnx.measure.rounds import Effort, Quartiles
from netfuse_onnx.measure.sessions import NHWC, Settings
from netfuse_onnx.measure.speedups import speedups
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.run import runtime
from netfuse_onnx.run.bound import Bound
from netfuse_onnx.run.runtime import RunFailed, Value

FAST = Effort(rounds=3, seconds=0.0, least=0.0, pause=0.0)
CONVOLUTION = "g (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) { c = Conv(x, w)  y = Relu(c) }"
FILTERS = {"w": (4, 3, 3, 3)}
RAGGED = """g (float[n, 64] x) => (int64[2, k] y, float[n, 64] z) {
    a = Mul(x, w)
    z = Relu(a)
    y = NonZero(z)
}"""
FEW = ("sequence", "sequence, waiting once", "concurrent", "merged")
"""The ways without workers, which would start a Python each."""


def workload(paths: Sequence[str], *, exact: bool = False) -> Workload:
    matched = opened.matched(sources.read(paths), [Path(path).stem for path in paths], False)
    options = Options(runtime.choose("cuda"))
    return Workload(matched, options, lambda *_: None, exact=exact)


def few(entry: Entry) -> bool:
    return entry.kind in FEW


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)


def compared(tmp_path: Path, *, text: str = "", count: int = 3, **options: object) -> BenchReport:
    paths = family(tmp_path, text, FILTERS, count) if text else family(tmp_path, count=count)
    files = []
    for io in ("stacked", "separate"):
        out = str(tmp_path / f"{io}.onnx")
        netfuse_onnx.merge(paths, out, verify=False, io=io)
        files.append(MergedFile(f"merged, {io}", out, io))
    return contest(workload(paths), files, effort=FAST, only=few, **options)  # type: ignore[arg-type]


def test_all_ways_have_the_same_settings(tmp_path: Path) -> None:
    rows = compared(tmp_path).rows
    found: dict[str, list[str]] = {}
    for row in rows:
        assert row.ran and row.device and row.error is not None and row.error <= 1.0, row
        found.setdefault(row.label, []).append(row.settings)
    labels = {"in sequence", NotWaiting.kind, "concurrent", "merged, stacked", "merged, separate"}
    assert found.keys() == labels
    assert all(sorted(settings) == ["1 thread", "1 thread, CUDA graph"] for settings in found.values())
    assert found["in sequence"][0] == "1 thread", "it tells the right outputs"
    assert found["merged, stacked"][0] == found["concurrent"][0] == "1 thread, CUDA graph"


def test_convolutions_have_layouts_to_choose_from(tmp_path: Path) -> None:
    paths = family(tmp_path, CONVOLUTION, FILTERS)
    some = entries(workload(paths), [MergedFile("merged", "m.onnx")], str(tmp_path))
    choices = {tuple(sorted(map(str, entry.choices))) for entry in some}
    assert choices == {
        ("1 thread", "1 thread, CUDA graph", "1 thread, CUDA graph, NHWC", "1 thread, NHWC"),
    }


def test_a_bias_is_never_fused_without_the_layout(tmp_path: Path) -> None:
    compared(tmp_path, text=CONVOLUTION)
    fused = [options for options in CHOSEN if "fuse_conv_bias" in options]
    assert fused and all(options["prefer_nhwc"] == "1" for options in fused)
    assert NHWC.keys() == {"prefer_nhwc", "fuse_conv_bias"}


def test_the_layout_without_a_graph_is_measured_where_graphs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(report: BenchReport) -> set[str]:
        return {row.settings for row in report.rows if row.label == "concurrent" and row.ran}

    assert "1 thread, NHWC" not in settings(compared(tmp_path, text=CONVOLUTION))
    make = contenders.Runner.__init__

    def refuses(
        self: object, path: str, feeds: object, wants: object, run: object, chosen: Settings, tf32: bool
    ) -> None:
        if chosen.graph:
            raise RunFailed("not all nodes are on CUDA")
        make(self, path, feeds, wants, run, chosen, tf32)  # type: ignore[arg-type]

    monkeypatch.setattr(contenders.Runner, "__init__", refuses)
    report = compared(tmp_path, text=CONVOLUTION)
    assert settings(report) == {"1 thread", "1 thread, NHWC"}
    assert report.ok
    assert "concurrent (1 thread, CUDA graph): not all nodes are on CUDA." in report.warnings


def test_each_way_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two settings of a sequence of three, a pool of three and two merged files; the first source chooses inputs."""
    loaded = list[str]()
    make = contenders.Runner.__init__

    def counted(self: object, path: str, *others: object) -> None:
        loaded.append(Path(path).stem)
        make(self, path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(contenders.Runner, "__init__", counted)
    compared(tmp_path)
    assert {name: loaded.count(name) for name in set(loaded)} == {
        "a": 4, "b": 4, "c": 4, "stacked": 2, "separate": 2
    }  # fmt: skip


def test_a_pool_captures_one_graph_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = [0], [0]
    call = Bound.call

    def slow(self: Bound, feeds: object) -> dict[str, Value]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return call(self, feeds)  # type: ignore[arg-type]

    work = workload(family(tmp_path, count=4))
    contender = Concurrent(work, Settings(graph=True))
    monkeypatch.setattr(Bound, "call", slow)
    try:
        contender.setup()
        assert most == [1]
        contender.run()
        assert most[0] > 1
    finally:
        contender.close()


@pytest.mark.parametrize("kind", [OneGraph, NotWaiting, Concurrent])
def test_values_of_a_former_turn_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[contenders.Contender]
) -> None:
    """The graphs of one way replay the inputs of their capture."""
    monkeypatch.setattr(kind, "feed", lambda self, turn: True)
    report = compared(tmp_path)
    assert not report.ok
    wrong = {row.kind for row in report.rows if row.problem.startswith("not equal: output y of")}
    assert kind.kind in wrong


def test_a_sequence_that_keeps_values_is_seen_by_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells what is right, so the others are not equal to it."""
    monkeypatch.setattr(InSequence, "feed", lambda self, turn: True)
    report = compared(tmp_path)
    assert not report.ok
    assert all(row.problem.startswith("not equal") for row in report.rows if row.merged)


def test_without_the_sequence_nothing_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: InSequence) -> None:
        raise RunFailed("no memory")

    monkeypatch.setattr(InSequence, "_first_run", fails)
    report = compared(tmp_path)
    assert not report.ok
    assert all("nothing to compare" in row.problem for row in report.rows if row.merged)


def test_a_second_sequence_has_no_say(tmp_path: Path) -> None:
    """The plain sessions of the first way tell the right values, with and without TF32."""
    work = workload(family(tmp_path), exact=True)
    choices = entries(work, [], str(tmp_path))[0].choices
    assert choices == (Settings(), Settings(graph=True), Settings(exact=True))
    assert not work.learned() and not work.learned(exact=True)
    CHOSEN.clear()
    contest(work, [], effort=FAST, only=few)
    assert work.learned() and work.learned(exact=True)
    assert [options["use_tf32"] for options in CHOSEN] == ["1"] * 2 * 2 + ["1"] * 2 * 2 + ["0"] * 2 * 2


def test_what_has_no_fixed_place_is_not_bound(tmp_path: Path) -> None:
    paths = family(tmp_path, RAGGED, {"w": (64,)})
    path = merged(tmp_path, paths)
    report = contest(workload(paths), [MergedFile("merged", path)], effort=FAST, only=few)
    plain = {row.label: row for row in report.rows if row.settings == "1 thread"}
    assert plain["in sequence"].ran and plain["merged"].ran and plain["merged"].device is None
    assert "fixed place" in plain[NotWaiting.kind].problem
    assert report.ok


def test_every_way_is_kept_as_soon_as_it_is_measured(tmp_path: Path) -> None:
    kept = list[BenchReport]()
    report = compared(tmp_path, keep=kept.append)
    assert [len(one.rows) for one in kept] == [2, 3, 4, 5, 7, 8, 9, 10]
    assert kept[-1].rows == report.rows
    assert kept[1].speedups and not report.cut


def test_calls_of_some_models_are_sampled_while_their_sessions_are_loaded(tmp_path: Path) -> None:
    report = compared(tmp_path)
    assert [(row.label, row.models) for row in report.waiting] == [
        ("merged, stacked", 1), ("merged, stacked", 2), ("merged, separate", 1), ("merged, separate", 2),
    ]  # fmt: skip
    ways = {"in sequence", NotWaiting.kind, "concurrent"}
    assert {row.best for row in report.waiting if row.models == 1} <= ways
    assert report.verdict and report.verdict.label == "merged, stacked"
    assert report.verdict.row(Question.ONE) is not None


def test_after_its_seconds_only_first_settings_are_measured(tmp_path: Path) -> None:
    report = compared(tmp_path, clock=Clock(0.0))
    assert report.cut and report.ok
    measured = {(row.label, row.settings) for row in report.rows if row.ran}
    firsts = {label: "1 thread" if "sequence" in label else "1 thread, CUDA graph" for label, _ in measured}
    assert dict(measured) == firsts and len(measured) == len(firsts)
    assert {label for label, _ in measured} == {row.label for row in report.rows}


def test_the_time_is_up(tmp_path: Path) -> None:
    report = compared(tmp_path, until=-math.inf)
    assert report.cut and report.ok
    assert {row.problem for row in report.rows} == {TIME_UP}
    assert any("The time was up" in warning for warning in report.warnings)


def test_ways_that_are_late_come_last(tmp_path: Path) -> None:
    work = workload(family(tmp_path))
    kinds = [entry.kind for entry, _ in ordered(entries(work, [MergedFile("m", "m.onnx")], str(tmp_path)))]
    assert kinds == ["sequence", "merged", "concurrent"] * 2 + ["side by side", "processes"] * 2


def test_a_merged_model_stands_with_its_fastest_settings() -> None:
    def row(label: str, seconds: float, device: float, merged: bool = False) -> Row:
        times = [Quartiles(s, s * 0.9, s * 1.1, 5) for s in (seconds, device)]
        return Row("", label, merged, seconds=times[0], device=times[1])

    rows = [row("one", 4.0, 3.0), row("two", 5.0, 2.0), row("m", 2.0, 1.0, True), row("m", 1.0, 4.0, True)]
    (found,) = speedups(rows, paired=False)
    assert (found.best, found.times.median, found.times.low) == ("one", 4.0, 4.0 * 0.9 / 1.1)
    assert found.device and (found.device_best, found.device.median) == ("two", 2.0)


def test_the_verb_measures_stacked_as_well(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = once.ordered
    monkeypatch.setattr(once, "ordered", lambda some: real([e for e in some if few(e)]))
    paths = family(tmp_path)
    path = merged(tmp_path, paths)
    words = ("bench", path, *paths, "--provider", "cuda", "--rounds", "3", "--seconds", "0")
    code, out, err = run(*words)
    assert code == 0, err
    assert "on GPU" in out and "merged, stacked" in out and "stay on the GPU" in out
    code, out, _ = run(*words, "--json")
    report = json.loads(out)
    assert {row["label"] for row in report["rows"] if row["merged"]} == {"merged", "merged, stacked"}
    assert not report["together"]


def test_the_verb_says_what_can_not_be_stacked(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = once.ordered
    monkeypatch.setattr(once, "ordered", lambda some: real([e for e in some if few(e)]))
    paths = family(tmp_path, RAGGED, {"w": (64,)})
    words = (
        "bench",
        merged(tmp_path, paths),
        *paths,
        "--provider",
        "cuda",
        "--rounds",
        "3",
        "--seconds",
        "0",
    )
    code, out, err = run(*words)
    assert code == 0, out + err
    assert "Not measured with stacked inputs and outputs" in out + err


def test_all_ways_run_over_the_stubs(tmp_path: Path) -> None:
    """All outputs are 0 there, or what was in memory. A graph that is refused has a reason, and none is."""
    paths = family(tmp_path, CONVOLUTION, FILTERS)
    words = ("--provider", "cuda", "--rounds", "3", "--seconds", "60", "--json")
    done = python(tmp_path, "-m", "netfuse_onnx", "bench", merged(tmp_path, paths), *paths, *words)
    report = json.loads(done.stdout)
    wrong = [row for row in report["rows"] if row["problem"] and not row["problem"].startswith("not equal")]
    assert wrong == [], wrong
    labels = {
        "in sequence",
        NotWaiting.kind,
        "concurrent",
        "side by side",
        "processes",
        "merged",
        "merged, stacked",
    }
    assert {row["label"] for row in report["rows"]} == labels
    assert all(
        "CUDA graph"
        in {s.strip() for r in report["rows"] if r["label"] == label for s in r["settings"].split(",")}
        for label in labels
    )
