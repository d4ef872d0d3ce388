"""Moments, as times of time.monotonic(), and how to wait for one."""

from __future__ import annotations

import threading
import time

NEVER = float("inf")


def seconds_until(moment: float) -> float | None:
    """Return how long to wait for a time of time.monotonic(), as the waits of `threading` take it: None is
    for ever. They refuse numbers of seconds that are too large; who waits for less looks again."""
    return None if moment == NEVER else min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX)
