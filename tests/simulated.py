"""Simulates serving without threads: requests arrive, workers take calls, and calls take the times of a table.

The same requests are served by our scheduler and by two rivals, one by one and in batches of each model as Triton does.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from netfuse_onnx.runtime.costs import Curve, FormTimes, MeasuredCosts
from netfuse_onnx.runtime.schedule import Later, Limits, Waiting, choose
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
    return MeasuredCosts(table["io"], table["models"], {FORM: times}, lambda form: 1.0)


# --------------------------------------------------------------------------- arrivals


def shares(kind: str, models: int) -> np.ndarray:
    """Return the part of the requests that each model gets."""
    weights = {
        "uniform": np.ones(models),
        "zipf": 1 / np.arange(1, models + 1),
        "two": (np.arange(models) < 2).astype(float),
    }[kind]
    return weights / weights.sum()


def arrivals(rate: float, count: int, kind: str, models: int, seed: int) -> list[Request]:
    """Return requests of one row at Poisson times."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, count))
    which = rng.choice(models, count, p=shares(kind, models))
    return [Request(int(model), (), 1, FORM, float(time)) for model, time in zip(which, times, strict=True)]


# --------------------------------------------------------------------------- ways to serve


class Server(Protocol):
    """What holds the requests that wait, and chooses calls for free workers."""

    def add(self, request: Request) -> None: ...

    def next(self, now: float, idle: int) -> tuple[list[Request], float] | Later | None:
        """Take the requests of a call, with the seconds that it runs."""


class OneByOne:
    """Each request by itself on its model's own session, in the order of arrival."""

    def __init__(self, costs: Costs) -> None:
        self.costs, self.line = costs, deque[Request]()

    def add(self, request: Request) -> None:
        self.line.append(request)

    def next(self, now: float, idle: int) -> tuple[list[Request], float] | None:
        if not self.line:
            return None
        request = self.line.popleft()
        return [request], self.costs.alone(request.form, request.rows)


class PerModel:
    """Dynamic batching of each model by itself: all that wait for the model whose request is oldest, up to `most`."""

    def __init__(self, costs: Costs, most: int = Limits().max_batch) -> None:
        self.costs, self.most, self.lines = costs, most, dict[int, deque[Request]]()

    def add(self, request: Request) -> None:
        self.lines.setdefault(request.model, deque()).append(request)

    def next(self, now: float, idle: int) -> tuple[list[Request], float] | None:
        if not self.lines:
            return None
        model = min(self.lines, key=lambda model: self.lines[model][0].arrived)
        line = self.lines[model]
        batch = [line.popleft() for _ in range(min(len(line), self.most))]
        if not line:
            del self.lines[model]
        return batch, self.costs.alone(batch[0].form, sum(request.rows for request in batch))


class Ours:
    """The scheduler of netfuse_onnx.runtime. `true` has the times that calls take, where they are not as expected."""

    def __init__(
        self, costs: Costs, limits: Limits | None = None, workers: int = 1, true: Costs | None = None
    ) -> None:
        self.costs, self.limits, self.workers, self.true = costs, limits or Limits(), workers, true or costs
        self.waiting = Waiting()
        self.calls: list[Call] = []

    def add(self, request: Request) -> None:
        self.waiting.add(request)

    def next(self, now: float, idle: int) -> tuple[list[Request], float] | Later | None:
        call = choose(self.waiting, self.costs, now, self.limits, workers=self.workers)
        if not isinstance(call, Call):
            return call
        self.calls.append(call)
        batch = self.waiting.take(call)
        rows: dict[int, int] = {}
        for request in batch:
            rows[request.model] = rows.get(request.model, 0) + request.rows
        if call.kind == "alone":
            return batch, self.true.alone(call.form, sum(rows.values()))
        return batch, self.true.merged(call.form, rows)


WAYS: dict[str, Callable[[Costs], Server]] = {"one by one": OneByOne, "per model": PerModel, "ours": Ours}


# --------------------------------------------------------------------------- the simulation


@dataclass(slots=True)
class Served:
    """What became of the requests. Times are seconds."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    end: float = 0.0
    starts: dict[int, float] = field(default_factory=dict)
    """When each request started, by its place among the requests."""

    @property
    def load(self) -> float:
        """Requests served in a second."""
        return len(self.latencies) / self.end if self.end else 0.0

    def percentile(self, part: float) -> float:
        return float(np.percentile(self.latencies, part)) if self.latencies else 0.0


def simulate(requests: Sequence[Request], server: Server, workers: int) -> Served:
    """Serve all requests, and refuse those that find the queue full."""
    served, per_model, waiting = Served(), dict[int, int](), 0
    free, ends, wake = workers, list[float](), float("inf")
    place = 0
    while place < len(requests) or ends or waiting:
        now = min(
            requests[place].arrived if place < len(requests) else float("inf"),
            ends[0] if ends else float("inf"),
            wake,
        )
        wake = float("inf")
        while ends and ends[0] <= now:
            heapq.heappop(ends)
            free += 1
        while place < len(requests) and requests[place].arrived <= now:
            request = requests[place]
            place += 1
            if waiting >= MOST_WAITING or per_model.get(request.model, 0) >= MOST_OF_A_MODEL:
                served.refused += 1
                continue
            server.add(request)
            per_model[request.model] = per_model.get(request.model, 0) + 1
            waiting += 1
        while free and waiting:
            call = server.next(now, free)
            if not isinstance(call, tuple):
                wake = call.at if call else wake
                break
            batch, seconds = call
            end = now + seconds
            for request in batch:
                per_model[request.model] -= 1
                served.latencies.append(end - request.arrived)
            waiting -= len(batch)
            served.end = max(served.end, end)
            heapq.heappush(ends, end)
            free -= 1
    return served
