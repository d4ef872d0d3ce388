"""The number of threads of a call, and of calls at a time, on the CPU.

Many calls at a time on one thread each serve the most requests, because threads that share an operator wait
for each other; one call on all cores answers a single request first. So a call gets the fewest threads with
which a row of one model takes at most CLOSE times as long as with all of them, and a little more. As many
calls run at a time as then have cores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.runtime.ort import ALL, cores

CLOSE, MORE = 1.1, 20e-6
"""A call may take this many times as long as with all threads, and so many seconds more."""
LEAST, MOST = 1, 20
"""Calls that are timed of each number of threads. The shortest counts."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads of one call (ALL: ONNX Runtime's default), and calls at a time."""

    threads: int
    workers: int


def given(threads: int | None, workers: int | None, *, have: int | None = None) -> Threads | None:
    """Return what the user says, completed so that all cores are used; None where he says nothing."""
    have = have or cores()
    if threads is not None:
        return Threads(threads, workers or max(1, have // threads if threads != ALL else 1))
    if workers is not None:
        return Threads(max(1, have // workers), workers)
    return Threads(1, 1) if have == 1 else None


def clock(threads: int, on_device: bool) -> Callable[[], float]:
    """Return the clock by which calls of so many threads are timed: that of the processor where the thread
    that calls does all the work, and the system counts such time finely."""
    alone = threads == 1 and not on_device and sys.platform.startswith("linux")
    return time.thread_time if alone else time.perf_counter


def measured(
    open: Callable[[int], Any],
    run: Callable[[Any], object],
    seconds: float,
    *,
    have: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Threads, Any]:
    """Return the best threads and a session that has them. `open` opens one with so many threads, and `run`
    runs one row of one model on it. After `seconds`, no further number is tried."""
    have, end = have or cores(), clock() + seconds
    one, every = open(1), open(ALL)
    times = {1: _first(run, one, clock), ALL: _first(run, every, clock)}
    for _ in _rounds(end, clock):
        times[1] = min(times[1], _timed(run, one, clock))
        times[ALL] = min(times[ALL], _timed(run, every, clock))
    allowed = CLOSE * times[ALL] + MORE
    if times[1] <= allowed:
        return Threads(1, have), one
    best, threads = every, ALL
    for fewer in _halves(have):
        if clock() > end:
            break
        session = open(fewer)
        shortest = _first(run, session, clock)
        for _ in _rounds(end, clock):
            shortest = min(shortest, _timed(run, session, clock))
        if shortest > allowed:
            break
        best, threads = session, fewer
    return Threads(threads, max(1, have // threads) if threads != ALL else 1), best


def _first(run: Callable[[Any], object], session: Any, clock: Callable[[], float]) -> float:
    """Return the time of the second call: the first one reserves memory."""
    run(session)
    return _timed(run, session, clock)


def _timed(run: Callable[[Any], object], session: Any, clock: Callable[[], float]) -> float:
    start = clock()
    run(session)
    return clock() - start


def _rounds(end: float, clock: Callable[[], float]) -> Iterator[int]:
    """Yield until so many calls were timed or the time is up."""
    for count in range(MOST):
        if clock() >= end and count >= LEAST:
            return
        yield count


def _halves(have: int) -> Iterator[int]:
    """Yield half as many, a quarter, and so on, down to 2."""
    while (have := have // 2) > 1:
        yield have
