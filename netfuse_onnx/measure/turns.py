"""Measures the ways in turns, on the CPU.

Each way first tries its settings in a trial (choice.py). Those that may be its best go into the rounds, all
loaded at once where memory allows, and the fastest one there represents the way. Without enough memory, only
the best of each way goes on, and is loaded for its turn. Then come calls that want some models (waiting.py).
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from netfuse_onnx.measure import memory, waiting
from netfuse_onnx.measure.choice import Way, choose, narrowed
from netfuse_onnx.measure.clock import ROUNDS, Clock
from netfuse_onnx.measure.contenders import InSequence, OneGraph
from netfuse_onnx.measure.entries import Entry
from netfuse_onnx.measure.report import Waiting
from netfuse_onnx.measure.rounds import FEWEST, Effort, Quartiles, Run, interleave, once, quick, sample
from netfuse_onnx.measure.speedups import speedups
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import RunFailed

SUITS, SEVERAL = 1.5, 3
"""A second merged file tries only the settings that took up to 1.5 times the best time of the first, where 3
or more were tried for that one."""
LOADS = 0.5
"""The part of the time left after the trials that loading further settings of a way may take."""


def in_turns(
    work: Workload, chosen: Sequence[Entry], folder: str, effort: Effort, clock: Clock, tell: Progress
) -> tuple[list[Way], bool, tuple[Waiting, ...]]:
    """Measure the ways with the settings that are best for each. Say if all were loaded at once, and give the
    calls that want some models."""
    with ExitStack() as stack:
        field = [*_chosen(chosen, work, folder, effort, clock, tell)]
        ways, together = narrowed(work, field, LOADS * clock.left(ROUNDS))
        if len(ways) < sum(map(len, field)) and together:
            clock.leave_out("settings that came near the best")
        stack.callback(_close, ways)
        for done, way in enumerate(ways):
            tell("loading", done, len(ways))
            _open(way, effort, together, clock)
        _measure(ways, together, effort, clock, tell)
        some = _some_models(ways, together, effort, clock)
        _close(ways)
        return list(fastest(ways)), together, some


def fastest(ways: Sequence[Way]) -> Iterator[Way]:
    """Yield the fastest way of each entry in the rounds, or one that failed there, so that it shows."""

    def rank(way: Way) -> tuple[bool, bool, float]:
        return not way.row.broke, not way.row.ran, way.row.median

    for _, same in itertools.groupby(ways, key=lambda way: id(way.entry)):
        yield min(same, key=rank)


def _chosen(
    chosen: Sequence[Entry], work: Workload, folder: str, effort: Effort, clock: Clock, tell: Progress
) -> Iterator[list[Way]]:
    """Try the settings of each entry. They share the time; one that ends early leaves its rest to the others
    behind it."""
    share = clock.left(clock.trials) / max(1, sum(len(entry.choices) > 1 for entry in chosen))
    until, tried = time.monotonic(), dict[str, float]()
    for done, entry in enumerate(chosen):
        tell("trying settings", done, len(chosen))
        until += share if len(entry.choices) > 1 else 0.0
        ways = choose(_likely(entry, tried), work, folder, effort, clock, until)
        tried = tried or (dict(ways[0].row.tried) if entry.merged else {})
        yield ways


def _likely(entry: Entry, tried: Mapping[str, float]) -> Entry:
    """A merged file with the settings that suit another one of the same models: its best, and those near
    it. `tried` has the seconds of that other one, by settings."""
    if not entry.merged or len(tried) < SEVERAL:
        return entry
    most = SUITS * min(tried.values())
    near = [some for some in entry.choices if tried.get(str(some), math.inf) <= most]
    return replace(entry, choices=tuple(near))


def _open(way: Way, effort: Effort, stay: bool, clock: Clock) -> None:
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
            way.samples.append(quick(contender.run, effort, clock.at(ROUNDS)))
            waiting.sample_some(way, effort, clock.at(ROUNDS))
    except RunFailed as failure:
        return way.failed(failure)
    load = min(load, way.row.load or load)
    way.row = replace(way.row, load=load, resident=max(0, grown), error=error)
    if problem:
        way.failed(f"not equal: {problem}")
    elif not stay:
        contender.close()


def _measure(ways: Sequence[Way], together: bool, effort: Effort, clock: Clock, tell: Progress) -> None:
    """Measure the ways in rounds. The sessions in sequence have one more turn, for a call of one model, and
    so has a merged file that chooses."""
    racing = {str(i): way for i, way in enumerate(ways) if way.contender is not None}
    turns = {name: functools.partial(_turn, way, together) for name, way in racing.items()}
    if not turns:
        return
    stay = together and clock.some
    ones = {f"{name}/1": way for name, way in racing.items() if stay and _has_one(way)}
    turns |= {name: functools.partial(_turn, way, together, 1) for name, way in ones.items()}
    measure = functools.partial(
        interleave,
        take=_take(together, clock),
        tell=lambda done, total: tell("measuring", done, total),
        drop=lambda name, error: racing[name].failed(error) if name in racing else None,
    )
    begun = time.monotonic()
    samples_of = measure(turns, _of_rounds(effort, together, clock))
    _keep(racing, ones, samples_of)
    done = max(map(len, samples_of.values()))
    last = (time.monotonic() - begun) / max(1, done)
    if together and clock.bounded and clock.left() > last and not (clock.some and _may_pay(ways)):
        still = {name: turn for name, turn in turns.items() if len(samples_of[name]) == done}
        rest = replace(effort, rounds=effort.rounds - done, seconds=clock.left() - last, fewest=0)
        more = measure(still, rest, seed=done)
        _keep(racing, ones, {name: [*some, *more.get(name, ())] for name, some in samples_of.items()})
    if clock.bounded and any(len(way.row.samples) < FEWEST for way in racing.values() if way.row.ran):
        clock.leave_out("rounds")


def _keep(
    racing: Mapping[str, Way], ones: Mapping[str, Way], samples_of: Mapping[str, Sequence[float]]
) -> None:
    """Keep the samples of the rounds, in each way that did not fail."""
    for name, way in racing.items():
        if way.contender is not None:
            samples = (*way.samples, *samples_of[name])
            way.row = replace(way.row, seconds=Quartiles.of(samples), samples=samples)
    for name, way in ones.items():
        way.some |= {1: [*samples_of[name]]} if samples_of[name] else {}


def _may_pay(ways: Sequence[Way]) -> bool:
    """True where a merged model is the fastest, so that time is needed to find from how many calls on."""
    best = min((way.row for way in ways if way.row.ran), key=lambda row: row.median, default=None)
    return best is not None and best.merged


def _take(together: bool, clock: Clock) -> Callable[[Run, Effort], float]:
    """The way to take a sample. Loading takes longer than measuring, so a turn with a load measures more. A
    single call has to do where the time is up before the rounds."""
    if clock.left(ROUNDS) <= 0.0 and clock.fewest == 1:
        return once
    return sample if together else quick


def _of_rounds(effort: Effort, together: bool, clock: Clock) -> Effort:
    """The limits of the rounds. Where ways are loaded for their turns, the first turn was before."""
    effort = replace(effort, seconds=min(effort.seconds, clock.left(ROUNDS)))
    before = 0 if together else 1
    fewest = clock.fewest if clock.bounded else FEWEST
    rounds = effort.rounds if together else FEWEST - before
    return replace(effort, rounds=rounds, fewest=fewest - before)


def _has_one(way: Way) -> bool:
    own = way.contender
    one = type(own) is InSequence or (isinstance(own, OneGraph) and own.chooses)
    return one and own is not None and own.work.models > 1 and not own.work.combined


def _some_models(ways: Sequence[Way], together: bool, effort: Effort, clock: Clock) -> tuple[Waiting, ...]:
    """Compare the merged models with calls that want some models. Where the ways stay loaded, more numbers of
    models are measured for the fastest merged one, to find from how many on it pays."""
    rows = [way.row for way in fastest(ways)]
    compared = tuple(speedups(rows))
    found = waiting.compared(ways, compared, paired=together)
    merged = {row.label: row.median for row in rows if row.merged and row.ran}
    best = min(compared, key=lambda one: merged[one.merged], default=None)
    if best is None or not together or not clock.some:
        return found
    known = {row.models: row for row in found if row.label == best.merged}
    more = waiting.search([way for way in ways if way.row.ran], best, known, effort, clock)
    return tuple(sorted((*found, *more), key=lambda row: (row.label, row.models)))


@contextmanager
def _turn(way: Way, together: bool, models: int = 0) -> Iterator[Run]:
    """Load a way for its turn where it does not stay loaded. A call wants all models, or so many."""
    contender = way.contender
    assert contender is not None
    if together:
        some = waiting.runs_some(way) if models else None
        if some is not None:
            yield functools.partial(some, models)
        else:
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
