"""Compares all ways to run the models: chooses settings, measures the best ones in turns, checks their
outputs.

Each way first tries its settings in a trial (choice.py). Those that may be its best go into the rounds, all
loaded at once where memory allows, and the fastest one there represents the way. Without enough memory, only
the best of each way goes on, and is loaded for its turn.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from netfuse_onnx.measure import machine, memory, profile
from netfuse_onnx.measure.choice import Way, choose, narrowed
from netfuse_onnx.measure.contenders import OneGraph
from netfuse_onnx.measure.entries import Entry, MergedFile, entries
from netfuse_onnx.measure.report import BenchReport, KindRow, Row, Speedup
from netfuse_onnx.measure.rounds import FEWEST, Effort, Quartiles, Run, interleave, quick, ratio, sample
from netfuse_onnx.measure.sessions import Settings
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
) -> BenchReport:
    """Compare the merged models with every other way. `more` adds ways, `only` leaves some out. A way that
    does not run is a row with its reason. Temporary files go into `folder`."""
    start, load, effort = time.monotonic(), machine.load(), effort or Effort()
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="netfuse-bench-", dir=folder))
        chosen = [entry for entry in (*entries(work, merged, temporary), *more) if only(entry)]
        ways, together = narrowed(work, [*_chosen(chosen, work, temporary, effort, tell)])
        stack.callback(_close, ways)
        for done, way in enumerate(ways):
            tell("loading", done, len(ways))
            _open(way, work, effort, together)
        _measure(ways, together, effort, tell)
        _close(ways)
        ways = list(fastest(ways))
        profiled, notes = _profile(work, ways) if with_profile else ((), [])
    rows = tuple(way.row for way in ways)
    report = BenchReport(
        models=work.names,
        case=work.case,
        provider=work.runtime.provider,
        rows=rows,
        speedups=tuple(speedups(rows)),
        together=together,
        tf32=work.tf32,
        profile=profiled,
        machine=machine.machine(work.runtime.provider),
        versions=machine.versions(),
        load=load,
        seconds=time.monotonic() - start,
        warnings=(*notes, *_warnings(work, load, rows)),
    )
    return renamed(report, {temporary + os.sep: ""})


# --------------------------------------------------------------------------- measuring


def _chosen(
    chosen: Sequence[Entry], work: Workload, folder: str, effort: Effort, tell: Progress
) -> Iterator[list[Way]]:
    for done, entry in enumerate(chosen):
        tell("trying settings", done, len(chosen))
        yield choose(entry, work, folder, effort)


def _open(way: Way, work: Workload, effort: Effort, stay: bool) -> None:
    """Load a way, measure that, and check its outputs. If it can't stay loaded, this is its first turn."""
    contender = way.contender
    if contender is None:
        return
    cuda = work.runtime.provider == "cuda"
    before, used = memory.resident(), memory.gpu()[0] if cuda else 0
    start = time.perf_counter()
    try:
        contender.setup()
        contender.run()
        load = time.perf_counter() - start
        grown = memory.resident() - before + contender.elsewhere()
        gpu = memory.gpu()[0] - used if cuda else 0
        error, problem = contender.check()
        if not stay:
            way.samples.append(quick(contender.run, effort))
    except RunFailed as failure:
        return way.failed(failure)
    load = min(load, way.row.load or load)
    way.row = replace(way.row, load=load, resident=max(0, grown), gpu=max(0, gpu), error=error)
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


def speedups(rows: Sequence[Row]) -> Iterator[Speedup]:
    """Compare each merged model with the alternative that has the lowest median."""
    others = [row for row in rows if row.ran and not row.merged]
    best = min(others, key=lambda row: row.median, default=None)
    for row in rows:
        if best is not None and row.merged and row.ran:
            yield Speedup(row.label, best.label, ratio(best.samples, row.samples))


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
        if row.problem:
            yield f"{row.label}: {row.problem}."
