"""With which settings each way goes into the rounds: those that are fastest alone, and those near them.

A trial is short, and whoever else uses the machine shows in it, so what comes near the best is measured in
the rounds as well, where memory allows.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from netfuse_onnx.measure import memory
from netfuse_onnx.measure.contenders import Contender
from netfuse_onnx.measure.entries import Entry
from netfuse_onnx.measure.report import Row
from netfuse_onnx.measure.rounds import Effort, quick
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.run.runtime import RunFailed

PATIENCE = 20.0
"""Seconds for which one way tries settings; then the best so far is taken."""
CLEARLY = 0.95
"""Of the seconds of simpler settings, what others may take to be preferred."""
NEAR = 1.25
"""Of the seconds of the best, what others may take to be measured as well."""
FINALISTS = 3
"""The most settings of one way that are."""
LOADED = 1.5
"""How much memory a session takes, in sizes of its file."""
SHARE = 0.8
"""Of the memory that is free, what may be taken."""


@dataclass
class Way:
    """One entry with some settings on its way through the comparison."""

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


def choose(entry: Entry, work: Workload, folder: str, effort: Effort) -> list[Way]:
    """The entry with the settings that are fastest alone, then with those near them."""
    row = Row(entry.kind, entry.label, entry.merged, file=entry.size)
    try:
        _prepare(entry, work, folder)
        tried, load = _trials(entry, effort) if len(entry.choices) > 1 else ({}, 0.0)
    except (RunFailed, OSError) as error:
        way = Way(entry, row)
        way.failed(error)
        return [way]
    row = replace(row, load=load, tried={str(settings): seconds for settings, seconds in tried.items()})
    chosen = finalists(tried) if tried else entry.choices[:1]
    return [Way(entry, replace(row, settings=str(some)), entry.make(some)) for some in chosen]


def _prepare(entry: Entry, work: Workload, folder: str) -> None:
    if entry.size * LOADED > SHARE * (_free(work) or float("inf")):
        raise RunFailed(f"{entry.size / 1e9:.1f} GB of weights do not fit into memory")
    if entry.writes > SHARE * shutil.disk_usage(folder).free:
        raise RunFailed(f"there is no room on the disk for {entry.writes / 1e9:.1f} GB")
    entry.prepare()


def _trials(entry: Entry, effort: Effort) -> tuple[dict[Settings, float], float]:
    """Seconds of a call, by settings, and the shortest time of loading. Raises RunFailed where none runs."""
    tried, problem = dict[Settings, float](), RunFailed("no settings could be tried")
    load = math.inf
    end = time.monotonic() + PATIENCE
    for settings in entry.choices:
        if tried and time.monotonic() > end:
            break
        contender = entry.make(settings)
        try:
            start = time.perf_counter()
            contender.setup()
            contender.run()
            load = min(load, time.perf_counter() - start)
            tried[settings] = quick(contender.run, effort)
        except RunFailed as error:
            problem = error
        finally:
            contender.close()
    if not tried:
        raise problem
    return tried, load


def finalists(tried: Mapping[Settings, float]) -> list[Settings]:
    """The fastest, then those near it. One that comes later, with more threads, is the fastest only if
    clearly so: alone, it may seem as fast as one thread is, and then stall in the rounds when another process
    has one of the cores."""
    best = next(iter(tried))
    for settings, seconds in tried.items():
        if seconds < CLEARLY * tried[best]:
            best = settings
    near = sorted((s for s in tried if s != best and tried[s] <= NEAR * tried[best]), key=tried.__getitem__)
    return [best, *near[: FINALISTS - 1]]


def narrowed(work: Workload, field: Sequence[Sequence[Way]]) -> tuple[list[Way], bool]:
    """What goes into the rounds, and whether all of it can be loaded at once: all finalists, or else the
    first of each."""
    every = [way for ways in field for way in ways]
    if _fit(work, every):
        return every, True
    first = [ways[0] for ways in field]
    return first, _fit(work, first)


def _free(work: Workload) -> int:
    return memory.gpu()[1] if work.runtime.provider == "cuda" else memory.available()


def _fit(work: Workload, ways: Sequence[Way]) -> bool:
    """Whether all can be loaded at once. Where the system can't tell, they can."""
    needed = sum(way.entry.size * LOADED for way in ways if way.contender)
    return needed < SHARE * (_free(work) or float("inf"))
