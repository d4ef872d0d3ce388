"""Ends the runs of ONNX Runtime that take too long.

One thread watches the deadlines of all runs: a thread for each would cost more than a small run takes.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from typing import Any


class Deadlines:
    """The runs that are under way, and when each must be done. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: dict[int, tuple[float, Any]] = {}
        self._wakes = math.inf
        self._watching = False

    @contextlib.contextmanager
    def within(self, seconds: float, options: Any) -> Iterator[None]:
        """Set `terminate` of RunOptions if the block takes more than `seconds`, and never after it."""
        due = time.monotonic() + seconds
        with self._changed:
            if not self._watching:
                threading.Thread(target=self._watch, name="netfuse-onnx deadlines", daemon=True).start()
                self._watching = True
            self._runs[id(options)] = due, options
            if due < self._wakes:  # else the thread wakes early enough, as it does for runs of equal limits
                self._wakes = due
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._runs.pop(id(options), None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for key in [key for key, (due, _) in self._runs.items() if due <= now]:
                    self._runs.pop(key)[1].terminate = True
                self._wakes = min((due for due, _ in self._runs.values()), default=math.inf)
                wait = min(self._wakes - now, threading.TIMEOUT_MAX)
                self._changed.wait(None if math.isinf(self._wakes) else wait)


_deadlines = Deadlines()


def within(seconds: float, options: Any) -> contextlib.AbstractContextManager[None]:
    """Deadlines.within, of this process."""
    return _deadlines.within(seconds, options)


def _renew() -> None:
    """Forget, in the child of a fork, the parent's runs and its thread, which are not here."""
    global _deadlines
    _deadlines = Deadlines()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
