"""The last word on a plan: whole graphs, on the family's real sizes, in turns with the best alternatives.

Small families go through the contest of `bench`, with all ways loaded at once. Weights of large ones take
seconds to load, so each way is loaded for its turn, the plans and the likeliest alternatives first; the
leaders get further turns while there is time. Outputs are checked in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from netfuse_onnx.measure import memory
from netfuse_onnx.measure.choice import Way, prepare
from netfuse_onnx.measure.contenders import Concurrent, InSequence
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import MergedFile, entries
from netfuse_onnx.measure.once import TIME_UP
from netfuse_onnx.measure.report import Row
from netfuse_onnx.measure.rounds import Effort, Quartiles, Run, apart, ratio, sample
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import RunFailed

HEAVY = 400 << 20
"""Sources that take so many bytes together are loaded one way after the other."""
FEW = 3
"""The samples of a turn of a heavy way, at least."""
TURN = 1.5
"""The seconds of samples of such a turn, after those."""
MUST_BEAT = 0.98
"""A plan replaces a simpler one only where it takes less than 98 % of its time."""


@dataclass(frozen=True, slots=True)
class Lap:
    """The ways at one choice of sizes: a row for each, with its best settings. `together` is True where all
    took turns, so that their samples belong together."""

    case: str
    rows: tuple[Row, ...]
    together: bool

    @property
    def best(self) -> Row | None:
        """The fastest way that needs no merge."""
        others = (row for row in self.rows if row.ran and not row.merged)
        return min(others, key=lambda row: row.median, default=None)

    def row(self, label: str) -> Row | None:
        return next((row for row in self.rows if row.label == label and row.merged), None)

    def ratio(self, row: Row) -> Quartiles | None:
        """The speed of a way relative to the best alternative."""
        best = self.best
        if best is None or not row.ran:
            return None
        if self.together and len(best.samples) == len(row.samples):
            return ratio(best.samples, row.samples)
        return apart(best.seconds, row.seconds)


def laps(
    works: Sequence[Workload], files: Sequence[MergedFile], *, until: float, folder: str, tell: Progress
) -> list[Lap]:
    """Measure the merged files and the alternatives at each choice of sizes, up to about `until` (of
    time.monotonic()). Temporary files go into `folder`."""
    done = list[Lap]()
    for k, work in enumerate(works):
        now = time.monotonic()
        end = now + max(0.0, until - now) / (len(works) - k)
        heavy = work.runtime.provider == "cpu" and sum(work.sizes) > HEAVY
        done.append(
            _heavy(work, files, end, folder, tell) if heavy else _light(work, files, end, folder, tell)
        )
    return done


def choose(done: Sequence[Lap], labels: Sequence[str]) -> str | None:
    """Return the label of the plan with the least sum of times, each relative to the best plan at its sizes.
    `labels` are in order of preference: a later one must be faster by a margin. None where no plan ran at
    all sizes."""
    times = {label: [_median(lap, label) for lap in done] for label in labels}
    ran = {label: each for label, each in times.items() if None not in each}
    if not ran:
        return None
    least = [min(each[k] or 0.0 for each in ran.values()) for k in range(len(done))]
    totals = {
        label: sum((one or 0.0) / best for one, best in zip(each, least, strict=True))
        for label, each in ran.items()
    }
    best, *others = totals
    for label in others:
        if totals[label] < MUST_BEAT * totals[best]:
            best = label
    return best


def _median(lap: Lap, label: str) -> float | None:
    row = lap.row(label)
    return row.median if row is not None and row.ran else None


def _light(work: Workload, files: Sequence[MergedFile], until: float, folder: str, tell: Progress) -> Lap:
    effort = Effort(seconds=max(0.0, until - time.monotonic()))
    report = contest(work, files, effort=effort, until=until, folder=folder, tell=tell)
    rows = report.rows
    if work.runtime.provider == "cuda":
        rows = tuple(_each_fastest(rows))
    return Lap(report.case, rows, report.together and work.runtime.provider == "cpu")


def _each_fastest(rows: Sequence[Row]) -> list[Row]:
    """The fastest settings of each way; on CUDA the report of a contest has a row for each of them."""
    labels = dict.fromkeys(row.label for row in rows)
    return [
        min((row for row in rows if row.label == label), key=lambda row: (not row.ran, row.median))
        for label in labels
    ]


# --------------------------------------------------------------------------- large families


@dataclass
class _Job:
    """One way under one choice of settings. `took` is the seconds of its last turn."""

    way: Way
    settings: Settings
    needed: bool
    took: float = 0.0


def _heavy(work: Workload, files: Sequence[MergedFile], until: float, folder: str, tell: Progress) -> Lap:
    jobs, prepared = list(_jobs(work, files, folder)), set[int]()
    longest = 0.0
    for done, job in enumerate(jobs):
        tell("measuring", done, len(jobs))
        expected = max(longest, job.took)
        if not job.needed and time.monotonic() + expected > until:
            job.way.row = replace(job.way.row, problem=TIME_UP)
            continue
        if id(job.way.entry) not in prepared:
            prepared.add(id(job.way.entry))
            _prepare(job, work, folder)
        _turn(job)
        longest = max(longest, job.took)
    leaders = sorted((job for job in jobs if job.way.row.ran), key=lambda job: job.way.row.median)
    for job in _closest(leaders):
        if time.monotonic() + job.took <= until:
            _turn(job)
    ways = [job.way for job in sorted(jobs, key=lambda job: job.way.row.label)]
    return Lap(work.case, tuple(_each_fastest([way.row for way in ways])), together=False)


def _closest(leaders: Sequence[_Job]) -> list[_Job]:
    """The best two plans and the best two other ways, which get a further turn."""
    merged = [job for job in leaders if job.way.row.merged][:2]
    return [*merged, *[job for job in leaders if not job.way.row.merged][:2]]


def _jobs(work: Workload, files: Sequence[MergedFile], folder: str) -> list[_Job]:
    """Every way with its settings: first each of them with all cores and none that wait busily, as suits
    operators that take long."""
    rank = {InSequence.kind: 0, Concurrent.kind: 0}
    ways = sorted(entries(work, files, folder), key=lambda e: (not e.merged, rank.get(e.kind, 1)))
    first = Settings(work.cores, spin=False)
    jobs = []
    for entry in ways:
        ordered = sorted(entry.choices, key=lambda some: some != first)
        for k, settings in enumerate(ordered):
            row = Row(entry.kind, entry.label, entry.merged, settings=str(settings), file=entry.size)
            jobs.append((k, _Job(Way(entry, row), settings, not k and (entry.merged or entry.kind in rank))))
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]


def _prepare(job: _Job, work: Workload, folder: str) -> None:
    try:
        prepare(job.way.entry, work, folder)
    except (RunFailed, OSError) as error:
        job.way.row = replace(job.way.row, problem=str(error) or type(error).__name__)


def _turn(job: _Job) -> None:
    """Load a way, check its outputs the first time, take samples, and free it."""
    if job.way.row.problem:
        return
    way, begin = job.way, time.monotonic()
    contender = way.entry.make(job.settings)
    try:
        before, start = memory.resident(), time.perf_counter()
        contender.setup()
        contender.run()
        load = time.perf_counter() - start
        row = replace(way.row, load=min(load, way.row.load or load))
        if row.error is None:
            grown = memory.resident() - before + contender.elsewhere()
            error, problem = contender.check()
            row = replace(row, resident=max(0, grown), error=error)
            if problem:
                row = replace(row, problem=f"not equal: {problem}")
        if not row.problem:
            samples = (*row.samples, *_samples(contender.run))
            row = replace(row, samples=samples, seconds=Quartiles.of(samples))
        way.row = row
    except (RunFailed, OSError) as error:
        way.row = replace(way.row, problem=str(error) or type(error).__name__)
    finally:
        with suppress(RunFailed):
            contender.close()
    job.took = time.monotonic() - begin


def _samples(run: Run) -> list[float]:
    effort, samples, end = Effort(), list[float](), time.monotonic() + TURN
    while len(samples) < FEW or time.monotonic() < end:
        samples.append(sample(run, effort))
    return samples
