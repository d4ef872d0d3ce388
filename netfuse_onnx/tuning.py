"""The result of `merge --tune`: every plan and every other way that was measured, as a report holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TunedRow:
    """One way to run the models once, at one choice of sizes. Times are in seconds for a call of all models,
    memory and files in bytes.

    `merged` is True for a plan of this merge, False for a way that needs no merge. `seconds` is the median,
    `low` and `high` are the quartiles; None where it was not measured, and `problem` has the reason. `ratio`
    is its speed relative to the best alternative, 2 is twice as fast. `load` is the time to load it and run
    it once, `resident` the memory that this added. `predicted` is what the plan's costs say for a call.
    """

    way: str
    case: str
    merged: bool
    settings: str = ""
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    load: float = 0.0
    resident: int = 0
    file: int = 0
    predicted: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TunedCase:
    """One choice of sizes: the best way without merging, `best`, and the speed of the chosen plan relative to
    it, with its quartiles over the rounds."""

    case: str
    best: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """The choice of a plan by measuring. `chosen` is the name of the plan that was written, `same` has names
    of plans by the name of the plan that they are equal to.

    `settings` are the session options under which it ran fastest, `snippet` is Python that sets them.
    `predicted` is the time of a call in seconds by the costs that chose it, summed over the cases; compare it
    with `measured`. `budget` and `spent` are seconds. `cached` is the day on which the times were measured,
    '' where that was now. `advice` says what to do where nothing beats the best alternative.
    """

    provider: str
    chosen: str
    cases: tuple[TunedCase, ...]
    rows: tuple[TunedRow, ...]
    same: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    snippet: str = ""
    predicted: float | None = None
    measured: float | None = None
    load: float = 0.0
    resident: int = 0
    budget: float = 0.0
    spent: float = 0.0
    cached: str = ""
    advice: str = ""
    notes: tuple[str, ...] = ()
    sizes: tuple[Mapping[str, int], ...] = ()
    """The sizes of symbolic dims in each case, assumed ones included."""

    @property
    def beats(self) -> bool:
        """True where the plan is faster than the best alternative, at all sizes together."""
        ratios = [case.ratio for case in self.cases if case.ratio is not None]
        return bool(ratios) and len(ratios) / sum(1.0 / ratio for ratio in ratios) > 1.0


def tuned_from(value: Mapping[str, Any], before: str, out: str) -> Tuning:
    """The tuning of an earlier run from its JSON value. It wrote the file `before`, this one writes `out`.
    Raises KeyError, TypeError or ValueError."""
    rows = tuple(TunedRow(**row) for row in value["rows"])
    cases = tuple(TunedCase(**case) for case in value["cases"])
    snippet = str(value["snippet"]).replace(repr(before), repr(out))
    more: dict[str, Any] = {"rows": rows, "cases": cases, "snippet": snippet, "notes": tuple(value["notes"])}
    more["sizes"] = tuple(value["sizes"])
    return Tuning(**{**value, **more})
