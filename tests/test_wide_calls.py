"""Calls that run on all cores: when the scheduler chooses them, and that nothing runs beside them."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import BAD, FakeEngine, Gate, behind, feeds, right, serving
from simulated import FORM, OneByOne, Ours, PerModel, Served, arrivals, recorded, simulate
from test_session_files import Sources, bundle

from netfuse_onnx import MergedSession
from netfuse_onnx.runtime import engine as engines
from netfuse_onnx.runtime import threads
from netfuse_onnx.runtime.costs import FormTimes, MeasuredCosts
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.errors import CallFailed
from netfuse_onnx.runtime.moments import Rate
from netfuse_onnx.runtime.ort import ALL, Setup, open_session
from netfuse_onnx.runtime.schedule import Limits, Load, Waiting, choose
from netfuse_onnx.runtime.slots import Slots
from netfuse_onnx.runtime.threads import Threads
from netfuse_onnx.runtime.types import Call, Request

ONE_OF_TWO = Load(workers=2)


def costs(on_all: float, own: float = 1.0, merged: float = 1e9) -> MeasuredCosts:
    """Return costs of four models, whose rows cost as much in a batch as one by one."""
    times = FormTimes("stacked", 4, Curve({1: own, 64: 64 * own}), {1: Curve({1: merged})}, on_all=on_all)
    return MeasuredCosts("stacked", 4, {(): times}, lambda _: 1.0)


def first_call(waiting: int, on_all: float, load: Load = ONE_OF_TWO, most: int = 64) -> Call:
    """Return the call that is chosen where one request each of so many models waits."""
    queue = Waiting()
    for model in range(waiting):
        queue.add(Request(model, (), 1, FORM, float(model)))
    call = choose(queue, costs(on_all), 99.0, Limits(max_batch=most), load=load)
    assert isinstance(call, Call) and call.kind == "alone"
    return call


def test_a_call_is_wide_where_it_has_the_machine_for_itself_and_ends_sooner() -> None:
    assert first_call(1, 0.6).wide
    assert not first_call(1, 1.0).wide
    assert not first_call(1, 0.6, Load(2, running=1)).wide
    assert first_call(1, 0.6, Load(2, rate=1.0)).wide and not first_call(1, 0.6, Load(2, rate=2.0)).wide
    assert first_call(2, 0.6).wide and not first_call(4, 0.6).wide  # ends 1, 1, 2, 2 beside 0.6 .. 2.4
    assert first_call(2, 0.2, Load(16)).wide and not first_call(12, 0.2, Load(16)).wide


def test_a_request_of_many_rows_is_one_call() -> None:
    """Rows cost as much in a batch as one by one here, so calls of one row each would be chosen, were these eight
    requests."""
    queue = Waiting()
    queue.add(Request(0, (), 8, FORM, 0.0))
    call = choose(queue, costs(0.8), 99.0, Limits(), load=ONE_OF_TWO)
    assert call == Call("alone", FORM, ((0, 1),), wide=True)
    queue.add(Request(1, (), 8, FORM, 1.0))
    assert not choose(queue, costs(0.8), 99.0, Limits(), load=ONE_OF_TWO).wide  # type: ignore[union-attr]


def test_for_one_caller_the_last_answer_counts() -> None:
    """Two workers: 8 wide calls take 4.4 and calls side by side 4; for 3 it is 1.65 and 2."""
    for waiting, wide in ((1, True), (2, False), (3, True), (4, False), (8, False)):
        assert first_call(waiting, 0.55, Load(2, one_caller=True)).wide == wide
    assert first_call(8, 0.55).wide, "the mean answer comes sooner: after 2.475, and after 2.5 side by side"


def test_waiting_times_are_compared_as_if_each_call_were_written_down() -> None:
    draw, found = random.Random(3), set()
    for _ in range(500):
        waiting, workers = draw.randint(1, 20), draw.choice([1, 2, 3, 8])
        on_all, rate = draw.uniform(0.1, 1.0), draw.choice([0.0, 0.0, 0.3, 1.0])
        free = [0.0] * workers
        beside = 0.0
        for _ in range(waiting):
            free.sort()
            free[0] += 1.0
            beside += free[0]
        one_by_one = sum(on_all * (k + 1) for k in range(waiting))
        others = rate * (waiting * on_all) * (waiting * on_all)
        wide = first_call(waiting, on_all, Load(workers, rate=rate), most=1).wide
        if abs(one_by_one + others - beside) > 1e-9:
            assert wide == (one_by_one + others < beside)
        found.add(wide)
    assert found == {True, False}


# --------------------------------------------------------------------------- loads


WIDE = [("bert", 2, 0.55), ("mobilenet", 2, 0.65), ("bert", 4, 0.4), ("mobilenet", 16, 0.3)]


def of_family(name: str, on_all: float) -> MeasuredCosts:
    known = recorded(name)
    times = known.of(FORM)
    wide = FormTimes(times.io, times.models, times.own, times.together, on_all=on_all)
    return MeasuredCosts(known.io, known.models, {FORM: wide}, lambda _: 1.0)


@pytest.mark.parametrize(("family", "workers", "on_all"), WIDE)
def test_neither_calls_on_all_cores_nor_those_beside_each_other_are_better(
    family: str, workers: int, on_all: float
) -> None:
    """The rivals run one by one or in batches of each model, on all cores or side by side. At little load the first
    are better, at much the others, and we are near the best of the four everywhere."""
    known = of_family(family, on_all)
    own = known.alone(FORM, 1)
    most = max(workers / own, 1 / (own * on_all))
    for load in (0.1, 0.3, 0.6, 0.9, 1.1, 1.3):
        found = {name: Served() for name in ("one", "batches", "one wide", "batches wide", "ours")}
        for seed in (1, 2, 3):
            requests = arrivals(load * most, 800, "uniform", known.models, seed)
            for name, server, at_a_time in (
                ("one", OneByOne(known), workers),
                ("batches", PerModel(known), workers),
                ("one wide", OneByOne(known, wide=True), 1),
                ("batches wide", PerModel(known, wide=True), 1),
                ("ours", Ours(of_family(family, on_all), workers=workers), workers),
            ):
                found[name].extend(simulate(requests, server, at_a_time))
        ours = found.pop("ours")
        assert np.mean(ours.latencies) <= 1.12 * min(np.mean(rival.latencies) for rival in found.values())
        assert ours.percentile(99) <= 1.35 * min(rival.percentile(99) for rival in found.values())
        if load == 0.1:
            assert np.mean(ours.latencies) < 0.8 * np.mean(found["one"].latencies)


@pytest.mark.parametrize(("family", "workers", "on_all"), WIDE)
def test_the_time_that_a_request_waits_stays_bounded(family: str, workers: int, on_all: float) -> None:
    known = of_family(family, on_all)
    rate, ahead = 0.0, 0
    for load in (0.3, 0.8, 2.0):
        rate = load * workers / known.alone(FORM, 1)
        requests = arrivals(rate, 600, "zipf", known.models, seed=4)
        ours = Ours(of_family(family, on_all), workers=workers)
        served = simulate(requests, ours, workers)
        assert "wide" in ours.kinds
        for latency, (calls, before) in zip(served.latencies, served.ahead, strict=True):
            assert calls <= before
            assert latency <= (before / workers + 4) * served.longest
            ahead = max(ahead, before)
    assert ahead > 20


def test_arrivals_count_that_come_while_others_are_served() -> None:
    """One caller sends after each answer; many know nothing of each other. Calls take a second."""
    one, many, draw = Rate(), Rate(), random.Random(4)
    for k in range(500):
        one.arrived(1.0 * k, False)
    assert one.per_busy_second == 0.0
    now = busy = until = 0.0
    for _ in range(5000):
        gap = draw.expovariate(0.5)
        busy += min(max(until - now, 0.0), gap)
        now += gap
        many.arrived(busy, now < until)
        until = max(until, now) + 1.0
    assert many.per_busy_second == pytest.approx(0.5, rel=0.4)
    assert Rate().per_busy_second == 0.0


def test_estimates_of_wide_calls_follow_those_that_run() -> None:
    known = costs(0.5)
    times = known.of(FORM)
    for _ in range(100):
        known.saw(FORM, "alone", {0: 1}, 0.8, wide=True)
    assert times.wide(1) == pytest.approx(0.8, rel=0.01) and times.alone(1) == 1.0
    for _ in range(100):
        known.saw(FORM, "alone", {0: 1}, 9.0, wide=True)
    assert times.wide(1) == times.alone(1), "no slower than an own call, in which case none is chosen"
    for _ in range(4_000):
        known.saw(FORM, "alone", {0: 1}, 1.0)
        assert times.wide(1) == times.alone(1)
    for _ in range(10_000):
        known.saw(FORM, "alone", {0: 1}, 1.0)
    assert times.wide(1) == pytest.approx(0.5, rel=0.01), "and tried again after a while"


@pytest.mark.parametrize(("truth", "most"), [(1.5, 25), (1.02, 75), (3.0, 25)])
def test_wide_calls_that_are_slower_are_seldom_tried(truth: float, most: int) -> None:
    """Every request comes alone, and each call is counted: the measured time was too good, or cores are busy now."""
    known = costs(0.5)
    times, wide = known.of(()), 0
    for _ in range(5_000):
        is_wide = times.wide(1) < times.alone(1)
        wide += is_wide
        known.saw((), "alone", {0: 1}, truth if is_wide else 1.0, wide=is_wide)
    assert 0 < wide <= most
    other = known.of((3, 7))
    assert other.wide(1) == other.alone(1), "other sizes know of it"
    for _ in range(14_000):
        known.saw((3, 7), "alone", {0: 1}, other.alone(1))
    assert other.wide(1) < other.alone(1), "and try again as well"


# --------------------------------------------------------------------------- slots, and a session


def test_times_in_which_several_calls_run_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    slots, tickets = Slots(2), [object(), object()]
    for at, change, ticket, busy in (
        (1.0, slots.take, 0, 0.0), (2.0, slots.take, 1, 1.0), (3.0, slots.discard, 0, 2.0),
        (5.0, slots.discard, 1, 4.0), (6.0, slots.discard, 1, 4.0), (7.0, slots.take, 0, 4.0),
        (8.0, slots.discard, 0, 5.0),
    ):  # fmt: skip
        now[0] = at
        change(tickets[ticket])
        assert slots.busy_seconds == busy
    now[0] = 10.0
    assert slots.rested == 2.0
    slots.take(tickets[0])
    assert slots.rested == 0.0 and Slots(1).rested == float("inf")


def test_one_caller_after_the_other_has_all_cores() -> None:
    engine = wide_engine()
    with serving(engine) as session:
        for turn in range(20):
            session.run("abcd"[turn % 4], feeds(1))
        assert engine.wide_calls == 20


def test_a_wide_call_has_all_slots() -> None:
    slots, first, second = Slots(2), object(), object()
    slots.take(first)
    assert slots.is_free and slots.busy == 1 and not slots.is_wide(first)
    slots.take(second)
    assert not slots.is_free
    slots.discard(first)
    slots.discard(first)
    slots.discard(second)
    slots.take(first, wide=True)
    assert slots.is_wide(first) and not slots.is_free and slots.busy == 1
    slots.discard(second)
    assert not slots.is_free
    slots.discard(first)
    assert slots.is_free and not slots.busy


def wide_engine(on_all: float = 0.5, **options: Any) -> FakeEngine:
    engine = FakeEngine(slots=2, **options)
    engine.wide = True
    engine.costs.of(FORM).on_all = on_all
    return engine


def test_a_request_on_an_idle_session_runs_on_all_cores_and_others_wait_for_it() -> None:
    gate = Gate()
    engine = wide_engine(hook=gate)
    with serving(engine) as session, ThreadPoolExecutor(1) as caller:
        first = caller.submit(session.run, "a", feeds(1))
        gate.wait_for_a_call()
        second, third = session.submit("b", feeds(2)), session.submit("c", feeds(3))
        assert not gate.arrived.acquire(timeout=0.05), "a call began beside a wide one"
        gate.open.set()
        for answer, model, value in ((first, "a", 1), (second, "b", 2), (third, "c", 3)):
            assert right(engine, model, value, answer.result(30))
        assert not engine.beside_wide and engine.wide_calls >= 1
        assert session.stats()["wide_calls"] == engine.wide_calls
        assert f"netfuse_wide_calls_total {engine.wide_calls}" in session.prometheus()


def test_calls_run_side_by_side_where_many_wait() -> None:
    gate = Gate()
    engine = wide_engine(on_all=0.9, hook=gate)
    with serving(engine) as session:
        answers = behind(gate, session, [(model, 1.0) for model in "abab"])
        engine.hook = lambda: time.sleep(0.02)
        gate.open.set()
        for answer in answers:
            answer.result(30)
        assert engine.most_running == 2 and not engine.beside_wide


def test_nothing_runs_beside_a_wide_call_whatever_comes() -> None:
    engine = wide_engine()
    draws = [random.Random(seed) for seed in range(6)]
    engine.hook = lambda: time.sleep(0.0003)
    with serving(engine) as session:

        def ask(draw: random.Random) -> None:
            for _ in range(150):
                model, value = draw.choice("abcd"), draw.choice([1.0, 2.0, BAD])
                try:
                    outputs = draw.choice([session.run, _submitted(session)])(model, feeds(value))
                    assert right(engine, model, value, outputs)
                except CallFailed:
                    assert value == BAD
                if draw.random() < 0.3:
                    time.sleep(0.002)

        with ThreadPoolExecutor(len(draws)) as callers:
            list(callers.map(ask, draws))
        assert engine.wide_calls > 0 and not engine.beside_wide
        assert session.run("a", feeds(1))["y"][0, 0] == 1.0


def _submitted(session: Any) -> Any:
    return lambda model, value: session.submit(model, value).result(30)


def test_run_many_is_wide_for_one_request_and_fills_the_slots_for_many() -> None:
    gate = Gate()
    engine = wide_engine(on_all=0.9, hook=gate)
    with serving(engine) as session, ThreadPoolExecutor(1) as caller:
        many = caller.submit(session.run_many, [("a", feeds(1)), ("b", feeds(2))])
        gate.wait_for_a_call()
        gate.wait_for_a_call()  # at the same time: neither ends before the gate is opened
        gate.open.set()
        many.result(30)
        assert not engine.wide_calls
        session.run_many([("a", feeds(1))])
        assert engine.wide_calls == 1


# --------------------------------------------------------------------------- real sessions


PLAIN = "g (float[n, 8] x) => (float[n, 8] y) { y = MatMul(x, w) }"


@pytest.fixture
def as_if_wide_calls_paid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make measuring say that calls on all cores take half as long, and return the threads of the sessions that are
    opened."""
    opened: list[int] = []

    def measured(open: Any, run: Any, seconds: float) -> tuple[Threads, dict[int, Any]]:
        return Threads(1, 2, 0.5), {count: open(count) for count in (1, ALL)}

    def noted(path: Any, setup: Setup) -> Any:
        opened.append(setup.threads)
        return open_session(path, setup)

    monkeypatch.setattr(threads, "given", lambda *_: None)
    monkeypatch.setattr(threads, "measured", measured)
    monkeypatch.setattr(engines, "open_session", noted)
    return opened


def test_each_model_has_a_session_for_wide_calls(tmp_path: Path, as_if_wide_calls_paid: list[int]) -> None:
    path, sources = bundle(tmp_path, PLAIN, {"w": (8, 8)}, 3), Sources(tmp_path)
    x = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}
    with MergedSession(path, calibrate=0.2) as session:
        assert session.stats()["sessions"]["wide_calls"] is True
        engine: Any = session._dispatcher.current.engine
        engine._openings.pays = lambda model, lost: True
        for model in "abc":
            sources.right(model, x, session.run(model, x))
            sources.right(model, x, session.submit(model, x).result(30))
        assert sorted(set(as_if_wide_calls_paid)) == [ALL, 1]
        assert as_if_wide_calls_paid.count(ALL) == 3, "one for each model, opened with its other session"
        engine.calls.own.clear()
        for model in "abc":  # with no other session left than those for wide calls
            sources.right(model, x, engine.alone([engine.check(model, x)], wide=True)[0])
        assert not len(engine.calls.own)


def test_models_that_do_not_fit_twice_have_no_wide_calls(
    tmp_path: Path, as_if_wide_calls_paid: list[int]
) -> None:
    path = bundle(tmp_path, PLAIN, {"w": (8, 8)}, 3)
    with MergedSession(path, calibrate=0.2, own_sessions=2) as session:
        assert session.stats()["sessions"]["wide_calls"] is False
        x = {"x": np.ones((1, 8), np.float32)}
        for model in "abc":
            session.run(model, x)
        assert session.stats()["wide_calls"] == 0
