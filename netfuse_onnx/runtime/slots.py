"""The slots of a session: how many calls run at the same time, and which.

Slots have no lock of their own: whoever uses them holds the lock of their dispatcher. `discard` alone may be
called without it, by a caller that was interrupted: it is made of single steps.
"""

from __future__ import annotations

import time

from netfuse_onnx.runtime.moments import Rate


class Slots:
    """So many calls may run at a time, or a wide one by itself. Each has a ticket."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._since, self._before = 0.0, 0.0
        """The moment from which on some call has run, and the seconds of earlier such times."""
        self._ended = float("-inf")
        """The moment at which the last call ended and none ran any more."""
        self.rate = Rate()
        self._tickets: set[object] = set()
        self._wide: object = None
        """The ticket of a call that runs on all cores."""

    @property
    def is_free(self) -> bool:
        """True where one more call may run."""
        return self._wide is None and len(self._tickets) < self.count

    @property
    def busy(self) -> int:
        """The number of calls that run."""
        return len(self._tickets)

    @property
    def busy_seconds(self) -> float:
        """The seconds in which some call ran."""
        return self._before + (time.monotonic() - self._since if self._tickets else 0.0)

    @property
    def rested(self) -> float:
        """The seconds for which no call has run; 0 where one does."""
        return 0.0 if self._tickets else time.monotonic() - self._ended

    def arrived(self) -> None:
        """Take in a request that arrives while these calls run."""
        self.rate.arrived(self.busy_seconds, bool(self._tickets))

    def is_wide(self, ticket: object) -> bool:
        """Return True where the call of a ticket runs on all cores."""
        return self._wide is ticket

    def take(self, ticket: object, wide: bool = False) -> None:
        """Give a slot to a ticket; a wide call takes all, which nobody else holds then."""
        if not self._tickets:
            self._since = time.monotonic()
        self._tickets.add(ticket)
        if wide:
            self._wide = ticket

    def discard(self, ticket: object) -> None:
        """Take back the slot of a ticket, if it holds one."""
        if self._wide is ticket:
            self._wide = None
        if ticket in self._tickets:
            if len(self._tickets) == 1:
                self._ended = time.monotonic()
                self._before += self._ended - self._since
            self._tickets.discard(ticket)
