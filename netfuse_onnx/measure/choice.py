"""Chooses the settings with which each way goes into the rounds: the fastest in a trial, and those near it.

A trial is short, and other work on the machine disturbs it. So settings that come near the best are measured
in the rounds as well, where memory allows.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from netfuse_onnx.measure import memory
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contenders import Contender
from netfuse_onnx.measure.entries import Entry
from netfuse_onnx.measure.report import Row
from netfuse_onnx.measure.rounds import Effort, quick
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.run.runtime import RunFailed

PATIENCE = 20.0
"""One way tries settings for so many seconds; then the best so far is taken."""
TRIAL = 1.5
"""The seconds of samples in the trial of one setting, where the whole comparison is bounded."""
MUST_BEAT = 0.95
"""A more complex setting is chosen only where it takes less than 95 % of the seconds of simpler ones."""
NEAR = 1.25
"""Settings that take up to 125 % of the seconds of the best are measured in the rounds as well."""
FINALISTS = 3
"""At most so many settings of one way are measured in the rounds."""
LOADED = 1.5
"""A session takes so many times the size of its file in memory."""
SHARE = 0.8
"""Sessions may take this part of the free memory."""


@dataclass
class Way:
    """One entry with one choice of settings, and what was measured of it so far."""

    entry: Entry
    row: Row
    contender: Contender | None = None
    samples: list[float] = field(default_factory=list)
    some: dict[int, list[float]] = field(default_factory=dict)
    """Samples of calls that want only so many of the models."""

    def failed(self, error: Exception | str) -> None:
        """Take it out of the comparison, with the reason."""
        self.row = replace(self.row, problem=str(error) or type(error).__name__)
        if self.contender is not None:
            with suppress(RunFailed):
                self.contender.close()
        self.contender = None


def choose(
    entry: Entry, work: Workload, folder: str, effort: Effort, clock: Clock, until: float = math.inf
) -> list[Way]:
    """Return the entry with the settings that are fastest in a trial, then with those near them. No trial
    starts after `until` (of time.monotonic()); without any, the entry has its first settings."""
    row = Row(entry.kind, entry.label, entry.merged, file=entry.size)
    try:
        prepare(entry, work, folder)
        tried, load = _trials(entry, effort, clock, until) if len(entry.choices) > 1 else ({}, 0.0)
    except (RunFailed, OSError) as error:
        way = Way(entry, row)
        way.failed(error)
        return [way]
    row = replace(row, load=load, tried={str(settings): seconds for settings, seconds in tried.items()})
    chosen = finalists(tried) if tried else entry.choices[:1]
    return [Way(entry, replace(row, settings=str(some)), entry.make(some)) for some in chosen]


def prepare(entry: Entry, work: Workload, folder: str) -> None:
    """Write the files that an entry needs. Raises RunFailed where they or its sessions have no room."""
    if entry.size * LOADED > SHARE * (_free(work) or float("inf")):
        raise RunFailed(f"{entry.size / 1e9:.1f} GB of weights do not fit into memory")
    if entry.writes > SHARE * shutil.disk_usage(folder).free:
        raise RunFailed(f"there is no room on the disk for {entry.writes / 1e9:.1f} GB")
    entry.prepare()


def _trials(entry: Entry, effort: Effort, clock: Clock, until: float) -> tuple[dict[Settings, float], float]:
    """Return the seconds of a call by settings, and the shortest load time. After the first that runs, one is
    tried only where it would end in time; none is after `until`. Raises RunFailed if none runs."""
    tried, problem = dict[Settings, float](), RunFailed("no settings could be tried")
    load, begun = math.inf, time.monotonic()
    end, last = min(begun + PATIENCE, until), 0.0
    for settings in entry.choices:
        begun, last = time.monotonic(), time.monotonic() - begun
        if begun >= until or (tried and begun + last > end):
            if clock.bounded:
                clock.leave_out("settings", entry.label)
            return tried, load if tried else 0.0
        contender = entry.make(settings)
        try:
            start = time.perf_counter()
            contender.setup()
            contender.run()
            load = min(load, time.perf_counter() - start)
            limit = time.monotonic() + TRIAL if clock.bounded else math.inf
            tried[settings] = quick(contender.run, effort, min(end, limit))
        except RunFailed as error:
            problem = error
        finally:
            contender.close()
    if not tried:
        raise problem
    return tried, load


def finalists(tried: Mapping[Settings, float]) -> list[Settings]:
    """Return the fastest settings, then those near them. Settings that come later, with more threads, must be
    faster by a margin: in a trial they may seem as fast as one thread, and then stall in the rounds when
    another process takes one of the cores."""
    best = next(iter(tried))
    for settings, seconds in tried.items():
        if seconds < MUST_BEAT * tried[best]:
            best = settings
    near = sorted((s for s in tried if s != best and tried[s] <= NEAR * tried[best]), key=tried.__getitem__)
    return [best, *near[: FINALISTS - 1]]


def narrowed(
    work: Workload, field: Sequence[Sequence[Way]], seconds: float = math.inf
) -> tuple[list[Way], bool]:
    """Return the ways for the rounds (all finalists or the first of each), and True if all fit in memory. All
    finalists are loaded only where that takes no more than `seconds` longer."""
    every = [way for ways in field for way in ways]
    first = [ways[0] for ways in field]
    longer = sum(way.row.load for way in every) - sum(way.row.load for way in first)
    if longer <= seconds and _fit(work, every):
        return every, True
    return first, _fit(work, first)


def _free(work: Workload) -> int:
    return memory.gpu()[1] if work.runtime.provider == "cuda" else memory.available()


def _fit(work: Workload, ways: Sequence[Way]) -> bool:
    """True where all can be loaded at once, or the free memory is unknown."""
    needed = sum(way.entry.size * LOADED for way in ways if way.contender)
    return needed < SHARE * (_free(work) or float("inf"))
