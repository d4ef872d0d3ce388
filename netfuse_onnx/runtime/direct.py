"""Runs many requests that one caller brings together, without a queue.

The calls are those that the scheduler chooses from these requests alone. They run in the caller's thread and,
where one takes long and several pay to run at the same time, in threads that end with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from netfuse_onnx.runtime.dispatch import Dispatcher
from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.generation import LONG, Generation, Ticket
from netfuse_onnx.runtime.isolation import Outcome, Performed, late, perform
from netfuse_onnx.runtime.schedule import Load
from netfuse_onnx.runtime.types import Call, Engine, Feeds, Request, Together
from netfuse_onnx.runtime.waiting import Waiting

MOST_UNCOUNTED = 16
"""Short calls that are counted together."""
SHORT = 1e-3
"""Seconds of a call below which the calls after it get no threads of their own, which take a part of that."""


def run_directly(
    dispatcher: Dispatcher,
    asked: Iterable[tuple[str, Feeds]] | Callable[[Engine], list[tuple[str, Feeds]]],
    seconds: float,
    go_on: bool,
) -> list[Any]:
    """Return an outcome for each (model, feeds), in order; `asked` may be a function that gives them for an
    engine. Requests that no call took in so many seconds end in Timeout.

    Without `go_on`, the first error is raised: that of a check before anything runs, others after all have
    run.
    """
    ticket = Ticket()
    try:
        generation = _entered(dispatcher, ticket)
        if type(asked) is list:
            pairs = asked
        else:
            pairs = asked(generation.engine) if callable(asked) else list(asked)
        if seconds > 0 and generation.guard.is_calm:
            began = time.perf_counter()
            together = generation.engine.alike(pairs, generation.merges_all)
            if together is not None:
                _note(dispatcher, generation, together, time.perf_counter() - began)
                return together.outputs
        outcomes = _outcomes(dispatcher, generation, pairs, seconds, go_on)
    finally:
        if ticket.generation is not None:  # before any call of ours, where an interrupt could come first
            ticket.generation.running.discard(ticket)
        _leave(dispatcher, ticket)
    error = next((one for one in outcomes if isinstance(one, ServingError)), None)
    if error is not None and not go_on:
        raise error
    return outcomes


def _outcomes(
    dispatcher: Dispatcher,
    generation: Generation,
    pairs: Iterable[tuple[str, Feeds]],
    seconds: float,
    go_on: bool,
) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    places: dict[Request, int] = {}
    waiting = Waiting()
    arrived = time.monotonic()
    check = generation.engine.check
    for place, (model, feeds) in enumerate(pairs):
        try:
            request = check(model, feeds)
        except ServingError as error:
            dispatcher.refused(error)
            if not go_on:
                raise
            outcomes[place] = error
            continue
        request.arrived = arrived
        places[request] = place
        waiting.add(request)
    for done in _calls(dispatcher, generation, waiting, arrived + seconds):
        for request, outcome in zip(done.requests, done.outcomes, strict=True):
            outcomes[places[request]] = outcome
    if rest := list(waiting):
        with dispatcher.lock:
            dispatcher.stats.accepted += len(rest)
            dispatcher.stats.ended["timed_out"] += len(rest)
        outcomes |= {places[r]: late(generation.engine.models[r.model], seconds) for r in rest}
    return [outcomes[place] for place in range(len(outcomes))]


def _calls(
    dispatcher: Dispatcher, generation: Generation, waiting: Waiting, until: float
) -> Iterator[Performed]:
    """Run what waits, until that time: one call after the other, or as many at a time as pay."""
    several = _Several(dispatcher, generation, waiting, until)
    others = min(several.slots, len(waiting)) - 1
    if others < 1:
        yield from several.calls()
        return
    with ThreadPoolExecutor(others, "netfuse-many") as threads:
        try:
            futures = [threads.submit(lambda: list(several.calls())) for _ in range(others)]
            yield from several.calls()
        finally:
            several.is_stopped = True  # an interrupt: the others end with the calls that run
        for future in futures:
            yield from future.result()


class _Several:
    """The calls of what one caller brought, for him and for the threads that help him."""

    def __init__(
        self, dispatcher: Dispatcher, generation: Generation, waiting: Waiting, until: float
    ) -> None:
        self._dispatcher, self._generation = dispatcher, generation
        self._waiting, self._until = waiting, until
        self._running = 0
        self.is_stopped = False
        self.slots = 1
        """Calls that run at the same time: one, where a call is so short that a thread would cost more."""
        form = next(iter(waiting.lines), None)
        if form is not None and generation.engine.costs.of(form).alone(1) >= SHORT:
            self.slots = generation.engine.slots

    def calls(self) -> Iterator[Performed]:
        """Run one call after the other, each counted, until nothing waits or it is too late."""
        while not self.is_stopped and (call := self._next()) is not None:
            chosen, requests = call
            try:
                must = self._generation.must_open(requests[0].model)
                done = perform(self._generation.engine, chosen.kind, requests, chosen.wide, must=must)
            finally:
                with self._dispatcher.lock:
                    self._running -= 1
            self._dispatcher.settle(self._generation, done, enters=True)
            yield done

    def _next(self) -> tuple[Call, list[Request]] | None:
        """Return the call that the scheduler chooses now, and its requests; None where nothing waits, or it
        is too late."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            now = time.monotonic()
            if not len(self._waiting) or now >= self._until:
                return None
            load = Load(self.slots, self._running + dispatcher.slots.busy, one_caller=True)
            call = self._generation.next_call(
                self._waiting, now, self._generation.at_once, load, dispatcher.stats
            )
            assert isinstance(call, Call)  # nothing is waited for
            self._running += 1
            return call, self._waiting.take(call)


# --------------------------------------------------------------------------- coming and going
#
# Callers come and go without the lock: who closes or replaces a generation says so first and then looks for
# tickets; who comes adds the ticket first and then looks if anybody said so, and who goes removes it first.


def inside(dispatcher: Dispatcher, task: Callable[[Generation], int]) -> int:
    """Run a task on the current generation, whose files stay open until it ends. Raises Closed."""
    ticket = Ticket()
    try:
        return task(_entered(dispatcher, ticket))
    finally:
        if ticket.generation is not None:  # as above
            ticket.generation.running.discard(ticket)
        _leave(dispatcher, ticket)


def _entered(dispatcher: Dispatcher, ticket: Ticket) -> Generation:
    """Return the generation that the caller has entered."""
    while True:
        generation = ticket.generation = dispatcher.current
        generation.running.add(ticket)
        if not dispatcher.closing and generation is dispatcher.current:
            return generation
        _leave(dispatcher, ticket)
        dispatcher.refuse_if_closed()


def _leave(dispatcher: Dispatcher, ticket: Ticket) -> None:
    """Leave the generation that the caller has entered, if any."""
    generation, ticket.generation = ticket.generation, None
    if generation is not None:
        generation.running.discard(ticket)
        if dispatcher.closing or generation.is_retired:
            dispatcher.finish(generation, ticket)


def _note(dispatcher: Dispatcher, generation: Generation, done: Together, seconds: float) -> None:
    """Note a merged call of requests that are all alike. Short calls are counted several at a time, because
    counting one takes a large part of its time."""
    generation.uncounted.append((done.form, done.models, done.rows, seconds))
    if seconds >= LONG or len(generation.uncounted) >= MOST_UNCOUNTED or generation.is_retired:
        with dispatcher.lock:
            generation.count_together(dispatcher.stats)
