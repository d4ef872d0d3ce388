"""Ends the runs of ONNX Runtime that take too long.

One thread watches the deadlines of all runs: a thread for each would cost more than a small run takes. It
ends soon after the last run.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

LINGER = 1.0
"""The thread looks around after so many seconds, at most, and ends where there was no run twice."""


class Deadlines:
    """The runs that are under way, and when each must be done. Safe to use from several threads."""

    def __init__(self, linger: float = LINGER) -> None:
        self._linger = linger
        self._changed = threading.Condition()
        self._runs: dict[int, tuple[float, Any]] = {}
        self._wakes = 0.0
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def within(self, seconds: float, options: Any) -> Iterator[None]:
        """Set `terminate` of RunOptions if the block takes more than `seconds`, and never after it."""
        due = time.monotonic() + seconds
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="netfuse-onnx deadlines", daemon=True)
                thread.start()
                self._thread = thread
            self._runs[id(options)] = due, options
            if due < self._wakes:  # else it wakes early enough
                self._wakes = due
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._runs.pop(id(options), None)

    def _watch(self) -> None:
        was_idle = False
        with self._changed:
            while self._runs or not was_idle:
                was_idle = not self._runs
                now = time.monotonic()
                for key in [key for key, (due, _) in self._runs.items() if due <= now]:
                    self._runs.pop(key)[1].terminate = True
                self._wakes = min([now + self._linger, *(due for due, _ in self._runs.values())])
                self._changed.wait(self._wakes - now)
            self._thread = None


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
