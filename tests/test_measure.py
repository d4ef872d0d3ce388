"""The parts of the measuring: rounds, ways of running, the graph side by side, profiles. No test looks at
how long anything takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import family, merged, model, save

from netfuse_onnx import opened, sources
from netfuse_onnx.measure import choice, profile
from netfuse_onnx.measure.choice import Way, finalists, narrowed
from netfuse_onnx.measure.contenders import Concurrent, Contender, InSequence, OneGraph, SideBySide
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import Entry, MergedFile, entries
from netfuse_onnx.measure.processes import Processes
from netfuse_onnx.measure.report import Row
from netfuse_onnx.measure.rounds import FEWEST, Effort, Quartiles, interleave, ratio, sample
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.sidebyside import sidebyside
from netfuse_onnx.measure.speedups import speedups
from netfuse_onnx.measure.turns import fastest
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.run.runtime import RunFailed, choose

FAST = Effort(rounds=3, seconds=0.0, least=0.0, pause=0.0)

CAPTURED = """g (float[n, 4] x) => (float[n, 4] y) {
    s = Mul(x, w)
    c = Constant <value = bool {1}> ()
    y = If (c) <
        then_branch = yes () => (float[n, 4] a) { a = Add(s, w) },
        else_branch = no () => (float[n, 4] b) { b = Identity(s) }
    >
}"""
BATCH = "g (float[n, 4] x) => (float[n, 4] y, int64[n] i) { y = Mul(x, w)  i = ArgMax <axis = 1, keepdims = 0> (y) }"


def workload(paths: list[str], share: tuple[str, ...] = (), **dims: int) -> Workload:
    matched = opened.matched(sources.read(paths), [Path(path).stem for path in paths], False)
    options = Options(choose("cpu"), dims=dims, share=frozenset(share))
    return Workload(matched, options, lambda *_: None)


# --------------------------------------------------------------------------- rounds


def test_every_contender_has_one_turn_per_round_in_changing_order() -> None:
    taken: list[str] = []

    def turn(name: str) -> Callable[[], Iterator[Callable[[], object]]]:
        @contextmanager
        def opened() -> Iterator[Callable[[], object]]:
            taken.append(name)
            yield lambda: None

        return opened  # type: ignore[return-value]

    effort = Effort(rounds=20, seconds=60.0, least=0.0, pause=0.0)
    found = interleave({name: turn(name) for name in "abc"}, effort)  # type: ignore[arg-type]
    assert {name: len(times) for name, times in found.items()} == {"a": 20, "b": 20, "c": 20}
    rounds = ["".join(taken[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(one) == list("abc") for one in rounds)
    assert len(set(rounds)) > 1


def test_some_rounds_there_are_in_any_case() -> None:
    @contextmanager
    def turn() -> Iterator[Callable[[], object]]:
        yield lambda: None

    assert len(interleave({"a": turn}, FAST)["a"]) == FEWEST


def test_a_sample_is_some_milliseconds_of_calls() -> None:
    calls: list[int] = []
    sample(lambda: calls.append(1), Effort(least=0.002, pause=0.0))
    assert len(calls) > 100


def test_ratios_are_taken_round_by_round() -> None:
    drift = np.array([1.0, 10.0, 100.0, 1000.0])
    assert ratio(list(2 * drift), list(drift)) == Quartiles(2.0, 2.0, 2.0, 4)


def test_a_merged_model_is_compared_with_the_best_alternative() -> None:
    def row(label: str, seconds: float, merged: bool = False, problem: str = "") -> Row:
        samples = (seconds,) * 3
        return Row("", label, merged, seconds=Quartiles.of(samples), samples=samples, problem=problem)

    rows = [row("slow", 4.0), row("fast", 3.0), row("wrong", 1.0, problem="differs"), row("m", 2.0, True)]
    (found,) = speedups(rows)
    assert (found.merged, found.best, found.times.median) == ("m", "fast", 1.5)


# --------------------------------------------------------------------------- ways of running


@pytest.mark.parametrize("kind", [InSequence, Concurrent, Processes])
def test_ways_give_what_the_models_give(tmp_path: Path, kind: type[Contender]) -> None:
    work = workload(family(tmp_path, count=3), n=2)
    contender = kind(work, Settings())
    try:
        contender.setup()
        contender.run()
        assert contender.check()[1] == ""
        swapped = contender.results()[::-1]
        assert "output y" in work.error(swapped)[1]
    finally:
        contender.close()


def test_rounding_beside_a_number_near_zero_is_no_error(tmp_path: Path) -> None:
    """In one row, each channel has one number. Its error is small beside the whole output, or it is wrong."""
    work = workload(family(tmp_path, count=2), n=1)
    for off, wrong in ((2e-6, False), (2e-4, True)):
        results = [{name: np.array(value) for name, value in work.wants(m).items()} for m in range(2)]
        value = results[1]["y"]
        nearest = np.unravel_index(np.abs(value).argmin(), value.shape)
        work.wanted[1]["y"][nearest] = np.float32(1e-6)
        results[1]["y"][nearest] = np.float32(1e-6) + off * np.abs(value).max()
        assert bool(work.error(results)[1]) is wrong


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("share", [(), ("x",)])
def test_merged_models_are_fed_as_they_want(tmp_path: Path, io: str, share: tuple[str, ...]) -> None:
    paths = family(tmp_path, BATCH, {"w": (4,)}, count=3)
    path = merged(tmp_path, paths, io, share=share)
    contender = OneGraph(workload(paths, share), Settings(), path, io=io, share=share)
    contender.setup()
    assert contender.check()[1] == ""


@pytest.mark.parametrize("text", [BATCH, CAPTURED])
def test_side_by_side_renames_what_bodies_capture(tmp_path: Path, text: str) -> None:
    paths = family(tmp_path, text, {"w": (4,)}, count=3)
    contender = SideBySide(workload(paths), Settings(), sidebyside(paths, str(tmp_path)))
    contender.setup()
    assert contender.check()[1] == ""


def test_side_by_side_keeps_large_weights_in_a_file(tmp_path: Path) -> None:
    text = "g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }"
    paths = family(tmp_path, text, {"w": (64, 64)}, count=2)
    path = sidebyside(paths, str(tmp_path))
    assert len(Path(path).read_bytes()) < 1000
    names = [initializer.name for initializer in onnx.load(path).graph.initializer]
    assert names == ["0/w", "1/w"]


def test_side_by_side_of_different_opsets_is_refused(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{o}.onnx", model(BATCH, {"w": (4,)}, opset=o)) for o in (17, 18)]
    with pytest.raises(RunFailed, match="other opsets"):
        sidebyside(paths, str(tmp_path))


def test_workers_refuse_what_has_no_fixed_bytes(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (string[n, 4] y) { a = Mul(x, w)  y = Cast <to = 8> (a) }"
    contender = Processes(workload(family(tmp_path, text, {"w": (4,)})), Settings())
    with pytest.raises(RunFailed, match="no tensor of numbers"):
        contender.setup()
    contender.close()


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    paths = family(tmp_path)
    contender = Processes(workload(paths), Settings())
    Path(paths[1]).write_bytes(b"nothing")
    with pytest.raises(RunFailed):
        contender.setup()
    contender.close()
    assert all(worker.returncode is not None for worker in contender._workers)


def test_a_worker_that_is_gone_drops_out(tmp_path: Path) -> None:
    contender = Processes(workload(family(tmp_path)), Settings())
    contender.setup()
    for worker in contender._workers:
        worker.kill()
        worker.wait()
    with pytest.raises(RunFailed, match="a worker ended"):
        contender.run()
    contender.close()


# --------------------------------------------------------------------------- the whole


def test_what_fails_on_the_way_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, calls = family(tmp_path), list[int]()

    def fails(self: Concurrent) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise RunFailed("no more memory")

    monkeypatch.setattr(Concurrent, "run", fails)
    monkeypatch.setattr(Concurrent, "check", lambda self: (0.0, ""))
    found = contest(workload(paths), [MergedFile("merged", merged(tmp_path, paths))], effort=FAST)
    problems = {row.kind: row.problem for row in found.rows if row.problem}
    assert problems == {"concurrent": "no more memory"}
    assert found.speedups


def test_more_threads_must_be_clearly_faster() -> None:
    one, two, three = Settings(1), Settings(2), Settings(3)
    assert finalists({one: 1.0, two: 0.97, three: 0.96}) == [one, three, two]
    assert finalists({one: 1.0, two: 0.5, three: 0.49}) == [two, three]


def test_the_settings_that_are_fastest_in_the_rounds_stand_for_a_way(tmp_path: Path) -> None:
    sequence, pool, *_ = entries(workload(family(tmp_path)), [], str(tmp_path))

    def way(
        entry: Entry, settings: str, seconds: float, problem: str = "", error: float | None = None
    ) -> Way:
        samples = (seconds,) * 3
        found = Quartiles.of(samples) if seconds else None
        row = Row(entry.kind, entry.label, settings=settings, seconds=found, samples=samples)
        return Way(entry, replace(row, problem=problem, error=error))

    slow, fast = way(sequence, "1", 2.0), way(sequence, "2", 1.0)
    broken = way(sequence, "3", 0.0, "no memory")
    wrong = way(pool, "2", 0.0, "not equal", error=2.0)
    assert [*fastest([broken, slow, fast, way(pool, "1", 1.0), wrong])] == [fast, wrong]


def test_where_not_all_settings_fit_into_memory_the_first_of_each_way_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = workload(family(tmp_path))
    some = entries(work, [], str(tmp_path))
    field = [[Way(e, Row(e.kind, e.label), e.make(Settings(n))) for n in (1, 2)] for e in some]
    assert narrowed(work, field) == ([way for ways in field for way in ways], True)
    needed = sum(entry.size for entry in some) * choice.LOADED / choice.SHARE
    monkeypatch.setattr(choice.memory, "available", lambda: int(1.5 * needed))
    assert narrowed(work, field) == ([ways[0] for ways in field], True)
    monkeypatch.setattr(choice.memory, "available", lambda: int(0.5 * needed))
    assert narrowed(work, field) == ([ways[0] for ways in field], False)


def test_more_settings_than_one_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = family(tmp_path)
    work = workload(paths)
    work.cores = 2
    found = contest(work, [MergedFile("merged", merged(tmp_path, paths))], effort=FAST)
    assert found.ok, found
    tried = {row.kind: len(row.tried) for row in found.rows}
    assert tried == {"sequence": 4, "concurrent": 0, "processes": 0, "side by side": 5, "merged": 5}
    assert found.together


def test_what_does_not_fit_together_is_loaded_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = family(tmp_path)
    monkeypatch.setattr(choice, "_fit", lambda work, ways: False)
    found = contest(workload(paths), [MergedFile("merged", merged(tmp_path, paths))], effort=FAST)
    assert found.ok and not found.together
    assert all(len(row.samples) == FEWEST for row in found.rows)


def test_what_is_larger_than_memory_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = family(tmp_path)
    monkeypatch.setattr(choice.memory, "available", lambda: 1000)
    found = contest(workload(paths), [MergedFile("merged", merged(tmp_path, paths), size=10)], effort=FAST)
    problems = {row.label: row.problem for row in found.rows}
    assert "do not fit into memory" in problems["in sequence"]
    assert problems["merged"] == ""


def test_profiles_put_fused_operators_with_what_they_were(tmp_path: Path) -> None:
    text = "g (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) { c = Conv(x, w)  y = Relu(c) }"
    paths = family(tmp_path, text, {"w": (4, 3, 3, 3)})
    work = workload(paths)
    rows = profile.compare(work, OneGraph(work, Settings(), merged(tmp_path, paths)), Settings())
    (conv,) = (row for row in rows if row.kind == "Conv")
    assert (conv.separate_kernels, conv.merged_kernels) == (2, 1)
    assert conv.separate > 0.0 and conv.merged > 0.0
    assert not {"FusedConv", "Relu"} & {row.kind for row in rows}
