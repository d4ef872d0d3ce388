"""The times of calls of groups of any size, from the cost table that one bundle was measured with.

An own call depends on its rows alone. A merged call of a bundle with n models is on a straight line from an
own call (n = 1) to the merged call that was measured (n = `measured`), for each number of rows, and goes on
beyond it. Where the table says that a call costs less when fewer models wait (routed or selected models), it
depends on these and not on n."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.runtime.cost_table import CostTable
from netfuse_onnx.runtime.costs import FormTimes, MeasuredCosts
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.limits import Limits

FORM = ("form",)
"""The form of all requests in a plan."""


class Times:
    """The times of calls of a family, in seconds, for groups of any number of models."""

    def __init__(self, table: CostTable, rows_apart: bool = True) -> None:
        """Take a cost table with at least one merged time. `rows_apart` says that several requests of a model
        may share a call."""
        self.table, self.measured = table, max(table.models, 1)
        by_rows: dict[int, dict[int, float]] = {}
        for one in table.merged:
            by_rows.setdefault(one.rows, {})[one.models] = one.seconds
        self.merged_points = by_rows
        self.runs_all = all(_is_flat(list(points.values())) for points in by_rows.values())
        self.has_own = bool(table.alone)
        self.own_points = {one.rows: one.seconds for one in table.alone} or {
            rows: points[min(points)] for rows, points in by_rows.items()
        }
        most_rows = max(by_rows)
        self.limits = Limits(
            max_rows=most_rows,
            max_batch=max(self.own_points),
            rows_apart=rows_apart,
            own_sessions=self.has_own,
        )
        self._own = Curve(self.own_points)
        self._selected = {rows: Curve(points) for rows, points in by_rows.items()}
        self._sizes, self._best = self._cheapest()
        self.merged = cache(self._merged)

    def alone(self, rows: int) -> float:
        """Return the time of an own call with so many rows."""
        return self._own(rows)

    def served(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds of own calls that serve so many rows (1 or more, not whole), in batches as large
        as is best."""
        if not self.limits.rows_apart:
            return np.asarray(rows * self._own(1))
        within = np.interp(rows, self._sizes, self._best)
        return np.asarray(np.maximum(1.0, rows / self._sizes[-1]) * within)

    def _cheapest(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the sizes of own calls, and the least seconds to serve so many rows."""
        sizes = sorted(self.own_points)
        each = np.array([self._own(size) / size for size in sizes])
        least = np.minimum.accumulate(each) * np.array(sizes)
        return np.array(sizes, np.float64), np.minimum(least, [self._own(size) for size in sizes])

    def _merged(self, models: int, rows: int) -> float:
        """Return the time of a merged call of a bundle of so many models, each with so many rows; where calls
        cost less when fewer models wait, of so many that wait."""
        if not self.runs_all:
            return self._times(models).merged(models, rows, models * rows)
        return max(self._points(models)(rows), self._own(rows) if self.has_own else 0.0)

    def _points(self, models: int) -> Curve:
        """Return the curve over rows of the merged calls of a bundle whose calls run all its models."""
        return Curve({rows: self._at(models, rows) for rows in self.merged_points})

    def _at(self, models: int, rows: int) -> float:
        there = max(self.merged_points[rows].values())
        if not self.has_own or self.measured == 1:
            return there * max(1.0, models / self.measured)
        here = self._own(rows)
        return max(here + (there - here) * (models - 1) / (self.measured - 1), 1e-9)

    def _times(self, models: int) -> FormTimes:
        own = Curve(self.own_points)
        if self.runs_all:
            return FormTimes("stacked", models, own, {1: self._points(models)})
        curves = {rows: Curve(points) for rows, points in self.merged_points.items()}
        return FormTimes("selected", models, own, curves)

    def costs(self, models: int, speed: float = 1.0) -> MeasuredCosts:
        """Return the costs that the scheduler asks for, of a bundle of so many models on a machine of this
        speed."""
        times = self._times(models).scaled(1 / speed)
        return MeasuredCosts(times.io, models, {FORM: times}, lambda sizes: 1.0)

    def least_per_row(self, models: int) -> float:
        """Return a time that no way to serve a row takes less than, in groups of at most so many models."""
        own = float(np.min(self._best / self._sizes)) if self.limits.rows_apart else self._own(1)
        if not self.has_own:
            own = float("inf")
        rows = sorted(self.merged_points)
        counts = {2, models, *(n for n in (1 << i for i in range(2, 20)) if n < models)}
        merged = [self.merged(n, r) / (n * r) for n in counts if n <= models for r in rows]
        return min([own, *merged])


def _is_flat(values: list[float]) -> bool:
    """Return True where the time of a merged call does not depend on the models that wait."""
    return max(values) - min(values) <= 1e-6 * max(values)
