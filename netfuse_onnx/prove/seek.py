"""The search for inputs of one batch size that a source takes, and that make every output tell something."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from netfuse_onnx.prove.compare import finite
from netfuse_onnx.run.inputs import Case
from netfuse_onnx.run.offers import CLIMB, Offers
from netfuse_onnx.run.runtime import RunFailed, Value

ATTEMPTS = 200
"""A source is offered so many choices of inputs per batch size."""
SECONDS = 60.0
"""After so many, no further choice is offered."""
SLOW = 1.0
"""Seconds of a run from which no larger sizes are tried to see more."""
VACUOUS = 8
"""So many of these may run and give nothing but NaN, infinities or empty tensors, before one is taken."""

Run = Callable[[Case], dict[str, Value]]
"""Runs the source; raises RunFailed."""
Refuse = Callable[[Case], str]
"""Gives the reason why a case takes too much memory; '' where it does not."""


@dataclass(frozen=True, slots=True)
class Found:
    """A case that ran, what it gave, how many outputs tell something, and whether any is finite."""

    case: Case
    outputs: Mapping[str, Value]
    telling: int
    finite: bool
    seconds: float

    @property
    def complete(self) -> bool:
        return self.telling == len(self.outputs)


class Search:
    """Offers cases to a source until one runs. `first` is the first that was refused, and why; `too_large`
    tells the first that was not tried; `runs` counts what was."""

    def __init__(self, run: Run, refuse: Refuse, tell: Callable[[int, int], None], most: int) -> None:
        self.first: tuple[Case, str] | None = None
        self.too_large = ""
        self.runs = 0
        self._run, self._refuse, self._tell, self._most = run, refuse, tell, most
        self._end = time.monotonic() + SECONDS

    @property
    def why(self) -> str:
        """The reason why nothing was found."""
        return f"{self.first[0].label}: {self.first[1]}" if self.first else self.too_large

    def best(self, offers: Offers) -> Found | None:
        """The smallest case with the most outputs that tell something; None where nothing runs."""
        running = self._running(offers, iter(offers))
        first = next(running, None)
        if first is None:
            return None
        rows = [first]
        if not first.complete and not offers.seen:
            for row in itertools.islice(self._running(offers, offers.larger(first.case)), CLIMB):
                rows.append(row)
                if row.complete or row.seconds > SLOW:
                    break
        while not rows[-1].finite and not any(row.finite for row in rows) and len(rows) < VACUOUS:
            if (more := next(running, None)) is None:
                break
            rows.append(more)
        return max(rows, key=lambda row: (row.finite, row.telling))  # the first of equals

    def _running(self, offers: Offers, cases: Iterator[Case]) -> Iterator[Found]:
        """Those of the cases that the source takes, each with what it gave."""
        for case in cases:
            if why := self._refuse(case):
                self.too_large = self.too_large or why
                continue
            if self.runs >= self._most or time.monotonic() > self._end:
                return
            self._tell(self.runs, self._most)
            self.runs += 1
            start = time.monotonic()
            try:
                outputs = self._run(case)
            except RunFailed as error:
                self.first = self.first or (case, str(error))
                offers.refused(str(error))
                continue
            count = sum(map(tells, outputs.values()))
            some = any(map(finite, outputs.values()))
            yield Found(case, outputs, count, some, time.monotonic() - start)


def tells(value: Value) -> bool:
    """True where an output says something: finite somewhere, and not one float for all elements."""
    if not finite(value) or isinstance(value, list):
        return finite(value)
    array = np.asarray(value)
    if array.dtype.kind not in "fV" or array.size == 1:
        return True
    wide = array.astype(np.float64)
    return bool((wide != wide.flat[0]).any())
