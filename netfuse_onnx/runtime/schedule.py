"""Chooses the next call: a pure function of what waits, what calls cost, and the time.

A free worker asks once. The choice is between

    the own session    the requests of the model whose request is oldest, up to max_batch rows
    a merged call      requests of all waiting models of the oldest request's form, up to max_rows rows of
    each

A request is worth what it would cost on its model's own session: its part of the batch that waits there. A
merged call is chosen where the requests in it are worth at least GAIN times what it costs.

Every call takes the oldest request. So a request waits for no more calls than there are requests before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass

from netfuse_onnx.runtime.types import Call, Costs, FormCosts, Request

GAIN = 1.35
"""A merged call is chosen where it serves at least this many times the requests per second of own
sessions."""


class Line:
    """The requests of one form for one model that wait, oldest first; never empty while it is in a queue."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0
        """Rows of all requests."""

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


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a call, and the waiting on purpose."""

    max_rows: int = 8
    """Most rows of a model in a merged call."""
    max_batch: int = 64
    """Most rows in a call of a model's own session."""
    rows_apart: bool = True
    """Rows of several requests may share a batch. Else a call has one request of a model, and requests of
    equal rows share a merged call."""
    workers: int = 1
    """Calls that run at the same time."""
    max_wait: float = 0.0
    """Seconds that a request may wait on purpose until a merged call pays."""


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing runs now. Ask again at this time, or when a request arrives."""

    at: float


class Waiting:
    """The requests that wait, by form and model. Lines that are empty are gone, so a choice costs nothing for
    models of which none wait."""

    def __init__(self) -> None:
        self.lines: dict[Hashable, dict[int, Line]] = {}
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
        return True

    def _end(self, form: Hashable, model: int) -> None:
        """Remove a line that is empty."""
        lines = self.lines[form]
        del lines[model]
        if not lines:
            del self.lines[form]


def choose(
    waiting: Waiting, costs: Costs, now: float, limits: Limits, *, kept_out: Collection[int] = ()
) -> Call | Later | None:
    """Return the call that a free worker runs now, the time at which to look again, or None where nothing waits.

    `now` is in seconds of the clock of `Request.arrived`; `kept_out` has the models that take no part in merged calls.
    """
    if not waiting.lines:
        return None
    form, model = _oldest(waiting.lines)
    lines = waiting.lines[form]
    times = costs.of(form)
    rows = 0 if model in kept_out else _merged_rows(model, lines, times, limits, kept_out)
    if rows:
        return _merged(form, model, lines, rows, limits, kept_out)
    if limits.max_wait > 0 and model not in kept_out:
        until = lines[model].requests[0].arrived + limits.max_wait
        if now < until:
            return Later(until)
    line = lines[model]
    _, batch = times.served(line.rows, limits.max_batch)
    return Call("alone", form, ((model, line.fitting(batch, limits.rows_apart)),))


def _oldest(lines: Mapping[Hashable, Mapping[int, Line]]) -> tuple[Hashable, int]:
    """Return the form and model of the oldest request; of several, the first."""
    arrived, found = float("inf"), None
    for form, of_form in lines.items():
        for model, line in of_form.items():
            if line.requests[0].arrived < arrived or found is None:
                arrived, found = line.requests[0].arrived, (form, model)
    assert found is not None
    return found


def _merged_rows(model, lines, times, limits, kept_out):
    """Return most rows of a model in the merged call now, or 0 for own."""
    c = limits.workers
    counts = {}
    other = 0.0
    longest = 0.0
    for m, line in lines.items():
        if m in kept_out or line.requests[0].rows > limits.max_rows:
            t, b = times.served(line.rows, limits.max_batch)
            other += t
            longest = max(longest, times.alone(b))
        else:
            counts[line.rows] = counts.get(line.rows, 0) + 1
    total = other
    lng = longest
    for w, n in counts.items():
        t, b = times.served(w, limits.max_batch)
        total += n * t
        lng = max(lng, times.alone(b))
    best, chosen = max(lng, total / c), None
    deepest = max(counts)
    mine = lines[model].rows
    r = 1
    while True:
        full = -(-deepest // r)
        for k in sorted({1, 2, 4, full}):
            if k > full:
                continue
            R = r * k
            tot, ln = other, longest
            for j in range(k):
                K = rows = 0
                for w, n in counts.items():
                    if w > j * r:
                        K += n
                        rows += n * min(r, w - j * r)
                m = GAIN * times.merged(K, r, rows)
                tot += m
                ln = max(ln, m)
            for w, n in counts.items():
                if w > R:
                    t, b = times.served(w - R, limits.max_batch)
                    tot += n * t
                    ln = max(ln, times.alone(b))
            span = max(ln, tot / c)
            if span < best:
                best, chosen = span, (r, R)
        if r >= limits.max_rows or r >= deepest:
            break
        r = min(2 * r, limits.max_rows)
    if chosen is None:
        return 0
    r, R = chosen
    if mine > R:
        # own first when it's the better rate
        t, b = times.served(mine, limits.max_batch)
        K = sum(counts.values())
        n = sum(n * min(w, r) for w, n in counts.items())
        if b / times.alone(b) > n / times.merged(K, r, n):
            return 0
    return r


def _merged(form, model, lines, most, limits, kept_out):
    return Call("merged", form, tuple(
        (m, line.fitting(most, limits.rows_apart)) for m, line in lines.items()
        if m not in kept_out and line.requests[0].rows <= limits.max_rows))
