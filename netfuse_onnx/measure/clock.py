"""Shares out the time of a comparison: trials of settings, loads, rounds, and calls that want some models.

The bound can't be kept where the first call of each way takes longer. What was left out for it is remembered,
so that the report says so.
"""

from __future__ import annotations

import math
import time

TRIALS, ROUNDS = 0.3, 0.85
"""The parts of the time that have passed when the trials and the rounds are to end."""


class Clock:
    """The time of a comparison, in seconds, from its construction on."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self.start = time.monotonic()
        self.left_out: dict[str, list[str]] = {}
        """The things left out because the time was up, in words, each with the ways that miss it."""

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.seconds)

    @property
    def end(self) -> float:
        return self.at(1.0)

    def at(self, part: float) -> float:
        """Return the moment, of time.monotonic(), when so much of the time has passed."""
        return self.start + part * self.seconds if self.bounded else math.inf

    def left(self, part: float = 1.0) -> float:
        """Return the seconds until that moment; 0 where it has passed."""
        return max(0.0, self.at(part) - time.monotonic())

    def leave_out(self, words: str, way: str = "") -> None:
        self.left_out.setdefault(words, []).extend([way] if way else [])
