"""The short way of `run_many`, for requests that are all alike, does what the long way does."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_engine import BAD, FakeCosts, FakeEngine, FakeFormCosts, Gate, Versions, feeds, right, serving

from netfuse_onnx.runtime.errors import CallFailed, Closed, Timeout, UnknownModel
from netfuse_onnx.runtime.schedule import Limits, Load, choose, merges_all
from netfuse_onnx.runtime.serving import Serving
from netfuse_onnx.runtime.types import Feeds, Pays, Request, Together
from netfuse_onnx.runtime.waiting import Waiting


class AlikeEngine(FakeEngine):
    """A fake engine that takes the short way where each of several models has one request of one row."""

    def alike(self, pairs: list[tuple[str, Feeds]], pays: Pays) -> Together | None:  # type: ignore[override]
        names = [model for model, _ in pairs]
        if len(set(names)) < len(names) or not set(names) <= set(self.models):
            return None
        if any(len(one["x"]) != 1 for _, one in pairs) or not pays((2,), len(names), 1):
            return None
        try:
            requests = [self.check(model, one) for model, one in pairs]
            return Together(self.merged(requests), (2,), [r.model for r in requests], 1)
        except Exception:
            return None


class _Costs(FakeFormCosts):
    def __init__(self, own: float, merged: float) -> None:
        super().__init__(merged)
        self._own = own

    def alone(self, rows: int) -> float:
        return self._own * (1 + 0.1 * rows)


@pytest.mark.parametrize("seed", range(200))
def test_the_short_way_is_what_the_scheduler_chooses(seed: int) -> None:
    draw = np.random.default_rng(seed)
    costs = FakeCosts()
    costs._times = _Costs(float(draw.uniform(0.1, 2)), float(draw.uniform(0.1, 4)))
    models, rows = int(draw.integers(1, 9)), int(draw.integers(1, 10))
    limits = Limits(
        max_rows=int(draw.integers(1, 9)),
        rows_apart=bool(draw.integers(2)),
        own_sessions=bool(draw.integers(4)),
    )
    waiting = Waiting()
    for model in range(models):
        waiting.add(Request(model, (), rows, ()))
    call = choose(waiting, costs, 0.0, limits)
    everyone = call is not None and getattr(call, "kind", "") == "merged" and len(call.taken) == models  # type: ignore[union-attr]
    if rows <= limits.max_rows:
        assert merges_all(costs.of(()), models, rows, limits) == everyone
    elif merges_all(costs.of(()), models, rows, limits):
        assert everyone


@pytest.mark.parametrize("seed", range(100))
def test_a_choice_of_little_is_the_choice_of_all_ways(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at how much waits leaves out the comparison of ways only where none of them merges."""
    draw = np.random.default_rng(seed)
    costs = FakeCosts()
    costs._times = _Costs(float(draw.uniform(0.1, 2)), float(draw.uniform(0.5, 9)))
    waiting = Waiting()
    for k in range(int(draw.integers(1, 20))):
        request = Request(int(draw.integers(6)), (), int(draw.integers(1, 4)), ())
        request.arrived = float(k)
        waiting.add(request)
    limits, workers = Limits(max_rows=int(draw.integers(1, 9))), int(draw.integers(1, 3))
    quick = choose(waiting, costs, 99.0, limits, load=Load(workers))
    monkeypatch.setattr("netfuse_onnx.runtime.schedule._is_too_little", lambda *_: False)
    assert choose(waiting, costs, 99.0, limits, load=Load(workers)) == quick


def test_the_short_way_answers_and_counts_like_the_long_one() -> None:
    told = []
    for engine in (AlikeEngine(), FakeEngine()):
        with serving(engine) as session:
            for k in range(40):
                pairs = [(model, feeds(20 + k)) for model in "cabd"]
                for (model, one), outputs in zip(pairs, session.run_many(pairs), strict=True):
                    assert right(engine, model, one["x"][0, 0], outputs)
            told.append(session.stats())
    for one in told:
        del one["latency_seconds"]
    assert told[0] == told[1]


def test_what_goes_wrong_on_the_short_way_is_found_on_the_long_one() -> None:
    engine = AlikeEngine()
    with serving(engine) as session:
        outcomes = session.run_many(
            [(m, feeds(13 if m == "b" else 1)) for m in engine.models], return_errors=True
        )
        assert [type(outcome).__name__ for outcome in outcomes] == ["dict", "CallFailed", "dict", "dict"]
        with pytest.raises(UnknownModel):
            session.run_many([("z", feeds(1)), ("a", feeds(1))])
        assert session.run_many([]) == []
        outcomes = session.run_many([(m, feeds(1)) for m in engine.models], timeout=0.0, return_errors=True)
        assert all(isinstance(outcome, Timeout) for outcome in outcomes)


def test_the_short_way_leaves_out_offenders() -> None:
    engine = AlikeEngine()
    with serving(engine) as session:
        for _ in range(2):
            session.run_many([(m, feeds(13 if m == "b" else 1)) for m in engine.models], return_errors=True)
        engine.calls.clear()
        session.run_many([(m, feeds(1)) for m in engine.models])
    assert ("merged", [0, 1, 2, 3]) not in engine.calls


def test_a_swap_in_the_moment_of_coming_is_seen() -> None:
    """Between the look at the current generation and the entry into it, another one takes its place."""
    versions = Versions()
    session = Serving(versions, "")

    class Swapping(set[object]):
        def add(self, ticket: object) -> None:
            session.swap("")
            super().add(ticket)

    session._dispatcher.current.running = Swapping()
    with session:
        (outputs,) = session.run_many([("a", feeds(1))])
        assert right(versions.engines[1], "a", 1, outputs)
    assert [engine.closes for engine in versions.engines] == [1, 1]


def test_the_last_caller_beside_the_queue_closes_what_was_replaced(gate: Gate) -> None:
    versions = Versions(hook=gate)
    with Serving(versions, "") as session, ThreadPoolExecutor(1) as pool:
        held = pool.submit(session.run_many, [("a", feeds(1))])
        gate.wait_for_a_call()
        session.swap("")
        assert not versions.engines[0].closes
        gate.open.set()
        assert right(versions.engines[0], "a", 1, held.result(30)[0])
        assert versions.engines[0].closes == 1


def test_callers_beside_the_queue_meet_swaps_and_the_end(switching: None) -> None:
    """No call runs on closed files, which the fake engine checks, and each engine is closed once."""
    versions = Versions(engine=AlikeEngine)
    session = Serving(versions, "")
    swapped = threading.Event()

    def client(seed: int) -> int:
        answered = 0
        while True:
            pairs = [(model, feeds(20 + seed)) for model in "abcd"]
            try:
                outcomes = session.run_many(pairs)
            except Closed:
                return answered
            answered += len(outcomes)
            for (model, one), outputs in zip(pairs, outcomes, strict=True):
                assert any(right(engine, model, one["x"][0, 0], outputs) for engine in versions.engines)
            if swapped.is_set():
                swapped.clear()
                session.close(drain=bool(seed % 2))

    with ThreadPoolExecutor(5) as pool:
        clients = [pool.submit(client, seed) for seed in range(4)]
        for _ in range(20):
            session.swap("")
        swapped.set()
        answered = sum(one.result(30) for one in clients)
    session.close()
    told = session.stats()
    assert told["requests"]["answered"] == told["requests"]["accepted"] == answered
    assert told["queue"] == {"waiting": 0, "running": 0}
    assert [engine.closes for engine in versions.engines] == [1] * 21


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_long_calls_run_at_the_same_time_where_that_pays(slots: int) -> None:
    """After the first, as many as the engine has slots for, each request once, and outputs in order."""
    running, most = set[int](), [0]
    lock = threading.Lock()

    def hook() -> None:
        me = threading.get_ident()
        with lock:
            running.add(me)
            most[0] = max(most[0], len(running))
        time.sleep(0.01)
        with lock:
            running.discard(me)

    engine = FakeEngine(hook=hook, slots=slots)
    with serving(engine, max_batch=1, max_rows=1) as session:
        asked = [("abcd"[k % 4], feeds(k)) for k in range(9)]
        outcomes = session.run_many(asked)
        told = session.stats()
    assert all(right(engine, model, k, outcomes[k]) for k, (model, _) in enumerate(asked))
    assert most[0] == slots and told["requests"]["accepted"] == told["requests"]["answered"] == 9
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("netfuse-many")]


def test_an_error_in_a_call_beside_others_is_that_of_its_request_alone() -> None:
    engine = FakeEngine(hook=lambda: time.sleep(0.005), slots=2)
    with serving(engine, max_batch=1, max_rows=1) as session:
        asked = [("a", feeds(BAD if k == 5 else k)) for k in range(8)]
        outcomes = session.run_many(asked, return_errors=True)
    assert [k for k, outcome in enumerate(outcomes) if isinstance(outcome, CallFailed)] == [5]
    assert all(right(engine, "a", k, outcomes[k]) for k in range(8) if k != 5)
