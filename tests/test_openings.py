"""Sessions of single models open when that pays: until then merged calls answer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import BAD, FakeEngine, feeds, right, serving
from test_session_files import Sources, bundle, x

from netfuse_onnx import MergedSession
from netfuse_onnx.runtime import own as owns
from netfuse_onnx.runtime.errors import CallFailed, UnknownModel
from netfuse_onnx.runtime.own import Openings


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that openings read, in its only element."""
    now = [0.0]
    monkeypatch.setattr(owns.time, "perf_counter", lambda: now[0])
    return now


def opened(openings: Openings, clock: list[float], model: int, seconds: float) -> None:
    with openings.timed(model):
        clock[0] += seconds


def test_a_session_opens_when_as_much_is_lost_as_opening_takes(clock: list[float]) -> None:
    openings = Openings()
    assert openings.pays(0, 0.1), "nothing is known of openings yet"
    opened(openings, clock, 0, 1.0)
    assert [openings.pays(1, 0.3) for _ in range(4)] == [False, False, False, True]
    assert not openings.pays(2, 0.3), "each model has its own account"
    opened(openings, clock, 1, 3.0)
    assert [openings.pays(1, 0.5) for _ in range(4)] == [False, False, False, True], "closed again: 2 s now"
    assert not openings.pays(2, 1.6) and openings.pays(2, 0.1)


def test_never_more_than_twice_the_time_of_best_foresight_is_lost(clock: list[float]) -> None:
    """With foresight one opens at once, or never."""
    draw = random.Random(5)
    for _ in range(300):
        openings, price = Openings(), draw.uniform(0.5, 2.0)
        opened(openings, clock, 9, price)
        lost, paid, each = 0.0, 0.0, []
        for _ in range(draw.randint(0, 40)):
            each.append(draw.uniform(0.0, 0.3))
            if paid:
                continue
            if openings.pays(0, each[-1]):
                paid = price
                opened(openings, clock, 0, price)
            else:
                lost += each[-1]
        assert lost + paid <= 2 * min(sum(each), price) + 1e-9


def test_requests_of_a_model_without_an_open_session_run_in_merged_calls() -> None:
    engine = FakeEngine()
    engine.unopened = {1}
    with serving(engine) as session:
        for ask in (session.run, lambda m, f: session.submit(m, f).result(30), _one_of_many(session)):
            assert right(engine, "b", 2, ask("b", feeds(2)))
        assert engine.calls == [("merged", [1])] * 3
        stats = session.stats()
        assert stats["calls"] == {"alone": 0, "merged": 3} and stats["requests"]["answered"] == 3
        with pytest.raises(CallFailed):
            session.run("b", feeds(BAD))
        assert engine.calls[3:] == [("merged", [1]), ("alone", [1])], "it must open to tell whose fault it is"
        assert session.stats()["queue"]["running"] == 0


def _one_of_many(session: Any) -> Any:
    return lambda model, value: session.run_many([(model, value)])[0]


def test_a_bundle_answers_before_all_its_sessions_are_open(tmp_path: Path) -> None:
    path, sources = bundle(tmp_path), Sources(tmp_path)
    with MergedSession(path, calibrate=0.05) as session:
        engine: Any = session._dispatcher.current.engine
        engine._openings._seconds, engine._openings._count = 1e3, 1
        for model in session.models:
            sources.right(model, x(3), session.run(model, x(3)))
        assert session.stats()["sessions"]["own_sessions_open"] == 1, "the one that was timed"
        engine._openings.pays = lambda model, lost: True
        for model in session.models:
            outputs = session.run(model, x(4))
            assert np.array_equal(outputs["y"], sources.models[model].run(None, x(4))[0])
        assert session.stats()["sessions"]["own_sessions_open"] == len(session.models)


def test_sessions_open_when_one_says_so(tmp_path: Path) -> None:
    path, sources = bundle(tmp_path), Sources(tmp_path)
    with MergedSession(path, calibrate=0.05) as session:
        engine: Any = session._dispatcher.current.engine
        engine._openings.pays = lambda model, lost: False
        assert session.warm_up(["c"]) == session.stats()["sessions"]["own_sessions_open"] == 2
        with pytest.raises(UnknownModel):
            session.warm_up(["nobody"])
        assert session.warm_up() == len(session.models)
        for model in session.models:
            assert np.array_equal(session.run(model, x(3))["y"], sources.models[model].run(None, x(3))[0])
    with MergedSession(path, calibrate=0.05, own_sessions=2) as session:
        assert session.warm_up() == 2
    lone = next(path.glob("merged-*.onnx"))
    with MergedSession(lone, calibrate=0.05) as session:
        assert session.warm_up() == 0


def test_more_rows_than_a_merged_call_takes_open_the_session(tmp_path: Path) -> None:
    path, sources = bundle(tmp_path), Sources(tmp_path)
    with MergedSession(path, calibrate=0.05, max_rows=2, max_batch=8) as session:
        engine: Any = session._dispatcher.current.engine
        engine._openings._seconds, engine._openings._count = 1e3, 1
        sources.right("b", x(0, 3), session.run("b", x(0, 3)))
        assert session.stats()["calls"]["merged"] == 0
