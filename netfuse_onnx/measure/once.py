"""Measures the ways one after the other, each loaded once and freed before the next.

This is for CUDA, where loading N sessions takes longer than measuring them, and where nothing else uses the
device. The first way, a session per model without CUDA graphs, tells the right outputs. Every way is then
checked on two turns of inputs (first, second, first again) and once more after it was timed: values that stay
from a former run or from the capture of a CUDA graph show only then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from netfuse_onnx.measure import memory
from netfuse_onnx.measure.choice import Way, prepare
from netfuse_onnx.measure.contenders import Contender, InSequence
from netfuse_onnx.measure.entries import Entry
from netfuse_onnx.measure.report import TIME_UP, Row
from netfuse_onnx.measure.rounds import Effort, Quartiles, Run, sample
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.waiting import sample_some
from netfuse_onnx.measure.workload import TURNS, Results, Workload
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import RunFailed

SECONDS = 3.0
"""At most so many seconds of samples are taken of one way, after the fewest."""
LEAST = 0.002
"""The least length of a sample, in seconds: nothing else uses the device."""
WARM_UP = 3
CHECKS = (0, 1, 0)
"""The turns of inputs on which outputs are checked before a way is timed."""

Keep = Callable[[Sequence[Way]], None]


def one_by_one(
    work: Workload,
    entries: Sequence[Entry],
    folder: str,
    effort: Effort,
    *,
    until: float,
    checked: bool,
    keep: Keep,
    tell: Progress,
    soon: float = math.inf,
) -> list[Way]:
    """Measure each entry with each of its settings. Nothing starts after `until` (of time.monotonic()), and
    after `soon` only an entry with its first settings. `keep` is called after each way. Without `checked`,
    outputs are not compared."""
    effort = replace(effort, seconds=min(effort.seconds, SECONDS), least=min(effort.least, LEAST), pause=0.0)
    ways, todo = list[Way](), ordered(entries)
    for done, (entry, settings) in enumerate(todo):
        tell("measuring", done, len(todo))
        if _needless(entry, settings, ways):
            continue
        now = time.monotonic()
        if now >= until or (now >= soon and settings != entry.choices[0]):
            ways.append(_skipped(entry, settings))
            continue
        ways += _measured(entry, settings, work, folder, effort, checked)
        keep(ways)
    return ways


def ordered(entries: Sequence[Entry]) -> list[tuple[Entry, Settings]]:
    """Return entries with settings: all with their first settings, then all with their second; those that are
    late at the end."""
    ranked = [
        (entry.late, rank, place, settings)
        for place, entry in enumerate(entries)
        for rank, settings in enumerate(entry.choices)
    ]
    ranked.sort(key=lambda item: item[:3])
    return [(entries[place], settings) for _, _, place, settings in ranked]


def cut(ways: Sequence[Way]) -> bool:
    """True where some way was not measured because the time was up."""
    return any(way.row.problem == TIME_UP for way in ways)


def _needless(entry: Entry, settings: Settings, ways: Sequence[Way]) -> bool:
    """True for settings without a CUDA graph where the same ones with a graph ran, but for the simplest."""
    with_graph = str(replace(settings, graph=True))
    ran = any(way.entry is entry and way.row.settings == with_graph and way.row.ran for way in ways)
    return settings.nhwc and not settings.graph and ran


def _skipped(entry: Entry, settings: Settings) -> Way:
    row = Row(entry.kind, entry.label, entry.merged, settings=str(settings), file=entry.size, problem=TIME_UP)
    return Way(entry, row)


def _measured(
    entry: Entry, settings: Settings, work: Workload, folder: str, effort: Effort, checked: bool
) -> list[Way]:
    """Load an entry, measure all uses of its sessions, and free them."""
    contender = entry.make(settings)
    row = Row(entry.kind, entry.label, entry.merged, settings=str(settings), file=entry.size)
    way = Way(entry, row, contender)
    try:
        prepare(entry, work, folder)
        way.row = _loaded(row, contender)
    except (RunFailed, OSError) as error:
        way.failed(error)
        return [way]
    ways = [way, *_uses(way, work, settings)]
    for one in ways:
        _measure(one, work, effort, checked)
        if one.row.ran:
            sample_some(one, effort)
    contender.close()
    return ways


def _loaded(row: Row, contender: Contender) -> Row:
    before, used = memory.resident(), memory.gpu()[0]
    start = time.perf_counter()
    contender.setup()
    contender.run()
    load = time.perf_counter() - start
    grown, gpu = memory.resident() - before + contender.elsewhere(), memory.gpu()[0] - used
    return replace(row, load=load, resident=max(0, grown), gpu=max(0, gpu))


def _uses(way: Way, work: Workload, settings: Settings) -> Iterator[Way]:
    """Yield the other ways to use the sessions that a way has loaded."""
    for kind in way.entry.also:
        if isinstance(way.contender, InSequence):
            other = kind(work, settings)
            other.use(way.contender)
            yield Way(way.entry, replace(way.row, kind=kind.kind, label=kind.kind), other)


def _measure(way: Way, work: Workload, effort: Effort, checked: bool) -> None:
    """Check, time, and check again."""
    contender = way.contender
    assert contender is not None
    try:
        if checked:
            _learn(contender, work)
            _check(way, contender, CHECKS)
        if not way.row.problem:
            contender.feed(0)
            samples = _samples(contender.run, effort)
            way.row = replace(way.row, seconds=Quartiles.of(samples), samples=tuple(samples))
            if contender.on_device:
                on_device = Quartiles.of(_samples(contender.device_run, effort))
                way.row = replace(way.row, device=on_device)
        if checked and not way.row.problem:
            _check(way, contender, CHECKS[-1:])
    except RunFailed as error:
        way.row = replace(way.row, problem=str(error))


def _learn(contender: Contender, work: Workload) -> None:
    """Take the outputs of plain sessions for right, the first time."""
    settings = contender.settings
    if type(contender) is InSequence and settings == Settings(exact=settings.exact):
        work.learn([_turn(contender, turn) for turn in range(TURNS)], exact=settings.exact)
    elif not work.learned(exact=settings.exact):
        raise RunFailed("there is nothing to compare it with: the models did not run in sequence")


def _turn(contender: Contender, turn: int) -> Results:
    contender.feed(turn)
    return contender.results()


def _check(way: Way, contender: Contender, turns: Sequence[int]) -> None:
    for turn in turns:
        if contender.feed(turn):
            error, problem = contender.check(turn)
            way.row = replace(way.row, error=max(error, way.row.error or 0.0))
            if problem:
                way.row = replace(way.row, problem=f"not equal: {problem}")
                return


def _samples(run: Run, effort: Effort) -> list[float]:
    for _ in range(WARM_UP):
        run()
    samples, end = list[float](), time.monotonic() + effort.seconds
    while len(samples) < effort.fewest or (len(samples) < effort.rounds and time.monotonic() < end):
        samples.append(sample(run, effort))
    return samples
