"""Compares all ways to run the models: chooses settings, measures the best ones in turns, checks their
outputs.

On CUDA they are measured one after the other (once.py). On the CPU each way first tries its settings in a
trial (choice.py). Those that may be its best go into the rounds, all loaded at once where memory allows, and
the fastest one there represents the way. Without enough memory, only the best of each way goes on, and is
loaded for its turn.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from netfuse_onnx.measure import machine, memory, profile
from netfuse_onnx.measure.choice import Way, choose, narrowed
from netfuse_onnx.measure.contenders import OneGraph
from netfuse_onnx.measure.entries import Entry, MergedFile, entries, named
from netfuse_onnx.measure.once import TIME_UP, Keep, cut, one_by_one
from netfuse_onnx.measure.report import BenchReport, KindRow, Row, Speedup
from netfuse_onnx.measure.rounds import (
    FEWEST,
    Effort,
    Quartiles,
    Run,
    apart,
    interleave,
    quick,
    ratio,
    sample,
)
from netfuse_onnx.measure.sessions import Settings, snippet
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import RunFailed
from netfuse_onnx.wording import renamed

BUSY = 0.5
"""The load per core before the start above which the times can't be trusted."""


def contest(
    work: Workload,
    merged: Sequence[MergedFile],
    *,
    effort: Effort | None = None,
    more: Sequence[Entry] = (),
    only: Callable[[Entry], bool] = lambda entry: True,
    with_profile: bool = False,
    folder: str | None = None,
    tell: Progress = lambda what, done, total: None,
    until: float = math.inf,
    checked: bool = True,
    keep: Callable[[BenchReport], None] | None = None,
) -> BenchReport:
    """Compare the merged models with every other way. `more` adds ways, `only` leaves some out. A way that
    does not run is a row with its reason. Temporary files go into `folder`.

    It ends about `until` (of time.monotonic()): on the CPU, half of the time is for the trials of settings,
    and every way has at least one; on CUDA, nothing starts later. On CUDA `keep` gets the report so far after
    each way, and outputs are compared where `checked`.
    """
    effort, about = effort or Effort(), _About(work, merged)
    with tempfile.TemporaryDirectory(prefix="netfuse-bench-", dir=folder) as temporary:
        chosen = [entry for entry in (*entries(work, merged, temporary), *more) if only(entry)]
        if work.runtime.provider == "cuda":
            so_far: Keep = (lambda ways: keep(about.report(ways, False))) if keep else (lambda ways: None)
            ways, together = (
                one_by_one(
                    work, chosen, temporary, effort, until=until, checked=checked, keep=so_far, tell=tell
                ),
                False,
            )
        else:
            ways, together = _in_turns(work, chosen, temporary, effort, tell, until)
        profiled, notes = _profile(work, ways) if with_profile else ((), [])
    return renamed(about.report(ways, together, profiled, notes), {temporary + os.sep: ""})


class _About:
    """The facts about a comparison as it begins."""

    def __init__(self, work: Workload, merged: Sequence[MergedFile]) -> None:
        self.work, self.merged = work, merged
        self.start, self.load = time.monotonic(), machine.load()
        self.machine, self.versions = machine.machine(work.runtime.provider), machine.versions()

    def report(
        self,
        ways: Sequence[Way],
        together: bool,
        profiled: tuple[KindRow, ...] = (),
        notes: Sequence[str] = (),
    ) -> BenchReport:
        work, rows = self.work, tuple(way.row for way in ways)
        return BenchReport(
            models=work.names,
            case=work.case,
            provider=work.runtime.provider,
            rows=rows,
            speedups=tuple(speedups(rows, paired=work.runtime.provider == "cpu")),
            together=together,
            tf32=work.tf32,
            profile=profiled,
            machine=self.machine,
            versions=self.versions,
            load=self.load,
            seconds=time.monotonic() - self.start,
            warnings=(*notes, *_warnings(work, self.load, rows)),
            cut=cut(ways),
            snippet=self._snippet(rows),
        )

    def _snippet(self, rows: Sequence[Row]) -> str:
        """Return Python that opens the first of the merged files as it was fastest; '' where none ran."""
        own = [row for row in rows if row.ran and self.merged and row.label == self.merged[0].label]
        best = min(own, key=lambda row: row.median, default=None)
        settings = named(self.work, best.settings) if best else None
        where = self.work.runtime.provider
        return snippet(settings, self.merged[0].path, where, tf32=self.work.tf32) if settings else ""


# --------------------------------------------------------------------------- measuring in turns


def _in_turns(
    work: Workload,
    chosen: Sequence[Entry],
    folder: str,
    effort: Effort,
    tell: Progress,
    until: float = math.inf,
) -> tuple[list[Way], bool]:
    """Measure the ways with the settings that are best for each, and say if all were loaded at once."""
    with ExitStack() as stack:
        ways, together = narrowed(work, [*_chosen(chosen, work, folder, effort, tell, until)])
        stack.callback(_close, ways)
        for done, way in enumerate(ways):
            tell("loading", done, len(ways))
            _open(way, effort, together)
        left = max(0.0, until - time.monotonic())
        _measure(ways, together, replace(effort, seconds=min(effort.seconds, left)), tell)
        _close(ways)
        return list(fastest(ways)), together


def _chosen(
    chosen: Sequence[Entry], work: Workload, folder: str, effort: Effort, tell: Progress, until: float
) -> Iterator[list[Way]]:
    """Try the settings of each entry, which share half of the time that is left."""
    begin = time.monotonic()
    end = begin + (until - begin) / 2
    for done, entry in enumerate(chosen):
        tell("trying settings", done, len(chosen))
        now = time.monotonic()
        yield choose(entry, work, folder, effort, now + max(0.0, end - now) / (len(chosen) - done))


def _open(way: Way, effort: Effort, stay: bool) -> None:
    """Load a way, measure that, and check its outputs. If it can't stay loaded, this is its first turn."""
    contender = way.contender
    if contender is None:
        return
    before = memory.resident()
    start = time.perf_counter()
    try:
        contender.setup()
        contender.run()
        load = time.perf_counter() - start
        grown = memory.resident() - before + contender.elsewhere()
        error, problem = contender.check()
        if not stay:
            way.samples.append(quick(contender.run, effort))
    except RunFailed as failure:
        return way.failed(failure)
    load = min(load, way.row.load or load)
    way.row = replace(way.row, load=load, resident=max(0, grown), error=error)
    if problem:
        way.failed(f"not equal: {problem}")
    elif not stay:
        contender.close()


def _measure(ways: Sequence[Way], together: bool, effort: Effort, tell: Progress) -> None:
    racing = {str(i): way for i, way in enumerate(ways) if way.contender is not None}
    turns = {name: functools.partial(_turn, way, together) for name, way in racing.items()}
    if not turns:
        return
    if not together:
        effort = replace(effort, rounds=FEWEST - 1, fewest=FEWEST - 1)
    samples_of = interleave(
        turns,
        effort,
        take=sample if together else quick,  # loading takes longer than measuring, so each turn measures more
        tell=lambda done, total: tell("measuring", done, total),
        drop=lambda name, error: racing[name].failed(error),
    )
    for name, way in racing.items():
        if way.contender is not None:
            samples = (*way.samples, *samples_of[name])
            way.row = replace(way.row, seconds=Quartiles.of(samples), samples=samples)


@contextmanager
def _turn(way: Way, together: bool) -> Iterator[Run]:
    contender = way.contender
    assert contender is not None
    if together:
        yield contender.run
        return
    try:
        contender.setup()
        contender.run()
        yield contender.run
    finally:
        contender.close()


def _close(ways: Sequence[Way]) -> None:
    for way in ways:
        if way.contender is not None:
            way.contender.close()


# --------------------------------------------------------------------------- the answer


def fastest(ways: Sequence[Way]) -> Iterator[Way]:
    """Yield the fastest way of each entry in the rounds, or one that failed there, so that it shows."""

    def rank(way: Way) -> tuple[bool, bool, float]:
        return not way.row.broke, not way.row.ran, way.row.median

    for _, same in itertools.groupby(ways, key=lambda way: id(way.entry)):
        yield min(same, key=rank)


def speedups(rows: Sequence[Row], *, paired: bool = True) -> Iterator[Speedup]:
    """Compare each merged model, with its fastest settings, with the alternative that has the lowest median.
    `paired` says that all ways took turns, so that samples belong together."""
    others = [row for row in rows if row.ran and not row.merged]
    best = min(others, key=lambda row: row.median, default=None)
    if best is None:
        return
    labels = dict.fromkeys(row.label for row in rows if row.merged and row.ran)
    for label in labels:
        own = [row for row in rows if row.label == label and row.ran]
        row = min(own, key=lambda row: row.median)
        times = ratio(best.samples, row.samples) if paired else apart(best.seconds, row.seconds)
        yield Speedup(label, best.label, times, *_on_device(others, own))


def _on_device(others: Sequence[Row], own: Sequence[Row]) -> tuple[str, Quartiles | None]:
    """Compare calls whose inputs and outputs stay on the device: the best alternative and the ratio."""
    best = min((row for row in others if row.device), key=_device_median, default=None)
    row = min((row for row in own if row.device), key=_device_median, default=None)
    if best is None or row is None:
        return "", None
    return best.label, apart(best.device, row.device)


def _device_median(row: Row) -> float:
    return row.device.median if row.device else math.inf


def _profile(work: Workload, ways: Sequence[Way]) -> tuple[tuple[KindRow, ...], list[str]]:
    """Profile the fastest merged model and the sequence, with the settings that were best for each."""
    ran = [w for w in ways if w.row.ran and isinstance(w.contender, OneGraph) and w.entry.merged]
    separate = next(
        (w.contender.settings for w in ways if w.entry.kind == "sequence" and w.contender), Settings()
    )
    if not ran:
        return (), ["There is no profile: no merged model ran."]
    best = min(ran, key=lambda way: way.row.median)
    assert isinstance(best.contender, OneGraph)
    try:
        return profile.compare(work, best.contender, separate), []
    except RunFailed as error:
        return (), [f"There is no profile: {error}."]


def _warnings(work: Workload, load: float, rows: Sequence[Row]) -> Iterator[str]:
    if load > BUSY * work.cores:
        yield f"The machine was busy before the start (load {load:.1f}): these times say little."
    if work.runtime.note:
        yield f"Measured on the CPU: {work.runtime.note}."
    if work.tf32:
        yield "TF32 was on, as it is by default: outputs were compared with the tolerances of float16."
    for row in rows:
        if row.problem and row.problem != TIME_UP:
            how = f" ({row.settings})" if work.runtime.provider == "cuda" and row.settings else ""
            yield f"{row.label}{how}: {row.problem}."
    late = dict.fromkeys(row.label for row in rows if row.problem == TIME_UP)
    if late:
        yield f"The time was up before all was measured: {', '.join(late)}."
