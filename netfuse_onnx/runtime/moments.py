"""Moments, as times of time.monotonic(), and how to wait for one."""

from __future__ import annotations

import threading
import time

NEVER = float("inf")


class Rate:
    """The number of requests that arrive in a second in which a call runs: while others are served.

    It is 0 where one caller sends a request after each answer, however often, and that of all requests where
    many callers know nothing of each other. It is a ratio of running means over arrivals: the first ones
    count alike, later each moves the means by STEP of the difference. Nothing arrived yet: 0.
    """

    STEP = 0.02
    __slots__ = ("_busy", "_busy_before", "_count", "_meanwhile")

    def __init__(self) -> None:
        self._count, self._meanwhile, self._busy, self._busy_before = 0, 0.0, 0.0, 0.0

    def arrived(self, busy_seconds: float, is_busy: bool) -> None:
        """Take in a request. Until now calls ran for so many seconds in all; `is_busy` says that one does."""
        if self._count:
            step = max(self.STEP, 1 / self._count)
            self._meanwhile += step * (is_busy - self._meanwhile)
            self._busy += step * (max(busy_seconds - self._busy_before, 0.0) - self._busy)
        self._count, self._busy_before = self._count + 1, busy_seconds

    @property
    def per_busy_second(self) -> float:
        """The requests that arrive in a second in which a call runs."""
        return self._meanwhile / max(self._busy, 1e-9)


def seconds_until(moment: float) -> float | None:
    """Return how long to wait for a time of time.monotonic(), as the waits of `threading` take it: None is
    for ever. They refuse numbers of seconds that are too large; who waits for less looks again."""
    return None if moment == NEVER else min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX)
