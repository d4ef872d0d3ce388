"""The threads of a session that wait for something to do, and the way to wake as few of them as will do.

Waking a thread costs more than most calls of small models, and threads that wake in vain keep others from
Python's lock. So one thread at a time is woken: it takes a call, and wakes the next one where more is to do.
"""

from __future__ import annotations

import threading

from netfuse_onnx.runtime.moments import NEVER, seconds_until


class Idle:
    """The threads that wait. All methods are called with the lock held."""

    def __init__(self, lock: threading.RLock) -> None:
        self._ready = threading.Condition(lock)
        self._until: dict[object, float] = {}
        """The moments at which the threads wake by themselves."""
        self._is_woken = False
        """A thread was woken, and has not yet looked at what there is to do."""

    def wait(self, until: float) -> None:
        """Wait to be woken, or for a moment. Whoever returns from here looks at all there is to do."""
        key = object()
        self._until[key] = until
        try:
            self._ready.wait(seconds_until(until))
        finally:
            del self._until[key]
            self._is_woken = False

    def wake(self) -> None:
        """Let a thread look at what there is to do, unless one is about to."""
        if self._until and not self._is_woken:
            self._ready.notify()
            self._is_woken = True  # after it: of an interrupt between, a thread more is woken, not one less

    def wake_by(self, moment: float) -> None:
        """See to it that a thread looks at what there is to do at a moment. Threads that do not wait look as
        soon as they can."""
        if moment != NEVER and self._until and min(self._until.values()) > moment:
            self.wake()

    def wake_all(self) -> None:
        """Let all threads look."""
        self._ready.notify_all()
