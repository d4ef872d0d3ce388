"""The choice of the next call: a pure function of what waits, of costs and of the time."""

from __future__ import annotations

from collections.abc import Hashable

from netfuse_onnx.runtime.costs import Curve, FormTimes, MeasuredCosts, size_of
from netfuse_onnx.runtime.schedule import Later, Limits, Waiting, choose
from netfuse_onnx.runtime.types import Call, Io, Request

FORM: Hashable = ("form",)


def costs(own: dict[int, float], merged: dict[int, float], io: Io = "stacked") -> MeasuredCosts:
    """Costs by hand: own calls and merged calls over rows."""
    times = FormTimes(io, 4, Curve(own), {1: Curve(merged)})
    return MeasuredCosts(io, 4, {FORM: times}, size_of)


def waiting(*requests: tuple[int, float], rows: int = 1) -> Waiting:
    """Requests as (model, arrival), in the order of arrival."""
    queue = Waiting()
    for model, arrived in sorted(requests, key=lambda request: request[1]):
        queue.add(Request(model, (), rows, FORM, arrived))
    return queue


CHEAP = costs({1: 1.0, 64: 64.0}, {1: 1.5, 8: 12.0})


def test_nothing_waits() -> None:
    assert choose(Waiting(), CHEAP, 0.0, Limits()) is None


def test_one_request_runs_on_its_own_session() -> None:
    assert choose(waiting((2, 0.0)), CHEAP, 0.0, Limits()) == Call("alone", FORM, ((2, 1),))


def test_enough_models_share_a_call() -> None:
    call = choose(waiting((0, 0.0), (1, 0.1), (3, 0.2)), CHEAP, 1.0, Limits())
    assert call == Call("merged", FORM, ((0, 1), (1, 1), (3, 1)))


def test_waiting_on_purpose_has_an_end() -> None:
    queue = waiting((1, 5.0))
    assert choose(queue, CHEAP, 5.25, Limits(max_wait=0.5)) == Later(5.5)
    assert choose(queue, CHEAP, 5.5, Limits(max_wait=0.5)) == Call("alone", FORM, ((1, 1),))
