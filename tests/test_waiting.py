"""Calls that want some of the models, and the time that a comparison keeps to. No test looks at how long anything
takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from families import family, merged

from netfuse_onnx import opened, sources
from netfuse_onnx.measure import choice, turns, waiting
from netfuse_onnx.measure.choice import Way, choose, narrowed
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contenders import Concurrent, InSequence
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import MergedFile, entries
from netfuse_onnx.measure.report import BenchReport, Row, Speedup, Waiting
from netfuse_onnx.measure.rounds import FEWEST, Effort, Quartiles
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.speedups import speedups
from netfuse_onnx.measure.waiting import numbers, sample_some
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.run.runtime import RunFailed
from netfuse_onnx.run.runtime import choose as choose_runtime
from netfuse_onnx.verdict import of_bench

FAST = Effort(rounds=3, seconds=0.0, least=0.0, pause=0.0)
KINDS = {"sequence", "concurrent", "processes", "side by side", "merged"}


def workload(paths: Sequence[str], **dims: int) -> Workload:
    matched = opened.matched(sources.read(paths), [Path(path).stem for path in paths], False)
    return Workload(matched, Options(choose_runtime("cpu"), dims=dims), lambda *_: None)


def way(
    kind: str, seconds: float, some: dict[int, list[float]] | None = None, *, is_merged: bool = False
) -> Way:
    entry = entries(WORK, [], "")[0]
    samples = (seconds,) * 3
    row = Row(kind, kind, is_merged, seconds=Quartiles.of(samples), samples=samples)
    return Way(entry, row, InSequence(WORK, Settings()), some=some or {})


class _Work:
    """A workload of eight models for ways that are never loaded."""

    models, sizes, cores, paths = 8, (1,) * 8, 1, ("",) * 8
    combined: Mapping[str, str] = {}
    runtime = choose_runtime("cpu")


WORK: Workload = _Work()  # type: ignore[assignment]


# --------------------------------------------------------------------------- calls of some models


@pytest.mark.parametrize("kind", [InSequence, Concurrent])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_only_so_many_models_run(tmp_path: Path, kind: type[InSequence], count: int) -> None:
    work = workload(family(tmp_path, count=3), n=2)
    contender = kind(work, Settings())
    contender.setup()
    want = [values[0] for values in contender.run()]
    calls = list[int]()
    for model, runner in enumerate(contender._runners):
        run = runner.run
        runner.run = lambda run=run, model=model: [calls.append(model), run()][1]  # type: ignore[method-assign,misc]
    got = [values[0] for values in contender.run_some(count)]
    contender.close()
    assert sorted(calls) == list(range(count)) and len(got) == count
    assert all(np.array_equal(one, other) for one, other in zip(got, want, strict=False))


@pytest.mark.parametrize(
    ("models", "found"), [(1, []), (2, [1]), (8, [1, 2, 4]), (9, [1, 2, 4, 8]), (32, [1, 2, 4, 8, 16])]
)
def test_numbers_of_models(models: int, found: list[int]) -> None:
    assert numbers(models) == found


def test_a_way_without_sessions_runs_all_or_nothing(tmp_path: Path) -> None:
    """Only a way with a session for each model is sampled; a failure leaves what was measured before."""
    work = workload(family(tmp_path, count=3))
    sequence, _, _, beside = entries(work, [], str(tmp_path))
    one = Way(beside, Row("", ""), beside.make(Settings()))
    sample_some(one, FAST)
    assert one.some == {}
    contender = InSequence(work, Settings())
    contender.setup()
    loaded = Way(sequence, Row("", ""), contender)
    sample_some(loaded, FAST, until=math.inf)
    assert {k: len(samples) for k, samples in loaded.some.items()} == {1: 5, 2: 5}
    loaded.some = {}
    sample_some(loaded, FAST, until=-math.inf)
    assert {k: len(samples) for k, samples in loaded.some.items()} == {1: 1}

    def fails(count: int) -> None:
        raise RunFailed(str(count))

    loaded.some = {}
    contender.run_some = fails  # type: ignore[assignment,method-assign]
    sample_some(loaded, FAST)
    assert not any(loaded.some.values())


def test_the_best_way_stands_for_a_number_of_models() -> None:
    ways = [
        way("sequence", 8.0, {1: [1.0, 1.0, 1.0], 4: [4.0]}),
        way("concurrent", 6.0, {1: [1.5], 4: [3.0]}),
        way("beside", 5.0),
        way("m", 2.0, is_merged=True),
    ]
    found = waiting.compared(ways, tuple(speedups([w.row for w in ways])), paired=True)
    assert [(row.models, row.best, row.seconds.median, row.times.median) for row in found] == [
        (1, "sequence", 1.0, 0.5),
        (4, "concurrent", 3.0, 1.5),
    ]
    assert {row.label for row in found} == {"m"}


def test_what_runs_all_serves_some_as_well() -> None:
    ways = [way("sequence", 8.0, {4: [4.0]}), way("beside", 3.0), way("m", 2.0, is_merged=True)]
    (found,) = waiting.compared(ways, tuple(speedups([w.row for w in ways])), paired=True)
    assert (found.best, found.seconds.median, found.times.median) == ("beside", 3.0, 1.5)


@pytest.mark.parametrize(
    ("merged_seconds", "first", "pays"),
    [(0.5, 1, 1), (2.5, 2, 3), (3.5, 3, 4), (7.4, 7, 8), (9.0, None, None)],
)
def test_the_smallest_number_that_pays_is_found(
    monkeypatch: pytest.MonkeyPatch, merged_seconds: float, first: int | None, pays: int | None
) -> None:
    """Sessions take a second per model. The search begins where that would be even."""
    measured = list[int]()
    own = way("m", merged_seconds, is_merged=True)
    ways = [way("sequence", 8.0, {1: [1.0] * 3}), own]

    def measure(k: int, *_: object) -> Waiting:
        measured.append(k)
        one = Quartiles.of([float(k)] * 3)
        ratio = Quartiles(k / merged_seconds, k / merged_seconds, k / merged_seconds, 3)
        return Waiting("m", k, "sequence", one, own.row.seconds or one, ratio)

    monkeypatch.setattr(waiting, "_measured", measure)
    (speedup,) = speedups([w.row for w in ways])
    known = {row.models: row for row in waiting.compared(ways, (speedup,), paired=True)}
    found = [*waiting.search(ways, speedup, known, FAST, Clock())]
    verdict = of_bench(_report(ways, speedup, [*known.values(), *found]))
    assert verdict is not None
    assert verdict.pays_from == pays
    assert "measured)" not in verdict.rows[-1].sentence
    assert len(measured) <= 3
    if first and pays and pays > 1:
        assert measured[0] == round(merged_seconds)


def _report(ways: Sequence[Way], speedup: Speedup, some: Sequence[Waiting]) -> BenchReport:
    names = tuple("abcdefgh")
    return BenchReport(names, "", "cpu", tuple(w.row for w in ways), (speedup,), waiting=tuple(some))


def test_the_search_ends_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_measured", lambda *_: pytest.fail("the time was up"))
    ways = [way("sequence", 8.0), way("m", 4.0, is_merged=True)]
    (speedup,) = speedups([w.row for w in ways])
    clock = Clock(0.0)
    assert [*waiting.search(ways, speedup, {}, FAST, clock)] == []
    assert [*clock.left_out] == ["some numbers of waiting models"]


# --------------------------------------------------------------------------- the whole


def test_a_comparison_has_calls_of_one_model(tmp_path: Path) -> None:
    paths = family(tmp_path, count=3)
    found = contest(workload(paths), [MergedFile("merged", merged(tmp_path, paths))], effort=FAST)
    assert found.ok and not found.cut
    one = found.waiting[0]
    (own,) = (row for row in found.rows if row.merged)
    assert (one.label, one.models, one.merged) == ("merged", 1, own.seconds)
    assert one.times.median == pytest.approx(one.seconds.median / one.merged.median)
    assert found.verdict is not None
    questions = [str(row.question) for row in found.verdict.rows]
    assert questions[-3:] == ["all", "one", "waiting"]


def test_one_model_alone_has_none(tmp_path: Path) -> None:
    paths = family(tmp_path, count=1)
    found = contest(workload(paths), [MergedFile("merged", merged(tmp_path, paths))], effort=FAST)
    assert found.ok and found.waiting == ()


def test_what_is_loaded_for_its_turn_is_sampled_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_fit", lambda work, ways: False)
    paths = family(tmp_path, count=3)
    found = contest(workload(paths), [MergedFile("merged", merged(tmp_path, paths))], effort=FAST)
    assert [row.models for row in found.waiting] == [1, 2] and not found.together


# --------------------------------------------------------------------------- the time


def test_the_first_call_of_each_way_is_the_least(tmp_path: Path) -> None:
    paths = family(tmp_path)
    work = workload(paths)
    work.cores = 2
    file = MergedFile("merged", merged(tmp_path, paths))
    found = contest(work, [file], effort=replace(FAST, rounds=25), clock=Clock(0.0))
    assert found.ok and found.cut
    assert {row.kind: len(row.samples) for row in found.rows} == dict.fromkeys(KINDS, 1)
    assert all(not row.tried and row.error is not None for row in found.rows)
    (said,) = (warning for warning in found.warnings if warning.startswith("Cut short"))
    assert said.startswith("Cut short by --seconds 0; left out: settings (in sequence, side by side, merged)")
    assert "rounds" in said


def test_the_verb_keeps_to_its_seconds(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    code, out, err = run("bench", merged(tmp_path, paths), *paths, "--seconds", "0", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["cut"] and all(len(row["samples"]) == 1 for row in report["rows"])


def test_time_that_is_enough_cuts_nothing(tmp_path: Path) -> None:
    paths = family(tmp_path)
    file = MergedFile("merged", merged(tmp_path, paths))
    found = contest(workload(paths), [file], effort=replace(FAST, seconds=600.0), clock=Clock(600.0))
    assert not found.cut
    assert all(len(row.samples) == FEWEST for row in found.rows)


@pytest.mark.parametrize("may_pay", [True, False])
def test_time_that_no_search_needs_goes_to_the_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_pay: bool
) -> None:
    monkeypatch.setattr(turns, "_may_pay", lambda ways: may_pay)
    paths = family(tmp_path)
    file = MergedFile("merged", merged(tmp_path, paths))
    found = contest(workload(paths), [file], effort=replace(FAST, rounds=5), clock=Clock(600.0))
    assert found.ok
    assert {len(row.samples) for row in found.rows} == {1 if may_pay else 5}
    if not may_pay:
        assert found.waiting[0].times.samples == 5


def test_loaded_for_its_turn_and_out_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_fit", lambda work, ways: False)
    paths = family(tmp_path)
    file = MergedFile("merged", merged(tmp_path, paths))
    found = contest(workload(paths), [file], effort=FAST, clock=Clock(0.0))
    assert found.ok and found.cut and not found.together
    assert all(len(row.samples) == 1 for row in found.rows)


def test_settings_are_loaded_where_there_is_time(tmp_path: Path) -> None:
    work = workload(family(tmp_path))
    some = entries(work, [], str(tmp_path))
    field = [[Way(e, Row("", "", load=2.0), e.make(Settings(n))) for n in (1, 2)] for e in some]
    assert narrowed(work, field, 2.0 * len(some))[0] == [way for ways in field for way in ways]
    assert narrowed(work, field, 2.0 * len(some) - 1.0) == ([ways[0] for ways in field], True)


def test_a_trial_that_is_cut_says_so(tmp_path: Path) -> None:
    work = workload(family(tmp_path))
    work.cores = 2
    (entry, *_) = entries(work, [], str(tmp_path))
    for seconds, told in ((0.0, {"settings": ["in sequence"]}), (math.inf, {})):
        clock = Clock(seconds)
        (way, *_) = choose(entry, work, str(tmp_path), FAST, clock, clock.end)
        assert clock.left_out == told
        assert bool(way.row.tried) != bool(told)


def test_a_merged_model_that_fails_is_a_no_however_short_the_time() -> None:
    row = Row("merged", "merged", True, problem="no such operator")
    report = BenchReport(("a", "b"), "", "cpu", (row,), cut=True)
    assert not report.ok
