"""Measures families whose weights take seconds to load: each way is loaded for its turn, and freed.

The plan that is expected to be best and a pool of sessions are always measured. The others follow as far as
the time goes, each only where it is expected to end in time; then the leaders get another turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from netfuse_onnx.errors import FileFault
from netfuse_onnx.measure import memory
from netfuse_onnx.measure.choice import prepare
from netfuse_onnx.measure.contenders import Concurrent, Contender, InSequence
from netfuse_onnx.measure.entries import Entry, MergedFile, entries
from netfuse_onnx.measure.report import TIME_UP, Row
from netfuse_onnx.measure.rounds import Effort, Quartiles, Run, sample
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import RunFailed

FEW = 3
"""The samples of a turn, at least."""
TURN = 1.0
"""The seconds of samples of a turn, after those."""
LEADERS = 2
"""So many plans, and so many other ways, get another turn."""


@dataclass(frozen=True)
class Pending:
    """A merged file that `write` writes when it is needed; it raises FileFault. `size` is in bytes."""

    label: str
    size: int
    write: Callable[[], MergedFile]


@dataclass
class Job:
    """One way under one choice of settings. `took` is the seconds of its last turn."""

    row: Row
    settings: Settings
    size: int
    open: Callable[[], Entry]
    needed: bool = False
    took: float = 0.0


def one_by_one(
    work: Workload, plans: Sequence[Pending], *, until: float, folder: str, tell: Progress
) -> list[Row]:
    """Return a row for each way with each of its settings. `plans` come in the order in which they are
    expected to be best. No way but the first plan and the pool begins that would not end before `until` (of
    time.monotonic())."""
    jobs = ordered(work, plans, folder)
    rate = 0.0  # seconds a byte
    for done, job in enumerate(jobs):
        tell("measuring", done, len(jobs))
        if not job.needed and time.monotonic() + rate * job.size > until:
            job.row = replace(job.row, problem=TIME_UP)
            continue
        _turn(job, work, folder)
        rate = max(rate, job.took / job.size)
    leaders = sorted((job for job in jobs if job.row.ran), key=lambda job: job.row.median)
    for merged in (True, False):
        for job in [job for job in leaders if job.row.merged is merged][:LEADERS]:
            if time.monotonic() + job.took <= until:
                _turn(job, work, folder)
    return [job.row for job in jobs]


def ordered(work: Workload, plans: Sequence[Pending], folder: str) -> list[Job]:
    """All jobs, the likeliest first: all ways with their first settings, then all with their second."""
    others = {entry.kind: entry for entry in entries(work, (), folder)}
    first = Settings(work.cores, spin=False)
    pool = list(_of_entry(others.pop(Concurrent.kind), Settings()))
    ways = [list(_of_plan(work, plan, folder, first)) for plan in plans]
    for way in (pool, *ways[:1]):
        way[0].needed = True
    ways[1:1] = [pool, list(_of_entry(others.pop(InSequence.kind), first))]
    ways += [list(_of_entry(entry, first)) for entry in others.values()]
    deepest = max(map(len, ways))
    return [way[k] for k in range(deepest) for way in ways if k < len(way)]


def _of_entry(entry: Entry, first: Settings) -> Iterator[Job]:
    for settings in sorted(entry.choices, key=lambda some: some != first):
        row = Row(entry.kind, entry.label, entry.merged, settings=str(settings), file=entry.size)
        yield Job(row, settings, entry.size, lambda: entry)


def _of_plan(work: Workload, plan: Pending, folder: str, first: Settings) -> Iterator[Job]:
    def opened() -> Entry:
        try:
            return next(entry for entry in entries(work, [plan.write()], folder) if entry.merged)
        except FileFault as error:
            raise RunFailed(error.message.rstrip(".")) from error

    choices = next(
        entry for entry in entries(work, [MergedFile(plan.label, "")], folder) if entry.merged
    ).choices
    for settings in sorted(choices, key=lambda some: some != first):
        row = Row("merged", plan.label, True, settings=str(settings), file=plan.size)
        yield Job(row, settings, plan.size, opened)


def _turn(job: Job, work: Workload, folder: str) -> None:
    """Load a way, check its outputs the first time, take samples, and free it."""
    if job.row.problem:
        return
    begin, contender = time.monotonic(), None
    try:
        entry = job.open()
        if not job.row.samples:
            prepare(entry, work, folder)
        contender = entry.make(job.settings)
        _measure(job, replace(job.row, file=entry.size), contender)
    except (RunFailed, OSError) as error:
        job.row = replace(job.row, problem=str(error) or type(error).__name__)
    finally:
        if contender is not None:
            with suppress(RunFailed):
                contender.close()
    job.took = time.monotonic() - begin


def _measure(job: Job, row: Row, contender: Contender) -> None:
    before, start = memory.resident(), time.perf_counter()
    contender.setup()
    contender.run()
    load = time.perf_counter() - start
    row = replace(row, load=min(load, row.load or load))
    if row.error is None:
        grown = memory.resident() - before + contender.elsewhere()
        error, problem = contender.check()
        row = replace(row, resident=max(0, grown), error=error)
        if problem:
            row = replace(row, problem=f"not equal: {problem}")
    if not row.problem:
        samples = (*row.samples, *_samples(contender.run))
        row = replace(row, samples=samples, seconds=Quartiles.of(samples))
    job.row = row


def _samples(run: Run) -> list[float]:
    effort, samples, end = Effort(), list[float](), time.monotonic() + TURN
    while len(samples) < FEW or time.monotonic() < end:
        samples.append(sample(run, effort))
    return samples
