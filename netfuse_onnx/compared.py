"""Two figures of one question, on the merged file and on the sessions of its models, and which is better."""

from __future__ import annotations

import enum
from dataclasses import dataclass

EQUAL = 1.02
"""Figures that differ by up to 2 % count as equal."""
EQUAL_SINGLE = 1.1
"""The same for figures that were measured once, or predicted: they are that uncertain."""


class Outcome(enum.StrEnum):
    """The verdict of one row, on the merged file."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "equal"
    INCONCLUSIVE = "inconclusive"


class Question(enum.StrEnum):
    """A question that a verdict answers: the memory, the time to load and run once, the bytes of the files,
    a call that wants all models, a call that wants one, and the number of waiting models that make one
    merged call pay."""

    MEMORY = "memory"
    LOAD = "load"
    FILES = "files"
    ALL = "all"
    ONE = "one"
    WAITING = "waiting"


class Basis(enum.StrEnum):
    """The origin of the figures of a row: measured here, predicted by the costs of a target, or counted in
    bytes of files and weights."""

    MEASURED = "measured"
    PREDICTED = "predicted"
    COUNTED = "counted"


@dataclass(frozen=True, slots=True)
class Compared:
    """The figures of both sides, in seconds or bytes. `low` and `high` are the quartiles of the ratio over
    the rounds, None where the figures are single ones. `against` names the way that the sessions run."""

    merged: float
    sessions: float
    low: float | None = None
    high: float | None = None
    against: str = ""
    basis: Basis = Basis.MEASURED
    chosen: bool = False
    """True where the merged call runs only the models that it wants."""

    @property
    def ratio(self) -> float:
        """The sessions' figure over the merged one's: more than 1 is better."""
        if self.merged <= 0.0:
            return 1.0 if self.sessions <= 0.0 else float("inf")
        return self.sessions / self.merged

    @property
    def outcome(self) -> Outcome:
        """Better or worse only where the ratio and both quartiles say so."""
        quartiles = [end for end in (self.low, self.high) if end is not None]
        three = [self.ratio, *quartiles]
        margin = EQUAL if quartiles or self.basis is Basis.COUNTED else EQUAL_SINGLE
        if all(1.0 / margin <= one <= margin for one in three):
            return Outcome.EQUAL
        if min(three) > 1.0:
            return Outcome.BETTER
        return Outcome.WORSE if max(three) < 1.0 else Outcome.INCONCLUSIVE
