"""The slots of a session: how many calls run at the same time, and which.

Slots have no lock of their own: whoever uses them holds the lock of their dispatcher. `discard` alone may be
called without it, by a caller that was interrupted: it is made of single steps.
"""

from __future__ import annotations


class Slots:
    """So many calls may run at a time, or a wide one by itself. Each has a ticket."""

    def __init__(self, count: int) -> None:
        self.count = count
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

    def is_wide(self, ticket: object) -> bool:
        """Return True where the call of a ticket runs on all cores."""
        return self._wide is ticket

    def take(self, ticket: object, wide: bool = False) -> None:
        """Give a slot to a ticket; a wide call takes all, which nobody else holds then."""
        self._tickets.add(ticket)
        if wide:
            self._wide = ticket

    def discard(self, ticket: object) -> None:
        """Take back the slot of a ticket, if it holds one."""
        if self._wide is ticket:
            self._wide = None
        self._tickets.discard(ticket)
