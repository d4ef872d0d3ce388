"""A session swaps its files under load, counts what it does, and keeps its word to many threads at once."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from fake_engine import PATIENCE, FakeEngine, Gate, Versions, behind, feeds, right, serving

from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.errors import CallFailed, Closed, Timeout, UnknownModel
from netfuse_onnx.runtime.generation import LONG, ONE_OF
from netfuse_onnx.runtime.serving import Serving

# ------------------------------------------------------------------------------ swapping


def test_a_request_stays_with_the_generation_that_it_entered(gate: Gate) -> None:
    versions = Versions(hook=gate)
    with Serving(versions, "") as session:
        (waits,) = behind(gate, session, [("b", 1)])
        assert session.swap("") == 2
        later = session.submit("b", feeds(1))
        assert not versions.engines[0].closes and session.stats()["old_generations"] == 1
        gate.open.set()
        assert right(versions.engines[0], "b", 1, waits.result(PATIENCE))
        assert right(versions.engines[1], "b", 1, later.result(PATIENCE))
        session.submit("b", feeds(1)).result(PATIENCE)
        assert versions.engines[0].closes == 1 and session.stats()["old_generations"] == 0
    assert [engine.closes for engine in versions.engines] == [1, 1]


def test_an_idle_generation_is_closed_by_the_swap() -> None:
    versions = Versions()
    with Serving(versions, "") as session:
        session.run("a", feeds(1))
        session.swap("")
        assert versions.engines[0].closes == 1
        assert right(versions.engines[1], "a", 1, session.run("a", feeds(1)))


def test_a_swap_that_fails_leaves_the_old_files_serving() -> None:
    versions = Versions()
    with Serving(versions, "") as session:
        versions.fail = True
        with pytest.raises(FileFault):
            session.swap("")
        assert right(versions.engines[0], "a", 1, session.run("a", feeds(1)))
        assert session.stats()["generation"] == 1 and session.stats()["swaps"] == 0


def test_a_session_that_was_closed_meanwhile_closes_the_new_files() -> None:
    engines = [FakeEngine(), FakeEngine(generation=1)]
    opened = iter(engines)

    def open(path: object) -> FakeEngine:
        if path == "new":
            session.close()
        return next(opened)

    session = Serving(open, "old")
    with pytest.raises(Closed):
        session.swap("new")
    assert [engine.closes for engine in engines] == [1, 1]


def test_models_may_come_and_go() -> None:
    engines = iter([FakeEngine("ab"), FakeEngine("bc", generation=1)])
    with Serving(lambda _: next(engines), "") as session:
        session.run("a", feeds(1))
        session.swap("")
        assert session.models == ("b", "c")
        assert session.run("c", feeds(1))["y"].tolist() == [[1001001.0, 1001001.0]]
        with pytest.raises(UnknownModel):
            session.run("a", feeds(1))


def test_a_request_checked_before_a_swap_is_checked_again_after_it() -> None:
    """The contract of a request is that of the generation that runs it."""
    engines = [FakeEngine("ab"), FakeEngine("ba", generation=1)]
    opened = iter(engines)
    session = Serving(lambda _: next(opened), "")
    check = engines[0].check

    def swapping(*args: object, **options: object) -> object:
        request = check(*args, **options)  # type: ignore[arg-type]
        session.swap("")
        return request

    engines[0].check = swapping  # type: ignore[method-assign, assignment]
    with session:
        assert right(engines[1], "a", 1, session.run("a", feeds(1)))


# ------------------------------------------------------------------------------ figures


def test_stats_count_what_happened(gate: Gate) -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        session.run("a", feeds(1, rows=2))
        session.run_many([(m, feeds(1, rows=k + 1)) for k, m in enumerate("abc")])
        told = session.stats()
        assert told["calls"] == {"alone": 1, "merged": 1}
        assert told["requests_in_calls"] == {"alone": 1, "merged": 3}
        assert told["models_per_merged_call"] == 3.0
        assert told["rows"] == {"useful": 8, "padded": 6, "useful_part": 8 / 14}
        assert told["requests"]["accepted"] == told["requests"]["answered"] == 4
        assert told["latency_seconds"]["count"] == 4
        assert 0 < told["latency_seconds"]["p50"] <= told["latency_seconds"]["p99"] < PATIENCE


def test_calls_teach_the_costs() -> None:
    """Of short calls one in several does, so that counting a call takes less time than the call."""
    engine = FakeEngine()
    with serving(engine) as session:
        for _ in range(2 * ONE_OF):
            session.run_many([("a", feeds(1, rows=3)), ("b", feeds(1)), ("c", feeds(1))])
        assert engine.costs.seen == [("merged", {0: 3, 1: 1, 2: 1})] * 2
        engine.hook = lambda: time.sleep(LONG)
        for _ in range(3):
            session.run("a", feeds(1))
    assert engine.costs.seen[2:] == [("alone", {0: 1})] * 3


def test_failed_calls_teach_the_costs_nothing() -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        session.run_many([(m, feeds(13 if m == "b" else 1)) for m in engine.models], return_errors=True)
    assert engine.costs.seen == []


def test_prometheus_reads_the_figures() -> None:
    with serving(FakeEngine()) as session:
        session.run("a", feeds(1))
        with pytest.raises(UnknownModel):
            session.run("z", feeds(1))
        samples, text = session.metrics(), session.prometheus()
    assert samples['netfuse_requests_total{end="answered"}'] == 1
    assert samples['netfuse_refused_total{error="unknown_model"}'] == 1
    assert samples['netfuse_latency_seconds_bucket{le="+Inf"}'] == 1
    lines = text.splitlines()
    assert all(f"{name} {value}" in lines for name, value in samples.items())
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert len(typed) == len([line for line in lines if line.startswith("# TYPE")])
    assert len(lines) == len(samples) + 2 * len(typed)


# ------------------------------------------------------------------------------ many threads


def test_what_waits_for_a_callers_own_call_runs_after_it(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session, ThreadPoolExecutor(1) as pool:
        here = pool.submit(session.run, "a", feeds(1))
        gate.wait_for_a_call()
        answer = session.submit("b", feeds(1))
        while session.stats()["threads"] < 2 or not session._dispatcher.idle._until:
            time.sleep(0.001)
        gate.open.set()
        assert here.result(PATIENCE) and answer.result(PATIENCE)


def test_many_threads_lose_nothing_and_mix_nothing_up(switching: None) -> None:
    """Threads run, submit, cancel, time out and swap at random; each request ends once, and rightly."""
    versions = Versions(slots=2)
    session = Serving(versions, "")
    with ThreadPoolExecutor(8) as pool:
        swaps = pool.submit(lambda: [session.swap("") for _ in range(20)])
        ends: Counter[str] = sum(pool.map(lambda seed: _client(session, versions, seed), range(7)), Counter())
        swaps.result(PATIENCE)
    session.close()
    told = session.stats()["requests"]
    assert ends == Counter({end: told[end] for end in ("answered", "failed", "timed_out", "cancelled")})
    assert ends.total() == told["accepted"] == 7 * 150 and min(ends.values()) > 0
    assert [engine.closes for engine in versions.engines] == [1] * 21


def _client(session: Serving, versions: Versions, seed: int) -> Counter[str]:
    """Send requests in all ways, check each end, and count the ends."""
    random = np.random.default_rng(seed)
    ends: Counter[str] = Counter()
    for _ in range(150):
        model, value = "abcd"[random.integers(4)], float(random.integers(5, 25))
        way = random.integers(5)
        try:
            if way == 0:
                outcome = session.run(model, feeds(value))
            elif way == 1:
                (outcome,) = session.run_many([(model, feeds(value))])
            else:
                answer = session.submit(model, feeds(value), timeout=[None, 0.0, 5.0][way - 2])
                if way == 4 and random.random() < 0.5:
                    answer.cancel()
                outcome = answer.result(PATIENCE)
        except (Timeout, CancelledError, CallFailed) as error:
            end = {Timeout: "timed_out", CancelledError: "cancelled", CallFailed: "failed"}[type(error)]
        else:
            end = "answered"
            assert any(right(engine, model, value, outcome) for engine in versions.engines)
        ends[end] += 1
        assert end not in ("answered", "failed") or (value == 13) == (end == "failed")
    return ends
