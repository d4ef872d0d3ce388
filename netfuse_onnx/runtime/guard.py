"""Decides who may join merged calls: models whose requests fail keep others from waiting for a second run.

A guard has no lock of its own: whoever uses it holds the lock of its dispatcher.
"""

from __future__ import annotations

from collections.abc import Collection

STRIKES = 2
"""Requests of a model that fail, with no success between them, before it is kept out of merged calls."""
SUCCESSES = 3
"""Requests of such a model that must succeed, one after the other, before it may join again."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 64.0
"""Seconds without merged calls after one that failed although each of its requests succeeds alone; doubled
each time that it happens again."""


class Guard:
    """The models that run alone for now, and the time from which merged calls are tried again."""

    def __init__(self, models: int) -> None:
        self._every = range(models)
        self._strikes: dict[int, int] = {}
        self._successes: dict[int, int] = {}
        self._pause = 0.0
        self._until = 0.0

    @property
    def is_calm(self) -> bool:
        """True where nothing has failed that is remembered."""
        return not self._strikes and not self._pause

    def kept_out(self, now: float) -> Collection[int]:
        """Return the models that take no part in merged calls at a time of time.monotonic()."""
        return self._successes.keys() if now >= self._until else self._every

    def failed(self, model: int) -> None:
        """Take in a request that failed alone."""
        self._strikes[model] = self._strikes.get(model, 0) + 1
        if self._strikes[model] >= STRIKES:
            self._successes[model] = 0

    def succeeded(self, model: int) -> None:
        """Take in a request that succeeded."""
        if model not in self._successes:
            self._strikes.pop(model, None)
            return
        self._successes[model] += 1
        if self._successes[model] >= SUCCESSES:
            del self._successes[model], self._strikes[model]

    def blamed_nobody(self, now: float) -> None:
        """Take in a merged call that failed although each of its requests succeeded alone."""
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._until = now + self._pause

    def merged_succeeded(self) -> None:
        """Take in a merged call that succeeded."""
        self._pause = 0.0
