"""The sizes that a source is run with: those that fit into memory, and of these the first that it takes.

`Room` estimates the memory that a case takes, and the sizes beyond which a larger case would show nothing
more. `Search` offers cases to the source until one runs with outputs that can be compared.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netfuse_onnx.prove.compare import finite
from netfuse_onnx.run import inputs, symbols
from netfuse_onnx.run.footprint import Footprint, Footprints, Shapes, amount
from netfuse_onnx.run.inputs import Case, InputSpec
from netfuse_onnx.run.ladder import PLAIN_TOP, SPATIAL_TOP, Ladder, Rung, ladder
from netfuse_onnx.run.offers import CLIMB, Offers
from netfuse_onnx.run.runtime import RunFailed, Value
from netfuse_onnx.types import Correspondence

MAX_MEMORY = 2_000_000_000
"""Bytes that a proof may take where --max-memory says nothing."""
TO_SEE_MORE = 0.25
"""Sizes that are larger only in order to show more may take this part of the memory."""


class Room:
    """The memory that a proof of one family may take. `limit` is in bytes."""

    def __init__(self, family: Correspondence, specs: Sequence[InputSpec], limit: int) -> None:
        self.models = family.models
        self.specs = specs
        self.limit = limit
        self._footprints = Footprints(family)

    def shapes(self, case: Case) -> Shapes:
        """Return the shapes of one model's inputs; sequences are left out."""
        if not case.given:
            return inputs.shapes([spec for spec in self.specs if not spec.sequence], case.sizes)
        return {
            name: max((np.asarray(feeds[name]).shape for feeds in case.given), key=np.prod)
            for name in case.given[0]
        }

    def needed(self, case: Case, copies: int = 1, cases: int = 3) -> int:
        """Estimate the peak of the process in bytes, where `copies` of a source's inputs run at once."""
        return self._footprint(case).needed(max(self.models, copies), cases)

    def fits(self, case: Case, copies: int = 1) -> bool:
        """True where `copies` of a source's inputs may run at once."""
        return self.needed(case, copies) <= self.limit

    def refuse(self, case: Case, cases: int = 3) -> str:
        """Return the reason why a case does not fit; '' where it does."""
        bound = self._footprints.bounding(self.shapes(case))
        if bound and bound.needed(self.models, cases) <= self.limit:
            return ""
        needed = self.needed(case, cases=cases)
        if needed <= self.limit:
            return ""
        return f"{case.label}: needs about {amount(needed)}, and --max-memory allows {amount(self.limit)}"

    def begin(self, dims: dict[str, int], batches: Sequence[int], wide: int) -> Rung:
        """Return the lowest rung of sizes, for symbols that are not in `dims`, beyond which shapes tell of
        nothing more to see: no axis shrinks to 1, and all taps of convolutions fall on data. It stays so low
        that the largest batch takes little memory. `wide` is the lowest rung for spatial dims."""
        shapes = [spec.dims for spec in self.specs]
        heads = symbols.batches(shapes)
        names = [n for n in symbols.free(shapes) if n not in dims and n not in heads]
        steps = ladder(shapes, names, self.models)
        sizes = dict.fromkeys(heads, batches[-1]) | dims
        plain = 0
        if wide < SPATIAL_TOP and set(names) & steps.wide:
            rungs = [(0, up) for up in range(wide, SPATIAL_TOP + 1)]
            wide = self._telling(steps, rungs, sizes)[1]
        if set(names) - steps.wide:
            rungs = [(up, wide) for up in range(PLAIN_TOP + 1)]
            plain = self._telling(steps, rungs, sizes)[0]
        self._rung(steps, (plain, wide), sizes)  # of the largest batch: where that fits, the others do
        return plain, wide

    def _telling(self, steps: Ladder, rungs: Sequence[Rung], sizes: dict[str, int]) -> Rung:
        """Return the first of the cheap rungs that shows all that the last rung shows."""
        best = rungs[0]
        for rung in rungs:
            footprint = self._rung(steps, rung, sizes)
            if rung != rungs[0] and footprint.needed(self.models, 3) > TO_SEE_MORE * self.limit:
                break
            best = rung
            if not footprint.lost or not footprint.hides(self._rung(steps, rungs[-1], sizes)):
                break
        return best

    def _rung(self, steps: Ladder, rung: Rung, outer: dict[str, int]) -> Footprint:
        return self._footprint(Case("", {**outer, **next(steps.rung(rung))}))

    def _footprint(self, case: Case) -> Footprint:
        return self._footprints.of(self.shapes(case), case.sizes)


ATTEMPTS = 200
"""The choices of inputs that a source is offered per batch size, at most."""
SECONDS = 60.0
"""Time after which no further choice is offered."""
SLOW = 1.0
"""A run that takes longer, in seconds, ends the trial of larger sizes."""
VACUOUS = 8
"""So many cases may run and give nothing but NaN, infinities or empty tensors before one of them is taken."""

Run = Callable[[Case], dict[str, Value]]
"""A function that runs the source on a case. It raises RunFailed."""
Refuse = Callable[[Case], str]
"""A function that returns the reason why a case takes too much memory; '' where it does not."""


@dataclass(frozen=True, slots=True)
class RunCase:
    """A case that ran, its outputs, how many of these tell something, and whether any is finite."""

    case: Case
    outputs: Mapping[str, Value]
    telling: int
    finite: bool
    seconds: float

    @property
    def complete(self) -> bool:
        return self.telling == len(self.outputs)


class Search:
    """Offers cases to a source until one runs. `first` is the first case that ONNX Runtime refused, with its
    message; `too_large` says which case was the first to need too much memory; `runs` counts the runs."""

    def __init__(self, run: Run, refuse: Refuse, tell: Callable[[int, int], None], most: int) -> None:
        self.first: tuple[Case, str] | None = None
        self.too_large = ""
        self.runs = 0
        self._run, self._refuse, self._tell, self._most = run, refuse, tell, most
        self._end = time.monotonic() + SECONDS

    @property
    def why(self) -> str:
        """The reason why no case was found."""
        return f"{self.first[0].label}: {self.first[1]}" if self.first else self.too_large

    def best(self, offers: Offers) -> RunCase | None:
        """Return the smallest case with the most outputs that tell something; None where nothing runs."""
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

    def _running(self, offers: Offers, cases: Iterator[Case]) -> Iterator[RunCase]:
        """Yield those of the cases that the source takes, each with its outputs."""
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
            yield RunCase(case, outputs, count, some, time.monotonic() - start)


def tells(value: Value) -> bool:
    """True where an output tells something: it has a finite element, and not one float for all elements."""
    if not finite(value) or isinstance(value, list):
        return finite(value)
    array = np.asarray(value)
    if array.dtype.kind not in "fV" or array.size == 1:
        return True
    wide = array.astype(np.float64)
    return bool((wide != wide.flat[0]).any())
