"""Ways to serve all requests of a form that wait, and the time until the last answer of each.

A way has a number of merged calls, each with the same most rows of a model, and own sessions for what is
left. Rows are counted in units: single rows where rows of several requests may share a batch, else requests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from netfuse_onnx.runtime.limits import Limits
from netfuse_onnx.runtime.types import FormCosts
from netfuse_onnx.runtime.waiting import Line

GAIN = 1.35
"""The seconds of a merged call count so many times beside those of own sessions: costs are estimates, and a
merged call makes its first requests wait for its last. In simulation, with 1 and 1.15 some 99th percentiles
are 1.36 and 1.15 times those of the better rival, with 1.35 at most 1.07 times; 1.6 gains less elsewhere."""


class Way(NamedTuple):
    """Merged calls with so many units of each model; none where `calls` is 0."""

    units: int
    calls: int


class Share(NamedTuple):
    """The part of each line in merged calls of some size.

    `lines` are the lines that may take part, as {units that wait: lines with so many}. The others run on own
    sessions: `seconds` are those of all their calls, `longest` of the longest.
    """

    lines: dict[int, int]
    seconds: float
    longest: float


class Ways:
    """The ways to serve the lines of a form on so many workers."""

    def __init__(
        self,
        lines: Mapping[int, Line],
        times: FormCosts,
        limits: Limits,
        kept_out: Collection[int],
        workers: int,
    ) -> None:
        self.lines, self.times, self.limits = lines, times, limits
        self.kept_out, self.workers = kept_out, workers
        self.unit = 1 if limits.rows_apart else next(iter(lines.values())).first
        self.are_single = all(line.first == 1 for line in lines.values())
        self._share: Share | None = None

    def best(self) -> Way:
        """Return the way whose last answer comes first; the one with fewest merged calls where several do.

        Tried are own sessions alone, and 1, 2, 4 and so on units in one merged call, in two, and in as many
        as serve all.
        """
        whole = self._shared(self.limits.max_rows)
        deepest = max(whole.lines, default=0)
        best, way = float("inf"), Way(1, 1)
        if self.limits.own_sessions:
            best, way = self._end(whole, 0, 0), Way(0, 0)
            if self.times.runs_all and GAIN * self.times.merged(0, self.unit, 0) >= best:
                return way  # one merged call alone takes longer, and larger ones take no less
        for units in self._sizes(deepest):
            share = self._shared(units)
            calls = -(-deepest // units)
            for count in (1, 2, calls) if calls > 2 else range(1, calls + 1):
                end = self._end(share, units, count)
                if end < best:
                    best, way = end, Way(units, count)
        return way

    def serves_faster(self, oldest: Line, way: Way) -> bool:
        """Return whether the oldest request's own session serves more rows per second than the merged
        calls."""
        lines = self._shared(way.units).lines
        rows = sum(min(way.units, depth) * count for depth, count in lines.items())
        seconds, _ = self.times.served(oldest.rows, self.limits.max_batch)
        return oldest.rows / seconds > rows / self.times.merged(sum(lines.values()), way.units, rows)

    def _sizes(self, deepest: int) -> list[int]:
        """Return the units of each model in a merged call that are tried: 1, 2, 4 and so on, and the most."""
        if deepest == 1 or not self.limits.rows_apart:
            return [1] if deepest else []
        top = min(deepest, self.limits.max_rows)
        return [*[1 << i for i in range((top - 1).bit_length())], top]

    def _shared(self, units: int) -> Share:
        """Return the lines whose oldest request fits a merged call with so many units."""
        if self._share is not None:
            return self._share
        lines: dict[int, int] = {}
        seconds = longest = 0.0
        apart, most = self.limits.rows_apart, units if self.limits.rows_apart else self.limits.max_rows
        for model, line in self.lines.items():
            depth = line.rows if apart else len(line.requests)
            fits = line.first <= most or not self.limits.own_sessions
            if fits and model not in self.kept_out:
                lines[depth] = lines.get(depth, 0) + 1
            else:
                own, each = self._own(depth)
                seconds, longest = seconds + own, max(longest, each)
        share = Share(lines, seconds, longest)
        if self.are_single or not apart:
            self._share = share  # it does not depend on the units
        return share

    def _end(self, share: Share, units: int, calls: int) -> float:
        """Return the time until the last answer, with so many merged calls of so many units of each model."""
        lines, seconds, longest = share
        if calls and lines:
            for call in (calls - 1,) if self.times.runs_all else range(calls):
                together = GAIN * self._merged(lines, units, call)
                seconds += together * (calls if self.times.runs_all else 1)
                if together > longest:
                    longest = together
        done = units * calls
        for depth, count in lines.items():
            if depth > done:
                own, each = self._own(depth - done)
                seconds += count * own
                if each > longest:
                    longest = each
        return max(longest, seconds / self.workers)

    def _merged(self, lines: Mapping[int, int], units: int, call: int) -> float:
        """Return the time of a merged call, after so many others before it."""
        models = rows = 0
        if not self.times.runs_all:
            for depth, count in lines.items():
                left = depth - call * units
                if left > 0:
                    models, rows = models + count, rows + count * min(units, left)
        return self.times.merged(models, units * self.unit, rows * self.unit)

    def _own(self, depth: int) -> tuple[float, float]:
        """Return the time of the calls of an own session for so many units, and of one of them."""
        if self.limits.rows_apart:
            return self.times.served(depth, self.limits.max_batch)
        each = self.times.alone(self.unit)
        return depth * each, each
