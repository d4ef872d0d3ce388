"""Calls teach the costs of a session: each that is long, one of several short ones, and a delayed one no more
often than others."""

from __future__ import annotations

from fake_engine import FakeEngine

from netfuse_onnx.runtime.generation import LONG, ONE_OF, Generation
from netfuse_onnx.runtime.isolation import Performed
from netfuse_onnx.runtime.limits import Limits
from netfuse_onnx.runtime.stats import Stats
from netfuse_onnx.runtime.types import Request

FORM = ("form",)


def taught(seconds: list[float]) -> list[float]:
    """The calls that teach, of own calls with these times."""
    engine, stats = FakeEngine(), Stats()
    found: list[float] = []
    engine.costs.saw = lambda form, kind, rows, took, wide=False: found.append(took)  # type: ignore[method-assign]
    generation = Generation(1, engine, Limits())
    for took in seconds:
        generation.settle(stats, Performed("alone", [Request(0, (), 1, FORM)], [{}], took))
    return found


def test_each_long_call_teaches_and_one_of_several_short_ones() -> None:
    assert len(taught([2 * LONG] * 20)) == 20
    assert len(taught([LONG / 10] * (5 * ONE_OF))) == 5


def test_a_delayed_call_teaches_no_more_often_than_others() -> None:
    short, delayed = LONG / 10, 10 * LONG
    every = [delayed if place % 10 == 3 else short for place in range(4000)]
    found = taught(every)
    assert found.count(delayed) / len(found) < 0.2  # one of ten is, and the call after one teaches as well


def test_requests_that_are_alike_teach_by_a_call_in_their_middle() -> None:
    engine, found = FakeEngine(), []
    engine.costs.saw = lambda form, kind, rows, took, wide=False: found.append(took)  # type: ignore[method-assign]
    generation = Generation(1, engine, Limits())
    generation.uncounted += [(FORM, range(4), 1, took) for took in (9.0, 1.0, 1.5, 7.0)]
    stats = Stats()
    generation.count_together(stats)
    assert found in ([1.0], [1.5]) and stats.as_dict()["calls"]["merged"] == 4
