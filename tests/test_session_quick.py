"""`submit` runs calls that take less time than to hand them over at once, in the thread that submits."""

from __future__ import annotations

import asyncio
import inspect
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import BAD, FakeCosts, FakeEngine, FakeFormCosts, Gate, behind, feeds, right, serving
from test_session_files import Sources, bundle, opening, x

from netfuse_onnx.runtime.errors import CallFailed
from netfuse_onnx.runtime.generation import QUICK, QUICK_IN_LOOP, REST, REST_IN_LOOP


class Times(FakeFormCosts):
    """Own calls that take so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(merged=1e6)
        self.seconds = seconds

    def alone(self, rows: int) -> float:
        return self.seconds


def engine(seconds: float, **options: Any) -> tuple[FakeEngine, list[str]]:
    """Return an engine whose own calls seem to take so long, and the threads in which its calls run."""
    threads: list[str] = []
    hook = options.pop("hook", lambda: None)

    def noted() -> None:
        threads.append(threading.current_thread().name)
        hook()

    found = FakeEngine(hook=noted, **options)
    found.costs = FakeCosts()
    found.costs._times = Times(seconds)
    return found, threads


@pytest.mark.parametrize(("seconds", "here"), [(QUICK / 2, True), (QUICK * 2, False)])
def test_only_short_calls_run_in_the_thread_that_submits(seconds: float, here: bool) -> None:
    served, threads = engine(seconds)
    with serving(served) as session:
        future = session.submit("b", feeds(2))
        assert right(served, "b", 2, future.result(30))
        assert (threads == [threading.current_thread().name]) is here
        assert future.done() and not future.cancel()
        failed = session.submit("b", feeds(BAD))
        assert isinstance(failed.exception(30), CallFailed)
        assert asyncio.run(session.arun("c", feeds(3)))["y"][0, 0] == 2003.0
        stats = session.stats()
        assert stats["requests"]["accepted"] == 3 and stats["requests"]["failed"] == 1
        assert stats["queue"] == {"waiting": 0, "running": 0}


def test_the_callers_array_may_change_at_once() -> None:
    served, _ = engine(QUICK / 2)
    with serving(served) as session:
        value = feeds(1)
        future = session.submit("a", value)
        value["x"][:] = 7
        assert right(served, "a", 1, future.result(30))
        assert not np.shares_memory(future.result()["y"], value["x"])


def test_where_much_arrives_it_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    served, threads = engine(QUICK / 2)
    with serving(served) as session:
        slots = session._dispatcher.slots
        monkeypatch.setattr(type(slots), "rested", property(lambda _: 1.1 * REST))
        session.submit("a", feeds(1)).result(30)
        monkeypatch.setattr(type(slots), "rested", property(lambda _: 0.9 * REST))
        session.submit("a", feeds(1)).result(30)
        me = threading.current_thread().name
        assert threads[0] == me and threads[1] != me


@pytest.mark.parametrize(
    ("seconds", "rested", "here"),
    [
        (QUICK_IN_LOOP * 0.9, REST_IN_LOOP * 1.1, True),
        (QUICK_IN_LOOP * 0.9, REST_IN_LOOP * 0.9, False),
        (QUICK_IN_LOOP * 1.1, REST_IN_LOOP * 1.1, False),
        (QUICK * 0.9, REST * 1.1, True),
    ],
)
def test_the_event_loop_of_a_server_runs_longer_calls(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rested: float, here: bool
) -> None:
    served, threads = engine(seconds)
    with serving(served) as session:
        session.in_loop = True
        monkeypatch.setattr(type(session._dispatcher.slots), "rested", property(lambda _: rested))
        session.submit("a", feeds(1)).result(30)
        assert (threads == [threading.current_thread().name]) is here


def test_behind_others_it_queues() -> None:
    gate = Gate()
    served, threads = engine(QUICK * 2, hook=gate)
    with serving(served) as session:
        waits = behind(gate, session, [("b", 1.0)])
        served.costs._times.seconds = QUICK / 2
        last = session.submit("c", feeds(5))
        assert not last.done()
        gate.open.set()
        assert right(served, "c", 5, last.result(30)) and right(served, "b", 1, waits[0].result(30))
        assert threading.current_thread().name not in threads


def test_waiting_on_purpose_waits() -> None:
    served, threads = engine(QUICK / 2)
    with serving(served, max_wait=0.01) as session:
        assert right(served, "a", 1, session.submit("a", feeds(1)).result(30))
        assert threading.current_thread().name not in threads


def test_a_model_whose_session_is_not_open_makes_nobody_wait_who_submits(tmp_path: Path) -> None:
    """To open it takes as long as thousands of short calls, and so does a merged call of many models."""
    served, threads = engine(QUICK / 2)
    served.unopened = {1}
    with serving(served) as session:
        assert right(served, "b", 2, session.submit("b", feeds(2)).result(30))
        assert threading.current_thread().name not in threads
    opened: list[str] = []
    with opening(bundle(tmp_path)) as session:
        files: Any = session._dispatcher.current.engine
        opens = files.calls.own._open

        def noted(path: str) -> Any:
            opened.append(threading.current_thread().name)
            return opens(path)

        files.calls.own._open = noted
        files.costs = FakeCosts()
        files.costs._times = Times(QUICK / 2)
        sources = Sources(tmp_path)
        for model in session.models:
            sources.right(model, x(2), session.submit(model, x(2)).result(30))
            sources.right(model, x(3), session.submit(model, x(3)).result(30))
        assert opened and threading.current_thread().name not in opened


@pytest.mark.parametrize("sessions", [1, 2])
def test_callbacks_that_submit_the_next_request_make_no_deep_calls(sessions: int) -> None:
    over, deepest, left = threading.Event(), 0, 1000
    opened = [serving(engine(1e-9)[0]) for _ in range(sessions)]

    def submit_next(_: object) -> None:
        nonlocal deepest, left
        deepest, left = max(deepest, depth()), left - 1
        if left:
            opened[left % sessions].submit("a", feeds(1)).add_done_callback(submit_next)
        else:
            over.set()

    with opened[0], opened[-1]:
        opened[0].submit("a", feeds(1)).add_done_callback(submit_next)
        assert over.wait(30), "the chain broke"
        assert deepest < 200


def depth() -> int:
    """Return the number of calls that the current one is in."""
    frame, found = inspect.currentframe(), 0
    while frame is not None:
        frame, found = frame.f_back, found + 1
    return found


def test_a_closed_session_takes_nothing() -> None:
    served, threads = engine(QUICK / 2)
    session = serving(served)
    session.close()
    with pytest.raises(Exception, match="closed"):
        session.submit("a", feeds(1))
    assert not threads
