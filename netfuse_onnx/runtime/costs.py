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

from netfuse_onnx.runtime.types import Io, Kind

STEP = 0.1
"""Part of the difference by which a call that ran moves the estimate."""
FARTHEST = 1.5
"""A call moves the estimate as if it had taken at most this many times as long, or as short, as was
expected: a call that the system interrupted, or the first of its size, counts like any other slow call."""
MOST_FORMS = 256
"""Most forms whose times are kept; the one that was seen longest ago goes first."""


class Curve:
    """A time over a size: straight lines between the sizes that were timed.

    Before the first size it is the first time. Behind the last it goes on with the slope of the last two, or
    in proportion where there is one.
    """

    def __init__(self, points: Mapping[int, float]) -> None:
        """Take {size: seconds}, at least one."""
        self._sizes = sorted(points)
        self._times = [points[size] for size in self._sizes]
        self._known: dict[int, float] = {}

    def __call__(self, size: int) -> float:
        known = self._known.get(size)
        if known is None:
            known = self._known[size] = sum(
                weight * self._times[place] for place, weight in self._weights(size)
            )
        return known

    def points(self) -> dict[int, float]:
        """Return {size: seconds} of the sizes that were timed."""
        return dict(zip(self._sizes, self._times, strict=True))

    def put(self, size: int, seconds: float) -> None:
        """Set the time of one size, new or not."""
        points = self.points() | {size: seconds}
        self._sizes, self._times = sorted(points), [points[key] for key in sorted(points)]
        self._known.clear()

    def scaled(self, factor: float) -> Curve:
        """Return this curve with all times multiplied by a factor."""
        return Curve({size: seconds * factor for size, seconds in self.points().items()})

    def move(self, size: int, ratio: float) -> None:
        """Multiply the times beside a size by (1 - STEP) + STEP * ratio, the nearer the more."""
        for place, weight in self._weights(size):
            self._times[place] *= 1 + STEP * min(1.0, abs(weight)) * (ratio - 1)
        self._known.clear()

    def _weights(self, size: int) -> Sequence[tuple[int, float]]:
        """Return the places whose times make that of a size, with their weights."""
        sizes = self._sizes
        place = bisect_left(sizes, size)
        if place == 0 or (place < len(sizes) and sizes[place] == size):
            return ((place, 1.0),)
        if place == len(sizes):
            if place == 1:
                return ((0, size / sizes[0]),)
            if self._times[-1] <= self._times[-2]:
                return ((place - 1, size / sizes[-1]),)
            place -= 1
        low, high = sizes[place - 1], sizes[place]
        part = (size - low) / (high - low)
        return ((place - 1, 1 - part), (place, part))


class FormTimes:
    """The times of calls of one form."""

    def __init__(self, io: Io, models: int, own: Curve, merged: Mapping[int, Curve]) -> None:
        """Take the curve of own calls over rows, and those of merged calls.

        `merged` is {1: over the most rows of a model}, {1: over the rows of all} where the io is index, or
        {most rows of a model: over the models} where it is selected.
        """
        self.io, self.models, self.own, self.together = io, models, own, dict(merged)
        self.runs_all = io not in ("selected", "index")
        self._served: dict[tuple[int, int], tuple[float, float]] = {}

    def alone(self, rows: int) -> float:
        return self.own(rows)

    def served(self, rows: int, most: int) -> tuple[float, float]:
        known = self._served.get((rows, most))
        if known is None:
            top = min(rows, most)
            sizes = [*(1 << i for i in range((top - 1).bit_length())), top]
            size = min(sizes, key=lambda size: self.own(size) / size)
            known = self._served[rows, most] = rows * self.own(size) / size, self.own(size)
        return known

    def merged(self, models: int, most: int, total: int) -> float:
        if self.io == "selected":
            return sum(weight * self.together[rows](models) for rows, weight in self._between(most))
        return self.together[1](total if self.io == "index" else most)

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
        return FormTimes(self.io, self.models, self.own.scaled(factor), merged)

    def move(self, kind: Kind, models: int, most: int, total: int, seconds: float) -> None:
        """Take a call that ran into the running mean."""
        expected = self.alone(total) if kind == "alone" else self.merged(models, most, total)
        ratio = min(max(seconds / expected, 1 / FARTHEST), FARTHEST)
        if kind == "alone":
            self._served.clear()
            self.own.move(total, ratio)
        elif self.io == "selected":
            for rows, weight in self._between(most):
                if weight:
                    self.together[rows].move(models, 1 + (ratio - 1) * min(1.0, weight))
        else:
            self.together[1].move(total if self.io == "index" else most, ratio)


class MeasuredCosts:
    """The times of all forms: what `Costs` asks for. Its methods may be called by many threads."""

    def __init__(
        self, io: Io, models: int, times: Mapping[Hashable, FormTimes], size: Callable[[Hashable], float]
    ) -> None:
        """Take the times of the forms that were measured, at least one. `size` tells the work of a row of a
        form in any unit: the times of a form that was never seen are those of the nearest, in proportion."""
        self.io: Io = io
        self.models = models
        self._size = size
        self._times = dict(times)
        self._lock = threading.Lock()

    def of(self, form: Hashable) -> FormTimes:
        times = self._times.get(form)
        return times if times is not None else self._estimated(form)

    def alone(self, form: Hashable, rows: int) -> float:
        return self.of(form).alone(rows)

    def merged(self, form: Hashable, rows: Mapping[int, int]) -> float:
        return self.of(form).merged(len(rows), max(rows.values()), sum(rows.values()))

    def saw(self, form: Hashable, kind: Kind, rows: Mapping[int, int], seconds: float) -> None:
        if not rows or not seconds > 0 or not math.isfinite(seconds):
            return
        with self._lock:
            times = self.of(form)
            times.move(kind, len(rows), max(rows.values()), sum(rows.values()), seconds)

    def _estimated(self, form: Hashable) -> FormTimes:
        """Return the times of a form that was never seen, and keep them."""
        size = max(self._size(form), 1e-9)
        nearest = min(list(self._times), key=lambda known: abs(math.log(max(self._size(known), 1e-9) / size)))
        times = self._times[nearest].scaled(size / max(self._size(nearest), 1e-9))
        while len(self._times) >= MOST_FORMS:
            self._times.pop(next(iter(self._times)), None)
        return self._times.setdefault(form, times)


def size_of(form: Hashable) -> float:
    """Return the product of the whole numbers in a form, nested or not: the elements of a row."""
    if isinstance(form, bool) or not isinstance(form, int | tuple):
        return 1.0
    if isinstance(form, int):
        return float(max(form, 1))
    return math.prod(size_of(part) for part in form)
