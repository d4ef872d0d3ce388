"""Simulates serving without threads: requests arrive, workers take calls, and calls take the times of a table.

The same requests are served by our scheduler and by two rivals, one by one and in batches of each model as Triton does.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from netfuse_onnx.runtime.costs import FormTimes, MeasuredCosts
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.moments import Rate
from netfuse_onnx.runtime.schedule import Later, Limits, Load, Waiting, choose
from netfuse_onnx.runtime.types import Call, Costs, Request

FORM = ("form",)
TABLES = Path(__file__).parent / "costs"
MOST_WAITING, MOST_OF_A_MODEL = 1024, 256
"""Requests that may wait before others are refused, in all and for a model: the defaults of a session."""


def recorded(name: str) -> MeasuredCosts:
    """Return the costs of a family, as bench/call_costs.py wrote them."""
    table = json.loads((TABLES / f"{name}.json").read_text())

    def curve(points: dict[str, float]) -> Curve:
        return Curve({int(size): seconds for size, seconds in points.items()})

    merged = {int(rows): curve(points) for rows, points in table["merged"].items()}
    times = FormTimes(table["io"], table["models"], curve(table["own"]), merged)
    forms = {FORM: times, ("half",): times.scaled(0.5)}
    return MeasuredCosts(table["io"], table["models"], forms, lambda form: 1.0)


# --------------------------------------------------------------------------- arrivals


def shares(kind: str, models: int) -> np.ndarray:
    """Return the part of the requests that each model gets."""
    weights = {
        "uniform": np.ones(models),
        "zipf": 1 / np.arange(1, models + 1),
        "two": (np.arange(models) < 2).astype(float),
    }[kind]
    return weights / weights.sum()


MIXED_ROWS, MIXED_FORMS = (1, 1, 1, 1, 2, 2, 4, 6), (FORM, FORM, ("half",))


def arrivals(
    rate: float, count: int, kind: str, models: int, seed: int, mixed: bool = False
) -> list[Request]:
    """Return requests at Poisson times: of one row and form, or `mixed`, of several."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, count))
    which = rng.choice(models, count, p=shares(kind, models))
    if mixed:
        sizes = rng.integers((len(MIXED_ROWS), len(MIXED_FORMS)), size=(count, 2))
        return [
            Request(int(model), (), MIXED_ROWS[row], MIXED_FORMS[form], float(time))
            for model, time, (row, form) in zip(which, times, sizes, strict=True)
        ]
    return [Request(int(model), (), 1, FORM, float(time)) for model, time in zip(which, times, strict=True)]


# --------------------------------------------------------------------------- ways to serve


class Started(NamedTuple):
    """A call that starts: its requests, the seconds that it runs, and if it keeps all workers busy."""

    requests: list[Request]
    seconds: float
    wide: bool = False


class Server(Protocol):
    """What holds the requests that wait, and chooses calls for free workers."""

    def add(self, request: Request) -> None: ...

    def next(self, now: float, idle: int) -> Started | Later | None:
        """Take the requests of a call."""


class OneByOne:
    """Each request by itself on its model's own session, in the order of arrival; `wide` says on all cores."""

    def __init__(self, costs: Costs, wide: bool = False) -> None:
        self.costs, self.wide, self.line = costs, wide, deque[Request]()

    def add(self, request: Request) -> None:
        self.line.append(request)

    def next(self, now: float, idle: int) -> Started | None:
        if not self.line:
            return None
        request = self.line.popleft()
        return Started([request], own(self.costs, request.form, request.rows, self.wide), self.wide)


class PerModel:
    """Dynamic batching of each model by itself: all that wait for the model whose request is oldest, of one form and
    up to `most` rows; `wide` says on all cores."""

    def __init__(self, costs: Costs, most: int = Limits().max_batch, wide: bool = False) -> None:
        self.costs, self.most, self.wide = costs, most, wide
        self.lines: dict[tuple[int, Hashable], deque[Request]] = {}

    def add(self, request: Request) -> None:
        self.lines.setdefault((request.model, request.form), deque()).append(request)

    def next(self, now: float, idle: int) -> Started | None:
        if not self.lines:
            return None
        key = min(self.lines, key=lambda key: self.lines[key][0].arrived)
        line, batch, rows = self.lines[key], list[Request](), 0
        while line and (not batch or rows + line[0].rows <= self.most):
            batch.append(line.popleft())
            rows += batch[-1].rows
        if not line:
            del self.lines[key]
        return Started(batch, own(self.costs, batch[0].form, rows, self.wide), self.wide)


def own(costs: Costs, form: Hashable, rows: int, wide: bool) -> float:
    """Return the time of a call of an own session."""
    return costs.of(form).wide(rows) if wide else costs.alone(form, rows)


class Noisy:
    """Another server, whose calls take their times multiplied by noise that is drawn."""

    def __init__(self, server: Server, noise: Callable[[], float]) -> None:
        self.server, self.noise = server, noise

    def add(self, request: Request) -> None:
        self.server.add(request)

    def next(self, now: float, idle: int) -> Started | Later | None:
        call = self.server.next(now, idle)
        return call._replace(seconds=call.seconds * self.noise()) if isinstance(call, Started) else call


class Ours:
    """The scheduler of netfuse_onnx.runtime. With `true`, calls take those times and not the expected ones, times
    the noise that is drawn, and the costs learn from each."""

    def __init__(
        self,
        costs: Costs,
        limits: Limits | None = None,
        workers: int = 1,
        true: Costs | None = None,
        noise: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.costs, self.limits, self.workers, self.true = costs, limits or Limits(), workers, true
        self.waiting, self.noise, self.rate = Waiting(), noise, Rate()
        self._since, self._until, self._before = 0.0, 0.0, 0.0
        self.kinds: list[str] = []

    def add(self, request: Request) -> None:
        self.waiting.add(request)
        busy = self._before + min(request.arrived, self._until) - self._since
        self.rate.arrived(busy, request.arrived < self._until)

    def next(self, now: float, idle: int) -> Started | Later | None:
        load = Load(self.workers, self.workers - idle, self.rate.per_busy_second)
        call = choose(self.waiting, self.costs, now, self.limits, load=load)
        if not isinstance(call, Call):
            return call
        self.kinds.append("wide" if call.wide else call.kind)
        batch = self.waiting.take(call)
        rows: dict[int, int] = {}
        for request in batch:
            rows[request.model] = rows.get(request.model, 0) + request.rows
        seconds = self._seconds(self.true or self.costs, call, rows) * self.noise()
        if self.true is not None:
            self.costs.saw(call.form, call.kind, rows, seconds, wide=call.wide)
        self._runs(now, now + seconds)
        return Started(batch, seconds, call.wide)

    def _runs(self, start: float, end: float) -> None:
        """Note that a call runs: times in which several do count once."""
        if start >= self._until:
            self._before += self._until - self._since
            self._since = start
        self._until = max(self._until, end)

    def _seconds(self, costs: Costs, call: Call, rows: dict[int, int]) -> float:
        if call.kind == "alone":
            return own(costs, call.form, sum(rows.values()), call.wide)
        return costs.merged(call.form, rows)


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: a family, workers, how requests spread over the models, and how many come, as a part of what one
    by one can serve."""

    family: str
    workers: int
    kind: str
    load: float
    mixed: bool = False

    def compared(self, count: int, seeds: Sequence[int]) -> dict[str, Served]:
        """Return what each way made of the same requests, those of all seeds together."""
        costs = recorded(self.family)
        each = costs.alone(FORM, 1)
        if self.mixed:
            sizes = list(itertools.product(MIXED_ROWS, MIXED_FORMS))
            each = sum(costs.alone(form, rows) for rows, form in sizes) / len(sizes)
        rate = self.load * self.workers / each
        found = {name: Served() for name in ("one by one", "per model", "ours")}
        for seed in seeds:
            requests = arrivals(rate, count, self.kind, costs.models, seed, self.mixed)
            servers: dict[str, Server] = {
                "one by one": OneByOne(costs),
                "per model": PerModel(costs),
                "ours": Ours(costs, workers=self.workers),
            }
            for name, server in servers.items():
                found[name].extend(simulate(requests, server, self.workers))
        return found


# --------------------------------------------------------------------------- the simulation


@dataclass(slots=True)
class Served:
    """What became of the requests. Times are seconds."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    end: float = 0.0
    longest: float = 0.0
    """The longest call."""
    ahead: list[tuple[int, int]] = field(default_factory=list)
    """For each request that was served, the calls that started between its arrival and its own, and the requests
    that waited when it arrived."""

    def extend(self, other: Served) -> None:
        """Add another run, as if it had come after this one."""
        self.latencies += other.latencies
        self.ahead += other.ahead
        self.refused += other.refused
        self.end += other.end
        self.longest = max(self.longest, other.longest)

    @property
    def load(self) -> float:
        """Requests served in a second."""
        return len(self.latencies) / self.end if self.end else 0.0

    def percentile(self, part: float) -> float:
        return float(np.percentile(self.latencies, part)) if self.latencies else 0.0


def simulate(requests: Sequence[Request], server: Server, workers: int) -> Served:
    """Serve all requests, and refuse those that find the queue full."""
    served, per_model, waiting, calls = Served(), dict[int, int](), 0, 0
    entered = dict[Request, tuple[int, int]]()
    free, ends, wake = workers, list[tuple[float, int]](), float("inf")
    place = 0
    while place < len(requests) or ends or waiting:
        now = min(
            requests[place].arrived if place < len(requests) else float("inf"),
            ends[0][0] if ends else float("inf"),
            wake,
        )
        wake = float("inf")
        while ends and ends[0][0] <= now:
            free += heapq.heappop(ends)[1]
        while place < len(requests) and requests[place].arrived <= now:
            request = requests[place]
            place += 1
            if waiting >= MOST_WAITING or per_model.get(request.model, 0) >= MOST_OF_A_MODEL:
                served.refused += 1
                continue
            server.add(request)
            entered[request] = calls, waiting
            per_model[request.model] = per_model.get(request.model, 0) + 1
            waiting += 1
        while free and waiting:
            call = server.next(now, free)
            if not isinstance(call, Started):
                wake = call.at if call else wake
                break
            batch, seconds, wide = call
            end = now + seconds
            served.longest = max(served.longest, seconds)
            for request in batch:
                per_model[request.model] -= 1
                served.latencies.append(end - request.arrived)
                before, ahead = entered.pop(request)
                served.ahead.append((calls - before, ahead))
            calls += 1
            waiting -= len(batch)
            served.end = max(served.end, end)
            held = workers if wide else 1
            heapq.heappush(ends, (end, held))
            free -= held
    return served
