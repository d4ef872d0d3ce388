"""Measures calls that want only some of the models: from how many on is one merged call the faster one?

A merged call runs all models, unless the file was merged with --select: then it runs the k that are wanted.
k of N models can be run by k of the N sessions, one after the other or by the pool; the best alternative for
all N serves k as well, and is taken where it is faster.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from netfuse_onnx.compared import Compared, Outcome
from netfuse_onnx.measure.choice import Way
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contenders import InSequence, OneGraph
from netfuse_onnx.measure.report import Row, Speedup, Waiting
from netfuse_onnx.measure.rounds import Effort, Quartiles, Run, apart, interleave, ratio, sample
from netfuse_onnx.run.runtime import RunFailed
from netfuse_onnx.verdict import of_rounds

ROUNDS = 5
"""The rounds in which one number of models is measured, and the samples where there are no rounds."""


def numbers(models: int) -> list[int]:
    """Return the numbers of models to measure where the sessions are loaded only for a while: 1, 2, 4, 8."""
    return [1 << power for power in range(models.bit_length()) if 1 << power < models]


def sessions_of(way: Way) -> InSequence | None:
    """Return the contender of a way that can run some of the models: it has a session for each. None where
    outputs are combined, which takes all models."""
    one = way.contender
    return one if isinstance(one, InSequence) and not one.work.combined else None


def runs_some(way: Way) -> Callable[[int], object] | None:
    """Return what makes a call of so many models: the sessions of a way, or a merged file that chooses."""
    if isinstance(way.contender, OneGraph) and way.contender.chooses:
        return way.contender.run_some
    contender = sessions_of(way)
    return contender.run_some if contender else None


def sample_some(way: Way, effort: Effort, until: float = math.inf) -> None:
    """Measure calls of a loaded way that want 1, 2, 4 ... models, a few samples each. Nothing is lost where
    one fails or the time is up: these numbers then have no figures."""
    run_some = runs_some(way)
    if run_some is None or way.contender is None:
        return
    short = replace(effort, rounds=ROUNDS, seconds=max(0.0, until - time.monotonic()), fewest=1)
    for k in numbers(way.contender.work.models):
        if k > 1 and time.monotonic() >= until:
            return
        try:
            turns = {"": _loaded(functools.partial(run_some, k))}
            way.some[k] = interleave(turns, short)[""]
        except RunFailed:
            return


def compared(ways: Sequence[Way], speedups: Sequence[Speedup], *, paired: bool) -> tuple[Waiting, ...]:
    """Compare each merged model with the calls that were measured of some models. `paired` says that these
    were taken in the rounds."""
    rows = [way.row for way in ways]
    found = []
    for speedup in speedups:
        own = _fastest_way(way for way in ways if way.row.label == speedup.merged)
        for k, best in _best(ways).items():
            figures = _times(best.some[k], own, k, paired)
            one = Waiting(speedup.merged, k, best.row.label, *figures, chosen=bool(own.some.get(k)))
            found.append(_capped(one, rows, speedup))
    return tuple(found)


def _times(
    samples: Sequence[float], way: Way, count: int, paired: bool
) -> tuple[Quartiles, Quartiles, Quartiles]:
    own, seconds = way.row, Quartiles.of(samples)
    assert own.seconds is not None
    if way.some.get(count):
        merged = Quartiles.of(way.some[count])
        return seconds, merged, apart(seconds, merged)
    if paired and len(samples) == len(own.samples):
        return seconds, own.seconds, ratio(samples, own.samples)
    return seconds, own.seconds, apart(seconds, own.seconds)


def _best(ways: Sequence[Way]) -> Mapping[int, Way]:
    """The way with the lowest median for each number of models that was measured."""
    others = [way for way in ways if way.row.ran and not way.row.merged]
    counts = sorted({k for way in others for k in way.some})
    return {
        k: min((w for w in others if w.some.get(k)), key=lambda w: Quartiles.of(w.some[k]).median)
        for k in counts
    }


def _fastest(rows: Iterator[Row]) -> Row:
    return min((row for row in rows if row.ran), key=lambda row: row.median)


def _fastest_way(ways: Iterator[Way]) -> Way:
    return min((way for way in ways if way.row.ran), key=lambda way: way.row.median)


def _capped(found: Waiting, rows: Sequence[Row], speedup: Speedup) -> Waiting:
    """The best alternative for all models instead, where it is faster than what runs only some."""
    every = _fastest(row for row in rows if row.label == speedup.best)
    if found.seconds.median <= every.median or every.seconds is None:
        return found
    own = _fastest(row for row in rows if row.label == speedup.merged)
    times = speedup.times if found.merged == own.seconds else apart(every.seconds, found.merged)
    return replace(found, best=every.label, seconds=every.seconds, times=times)


# --------------------------------------------------------------------------- the smallest number that pays


def search(
    ways: Sequence[Way], speedup: Speedup, known: Mapping[int, Waiting], effort: Effort, clock: Clock
) -> Iterator[Waiting]:
    """Look for the smallest number of models for which a merged call pays, and yield each number that was
    measured for it. All ways are loaded. `known` has the numbers that the rounds measured."""
    rows = [way.row for way in ways]
    own = min((w for w in ways if w.row.label == speedup.merged and w.row.ran), key=lambda w: w.row.median)
    models = own.contender.work.models if own.contender else 1
    every = _fastest(row for row in rows if row.label == speedup.best)
    if not _pays(of_rounds(own.row.median, every.median, speedup.times, speedup.best)):
        return
    low = max((k for k, row in known.items() if not _pays(_of(row))), default=0)
    high = min((k for k, row in known.items() if _pays(_of(row))), default=models)
    guess = round(models * own.row.median / every.median)
    while high - low > 1:
        k = _next(low, high, guess)
        if clock.left() < _needed(k, models, ways, own, effort):
            return clock.leave_out("some numbers of waiting models")
        found = _measured(k, ways, own, effort)
        if found is None:
            return
        found = _capped(found, rows, speedup)
        yield found
        low, high = (low, k) if _pays(_of(found)) else (k, high)


def _next(low: int, high: int, guess: int) -> int:
    """The number between the two to measure next: those around the guess come first, then the middle."""
    near = (k for k in (guess, guess - 1, guess + 1) if low < k < high)
    return next(near, (low + high) // 2)


def _of(row: Waiting) -> Compared:
    return of_rounds(row.merged.median, row.seconds.median, row.times, row.best)


def _pays(one: Compared) -> bool:
    return one.outcome is Outcome.BETTER


def _needed(k: int, models: int, ways: Sequence[Way], own: Way, effort: Effort) -> float:
    """The seconds that one number takes to measure: a warm-up and a sample of each way, in each round."""
    calls = [own.row.median, *(way.row.median * k / models for way in _with_sessions(ways))]
    return ROUNDS * sum(2.0 * max(call, effort.least) + effort.pause for call in calls)


def _with_sessions(ways: Sequence[Way]) -> list[Way]:
    return [way for way in ways if way.row.ran and sessions_of(way) is not None]


def _measured(k: int, ways: Sequence[Way], own: Way, effort: Effort) -> Waiting | None:
    """Measure one number of models in turns with the merged model."""
    assert own.contender is not None
    some = runs_some(own)
    turns = {"merged": _loaded(functools.partial(some, k) if some else own.contender.run)}
    loaded = _with_sessions(ways)
    for i, way in enumerate(loaded):
        contender = sessions_of(way)
        assert contender is not None
        turns[str(i)] = _loaded(functools.partial(contender.run_some, k))
    failed = list[str]()
    short = replace(effort, rounds=ROUNDS, seconds=math.inf, fewest=ROUNDS)
    samples = interleave(turns, short, take=sample, drop=lambda name, error: failed.append(name))
    ran = {name: Quartiles.of(some) for name, some in samples.items() if name not in failed}
    best = min((name for name in ran if name != "merged"), key=lambda name: ran[name].median, default=None)
    if best is None or "merged" in failed:
        return None
    times = ratio(samples[best], samples["merged"])
    label = loaded[int(best)].row.label
    return Waiting(own.row.label, k, label, ran[best], ran["merged"], times, chosen=some is not None)


def _loaded(run: Run) -> Callable[[], AbstractContextManager[Run]]:
    """The turn of something that stays loaded."""
    return lambda: nullcontext(run)
