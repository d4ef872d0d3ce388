"""Measures contenders in turns: each round gives every contender one turn, in an order that changes.

Whatever drifts (clock, temperature, other processes) drifts for all, and a ratio taken within a round is free
of it. Before its turn a contender waits until the spinning threads of the one before are asleep, and runs
once untimed to fill the caches. One sample is as many calls as take some milliseconds.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from netfuse_onnx.run.runtime import RunFailed

PAUSE = 0.03
LEAST = 0.01
"""The pause before a turn, and the least length of a sample, in seconds."""
CALLS = 2000
"""The most calls in a sample."""
FEWEST = 3
"""The number of rounds that are measured however little time there is."""

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The median of some samples, and the quartiles on both sides of it."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Quartiles:
        if len(samples) < 2:
            return cls(samples[0], samples[0], samples[0], 1)
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(middle, low, high, len(samples))


@dataclass(frozen=True, slots=True)
class Effort:
    """The limits of a measurement: up to `rounds` rounds, of which only the first `fewest` may end after
    `seconds`. `least` and `pause` are in seconds."""

    rounds: int = 25
    seconds: float = 20.0
    least: float = LEAST
    pause: float = PAUSE
    fewest: int = FEWEST


def sample(run: Run, effort: Effort) -> float:
    """Return the seconds of one call: the mean over the calls of one sample."""
    time.sleep(effort.pause)
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    calls = min(CALLS, max(1, math.ceil(effort.least / max(once, 1e-7))))
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def once(run: Run, effort: Effort) -> float:
    """Return the seconds of a single call, which must not be the first one."""
    time.sleep(effort.pause)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def quick(run: Run, effort: Effort, until: float = math.inf) -> float:
    """Estimate the seconds of one call: the median of up to five samples, of which only the first may start
    after `until` (of time.monotonic())."""
    samples = [sample(run, effort)]
    while len(samples) < 5 and time.monotonic() < until:
        samples.append(sample(run, effort))
    return statistics.median(samples)


def interleave(
    turns: Mapping[str, Callable[[], AbstractContextManager[Run]]],
    effort: Effort,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
    drop: Callable[[str, RunFailed], None] = lambda name, error: None,
    take: Callable[[Run, Effort], float] = sample,
) -> dict[str, list[float]]:
    """Return the seconds per call of each contender, a sample per round. The context of a turn can load a
    contender for it, where not all fit into memory together. A contender that fails drops out. After the
    fewest, a round starts only where one as long as the last would end in time."""
    order, samples = list(turns), {name: list[float]() for name in turns}
    shuffle, start = random.Random(seed), time.monotonic()
    end, last = start + effort.seconds, 0.0
    for done in range(effort.rounds):
        start, last = time.monotonic(), time.monotonic() - start
        if done >= effort.fewest and start + last >= end:
            break
        tell(done, effort.rounds)
        shuffle.shuffle(order)
        for name in list(order):
            try:
                with turns[name]() as run:
                    samples[name].append(take(run, effort))
            except RunFailed as error:
                order.remove(name)
                drop(name, error)
    return samples


def apart(slower: Quartiles | None, faster: Quartiles | None) -> Quartiles:
    """Return the speed of `faster` relative to `slower` where they were measured one after the other."""
    assert slower is not None
    assert faster is not None
    median, low, high = slower.median / faster.median, slower.low / faster.high, slower.high / faster.low
    return Quartiles(median, low, high, min(slower.samples, faster.samples))


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Quartiles:
    """Return the speed of `faster` relative to `slower`, from samples of the same rounds: the ratio of the
    two medians, which a table shows, with the quartiles of the ratios of the rounds, free of drift."""
    of_rounds = Quartiles.of([a / b for a, b in zip(slower, faster, strict=True)])
    return replace(of_rounds, median=statistics.median(slower) / statistics.median(faster))
