"""Chooses the next call: a pure function of what waits, what calls cost, and the time.

A free worker asks once. It runs one of

    the own session    requests of the model whose request is oldest, up to max_batch rows
    a merged call      requests of all waiting models of the oldest request's form, up to max_rows rows of
    each

**Which of them.** Compared are ways to serve all requests of that form which wait: r rows of each model in
each of some merged calls, the rest on own sessions. The way whose last answer comes first is chosen, where
the seconds of merged calls count GAIN times. With several workers the last answer comes after the longest
call at the earliest, so a merged call must beat own sessions that run side by side. A comparison of requests
per second alone can't see that: in simulation it had a p99 up to 1.4 times that of batches of each model
with two workers, and up to 1.8 times where one model has most of the requests, whose batch costs little more
than one of them.

**How many rows on an own session.** Twice as many, again and again, while those who wait behind gain more
time together than those in the batch lose (`_batch`). Where rows cost little that is all of them; where a
batch costs as much as its rows one by one it is one, and nobody waits for the rows of others.

**Oldest first.** Every call takes the oldest request of all. So a request starts after at most as many calls
as there were requests before it, less those that still run: the bound of serving one by one, in calls.

The queue hands over `Waiting`: a line for each form and model that waits, and nothing for the others, so
that a choice costs as much for 20 waiting models of 1,000 as for 20 of 20.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass

from netfuse_onnx.runtime.types import Call, Costs, FormCosts, Request

GAIN = 1.35
"""The seconds of a merged call count so many times beside those of own sessions: costs are estimates, and a
merged call makes its first requests wait for its last."""
BEHIND = 2
"""A row that waits behind a batch stands for so many that gain from its early end: itself, and one that comes
meanwhile."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a call, and the waiting on purpose."""

    max_rows: int = 8
    """Most rows of a model in a merged call. A request with more runs on its model's own session."""
    max_batch: int = 64
    """Most rows in a call of a model's own session. A request with more runs by itself."""
    rows_apart: bool = True
    """Rows of several requests may share a batch. Else a call has one request of a model, and the requests
    of a form have equal rows."""
    own_sessions: bool = True
    """Models have sessions of their own. Else every call is a merged call."""
    max_wait: float = 0.0
    """Seconds that a request may wait on purpose until a merged call pays."""


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing runs now. Ask again at this time, or when a request arrives."""

    at: float


class Line:
    """The requests of one form for one model that wait, oldest first; never empty while it is in a queue."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0
        """Rows of all requests."""

    @property
    def head(self) -> Request:
        """Return the oldest request."""
        return self.requests[0]

    def fitting(self, most: int, apart: bool) -> int:
        """Return how many of the oldest requests have at most so many rows together, but one at least. Where
        the rows of requests are not apart it is one."""
        requests = self.requests
        if not apart:
            return 1
        if self.rows == len(requests) or self.rows <= most:
            return min(len(requests), max(most, 1))
        count = rows = 0
        for request in requests:
            rows += request.rows
            if rows > most:
                break
            count += 1
        return max(count, 1)


class Waiting:
    """The requests that wait, by form and model. Lines that are empty are gone, so a choice costs nothing for
    models of which none wait."""

    def __init__(self) -> None:
        self.lines: dict[Hashable, dict[int, Line]] = {}
        self.rows = 0
        """Rows of all requests."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        """Yield all requests, line by line, each line's oldest first."""
        return (r for lines in self.lines.values() for line in lines.values() for r in line.requests)

    def add(self, request: Request) -> None:
        """Append a request: it is the youngest of its line."""
        lines = self.lines.setdefault(request.form, {})
        line = lines.get(request.model)
        if line is None:
            line = lines[request.model] = Line()
        line.requests.append(request)
        line.rows += request.rows
        self.rows += request.rows
        self._count += 1

    def take(self, call: Call) -> list[Request]:
        """Remove and return the requests of a call, model by model, each model's oldest first."""
        taken = []
        lines = self.lines[call.form]
        for model, count in call.taken:
            line = lines[model]
            for _ in range(count):
                request = line.requests.popleft()
                line.rows -= request.rows
                taken.append(request)
            if not line.requests:
                self._end(call.form, model)
        self._count -= len(taken)
        self.rows -= sum(request.rows for request in taken)
        return taken

    def remove(self, request: Request) -> bool:
        """Remove a request that was cancelled or is too late; False where it does not wait."""
        line = self.lines.get(request.form, {}).get(request.model)
        if line is None or request not in line.requests:
            return False
        line.requests.remove(request)
        line.rows -= request.rows
        if not line.requests:
            self._end(request.form, request.model)
        self._count -= 1
        self.rows -= request.rows
        return True

    def _end(self, form: Hashable, model: int) -> None:
        """Remove a line that is empty."""
        lines = self.lines[form]
        del lines[model]
        if not lines:
            del self.lines[form]


def choose(
    waiting: Waiting,
    costs: Costs,
    now: float,
    limits: Limits,
    *,
    kept_out: Collection[int] = (),
    workers: int = 1,
) -> Call | Later | None:
    """Return the call that a free worker runs now, the time at which to look again, or None where nothing
    waits.

    `now` is in seconds of the clock of `Request.arrived`. `kept_out` has the models that take no part in
    merged calls; `workers` counts the calls that may run at the same time.
    """
    if not waiting.lines:
        return None
    form, model = _oldest(waiting.lines)
    lines, times = waiting.lines[form], costs.of(form)
    line = lines[model]
    if not limits.own_sessions or (model not in kept_out and line.head.rows <= limits.max_rows):
        most = _Ways(lines, times, limits, kept_out, workers).most_rows(line)
        if most:
            return Call("merged", form, _together(lines, model, most, limits, kept_out))
        if limits.max_wait > 0 and now < line.head.arrived + limits.max_wait:
            return Later(line.head.arrived + limits.max_wait)
    most = _batch(line.rows, waiting.rows, times, limits.max_batch)
    return Call("alone", form, ((model, line.fitting(most, limits.rows_apart)),))


def merges_all(times: FormCosts, models: int, rows: int, limits: Limits) -> bool:
    """Return True where `choose` with one worker takes requests of so many models, one of each and each of so
    many rows, in one merged call. It is quicker than to ask `choose`."""
    if rows > limits.max_rows:
        return False
    if not limits.own_sessions:
        return True
    own = times.served(rows, limits.max_batch)[0] if limits.rows_apart else times.alone(rows)
    return GAIN * times.merged(models, rows, models * rows) < models * own


def _oldest(lines: Mapping[Hashable, Mapping[int, Line]]) -> tuple[Hashable, int]:
    """Return the form and model of the oldest request; of several, the first."""
    arrived, found = float("inf"), None
    for form, of_form in lines.items():
        for model, line in of_form.items():
            if found is None or line.requests[0].arrived < arrived:
                arrived, found = line.requests[0].arrived, (form, model)
    assert found is not None
    return found


def _batch(rows: int, waiting: int, times: FormCosts, most: int) -> int:
    """Return how many of a line's rows an own call takes: 1, 2, 4 and so on, or all that it may.

    A call of `more` rows, in place of one of `few` and one of the rest after it, ends earlier by `saved`.
    That is what everyone behind gains. The first `few` rows wait for the others.
    """
    few, most = 1, min(rows, most)
    while few < most:
        more = min(2 * few, most)
        first, second, both = times.alone(few), times.alone(more - few), times.alone(more)
        saved = first + second - both
        lost = few * (both - first) - (more - few) * saved
        if BEHIND * saved * (waiting - more) < lost:
            break
        few = more
    return few


def _together(
    lines: Mapping[int, Line], model: int, most: int, limits: Limits, kept_out: Collection[int]
) -> tuple[tuple[int, int], ...]:
    """Return the requests of a merged call with so many rows of each model: (model, requests)."""
    return tuple(
        (m, line.fitting(most, limits.rows_apart))
        for m, line in lines.items()
        if m == model or (line.head.rows <= most and m not in kept_out)
    )


class _Ways:
    """The ways to serve all requests of a form that wait, by the time until the last answer.

    Rows are counted in units: single rows where they are apart, else requests. `depths` counts the lines
    that may take part in merged calls, by the units of their first request and of all.
    """

    def __init__(
        self,
        lines: Mapping[int, Line],
        times: FormCosts,
        limits: Limits,
        kept_out: Collection[int],
        workers: int,
    ) -> None:
        self.times, self.limits, self.workers = times, limits, workers
        self.unit = 1 if limits.rows_apart else next(iter(lines.values())).head.rows
        self.depths: dict[tuple[int, int], int] = {}
        self.total = self.longest = 0.0
        for model, line in lines.items():
            first, depth = (line.head.rows, line.rows) if limits.rows_apart else (1, len(line.requests))
            if limits.own_sessions and (model in kept_out or first * self.unit > limits.max_rows):
                self.total, self.longest = self._and_own(self.total, self.longest, depth, 1)
            else:
                self.depths[first, depth] = self.depths.get((first, depth), 0) + 1

    def most_rows(self, oldest: Line) -> int:
        """Return the most rows of a model in the merged call that runs now, or 0 where the own session of the
        oldest request runs."""
        best, way = (self._end(0, 0) if self.limits.own_sessions else float("inf")), (0, 0)
        deepest = max(depth for _, depth in self.depths)
        for rows in self._rows(deepest):
            calls = -(-deepest // rows)
            for count in sorted({1, 2, 4, calls}):
                if count <= calls and (end := self._end(rows, count)) < best:
                    best, way = end, (rows, count)
        rows, count = way
        if self.limits.own_sessions and (not rows or self._own_first(oldest, rows, rows * count)):
            return 0
        return rows * self.unit

    def _rows(self, deepest: int) -> list[int]:
        """Return the units of each model in a merged call that are tried."""
        if not self.limits.rows_apart:
            return [1]
        top = min(deepest, self.limits.max_rows)
        return [*(1 << i for i in range((top - 1).bit_length())), top]

    def _end(self, rows: int, calls: int) -> float:
        """Return the time until the last answer, with so many merged calls of so many units of each model."""
        total, longest = self.total, self.longest
        for call in range(calls):
            models = units = 0
            for (first, depth), count in self.depths.items():
                if first <= rows and depth > call * rows:
                    models += count
                    units += count * min(rows, depth - call * rows)
            if models:
                seconds = GAIN * self.times.merged(models, rows * self.unit, units * self.unit)
                total += seconds
                longest = max(longest, seconds)
        for (first, depth), count in self.depths.items():
            left = depth - rows * calls if first <= rows else depth
            if left > 0:
                total, longest = self._and_own(total, longest, left, count)
        return max(longest, total / self.workers)

    def _and_own(self, total: float, longest: float, depth: int, lines: int) -> tuple[float, float]:
        """Return the seconds of all calls and of the longest, with own calls for lines of so many units."""
        if self.limits.rows_apart:
            seconds, each = self.times.served(depth, self.limits.max_batch)
        else:
            each = self.times.alone(self.unit)
            seconds = depth * each
        return total + lines * seconds, max(longest, each)

    def _own_first(self, oldest: Line, rows: int, served: int) -> bool:
        """Return whether the oldest request's own session runs before the merged calls: it must run anyway,
        and serves more rows per second than they do."""
        if not self.limits.rows_apart or (oldest.head.rows <= rows and oldest.rows <= served):
            return False
        if oldest.head.rows > rows:
            return True
        taking = [(min(rows, depth), lines) for (first, depth), lines in self.depths.items() if first <= rows]
        models, units = sum(lines for _, lines in taking), sum(units * lines for units, lines in taking)
        seconds, _ = self.times.served(oldest.rows, self.limits.max_batch)
        return oldest.rows / seconds > units / self.times.merged(models, rows, units)
