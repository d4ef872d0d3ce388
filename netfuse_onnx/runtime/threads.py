"""The number of threads of a call, and of calls at a time, on the CPU.

As many calls run at a time as have cores. One thread each serves the most requests as a rule, because threads
that share an operator wait for each other; one call on all cores answers a single request first. Of the
numbers of threads that serve nearly the most rows per second, the one with the quickest call is chosen: a
server that is faster idle and slower under load loses when it matters. Where a call on all cores is clearly
quicker still, own sessions are opened for such calls too, and the scheduler chooses for each call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.runtime.ort import ALL, cores

CLOSE = 1.1
"""The most rows per second are at most this many times those of the choice."""
LEAST, MOST = 1, 20
"""Calls that are timed of each number of threads. The shortest counts."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads of one call (ALL: ONNX Runtime's default), and calls at a time."""

    threads: int
    workers: int
    on_all: float = 1.0
    """The time of a call on all cores, as a part of that of one with `threads`; 1 where it is not clearly
    quicker."""


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
) -> tuple[Threads, dict[int, Any]]:
    """Return the best threads, and the sessions that were tried, by their threads. `open` opens one with so
    many threads, and `run` runs one row of one model on it. After `seconds`, no further number is tried."""
    have, end = have or cores(), clock() + seconds
    sessions = {1: open(1), ALL: open(ALL)}
    times = {count: _first(run, session, clock) for count, session in sessions.items()}
    for _ in _rounds(end, clock):
        for count, session in sessions.items():
            times[count] = min(times[count], _timed(run, session, clock))
    for fewer in _halves(have):
        quickest = min(times.values())  # that a call of fewer threads does not undercut
        most = max(_served(count, taken, have) for count, taken in times.items())
        if clock() > end:
            break
        if CLOSE * _served(fewer, quickest, have) < most:
            continue
        session = sessions[fewer] = open(fewer)
        times[fewer] = _first(run, session, clock)
        for _ in _rounds(end, clock):
            times[fewer] = min(times[fewer], _timed(run, session, clock))
    threads = best(times, have)
    on_all = times[ALL] / max(times[threads], 1e-9)
    return Threads(threads, _at_a_time(threads, have), on_all if CLOSE * on_all < 1 else 1.0), sessions


def best(times: Mapping[int, float], have: int) -> int:
    """Return the number of threads of a call, given the seconds that one takes with each number."""
    most = max(_served(count, taken, have) for count, taken in times.items())
    close = [count for count, taken in times.items() if CLOSE * _served(count, taken, have) >= most]
    return min(close, key=lambda count: times[count])


def _served(threads: int, taken: float, have: int) -> float:
    """Return the calls per second of all that run at a time, if they do not slow each other down."""
    return _at_a_time(threads, have) / max(taken, 1e-9)


def _at_a_time(threads: int, have: int) -> int:
    return max(1, have // threads) if threads != ALL else 1


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
