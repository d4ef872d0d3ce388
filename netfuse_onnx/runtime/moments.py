"""Moments, as times of time.monotonic(), and how to wait for one."""

from __future__ import annotations

import threading
import time

NEVER = float("inf")


class Rate:
    """The number of requests that arrive in a second: one over the running mean of the times between two.

    The first times count alike; later each moves the mean by STEP of the difference. Nothing arrives yet: 0.
    """

    STEP = 0.02
    __slots__ = ("_count", "_gap", "_last")

    def __init__(self) -> None:
        self._count, self._gap, self._last = 0, 0.0, NEVER

    def arrived(self, moment: float) -> None:
        """Take in a request that arrived at a moment, not before those of earlier calls."""
        if self._last != NEVER:
            self._count += 1
            step = max(self.STEP, 1 / self._count)
            self._gap += step * (max(moment - self._last, 0.0) - self._gap)
        self._last = moment

    @property
    def per_second(self) -> float:
        """The requests that arrive in a second."""
        return 1 / max(self._gap, 1e-9) if self._count else 0.0


def seconds_until(moment: float) -> float | None:
    """Return how long to wait for a time of time.monotonic(), as the waits of `threading` take it: None is
    for ever. They refuse numbers of seconds that are too large; who waits for less looks again."""
    return None if moment == NEVER else min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX)
