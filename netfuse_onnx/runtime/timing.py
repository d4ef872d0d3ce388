"""Times calls when a session opens, cheap ones first, within a given time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx.runtime.costs import FormTimes, MeasuredCosts, size_of, sizes_of
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.types import Io, Kind

Run = Callable[[Kind, Hashable, Mapping[int, int]], object]
"""Runs one call of a kind and form on data of its own, with so many rows of each model, and waits for its
end."""

ROUNDS = 5
"""Most calls of each size, where none are said. The shortest counts: the first may reserve memory, others
may be interrupted."""
GUESS = 0.6
"""A merged call that was never timed is taken to cost this part of the own calls that it replaces: little
enough that it is tried when most models wait, after which its time is known."""


@dataclass(frozen=True, slots=True)
class Size:
    """A call that is timed: the models in it, and the rows of each. An own call has one model."""

    kind: Kind
    models: int
    rows: int

    def of_each(self, spread: bool) -> dict[int, int]:
        """Return the rows of each model; with `spread`, `rows` are those of all models together."""
        if not spread:
            return dict.fromkeys(range(self.models), self.rows)
        return {m: len(range(m, self.rows, self.models)) for m in range(min(self.models, self.rows))}


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes that are timed for one interface."""

    io: Io
    models: int
    max_rows: int
    max_batch: int

    def sizes(self) -> list[Size]:
        return [Size("alone", 1, rows) for rows in doubled(self.max_batch)] + self.merged()

    def needed(self) -> list[Size]:
        """Return the two sizes that tell most: one row of one model, and of all in a merged call."""
        total = self.models if self.io == "index" else 1
        return [Size("alone", 1, 1), Size("merged", self.models, total)]

    def merged(self) -> list[Size]:
        if self.io == "index":
            rows = doubled(max(self.max_batch, self.models))
            return [Size("merged", self.models, total) for total in rows]
        if self.io == "selected":
            rows_of_each = sorted({1, self.max_rows})
            return [Size("merged", m, rows) for rows in rows_of_each for m in doubled(self.models)]
        return [Size("merged", self.models, rows) for rows in doubled(self.max_rows)]


def measured(
    run: Run,
    forms: Sequence[Hashable],
    io: Io,
    models: int,
    *,
    max_rows: int = 8,
    max_batch: int = 64,
    seconds: float = 1.0,
    rounds: int = ROUNDS,
    warm: int = 0,
    size: Callable[[Hashable], float] = size_of,
    clock: Callable[[], float] = time.perf_counter,
    took: Callable[[], float] | None = None,
    around: float = 0.0,
    on_all: float = 1.0,
) -> MeasuredCosts:
    """Time calls of all sizes of the first form, then of the others, in the seconds that are given.

    Small calls come first. A call that is expected to end too late is left out: only the very first call, of
    one row on one model's own session, may take longer than all seconds. Each size counts with its shortest
    call. With `warm`, so many calls of each size run before the first that counts: sessions open in them, and
    CUDA graphs are captured. The two sizes that tell most are then timed first, whatever time they take.

    `forms` has at least one; `size` tells the work of a row of a form, for forms that were never timed.
    `took` is the clock by which calls are timed, by default that of the given seconds; `around` are the
    seconds around each call, and `on_all` is the part of its time that an own call takes on all cores: the
    costs have both in them.
    """
    end = clock() + seconds
    plan = Plan(io, models, max_rows, max_batch)
    times: dict[Hashable, FormTimes] = {}
    for form in forms:
        if (
            not times
            or clock() + times[forms[0]].alone(1) * size(sizes_of(form)) / size(sizes_of(forms[0])) < end
        ):
            found = _curves(plan, _timed(plan, run, form, end, clock, took or clock, rounds, warm))
            times[form] = FormTimes(io, models, found.own, found.together, around, on_all)
    return MeasuredCosts(io, models, times, size)


def _timed(
    plan: Plan,
    run: Run,
    form: Hashable,
    end: float,
    clock: Callable[[], float],
    took: Callable[[], float],
    rounds: int,
    warm: int,
) -> dict[Size, float]:
    """Return the shortest time of each size that was reached."""
    found: dict[Size, float] = {}

    def call(size: Size) -> float:
        start = took()
        run(size.kind, form, size.of_each(plan.io == "index" and size.kind == "merged"))
        return took() - start

    for size in plan.needed() if warm else ():
        for _ in range(warm):
            call(size)
        found[size] = call(size)
    for _ in range(rounds):
        left = plan.sizes()
        while left:
            size = min(left, key=lambda size: _expected(plan, found, size))
            left.remove(size)
            first = warm if size not in found else 0
            if found and clock() + (1 + first) * _expected(plan, found, size) > end:
                break
            for _ in range(first):
                call(size)
            found[size] = min(found.get(size, float("inf")), call(size))
    return found


def _expected(plan: Plan, found: Mapping[Size, float], size: Size) -> float:
    """Return the time that a call is expected to take, by the calls before it."""
    if size in found or not found:
        return found.get(size, size.models * size.rows)
    curves = _curves(plan, found, guess=1.0)
    if size.kind == "alone":
        return curves.alone(size.rows)
    return curves.merged(size.models, size.rows, size.rows)


def _curves(plan: Plan, found: Mapping[Size, float], guess: float = GUESS) -> FormTimes:
    """Return the curves through the times that were found; those of merged calls are guessed where none
    were."""
    own = Curve({size.rows: seconds for size, seconds in found.items() if size.kind == "alone"})
    merged: dict[int, dict[int, float]] = {}
    for size, seconds in found.items():
        if size.kind == "merged" and plan.io == "selected":
            merged.setdefault(size.rows, {})[size.models] = seconds
        elif size.kind == "merged":
            merged.setdefault(1, {})[size.rows] = seconds
    if not merged:
        each = own(1) * guess
        merged = {1: {plan.models: plan.models * each} if plan.io == "selected" else {1: each}}
        if plan.io not in ("selected", "index"):
            merged = {1: {1: plan.models * each}}
    return FormTimes(plan.io, plan.models, own, {rows: Curve(points) for rows, points in merged.items()})


def doubled(most: int) -> list[int]:
    """Return 1, 2, 4 and so on, and the most itself."""
    return [*_below(most), most]


def _below(most: int) -> Iterator[int]:
    size = 1
    while size < most:
        yield size
        size *= 2
