"""Open-loop load: requests come when a plan says so, however slow the answers are.

All arrivals are drawn beforehand, and a latency counts from the planned arrival: a server that falls behind
is charged for the requests that had to wait before they could even be sent.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bench.served import Served, agrees

Array = np.ndarray[Any, Any]

MIXES: dict[str, Callable[[int], Array]] = {
    "uniform": lambda count: np.full(count, 1.0),
    "Zipf": lambda count: 1.0 / np.arange(1, count + 1),
    "2 active": lambda count: (np.arange(count) < 2).astype(float),
}
"""Each mix, by name, gives the share of the requests that each model gets."""
WINDOW = 64
"""Requests that wait while the capacity is measured."""


class Server(Protocol):
    """A contender, whose models are numbers."""

    def submit(self, model: int, feeds: Mapping[str, Array]) -> Future[dict[str, Array]]: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Planned requests: when (seconds from the start), for which model, and which of its drawn inputs."""

    at: list[float]
    model: list[int]
    pick: list[int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a plan. Requests that were not done at its end count as latencies of their age there."""

    offered: int
    done: int
    seconds: float
    latencies: Array
    """Each accepted request has one, in seconds."""
    processor: float
    """Seconds of the processor that the server and the sender took."""
    refusals: Array
    """Seconds until a request was refused, of each that was."""

    @property
    def goodput(self) -> float:
        """Return the requests that were done in a second."""
        return self.done / self.seconds


def plan(served: Served, mix: str, rate: float, seconds: float, seed: int) -> Plan:
    """Draw Poisson arrivals of `rate` per second. Equal arguments give equal plans, to every contender."""
    rng = np.random.default_rng(seed)
    count = max(1, rng.poisson(rate * seconds))
    weights = MIXES[mix](len(served.models))
    return Plan(
        np.sort(rng.uniform(0.0, seconds, count)).tolist(),
        rng.choice(len(weights), count, p=weights / weights.sum()).tolist(),
        rng.integers(0, len(served.feeds[0]), count).tolist(),
        seconds,
    )


def run(server: Server, served: Served, planned: Plan, full: type[Exception]) -> Sample:
    """Send the requests of a plan from this thread, then compare all answers. `full` is the error of a
    refused request; any other error, and a wrong answer, ends the measurement."""
    gc.collect()
    gc.disable()
    used = time.process_time()
    try:
        start, futures, done, refusals = _send(server, served, planned, full)
    finally:
        gc.enable()
    used = time.process_time() - used
    accepted = [i for i, future in enumerate(futures) if future is not None]
    end = start + planned.seconds
    at = np.asarray(planned.at)[accepted]
    finished = np.asarray(done)[accepted]
    in_time = finished <= end
    _check(served, planned, futures)
    latencies = np.where(in_time, finished - start - at, planned.seconds - at)
    refused = np.asarray(refusals)
    return Sample(len(planned.at), int(in_time.sum()), planned.seconds, latencies, used, refused)


def _send(
    server: Server, served: Served, planned: Plan, full: type[Exception]
) -> tuple[float, list[Future[Any] | None], list[float], list[float]]:
    """Return the start, the future of each accepted request, when each was done, and how long each refusal
    took."""
    clock, sleep, submit, feeds = time.perf_counter, time.sleep, server.submit, served.feeds
    futures: list[Future[Any] | None] = [None] * len(planned.at)
    done = [float("inf")] * len(planned.at)
    refusals: list[float] = []

    def stamp(i: int) -> Callable[[object], None]:
        def set_time(_: object) -> None:
            done[i] = clock()

        return set_time

    start = clock() + 0.01
    for i, (at, model, pick) in enumerate(zip(planned.at, planned.model, planned.pick, strict=True)):
        wait = start + at - clock()
        if wait > 0.0:
            sleep(wait)
        before = clock()
        try:
            future = submit(model, feeds[model][pick])
        except full:
            refusals.append(clock() - before)
            continue
        futures[i] = future
        future.add_done_callback(stamp(i))
    sleep(max(0.0, start + planned.seconds - clock()))
    for future in futures:
        if future is not None:
            future.cancel()
    return start, futures, done, refusals


def _check(served: Served, planned: Plan, futures: list[Future[Any] | None]) -> None:
    """Compare every answer that came with what the model's own session gave."""
    answers = defaultdict(list)
    for i, future in enumerate(futures):
        if future is not None and not future.cancelled():
            answers[planned.model[i], planned.pick[i]].append(future.result(timeout=60.0))
    for (model, pick), got in answers.items():
        want = served.answers[model][pick]
        for k, name in enumerate(served.outputs):
            stacked = np.stack([one[name] for one in got])
            if not agrees([stacked], [np.broadcast_to(want[k], stacked.shape)]):
                raise SystemExit(f"{served.name}: a wrong answer of {served.models[model]}, output {name}")


def capacity(server: Server, served: Served, mix: str, seconds: float, full: type[Exception]) -> float:
    """Return the requests per second that a server answers while some always wait."""
    planned = plan(served, mix, 50_000.0, 1.0, 0)
    finished: list[float] = []
    sent, start = 0, time.perf_counter()
    end = start + seconds
    pending: list[Future[Any]] = []
    while time.perf_counter() < end:
        while sent - len(finished) < WINDOW:
            k = sent % len(planned.at)
            try:
                future = server.submit(planned.model[k], served.feeds[planned.model[k]][planned.pick[k]])
            except full:
                break
            future.add_done_callback(lambda _: finished.append(time.perf_counter()))
            pending.append(future)
            sent += 1
        time.sleep(0.001)
    for future in pending:
        if not future.cancel():
            future.result(timeout=60.0)
    middle = start + seconds / 4  # the first calls of a session are slower
    return sum(middle <= at <= end for at in finished) / (end - middle)
