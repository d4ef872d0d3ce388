"""Runs many requests that one caller brings together, in that caller's thread: no queue, no other thread.

The calls are those that the scheduler chooses from these requests alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from netfuse_onnx.runtime.dispatch import Dispatcher
from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.generation import Generation, Ticket
from netfuse_onnx.runtime.isolation import Outcome, Performed, late, perform
from netfuse_onnx.runtime.schedule import Waiting, choose
from netfuse_onnx.runtime.types import Call, Feeds, Request


def run_directly(
    dispatcher: Dispatcher, pairs: Iterable[tuple[str, Feeds]], seconds: float, go_on: bool
) -> Sequence[Outcome]:
    """Return an outcome for each (model, feeds), in order. Requests that no call took in so many seconds end
    in Timeout. Without `go_on`, a request that checks refuse raises its error before anything runs."""
    pairs = pairs if isinstance(pairs, list | tuple) else list(pairs)
    ticket = Ticket()
    try:
        generation = dispatcher.enter_directly(ticket)
        if seconds > 0 and generation.guard.is_calm:
            began = time.perf_counter()
            together = generation.engine.alike(pairs, generation.merges_all)
            if together is not None:
                dispatcher.finish_together(generation, ticket, together, time.perf_counter() - began)
                return together.outputs
        return _outcomes(dispatcher, generation, pairs, seconds, go_on)
    finally:
        if ticket.generation is not None:
            dispatcher.finish(ticket.generation, ticket)


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
    dispatcher.accepted(len(places))
    until = arrived + seconds
    while len(waiting):
        if time.monotonic() >= until:
            rest = list(waiting)
            dispatcher.timed_out(len(rest))
            outcomes |= {places[r]: late(generation.engine.models[r.model], seconds) for r in rest}
            break
        done = _next_call(dispatcher, generation, waiting)
        for request, outcome in zip(done.requests, done.outcomes, strict=True):
            outcomes[places[request]] = outcome
    return [outcomes[place] for place in range(len(outcomes))]


def _next_call(dispatcher: Dispatcher, generation: Generation, waiting: Waiting) -> Performed:
    """Run and count the call that the scheduler chooses now."""
    now = time.monotonic()
    kept_out = dispatcher.kept_out(generation, now)
    call = choose(waiting, generation.engine.costs, now, generation.at_once, kept_out=kept_out)
    assert isinstance(call, Call)  # something waits, and nothing is waited for
    done = perform(generation.engine, call.kind, waiting.take(call))
    dispatcher.settle(generation, done)
    return done
