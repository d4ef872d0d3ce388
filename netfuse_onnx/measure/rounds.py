"""Time, fairly: in each round every contender has one turn, in an order that changes from round to round.

So whatever drifts (clock, temperature, neighbours) drifts for all, and a ratio taken within a round is free
of it. Before its turn a contender waits for the spinning threads of the one before to fall asleep, and runs
once untimed to have the caches to itself. One sample is as many calls as take some milliseconds.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from netfuse_onnx.run.runtime import RunFailed

PAUSE = 0.03
LEAST = 0.01
"""Seconds: the pause before a turn, the least length of a sample."""
CALLS = 2000
"""The most calls in a sample."""
FEWEST = 3
"""Rounds there are in any case, however little time there is."""

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
    """How long to measure: up to `rounds` rounds, none but `fewest` started after `seconds`."""

    rounds: int = 25
    seconds: float = 20.0
    least: float = LEAST
    pause: float = PAUSE
    fewest: int = FEWEST


def sample(run: Run, effort: Effort) -> float:
    """Seconds of one call: the mean of as many calls as one sample has."""
    time.sleep(effort.pause)
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    calls = min(CALLS, max(1, math.ceil(effort.least / max(once, 1e-7))))
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def quick(run: Run, effort: Effort) -> float:
    """Seconds of one call, roughly: the median of a few samples."""
    return statistics.median(sample(run, effort) for _ in range(5))


def interleave(
    turns: Mapping[str, Callable[[], AbstractContextManager[Run]]],
    effort: Effort,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
    drop: Callable[[str, RunFailed], None] = lambda name, error: None,
    take: Callable[[Run, Effort], float] = sample,
) -> dict[str, list[float]]:
    """Seconds per call of each contender, a sample per round. A turn is taken inside of its context, so that
    contenders that do not fit into memory together can be loaded for it. One that fails drops out."""
    order, found = list(turns), {name: list[float]() for name in turns}
    shuffle, end = random.Random(seed), time.monotonic() + effort.seconds
    for done in range(effort.rounds):
        if done >= effort.fewest and time.monotonic() >= end:
            break
        tell(done, effort.rounds)
        shuffle.shuffle(order)
        for name in list(order):
            try:
                with turns[name]() as run:
                    found[name].append(take(run, effort))
            except RunFailed as error:
                order.remove(name)
                drop(name, error)
    return found


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Quartiles:
    """How many times as fast `faster` is, round by round."""
    return Quartiles.of([a / b for a, b in zip(slower, faster, strict=True)])
