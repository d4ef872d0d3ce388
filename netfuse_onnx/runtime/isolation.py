"""Runs one call so that a request fails for its own reasons alone: after a failure each runs by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx.runtime.errors import CallFailed, ServingError, Timeout
from netfuse_onnx.runtime.types import Engine, Kind, Outputs, Request

Outcome = Outputs | ServingError


@dataclass(slots=True)
class Performed:
    """A call that ran: one outcome per request, in their order. `again` are the calls that ran in the place
    of one that failed; `seconds` is the time of the call itself."""

    kind: Kind
    requests: Sequence[Request]
    outcomes: Sequence[Outcome]
    seconds: float
    failed: bool = False
    again: Sequence[Performed] = ()
    wide: bool = False

    @property
    def retried(self) -> bool:
        """True where the call failed and its requests ran again, in calls of their own models."""
        return bool(self.again)


def perform(
    engine: Engine, kind: Kind, requests: Sequence[Request], wide: bool = False, *, must: bool = False
) -> Performed:
    """Run requests of one form in one call: of an own session only where that is open, or pays to open, or
    `must` be. No request's error reaches another's outcome."""
    if kind == "alone" and not _opens(engine, requests, must):
        kind, wide = "merged", False
    clock = time.perf_counter if wide else engine.clock
    began = clock()
    try:
        outputs = engine.alone(requests, wide=wide) if kind == "alone" else engine.merged(requests)
        if len(outputs) != len(requests):
            raise RuntimeError(f"the engine gave {len(outputs)} answers to {len(requests)} requests")
        return Performed(kind, requests, outputs, clock() - began, wide=wide)
    except Exception as fault:
        seconds = clock() - began
        if len(requests) == 1 and (kind == "alone" or not engine.own_sessions):
            outcome = _as_error(fault, engine.models[requests[0].model])
            return Performed(kind, requests, (outcome,), seconds, failed=True)
    # Not inside the `except`: an error would keep that of the call, and with it the inputs of all requests.
    again = _again(engine, requests, by_model=kind == "merged")
    found = {r: outcome for done in again for r, outcome in zip(done.requests, done.outcomes, strict=True)}
    return Performed(kind, requests, [found[r] for r in requests], seconds, failed=True, again=again)


def perform_one(
    engine: Engine, request: Request, wide: bool = False, *, must: bool = False
) -> tuple[Outcome, float] | None:
    """Run one request on its model's own session. Returns its outcome, and the seconds of the call; None
    where that session is not open, and `perform` is to run it; not where it `must` be opened."""
    if not _opens(engine, (request,), must):
        return None
    clock = time.perf_counter if wide else engine.clock
    began = clock()
    try:
        (outputs,) = engine.alone((request,), wide=wide)
        return outputs, clock() - began
    except Exception as fault:
        return _as_error(fault, engine.models[request.model]), clock() - began


def _opens(engine: Engine, requests: Sequence[Request], must: bool) -> bool:
    """Return False where the requests' model has no open session, and a merged call is to answer."""
    try:
        return engine.prepare(requests, must=must)
    except Exception:  # the call itself tells
        return True


def _again(engine: Engine, requests: Sequence[Request], by_model: bool) -> list[Performed]:
    """Run requests of a call that failed, each by itself; with `by_model`, first those of each model
    together."""
    groups: dict[int | Request, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.model if by_model else request, []).append(request)
    return [perform(engine, "alone", group, must=True) for group in groups.values()]


def late(model: str, seconds: float) -> Timeout:
    """Return the error of a request that no call took in its time."""
    return Timeout(f"Model {model!r}: no call could start within {seconds:.3g} s.", model=model)


def _as_error(fault: Exception, model: str) -> ServingError:
    """Return the error of a request that failed by itself: ONNX Runtime's sentence, with the model's name."""
    if isinstance(fault, ServingError):
        if not fault.model:
            fault.model, fault.message = model, f"Model {model!r}: {fault.message}"
        return fault
    told = str(fault).strip().splitlines()
    error = CallFailed(f"Model {model!r}: {told[0] if told else type(fault).__name__}", model=model)
    error.__cause__ = fault
    return error
