"""Runs many requests that one caller brings together, in that caller's thread: no queue, no other thread.

The calls are those that the scheduler chooses from these requests alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from netfuse_onnx.runtime.dispatch import Dispatcher
from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.generation import LONG, Generation, Ticket
from netfuse_onnx.runtime.isolation import Outcome, Performed, late, perform
from netfuse_onnx.runtime.types import Call, Engine, Feeds, Request, Together
from netfuse_onnx.runtime.waiting import Waiting

MOST_UNCOUNTED = 16
"""Short calls that are counted together."""


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
    until = arrived + seconds
    while len(waiting):
        if time.monotonic() >= until:
            rest = list(waiting)
            with dispatcher.lock:
                dispatcher.stats.accepted += len(rest)
                dispatcher.stats.ended["timed_out"] += len(rest)
            outcomes |= {places[r]: late(generation.engine.models[r.model], seconds) for r in rest}
            break
        done = _next_call(dispatcher, generation, waiting)
        for request, outcome in zip(done.requests, done.outcomes, strict=True):
            outcomes[places[request]] = outcome
    return [outcomes[place] for place in range(len(outcomes))]


def _next_call(dispatcher: Dispatcher, generation: Generation, waiting: Waiting) -> Performed:
    """Run and count the call that the scheduler chooses now."""
    with dispatcher.lock:
        now = time.monotonic()
        call = generation.next_call(waiting, now, generation.at_once, 1, dispatcher.stats)
    assert isinstance(call, Call)  # nothing is waited for
    done = perform(generation.engine, call.kind, waiting.take(call))
    dispatcher.settle(generation, done, enters=True)
    return done


# --------------------------------------------------------------------------- coming and going
#
# Callers come and go without the lock: who closes or replaces a generation says so first and then looks for
# tickets; who comes adds the ticket first and then looks if anybody said so, and who goes removes it first.


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
