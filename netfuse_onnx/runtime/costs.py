"""The times of calls: measured when a session opens, and kept right by the calls that it runs.

A call of a model's own session depends on its rows. What a merged call depends on follows from the interface
of the file:

    separate, stacked, slots    every model runs, so the most rows of one model
    selected                    the models that are asked for, and the most rows of one
    index                       the rows of all models together

Times between measured sizes lie on straight lines.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence

from netfuse_onnx.runtime.curves import FADE, Curve
from netfuse_onnx.runtime.types import Io, Kind

STEP = 0.1
"""Part of the difference by which a call that ran moves the estimate."""
FARTHEST = 1.5
"""A call moves the estimate as if it had taken at most this many times as long, or as short, as was
expected: a call that the system interrupted, or the first of its size, counts like any other slow call."""
SURPRISES, FAST_STEP, FAST_FARTHEST = 3, 0.3, 3.0
"""After so many calls in a row that took more than FARTHEST times as long as was expected, or as short, it is
no outlier: all times of this kind of call move together, by this part of the difference and up to this ratio,
but those that were right lately."""
NEW = 10
"""So many first calls of sizes that were never timed move all times of their form in the same way: these are
those of another form, in proportion."""
MOST_FORMS = 256
"""Most forms whose times are kept; the one that was first seen longest ago goes, but never the first of
all."""


class FormTimes:
    """The times of calls of one form."""

    def __init__(
        self,
        io: Io,
        models: int,
        own: Curve,
        merged: Mapping[int, Curve],
        around: float = 0.0,
        on_all: float = 1.0,
    ) -> None:
        """Take the curve of own calls over rows, those of merged calls, the seconds around each call, and the
        part of its time that an own call takes on all cores (1: there are no such calls).

        `merged` is {1: over the most rows of a model}, {1: over the rows of all} where the io is index, or
        {most rows of a model: over the models} where it is selected.
        """
        self.io, self.models, self.own, self.together = io, models, own, dict(merged)
        self.around = around
        """Seconds in which a call is chosen, handed over and counted: part of its time, but not timed with
        it."""
        self.on_all, self._least_on_all, self._faded_on_all = on_all, on_all, 1.0
        self.new = 0
        """Calls that still say how wrong the times are that were taken from another form."""
        self.faded = 1.0
        """The estimates of merged calls are multiplied by this."""
        self._surprises: dict[Kind, int] = {"alone": 0, "merged": 0}
        """Calls in a row that took much longer than expected, or, below 0, much shorter."""
        self.runs_all = io not in ("selected", "index")
        self._served: dict[tuple[int, int], tuple[float, float]] = {}

    def alone(self, rows: int) -> float:
        return self.own(rows) + self.around

    def wide(self, rows: int) -> float:
        return self.own(rows) * self._part_on_all() + self.around

    def _part_on_all(self) -> float:
        """Return the part of its time that an own call takes on all cores, at most 1. Fading makes it no
        smaller than it was once measured."""
        part = self.on_all * self._faded_on_all
        return min(max(part, min(self._least_on_all, self.on_all)), 1.0)

    def served(self, rows: int, most: int) -> tuple[float, float]:
        known = self._served.get((rows, most))
        if known is None:
            top = min(rows, most)
            sizes = [*(1 << i for i in range((top - 1).bit_length())), top]
            size = min(sizes, key=lambda size: self.alone(size) / size)
            known = self._served[rows, most] = rows * self.alone(size) / size, self.alone(size)
        return known

    def merged(self, models: int, most: int, total: int) -> float:
        time = self._merged(models, most, total)
        if (
            self.runs_all
        ):  # it has the work of one model as well: if that one's time is wrong, it is found out
            time = max(time, self.own(most))
        return time + self.around

    def _merged(self, models: int, most: int, total: int) -> float:
        """Return the time of a merged call itself."""
        if self.io == "selected":
            time = sum(weight * self.together[rows](models) for rows, weight in self._between(most))
            return self.faded * time
        return self.faded * self.together[1](total if self.io == "index" else most)

    def _between(self, most: int) -> Sequence[tuple[int, float]]:
        """Return the curves of selected models that a number of rows lies between, with their weights."""
        known = sorted(self.together)
        place = bisect_left(known, most)
        if place == len(known):
            return ((known[-1], most / known[-1]),)
        if known[place] == most or place == 0:
            return ((known[place], 1.0),)
        part = (most - known[place - 1]) / (known[place] - known[place - 1])
        return ((known[place - 1], 1 - part), (known[place], part))

    def scaled(self, factor: float) -> FormTimes:
        """Return these times multiplied by a factor: those of a form whose size is another."""
        merged = {rows: curve.scaled(factor) for rows, curve in self.together.items()}
        own = self.own.scaled(factor)
        times = FormTimes(self.io, self.models, own, merged, self.around, self._least_on_all)
        times.on_all, times._faded_on_all = self.on_all, self._faded_on_all
        return times

    def estimate(self, factor: float) -> FormTimes:
        """Return the times of a form whose calls are taken to cost so many times as much."""
        times = self.scaled(factor)
        times.new = NEW
        return times

    def move_wide(self, total: int, seconds: float) -> None:
        """Take a wide call that ran into the running mean of their part of the time. It may be above 1, so
        that calls that are slower on all cores are seldom tried again."""
        step, self._faded_on_all = max(STEP, 1 - self._faded_on_all), 1.0
        ratio = _within(seconds / (self.own(total) * self.on_all), FARTHEST)
        self.on_all = min(self.on_all * (1 + step * (ratio - 1)), FARTHEST)

    def move(self, kind: Kind, models: int, most: int, total: int, seconds: float) -> None:
        """Take a call that ran into the running mean."""
        self._served.clear()
        step = STEP
        if kind == "alone":
            self.faded *= 1 - FADE
            self._faded_on_all *= 1 - FADE
            self.own.fade()
            step = max(step, 1 - self.own.back(total, seconds))
            expected = self.own(total)
        else:
            step = max(step, 1 - self.faded)  # it was not seen for long
            self.faded = 1.0
            expected = self._merged(models, most, total)
        ratio = seconds / expected
        factor = 1 + FAST_STEP * (_within(ratio, FAST_FARTHEST) - 1)
        beside = self._beside(kind, models, most, total)
        for curve, size, _ in beside:
            curve.note(size, ratio == _within(ratio, FARTHEST))
        if self.new:
            self.new -= 1
            for curve in (self.own, *self.together.values()):
                curve.shift(factor, every=True)
        elif self._surprised(kind, ratio):
            for curve in (self.own,) if kind == "alone" else self.together.values():
                curve.shift(factor)
        else:
            for curve, size, weight in beside:
                curve.move(size, _within(ratio, FARTHEST), step * min(1.0, abs(weight)))

    def _beside(self, kind: Kind, models: int, most: int, total: int) -> list[tuple[Curve, int, float]]:
        """Return the curves that a call's time lies on or between, with its size there and their weights."""
        if kind == "alone":
            return [(self.own, total, 1.0)]
        if self.io == "selected":
            return [(self.together[rows], models, weight) for rows, weight in self._between(most)]
        return [(self.together[1], total if self.io == "index" else most, 1.0)]

    def _surprised(self, kind: Kind, ratio: float) -> bool:
        """Count calls in a row that took much longer than expected, or much shorter; True where it is no
        outlier."""
        way = (ratio > FARTHEST) - (ratio < 1 / FARTHEST)
        before = self._surprises[kind]
        self._surprises[kind] = before + way if before * way > 0 else way
        return abs(self._surprises[kind]) >= SURPRISES


def _within(ratio: float, farthest: float) -> float:
    return min(max(ratio, 1 / farthest), farthest)


class MeasuredCosts:
    """The times of all forms: what `Costs` asks for. Its methods may be called by many threads."""

    def __init__(
        self, io: Io, models: int, times: Mapping[Hashable, FormTimes], size: Callable[[Hashable], float]
    ) -> None:
        """Take the times of the forms that were measured, at least one. `size` tells the work of a row of a
        form in any unit, by its sizes: the times of sizes that were never seen are those of the nearest, in
        proportion."""
        self.io: Io = io
        self.models = models
        self._size = size
        self._times = {sizes_of(form): known for form, known in times.items()}
        self._lock = threading.Lock()

    def forms(self) -> list[Hashable]:
        """Return the sizes of the forms whose times are known."""
        return list(self._times)

    def of(self, form: Hashable) -> FormTimes:
        sizes = sizes_of(form)
        times = self._times.get(sizes)
        return times if times is not None else self._estimated(sizes)

    def alone(self, form: Hashable, rows: int) -> float:
        return self.of(form).alone(rows)

    def merged(self, form: Hashable, rows: Mapping[int, int]) -> float:
        return self.of(form).merged(len(rows), max(rows.values()), sum(rows.values()))

    def saw(
        self, form: Hashable, kind: Kind, rows: Mapping[int, int], seconds: float, *, wide: bool = False
    ) -> None:
        if not rows or not seconds > 0 or not math.isfinite(seconds):
            return
        times, total = self.of(form), sum(rows.values())
        with self._lock:
            if wide:
                times.move_wide(total, seconds)
            else:
                times.move(kind, len(rows), max(rows.values()), total, seconds)

    def _estimated(self, sizes: Hashable) -> FormTimes:
        """Return the times of sizes that were never seen, and keep them."""
        work = max(self._size(sizes), 1e-9)
        every = self._times.copy()  # others add and remove some: callers hold no lock, not all of them
        nearest = min(every, key=lambda known: abs(math.log(max(self._size(known), 1e-9) / work)))
        times = every[nearest].estimate(work / max(self._size(nearest), 1e-9))
        for oldest in [*every][1:]:  # the first was measured
            if len(self._times) < MOST_FORMS:
                break
            self._times.pop(oldest, None)
        return self._times.setdefault(sizes, times)


def given(io: Io, models: int, own: Mapping[int, float], merged: Mapping[int, float]) -> MeasuredCosts:
    """Return the same costs for every form, from times in seconds: own calls over rows, and merged calls over
    the most rows of a model (`index`: over all rows; `selected`: over the models)."""
    times = FormTimes(io, models, Curve(own), {1: Curve(merged)})
    return MeasuredCosts(io, models, {(): times}, lambda sizes: 1.0)


def sizes_of(form: Hashable) -> Hashable:
    """Return the sizes of a form, on which its times depend; not the bytes that all its requests share."""
    return getattr(form, "sizes", form)


def size_of(sizes: Hashable) -> float:
    """Return the product of the whole numbers in the sizes of a form, nested or not: the elements of a
    row."""
    if isinstance(sizes, tuple):
        return math.prod(size_of(part) for part in sizes)
    return float(max(sizes, 1)) if isinstance(sizes, int) else 1.0
