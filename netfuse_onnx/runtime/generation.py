"""A generation: the sessions of one file, the requests that wait for them, and those that run."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.guard import Guard
from netfuse_onnx.runtime.isolation import Outcome, Performed
from netfuse_onnx.runtime.queue import Queue, waits_for
from netfuse_onnx.runtime.schedule import Later, Limits, Load, choose, merges_all
from netfuse_onnx.runtime.stats import Stats
from netfuse_onnx.runtime.types import Call, Engine, Kind, Request
from netfuse_onnx.runtime.waiting import Waiting

LOG = logging.getLogger(__name__)
LONG = 1e-3
"""Seconds of a call that is long beside the time that it takes to count it."""
ONE_OF = 8
"""One of so many calls that are shorter teaches the costs."""
QUICK = 100e-6
"""Seconds of a call, with what is around it, that takes less time than to hand it over: queueing, waking a
worker and passing Python's lock to it take as much by themselves. Measured with a policy network of 7 us."""
REST = 50e-6
"""Seconds for which a session has been idle where quick calls run in the threads of their senders. A sender
with more to send comes back sooner: what it sends queues, so that one call can serve several."""
QUICK_IN_LOOP, REST_IN_LOOP = 300e-6, 250e-6
"""The same for a server's event loop, to which a call is handed over and back: measured, that takes 150 us of
processor time. A loop that is busy comes back sooner, and other cores run its calls."""
MOST_KNOWN = 1024
"""Answers of the scheduler that are kept until the costs change."""


class Generation:
    """One engine with its own queue: a request stays with it from entry to answer."""

    def __init__(self, number: int, engine: Engine, limits: Limits) -> None:
        self.number = number
        self.engine = engine
        self.limits = replace(limits, rows_apart=engine.rows_apart, own_sessions=engine.own_sessions)
        self.at_once = replace(self.limits, max_wait=0.0)
        """The limits where nothing is waited for on purpose."""
        self.queue = Queue()
        self.guard = Guard(len(engine.models))
        self.running: set[object] = set()
        self.uncounted: list[tuple[Hashable, Sequence[int], int, float]] = []
        """Merged calls of requests that were all alike, which are not counted yet: form, models, rows of each
        and seconds."""
        self._until_taught = 1
        self._merges: dict[Hashable, bool] = {}
        """The answers of `merges_all` since the costs took in a call."""
        self.is_retired = False
        self.is_closed = False

    @property
    def is_empty(self) -> bool:
        """True where no request is inside."""
        return not self.running and not len(self.queue)

    def next_call(
        self, waiting: Waiting, now: float, limits: Limits, load: Load, stats: Stats
    ) -> Call | Later:
        """Return the call that the scheduler chooses from what waits, which is something. An error of the
        scheduler must not stop the session: then the oldest request runs by itself. The dispatcher's lock is
        held."""
        kept_out = self.guard.kept_out(now)
        try:
            call = choose(waiting, self.engine.costs, now, limits, kept_out=kept_out, load=load)
            if isinstance(call, Later) and call.at > now:
                return call
            if isinstance(call, Call) and waits_for(waiting, call):
                return call
        except Exception:
            if not stats.scheduler_faults:
                LOG.exception(
                    "The scheduler failed: requests run one by one. This is a bug, please report it."
                )
        stats.scheduler_faults += 1
        oldest = min(waiting, key=lambda request: request.arrived)
        return Call("alone", oldest.form, ((oldest.model, 1),))

    def is_quick(self, request: Request, rested: float, in_loop: bool = False) -> bool:
        """Return True for a request that runs in less time than it takes to hand it over to a worker, on a
        session that has been idle for so many seconds that its sender loses nothing by waiting for it.
        `in_loop` says that the sender is the event loop of a server."""
        if not self.engine.own_sessions or self.limits.max_wait > 0:
            return False
        if not self.engine.is_open(request.model):  # to open it, or a merged call meanwhile, takes long
            return False
        seconds = self.engine.costs.of(request.form).alone(request.rows)
        if in_loop and QUICK < seconds <= QUICK_IN_LOOP:
            return rested >= REST_IN_LOOP
        return seconds <= QUICK and rested >= REST

    def must_open(self, model: int) -> bool:
        """Return True where requests of a model may run in no merged call, not even by themselves: it is kept
        out. So its session must be open."""
        return not self.guard.is_calm and model in self.guard.kept_out(time.monotonic())

    def runs_wide(self, request: Request, load: Load, stats: Stats) -> bool:
        """Return True where a request that finds the session idle runs on all cores. The dispatcher's lock is
        held."""
        if load.running or not self.engine.wide:
            return False
        waiting = Waiting()
        waiting.add(request)
        call = self.next_call(waiting, request.arrived, self.at_once, load, stats)
        return isinstance(call, Call) and call.wide

    def merges_all(self, form: Hashable, models: int, rows: int) -> bool:
        """Return True where one request of each of so many models, of so many rows, run in a merged call."""
        key = (form, models, rows)
        known = self._merges.get(key)
        if known is None:
            known = merges_all(self.engine.costs.of(form), models, rows, self.limits)
            if len(self._merges) > MOST_KNOWN:
                self._merges.clear()
            self._merges[key] = known
        return known

    def count_together(self, stats: Stats) -> None:
        """Count the merged calls of requests that were all alike. The one in their middle teaches the costs:
        the first ran after other work, and the last is here because it was long. The dispatcher's lock is
        held."""
        counted = []
        while self.uncounted:  # meanwhile others append
            form, models, rows, seconds = self.uncounted.pop()
            count = len(models)
            stats.together(count, count * rows, len(self.engine.models) * rows, seconds)
            counted.append((form, models, rows, seconds))
        if counted:
            form, models, rows, seconds = counted[len(counted) // 2]
            self._taught(form, "merged", dict.fromkeys(models, rows), seconds)

    def _teaches(self) -> bool:
        """Return True where the costs are to take in a call: each where calls take long, and one of several
        where they are short, for which that is a large part of their time. The call that was taken in before
        decides: did each call for itself, those that the system delayed would be taken in more often."""
        self._until_taught -= 1
        return self._until_taught <= 0

    def _taught(
        self, form: Hashable, kind: Kind, rows: dict[int, int], seconds: float, wide: bool = False
    ) -> None:
        self._until_taught = 1 if seconds >= LONG else ONE_OF
        self.engine.costs.saw(form, kind, rows, seconds, wide=wide)
        if self._merges:
            self._merges.clear()

    def settle_one(
        self,
        stats: Stats,
        request: Request,
        outcome: Outcome,
        seconds: float,
        *,
        enters: bool,
        wide: bool = False,
    ) -> None:
        """Do what `settle` does, for a call of one request by its caller: quicker, because many are short."""
        if not (self.guard.is_calm and self.engine.own_sessions) or isinstance(outcome, ServingError):
            failed = isinstance(outcome, ServingError)
            done = Performed("alone", (request,), (outcome,), seconds, failed, wide=wide)
            self.settle(stats, done, enters=enters)
            return
        stats.took(time.monotonic() - request.arrived)
        stats.accepted += enters
        stats.ended["answered"] += 1
        stats.alone(1, request.rows, wide)
        if self._teaches():
            self._taught(request.form, "alone", {request.model: request.rows}, seconds, wide)

    def settle(self, stats: Stats, done: Performed, *, enters: bool = False) -> None:
        """Count a call that ran, and with `enters` that its requests were accepted; remember who failed. The
        dispatcher's lock is held."""
        now = time.monotonic()
        engine, guard = self.engine, self.guard
        stats.took_each([now - request.arrived for request in done.requests])
        failed = 0
        if done.failed or not guard.is_calm:
            for request, outcome in zip(done.requests, done.outcomes, strict=True):
                if isinstance(outcome, ServingError):
                    failed += 1
                    guard.failed(request.model)
                else:
                    guard.succeeded(request.model)
        count = len(done.requests)
        stats.accepted += count * enters  # no calls from here to the ends, which could be interrupted
        stats.ended["failed"] += failed
        stats.ended["answered"] += count - failed
        stats.retries += count if done.retried else 0
        if done.kind == "merged" and done.failed and not failed:
            guard.blamed_nobody(now)
        kind: Kind = done.kind if engine.own_sessions else "merged"
        rows = self._count(stats, done, kind)
        if rows and self._teaches():
            self._taught(done.requests[0].form, kind, rows, done.seconds, done.wide)

    def _count(self, stats: Stats, done: Performed, kind: Kind) -> dict[int, int]:
        """Count a call, and return the rows of each model. Of one that failed, count the calls that ran in
        its place, and return no rows."""
        if done.failed:
            stats.failed_calls[kind] += 1
            for again in done.again:
                self._count(stats, again, "alone" if self.engine.own_sessions else "merged")
            return {}
        rows = rows_of(done.requests)
        useful = sum(rows.values())
        if kind == "merged":
            stats.merged(len(done.requests), len(rows), useful, self.engine.computed_rows(rows))
            if not self.guard.is_calm:
                self.guard.merged_succeeded()
        else:
            stats.alone(len(done.requests), useful, done.wide)
        return rows


@dataclass(slots=True)
class Job:
    """The next task of a worker: requests that have a call to run, or that nobody will run any more."""

    generation: Generation
    call: Call | None
    requests: Sequence[Request]
    is_counted: bool = False
    """The ends of the requests are counted."""


class Ticket:
    """Stands for a caller who runs calls in its own thread, beside the queue."""

    __slots__ = ("generation",)

    def __init__(self) -> None:
        self.generation: Generation | None = None


def rows_of(requests: Sequence[Request]) -> dict[int, int]:
    """Return the rows of each model."""
    rows: dict[int, int] = {}
    for request in requests:
        rows[request.model] = rows.get(request.model, 0) + request.rows
    return rows
