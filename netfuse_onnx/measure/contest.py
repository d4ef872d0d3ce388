"""The whole comparison: settings are chosen, the winners measured together, in turns, and checked equal.

Each way of running the models first tries its settings alone, briefly. The best of each way then goes into
the rounds, all loaded at once where memory allows, else each loaded for its turn.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from netfuse_onnx.measure import machine, memory, profile
from netfuse_onnx.measure.contenders import Contender, OneGraph
from netfuse_onnx.measure.entries import Entry, MergedFile, entries
from netfuse_onnx.measure.report import BenchReport, KindRow, Row, Speedup
from netfuse_onnx.measure.rounds import FEWEST, Effort, Quartiles, Run, interleave, quick, ratio, sample
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import RunFailed

PATIENCE = 60.0
"""Seconds for which one way tries settings; then the best so far is taken."""
CLEARLY = 0.95
"""Of the seconds of simpler settings, what others may take to be preferred."""
LOADED = 1.5
"""How much memory a session takes, in sizes of its file."""
SHARE = 0.8
"""Of the memory that is free, what may be taken."""
BUSY = 0.5
"""Load per core, before anything was measured, from which the times can't be trusted."""


@dataclass
class _Way:
    """One entry on its way through the comparison."""

    entry: Entry
    row: Row
    contender: Contender | None = None
    samples: list[float] = field(default_factory=list)

    def failed(self, error: Exception | str) -> None:
        self.row = replace(self.row, problem=str(error) or type(error).__name__)
        if self.contender is not None:
            with suppress(RunFailed):
                self.contender.close()
        self.contender = None


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
    """Compare the merged models with every other way. `more` ways may be added, `only` leaves some out. What
    does not run is a row with its reason. `folder` is where temporary files go."""
    start, load, effort = time.monotonic(), machine.load(), effort or Effort()
    with ExitStack() as stack:
        held = stack.enter_context(tempfile.TemporaryDirectory(prefix="netfuse-bench-", dir=folder))
        chosen = [entry for entry in (*entries(work, merged, held), *more) if only(entry)]
        ways = [_Way(e, Row(e.kind, e.label, e.merged, file=e.size)) for e in chosen]
        stack.callback(_close, ways)
        for done, way in enumerate(ways):
            tell("trying settings", done, len(ways))
            _choose(way, work, held, effort)
        together = _fit(work, ways)
        for done, way in enumerate(ways):
            tell("loading", done, len(ways))
            _open(way, work, effort, together)
        _measure(ways, together, effort, tell)
        _close(ways)
        profiled, said = _profile(work, ways) if with_profile else ((), [])
    rows = tuple(way.row for way in ways)
    return BenchReport(
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
        warnings=(*said, *_warnings(work, load, rows)),
    )


# --------------------------------------------------------------------------- settings


def _choose(way: _Way, work: Workload, folder: str, effort: Effort) -> None:
    """The settings that are fastest alone."""
    entry, tried = way.entry, dict[Settings, float]()
    if entry.size * LOADED > SHARE * (_free(work) or float("inf")):
        return way.failed(f"{entry.size / 1e9:.1f} GB of weights do not fit into memory")
    if entry.writes > SHARE * shutil.disk_usage(folder).free:
        return way.failed(f"there is no room on the disk for {entry.writes / 1e9:.1f} GB")
    try:
        entry.prepare()
    except (RunFailed, OSError) as error:
        return way.failed(error)
    problem: Exception | None = None
    end = time.monotonic() + PATIENCE
    for settings in entry.choices if len(entry.choices) > 1 else ():
        if tried and time.monotonic() > end:
            break
        contender = entry.make(settings)
        try:
            contender.setup()
            contender.run()
            tried[settings] = quick(contender.run, effort)
        except RunFailed as error:
            problem = error
        finally:
            contender.close()
    if len(entry.choices) > 1 and not tried:
        return way.failed(problem or "no settings could be tried")
    best = _best(tried) if tried else entry.choices[0]
    way.contender = entry.make(best)
    way.row = replace(way.row, settings=str(best), tried={str(s): t for s, t in tried.items()})


def _best(tried: Mapping[Settings, float]) -> Settings:
    """The fastest; but one that comes later, with more threads, must be clearly faster. Alone, it may seem as
    fast as one thread is, and then stall in the rounds when another process has one of the cores."""
    best = next(iter(tried))
    for settings, seconds in tried.items():
        if seconds < CLEARLY * tried[best]:
            best = settings
    return best


def _free(work: Workload) -> int:
    return memory.gpu()[1] if work.runtime.provider == "cuda" else memory.available()


def _fit(work: Workload, ways: Sequence[_Way]) -> bool:
    """Whether all can be loaded at once. Where the system can't tell, they can."""
    needed = sum(way.entry.size * LOADED for way in ways if way.contender)
    return needed < SHARE * (_free(work) or float("inf"))


# --------------------------------------------------------------------------- measuring


def _open(way: _Way, work: Workload, effort: Effort, stay: bool) -> None:
    """Load it, note what that costs, and check what it gives. If it can't stay, this is its first turn."""
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
            way.samples.append(sample(contender.run, effort))
    except RunFailed as failure:
        return way.failed(failure)
    way.row = replace(way.row, load=load, resident=max(0, grown), gpu=max(0, gpu), error=error)
    if problem:
        way.failed(f"not equal: {problem}")
    elif not stay:
        contender.close()


def _measure(ways: Sequence[_Way], together: bool, effort: Effort, tell: Progress) -> None:
    racing = {str(i): way for i, way in enumerate(ways) if way.contender is not None}
    turns = {name: functools.partial(_turn, way, together) for name, way in racing.items()}
    if not turns:
        return
    if not together:  # loading takes longer than measuring
        effort = replace(effort, rounds=FEWEST - 1, fewest=FEWEST - 1)
    found = interleave(
        turns,
        effort,
        tell=lambda done, total: tell("measuring", done, total),
        drop=lambda name, error: racing[name].failed(error),
    )
    for name, way in racing.items():
        if way.contender is not None:
            samples = (*way.samples, *found[name])
            way.row = replace(way.row, seconds=Quartiles.of(samples), samples=samples)


def _turn(way: _Way, together: bool) -> AbstractContextManager[Run]:
    assert way.contender is not None
    return nullcontext(way.contender.run) if together else _loaded(way.contender)


@contextmanager
def _loaded(contender: Contender) -> Iterator[Run]:
    try:
        contender.setup()
        contender.run()
        yield contender.run
    finally:
        contender.close()


def _close(ways: Sequence[_Way]) -> None:
    for way in ways:
        if way.contender is not None:
            way.contender.close()


# --------------------------------------------------------------------------- the answer


def speedups(rows: Sequence[Row]) -> Iterator[Speedup]:
    """Each merged model against the alternative with the lowest median."""
    others = [row for row in rows if row.ran and not row.merged]
    best = min(others, key=lambda row: row.seconds.median if row.seconds else 0.0, default=None)
    for row in rows:
        if best is not None and row.merged and row.ran:
            yield Speedup(row.label, best.label, ratio(best.samples, row.samples))


def _profile(work: Workload, ways: Sequence[_Way]) -> tuple[tuple[KindRow, ...], list[str]]:
    """Of the fastest merged model and the sequence, with the settings that were best for each."""
    ran = [w for w in ways if w.row.ran and isinstance(w.contender, OneGraph) and w.entry.merged]
    apart = next(
        (w.contender.settings for w in ways if w.entry.kind == "sequence" and w.contender), Settings()
    )
    if not ran:
        return (), ["There is no profile: no merged model ran."]
    best = min(ran, key=lambda way: way.row.seconds.median if way.row.seconds else 0.0)
    assert isinstance(best.contender, OneGraph)
    try:
        return profile.compare(work, best.contender, apart), []
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
