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

Line = deque[Request]
"""The requests of one form for one model that wait, oldest first; never empty."""


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
    own_sessions: bool = True
    """Models have sessions of their own. Else every call is a merged call."""
    max_wait: float = 0.0
    """Seconds that a request may wait on purpose until a merged call pays."""


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing runs now. Ask again at this time, or when a request arrives."""

    at: float


class Waiting:
    """The requests that wait, by form and model. Lines that are empty are gone, so a choice costs nothing
    for models of which none wait."""

    def __init__(self) -> None:
        self.lines: dict[Hashable, dict[int, Line]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        return (request for lines in self.lines.values() for line in lines.values() for request in line)

    def add(self, request: Request) -> None:
        """Append a request: it is the youngest of its line."""
        self.lines.setdefault(request.form, {}).setdefault(request.model, deque()).append(request)
        self._count += 1

    def take(self, call: Call) -> list[Request]:
        """Remove and return the requests of a call, model by model, each model's oldest first."""
        taken = []
        for model, count in call.taken:
            line = self.lines[call.form][model]
            taken += [line.popleft() for _ in range(count)]
            self._drop_empty(call.form, model)
        self._count -= len(taken)
        return taken

    def remove(self, request: Request) -> bool:
        """Remove a request that was cancelled or is too late; False where it does not wait."""
        line = self.lines.get(request.form, {}).get(request.model, ())
        if request not in line:
            return False
        self.lines[request.form][request.model].remove(request)
        self._drop_empty(request.form, request.model)
        self._count -= 1
        return True

    def _drop_empty(self, form: Hashable, model: int) -> None:
        lines = self.lines[form]
        if not lines[model]:
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
    idle: int = 1,
) -> Call | Later | None:
    """Return the call that a free worker runs now, the time at which to look again, or None where nothing
    waits.

    `kept_out` has the models that take no part in merged calls; `idle` counts the free workers, the asking
    one included.
    """
    if not waiting.lines:
        return None
    form, model = _oldest(waiting.lines)
    lines = waiting.lines[form]
    prices = costs.of(form)
    own = _own(form, model, lines[model], prices, limits)
    if limits.own_sessions and model in kept_out:
        return own
    joint = _merged(form, model, lines, prices, limits, kept_out)
    if not limits.own_sessions or joint[0] >= GAIN:
        return joint[1]
    if limits.max_wait > 0:
        until = lines[model][0].arrived + limits.max_wait
        if now < until:
            return Later(until)
    return own


def _oldest(lines: Mapping[Hashable, Mapping[int, Line]]) -> tuple[Hashable, int]:
    """Return the form and model of the oldest request; of several, the first model."""
    arrived, found = float("inf"), None
    for form, of_form in lines.items():
        for model, line in of_form.items():
            if found is None or line[0].arrived < arrived:
                arrived, found = line[0].arrived, (form, model)
    assert found is not None
    return found


def _own(form: Hashable, model: int, line: Line, prices: FormCosts, limits: Limits) -> Call:
    """Return the call of the model's own session."""
    return Call("alone", form, ((model, _fitting(line, limits.max_batch, limits)[0]),))


def _merged(
    form: Hashable,
    model: int,
    lines: Mapping[int, Line],
    prices: FormCosts,
    limits: Limits,
    kept_out: Collection[int],
) -> tuple[float, Call]:
    """Return the best merged call with the oldest request, and what its requests are worth over what it
    costs."""
    members = {m: line for m, line in lines.items() if m not in kept_out or m == model}
    if not limits.rows_apart:
        rows = lines[model][0].rows
        members = {m: line for m, line in members.items() if line[0].rows == rows}
    best: tuple[float, Call] | None = None
    most = 1
    while True:
        fitting = {m: _fitting(line, most, limits) for m, line in members.items()}
        widest = max(rows for _, rows in fitting.values())
        cost = prices.merged(len(fitting), widest, sum(rows for _, rows in fitting.values()))
        worth = sum(_price(lines[m], prices, limits) * rows for m, (_, rows) in fitting.items())
        if best is None or worth / cost > best[0]:
            best = worth / cost, Call("merged", form, tuple((m, n) for m, (n, _) in fitting.items()))
        if most >= limits.max_rows or widest < most:
            return best
        most = min(2 * most, limits.max_rows)


def _fitting(line: Line, most: int, limits: Limits) -> tuple[int, int]:
    """Return how many of a line's oldest requests have at most so many rows, but one at least, and their
    rows."""
    count, rows = 1, line[0].rows
    if limits.rows_apart:
        for place in range(1, min(len(line), most)):
            if rows + line[place].rows > most:
                break
            count, rows = count + 1, rows + line[place].rows
    return count, rows


def _price(line: Line, prices: FormCosts, limits: Limits) -> float:
    """Return what a row of a line costs in the batch that waits on its own session."""
    rows = _fitting(line, limits.max_batch, limits)[1]
    return prices.alone(rows) / rows
