"""merge --tune: whole plans are measured against each other and against every way that needs no merge."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import Run, refused
from families import family
from pretended import pretend

import netfuse_onnx
from netfuse_onnx import best_plan
from netfuse_onnx.errors import FileFault, StrictViolated, UsageFault, ValuesDiffer
from netfuse_onnx.measure import final, heavy, turns
from netfuse_onnx.measure.entries import Entry
from netfuse_onnx.measure.final import Lap
from netfuse_onnx.measure.heavy import Pending
from netfuse_onnx.measure.report import Row
from netfuse_onnx.measure.rounds import Quartiles
from netfuse_onnx.measure.sessions import Settings, snippet
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.plans import GENERIC, ONCE, TUNED, Request
from netfuse_onnx.report import MergeReport
from netfuse_onnx.tuning import Tuning
from netfuse_onnx.types import Correspondence
from netfuse_onnx.write import metadata, writer

TEXT = """g (float[n, 64] x) => (float[n, 64] y) {
    h = MatMul(x, w1)
    r = Relu(h)
    s = Softmax(r)
    y = MatMul(s, w2)
}"""
WEIGHTS, MODELS = {"w1": (64, 256), "w2": (256, 64)}, 6
"""A family for which no target, --target cpu, and once per model are three plans."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def predicted_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes cost what the target predicts: measuring them has tests of its own."""

    def tuner(ask: Request, corr: Correspondence, dims: Mapping[str, int], seconds: float) -> Timed:
        found = cost(ask.target, corr, dims)
        assert isinstance(found, Timed)
        return found

    monkeypatch.setattr(best_plan, "_tuned", tuner)


def row(label: str, seconds: float, *, merged: bool = True, problem: str = "") -> Row:
    samples = (seconds, seconds)
    kind = "merged" if merged else label
    return Row(kind, label, merged, "1 thread", Quartiles.of(samples), samples=samples, problem=problem)


def lap(case: str = "n=1", best: float = 1.0, **seconds: float) -> Lap:
    names = {"generic": GENERIC, "target": "target cpu", "tuned": TUNED, "once": ONCE}
    rows = [row(names[name], time) for name, time in seconds.items()]
    return Lap(case, (*rows, row("concurrent", best, merged=False)), together=True)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the measurement by made-up seconds; the files are written all the same."""

    def call(*laps: Lap) -> None:
        def measured(works: Sequence[Workload], plans: Sequence[Pending], **_: object) -> list[Lap]:
            for plan in plans:
                assert os.path.exists(plan.write().path)
            return list(laps)

        monkeypatch.setattr(final, "laps", measured)

    return call


def tuned(folder: Path, **options: object) -> MergeReport:
    paths = sorted(map(str, folder.glob("?.onnx"))) or family(folder, TEXT, WEIGHTS, MODELS)
    given: dict[str, object] = {"tune": 1.0, "provider": "cpu", **options}
    return netfuse_onnx.merge(paths, str(folder / "merged.onnx"), **given)  # type: ignore[arg-type]


def tuning(report: MergeReport) -> Tuning:
    assert report.tuning is not None
    return report.tuning


def verified(folder: Path) -> metadata.Metadata:
    file, paths = str(folder / "merged.onnx"), sorted(map(str, folder.glob("?.onnx")))
    report = netfuse_onnx.verify(file, paths, provider="cpu")
    assert report.ok and report.graph.made
    return metadata.read(file)


# --------------------------------------------------------------------------- the plan that is written


@pytest.mark.usefixtures("one_setting")
def test_all_ways_are_measured_for_real(tmp_path: Path) -> None:
    report = tuned(tmp_path)
    found = tuning(report)
    rows = {row.way: row for row in found.rows}
    assert {"in sequence", "concurrent", "processes", "side by side", found.chosen} <= rows.keys()
    assert {GENERIC, "target cpu", TUNED, ONCE} == set(found.same) | {r.way for r in found.rows if r.merged}
    assert all(r.seconds and r.load and not r.problem for r in rows.values())
    assert rows[found.cases[0].best].ratio == 1.0
    assert found.measured and found.predicted and found.settings and found.provider == "cpu"
    assert report.ok and verified(tmp_path).measured == ({"n": 1},)


@pytest.mark.parametrize(
    ("fast", "target", "recorded"),
    [("generic", "generic", False), ("target", "cpu", False), ("once", "cpu", True)],
)
def test_the_fastest_is_written(
    tmp_path: Path, timed: Callable[..., None], fast: str, target: str, recorded: bool
) -> None:
    times = {"generic": 0.5, "target": 0.5, "once": 0.5} | {fast: 0.1}
    timed(lap(**times))
    report = tuned(tmp_path)
    about = verified(tmp_path)
    assert (about.target, about.recorded) == (target, recorded)
    assert tuning(report).beats and tuning(report).cases[0].ratio == pytest.approx(10.0)
    if fast == "once":
        assert {node.became for node in report.lowered.nodes} == {"replicated"}
        assert tuning(report).chosen == ONCE


def test_a_simpler_plan_is_kept_where_the_gain_is_small() -> None:
    names = (GENERIC, "target cpu", TUNED)
    assert final.choose([lap(generic=1.0, target=0.99, tuned=0.985)], names) == GENERIC
    assert final.choose([lap(generic=1.0, target=0.97, tuned=0.96)], names) == "target cpu"
    assert final.choose([lap(generic=1.0, target=0.97, tuned=0.5)], names) == TUNED


def test_each_size_counts_by_its_own_best() -> None:
    """Large sizes take longer, and count no more for it."""
    laps = [lap(generic=1.0, tuned=2.0), lap(generic=12.0, tuned=10.0)]
    assert final.choose(laps, (GENERIC, TUNED)) == GENERIC
    laps = [lap(generic=1.0, tuned=1.1), lap(generic=15.0, tuned=10.0)]
    assert final.choose(laps, (GENERIC, TUNED)) == TUNED


def test_a_plan_that_fails_at_one_size_is_not_chosen() -> None:
    broken = Lap("n=2", (row(GENERIC, 0.1, problem="not equal"), row(TUNED, 1.0)), together=True)
    assert final.choose([lap(generic=0.1, tuned=1.0), broken], (GENERIC, TUNED)) == TUNED
    assert final.choose([broken], (GENERIC,)) is None


def test_two_merges_write_the_same_bytes(tmp_path: Path, timed: Callable[..., None]) -> None:
    timed(lap(generic=0.5, target=0.5, once=0.1))
    tuned(tmp_path)
    first = (tmp_path / "merged.onnx").read_bytes()
    timed(lap(generic=0.6, target=0.6, once=0.2))
    tuned(tmp_path)
    assert (tmp_path / "merged.onnx").read_bytes() == first


# --------------------------------------------------------------------------- what it is compared with


def test_a_slower_plan_says_what_to_do(tmp_path: Path, timed: Callable[..., None]) -> None:
    timed(lap(generic=2.0, target=2.0, once=2.0))
    found = tuning(tuned(tmp_path))
    assert not found.beats
    assert "No plan is faster here than the best alternative (concurrent" in found.advice
    for remedy in ("pool of sessions", "--target cuda", "--io stacked"):
        assert remedy in found.advice
    assert "--io stacked" not in tuning(tuned(tmp_path, io="stacked")).advice


def test_strict_refuses_a_slower_plan(tmp_path: Path, timed: Callable[..., None], run: Run) -> None:
    timed(lap(generic=2.0, target=2.0, once=2.0))
    with pytest.raises(StrictViolated, match="no plan is faster") as caught:
        tuned(tmp_path, strict=True)
    assert isinstance(caught.value.report, MergeReport) and caught.value.report.tuning
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == [f"{name}.onnx" for name in "abcdef"]
    timed(lap(generic=0.5, target=0.5, once=0.5))
    assert tuned(tmp_path, strict=True, tune=2.0).ok


def test_a_plan_that_takes_more_than_the_sessions_says_so(tmp_path: Path, timed: Callable[..., None]) -> None:
    one = lap(generic=0.1, target=0.5, once=0.5)
    sessions = replace(row("in sequence", 1.0, merged=False), kind="sequence", load=1.0, resident=10**8)
    rows = [replace(r, load=1.5, resident=2 * 10**8) if r.label == GENERIC else r for r in one.rows]
    timed(replace(one, rows=(*rows, sessions)))
    notes = " ".join(tuning(tuned(tmp_path)).notes)
    assert "loads in 1.50 s, the sessions of all models in 1.00 s" in notes
    assert "holds 200 MB of memory, the sessions of all models 100 MB" in notes


def test_a_plan_without_room_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = writer.stage

    def stage(merged: object, out: str, *rest: object, **more: object) -> object:
        if ".plan-" in out:
            raise FileFault(f"{out} takes 9 GB, and the disk has room for 1 GB.")
        return real(merged, out, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "stage", stage)
    found = tuning(tuned(tmp_path))
    assert all("has room for 1 GB" in row.problem for row in found.rows if row.merged)
    assert any("No plan could be measured" in note for note in found.notes)
    assert found.measured is None and not found.beats


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = family(tmp_path, TEXT, WEIGHTS, MODELS)

    def interrupted(works: object, plans: Sequence[Pending], **_: object) -> Iterator[Lap]:
        for plan in plans:
            plan.write()
        raise KeyboardInterrupt

    monkeypatch.setattr(final, "laps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path)
    left = [path for path in os.listdir(tmp_path) if path != "cache" and not path.endswith("lock")]
    assert sorted(left) == sorted(map(os.path.basename, paths))


def test_no_path_that_does_not_last_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def laps(works: object, plans: Sequence[Pending], **_: object) -> list[Lap]:
        path = plans[0].write().path
        return [
            Lap("n=1", (row(GENERIC, 1.0, problem=f"{path} does not load"), row(ONCE, 1.0)), together=True)
        ]

    monkeypatch.setattr(final, "laps", laps)
    report = tuned(tmp_path)
    assert ".netfuse-onnx-" not in json.dumps(report.to_json())
    assert any(row.problem == f"{GENERIC} does not load" for row in tuning(report).rows)


# --------------------------------------------------------------------------- the cache


@pytest.mark.parametrize("fast", ["generic", "target", "once"])
def test_a_second_merge_measures_nothing(
    tmp_path: Path, timed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, fast: str
) -> None:
    timed(lap(**({"generic": 0.5, "target": 0.5, "once": 0.5} | {fast: 0.1})))
    first = tuned(tmp_path)
    data = (tmp_path / "merged.onnx").read_bytes()
    monkeypatch.setattr(best_plan, "_measured", lambda *_: pytest.fail("it was measured again"))
    again = tuned(tmp_path, names=list("uvwxyz"))
    assert tuning(again).cached and not tuning(first).cached
    assert tuning(again).rows == tuning(first).rows
    again = tuned(tmp_path)
    assert (tmp_path / "merged.onnx").read_bytes() == data
    assert repr(str(tmp_path / "merged.onnx")) in tuning(again).snippet or not tuning(again).snippet


def test_a_second_merge_for_the_same_sizes_measures_nothing(
    tmp_path: Path, timed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(lap(generic=0.5, target=0.5, once=0.1))
    tuned(tmp_path, dims={"n": 2})
    monkeypatch.setattr(best_plan, "_measured", lambda *_: pytest.fail("it was measured again"))
    assert tuning(tuned(tmp_path, dims={"n": 2})).cached


def test_other_questions_are_measured(tmp_path: Path, timed: Callable[..., None]) -> None:
    timed(lap(generic=0.5, target=0.5, once=0.5))
    tuned(tmp_path)
    for options in ({"io": "stacked"}, {"share": ["x"]}, {"dims": {"n": 4}}, {"tune": 5.0}):
        assert not tuning(tuned(tmp_path, **options)).cached, options
    assert tuning(tuned(tmp_path)).cached


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1, "about": {}, "answer": {}}'])
def test_a_damaged_cache_is_none(
    tmp_path: Path, own_cache: Path, timed: Callable[..., None], text: str
) -> None:
    timed(lap(generic=0.5, target=0.5, once=0.1))
    tuned(tmp_path)
    (file,) = own_cache.rglob("plan-*.json")
    file.write_text(text)
    assert not tuning(tuned(tmp_path)).cached


@pytest.mark.parametrize("rows", [3, [[]], [["batched", "none", [], []]], []])
def test_rows_of_the_cache_that_are_not_on_offer(
    tmp_path: Path, own_cache: Path, timed: Callable[..., None], rows: object
) -> None:
    timed(lap(generic=0.5, target=0.5, once=0.1))
    tuned(tmp_path)
    (file,) = own_cache.rglob("plan-*.json")
    value = json.loads(file.read_text())
    value["answer"]["rows"] = rows
    file.write_text(json.dumps(value))
    assert not tuning(tuned(tmp_path)).cached
    assert verified(tmp_path).recorded


# --------------------------------------------------------------------------- options


def test_tune_without_the_proof(tmp_path: Path, timed: Callable[..., None]) -> None:
    timed(lap(generic=0.5, target=0.5, once=0.1))
    report = tuned(tmp_path, verify=False)
    assert report.proof is None and tuning(report).chosen == ONCE
    verified(tmp_path)


def test_the_target_must_be_of_the_provider(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="--target cuda is for cuda, and --tune would measure on cpu"):
        tuned(tmp_path, target="cuda")
    with pytest.raises(UsageFault, match="can't take -1 seconds"):
        tuned(tmp_path, tune=-1.0)


def test_constants_of_a_file(
    tmp_path: Path, timed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import resources

    constants = resources.files("netfuse_onnx").joinpath("targets", "cpu.json").read_text("utf-8")
    (tmp_path / "mine.json").write_text(constants)
    timed(Lap("n=1", (row(ONCE, 0.1), row("concurrent", 1.0, merged=False)), together=True))
    monkeypatch.chdir(tmp_path)
    tuned(tmp_path, target="mine.json")
    about = verified(tmp_path)
    assert about.target == "mine.json" and about.recorded and about.constants


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        (["--tune", "A", "B"], 60.0), (["A", "--tune", "7", "B"], 7.0), (["A", "B", "--tune"], 60.0),
        (["--tune=3", "A", "B"], 3.0), (["A", "B", "--tune", "--no-verify"], 60.0),
    ],
)  # fmt: skip
def test_the_seconds_may_be_left_out(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], seconds: float
) -> None:
    one, other = family(tmp_path)
    given: dict[str, object] = {}

    def merge(paths: Sequence[str], **options: object) -> MergeReport:
        given.update(options, paths=tuple(paths))
        raise UsageFault("enough.")

    monkeypatch.setattr("netfuse_onnx.api.merge", merge)
    names = {"A": one, "B": other}
    run("merge", "-o", tmp_path / "m.onnx", *(names.get(word, word) for word in arguments))
    assert given["tune"] == seconds and given["paths"] == (one, other)


def test_wrong_seconds(tmp_path: Path, run: Run) -> None:
    refused(run("merge", *family(tmp_path), "-o", tmp_path / "m.onnx", "--tune=soon"), 2, "--tune")


def test_the_report_on_a_terminal(tmp_path: Path, run: Run, timed: Callable[..., None]) -> None:
    paths = family(tmp_path, TEXT, WEIGHTS, MODELS)
    timed(lap(generic=2.0, target=2.0, once=1.5))
    code, _, said = run("merge", *paths, "-o", tmp_path / "m.onnx", "--tune", "--provider", "cpu")
    assert code == 0
    for words in (
        "Measured on CPU, n=1:", "Chosen: once per model, 0.67 times as fast as the best alternative",
        "No plan is faster here", "options.intra_op_num_threads = 1", "Assumed: n=1.", "the budget was 60 s",
    ):  # fmt: skip
        assert words in said
    code, out, _ = run("inspect", tmp_path / "m.onnx")
    assert "chosen by measuring" in out


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(2, spin=False), Settings(2, rest=True), Settings(branches=2)]
)
def test_the_snippet_opens_the_file(tmp_path: Path, settings: Settings) -> None:
    (path, *_) = family(tmp_path)
    names: dict[str, object] = {}
    exec(snippet(settings, path, "cpu"), names)
    session = names["session"]
    assert session.run(None, {"x": np.zeros((1, 8), np.float32)})[0].shape == (1, 4)  # type: ignore[attr-defined]
    options = names["options"]
    assert options.intra_op_num_threads == settings.threads  # type: ignore[attr-defined]


# --------------------------------------------------------------------------- large families


def test_a_large_family_measures_the_likeliest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any time, the best plan by prediction and the pool are measured all the same."""
    monkeypatch.setattr(final, "HEAVY", 0)
    monkeypatch.setattr(heavy, "TURN", 0.0)
    found = tuning(tuned(tmp_path, tune=0.0))
    ran = {row.way for row in found.rows if row.seconds}
    assert "concurrent" in ran and len(ran) == 2
    late = {row.way for row in found.rows if row.problem == "the time was up"}
    assert {"processes", "side by side", "in sequence"} <= late
    predicted = {row.way: row.predicted for row in found.rows if row.merged and row.predicted}
    assert min(predicted, key=lambda way: predicted[way]) in ran


def test_a_large_family_with_time_measures_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(final, "HEAVY", 0)
    monkeypatch.setattr(heavy, "TURN", 0.0)
    found = tuning(tuned(tmp_path, tune=60.0))
    assert all(row.seconds or "predicted to take" in row.problem for row in found.rows)
    assert found.cases[0].ratio and verified(tmp_path)


def test_a_wrong_plan_of_a_large_family_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(final, "HEAVY", 0)
    monkeypatch.setattr(heavy, "TURN", 0.0)
    monkeypatch.setattr(
        "netfuse_onnx.measure.contenders.OneGraph.check", lambda self, turn=0: (9.0, "output y")
    )
    found = tuning(tuned(tmp_path, tune=30.0))
    assert all(row.problem.startswith(("not equal", "not measured")) for row in found.rows if row.merged)


def test_wrong_plans_are_not_written(tmp_path: Path, timed: Callable[..., None]) -> None:
    """A plan that gave other values is not taken by its predicted time, and where all did, nothing is written."""
    wrong = [replace(row(name, 0.1, problem="not equal: y"), error=9.0) for name in (GENERIC, TUNED, ONCE)]
    timed(Lap("n=1", (*wrong, row("concurrent", 1.0, merged=False)), together=True))
    assert tuning(tuned(tmp_path)).chosen == "target cpu"
    wrong.append(replace(wrong[0], label="target cpu"))
    timed(Lap("n=1", (*wrong, row("concurrent", 1.0, merged=False)), together=True))
    (tmp_path / "merged.onnx").unlink()
    with pytest.raises(ValuesDiffer, match=r"other values than the models alone: not equal: y\."):
        tuned(tmp_path, tune=2.0)
    assert not (tmp_path / "merged.onnx").exists()


def test_a_second_plan_tries_the_settings_that_suit_the_first() -> None:
    choices = (Settings(), Settings(2, spin=False), Settings(branches=2))
    entry = Entry("merged", "tuned", lambda _: pytest.fail("it is not made"), choices, 1, merged=True)
    tried = dict(zip(map(str, choices), (1.0, 1.4, 2.0), strict=True))
    assert turns._likely(entry, tried).choices == choices[:2]
    for other in (replace(entry, merged=False), entry):
        assert turns._likely(other, {}).choices == choices
    assert turns._likely(replace(entry, merged=False), tried).choices == choices


def test_plans_are_measured_where_the_provider_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is the CPU here. The plan of no target is that of a family without the operators made for CUDA."""
    pretend(monkeypatch)
    report = tuned(tmp_path, provider="cuda", tune=20.0, verify=False)
    found = tuning(report)
    assert found.provider == "cuda"
    ran = {row.way for row in found.rows if row.seconds}
    assert {GENERIC, "target cuda", "in sequence", "concurrent"} <= ran | set(found.same)
    about = metadata.read(str(tmp_path / "merged.onnx"))
    assert about.target == ("generic" if found.chosen == GENERIC else "cuda")
    assert about.made_for in ("", "cuda") and found.snippet
