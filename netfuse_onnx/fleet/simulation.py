"""A discrete-event simulation of one machine: several processes with the runtime's own scheduler share its
cores.

Requests arrive by Poisson processes. In each process one front thread takes them, one after the other, which
takes `overhead` seconds of a processor; then they wait until the scheduler (runtime/schedule.py, the code
that runs when it is served) puts them into a call. A process runs at most as many calls at a time as the
machine has workers.

Where more threads run than there are cores, all of them slow down alike, as the system shares the cores in
small slices. So the work that each has done since a moment is one number, `work`, and a thread that has s
seconds to run ends when `work` has grown by s."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from netfuse_onnx.fleet.times import FORM
from netfuse_onnx.runtime.bounds import Bounds
from netfuse_onnx.runtime.costs import MeasuredCosts
from netfuse_onnx.runtime.limits import Limits, Load
from netfuse_onnx.runtime.schedule import choose
from netfuse_onnx.runtime.types import Call, Request
from netfuse_onnx.runtime.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Process:
    """One process: the requests per second of each of its models, and its times on this machine."""

    rates: Sequence[float]
    costs: MeasuredCosts
    limits: Limits
    overhead: float = 0.0


@dataclass(slots=True)
class Served:
    """The requests of one process that were simulated: latencies in seconds, infinite for those that found
    the queue full; calls of each kind; and processor seconds of all calls and fronts."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    alone: int = 0
    merged: int = 0
    seconds: float = 0.0

    def percentile(self, part: float) -> float:
        """Return a latency of which so many hundredths of the requests have none longer; 0 without
        requests."""
        if not self.latencies:
            return 0.0
        return float(np.percentile(self.latencies, part, method="inverted_cdf"))


class _Running:
    """A process in the simulation: its front, its queue, and its calls."""

    def __init__(self, process: Process, workers: int) -> None:
        self.process, self.workers = process, workers
        self.front: deque[Request] = deque()
        self.is_taking = False
        self.waiting = Waiting()
        self.queued = [0] * len(process.rates)
        self.calls = 0
        self.bounds = Bounds()
        self.served = Served()

    def admits(self, model: int) -> bool:
        """Return True where a request may wait."""
        waiting = len(self.waiting) + len(self.front)
        return not self.bounds.refuse(self.queued[model], waiting, len(self.queued))

    def begin(self, now: float) -> tuple[list[Request], float] | None:
        """Return the requests of the call that a free worker runs now, and its seconds; None where none
        is."""
        if self.calls >= self.workers or not self.waiting.lines:
            return None
        load = Load(self.workers, self.calls)
        call = choose(self.waiting, self.process.costs, now, self.process.limits, load=load)
        if not isinstance(call, Call):
            return None
        batch = self.waiting.take(call)
        rows: dict[int, int] = {}
        for request in batch:
            rows[request.model] = rows.get(request.model, 0) + 1
            self.queued[request.model] -= 1
        self.calls += 1
        if call.kind == "alone":
            self.served.alone += 1
            return batch, self.process.costs.alone(FORM, len(batch))
        self.served.merged += 1
        return batch, self.process.costs.merged(FORM, rows)


class Simulation:
    """One machine. Latencies count of requests that arrive after `warm_up` seconds."""

    def __init__(self, processes: Sequence[Process], cores: int, warm_up: float = 0.0) -> None:
        self.running = [_Running(process, cores) for process in processes]
        self.cores, self.warm_up = cores, warm_up
        self.now = self.work = 0.0
        self._count = 0
        self._ends: list[tuple[float, int, _Running, list[Request] | Request]] = []
        """Threads that run, by the work at which they end: calls with their requests, fronts with one."""

    def run(self, arrivals: Sequence[tuple[float, int, int]]) -> list[Served]:
        """Serve all requests, given as (seconds, process, model) in the order of time."""
        for moment, process, model in arrivals:
            while self._ends and self._next_end() <= moment:
                self._end()
            self._move(moment)
            self._arrive(self.running[process], model)
        while self._ends:
            self._end()
        return [one.served for one in self.running]

    def _rate(self) -> float:
        """Return the seconds of work of each thread in a second."""
        return min(1.0, self.cores / len(self._ends)) if self._ends else 1.0

    def _next_end(self) -> float:
        return self.now + max(self._ends[0][0] - self.work, 0.0) / self._rate()

    def _move(self, moment: float) -> None:
        self.work += (moment - self.now) * self._rate()
        self.now = moment

    def _arrive(self, one: _Running, model: int) -> None:
        if not one.admits(model):
            one.served.refused += 1
            if self.now >= self.warm_up:
                one.served.latencies.append(float("inf"))
            return
        one.queued[model] += 1
        request = Request(model, (), 1, FORM, self.now)
        if one.process.overhead:
            one.front.append(request)
            self._take(one)
        else:
            one.waiting.add(request)
            self._dispatch(one)

    def _take(self, one: _Running) -> None:
        """Let the front thread take its next request, if it is free."""
        if one.front and not one.is_taking:
            one.is_taking = True
            self._start(one, one.front.popleft(), one.process.overhead)

    def _dispatch(self, one: _Running) -> None:
        while found := one.begin(self.now):
            self._start(one, *found)

    def _start(self, one: _Running, taken: list[Request] | Request, seconds: float) -> None:
        one.served.seconds += seconds
        self._count += 1
        heapq.heappush(self._ends, (self.work + seconds, self._count, one, taken))

    def _end(self) -> None:
        """Go on to the end of the thread that ends next, and start what may start then."""
        self._move(self._next_end())
        end, _, one, taken = heapq.heappop(self._ends)
        self.work = max(self.work, end)
        if isinstance(taken, Request):
            one.is_taking = False
            one.waiting.add(taken)
            self._take(one)
        else:
            one.calls -= 1
            for request in taken:
                if request.arrived >= self.warm_up:
                    one.served.latencies.append(self.now - request.arrived)
        self._dispatch(one)


def arrivals(rates: Sequence[Sequence[float]], seconds: float, seed: int) -> list[tuple[float, int, int]]:
    """Return Poisson arrivals within so many seconds, as (moment, process, model), given the rates of the
    models of each process."""
    generator = np.random.default_rng(seed)
    every = np.concatenate([np.asarray(one, np.float64) for one in rates])
    process = np.repeat(np.arange(len(rates)), [len(one) for one in rates])
    model = np.concatenate([np.arange(len(one)) for one in rates])
    count = int(generator.poisson(every.sum() * seconds))
    moments = np.sort(generator.uniform(0.0, seconds, count))
    which = generator.choice(len(every), count, p=every / every.sum()) if count else np.zeros(0, int)
    return list(zip(moments.tolist(), process[which].tolist(), model[which].tolist(), strict=True))
