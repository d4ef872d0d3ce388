"""Queues are bounded, deadlines and cancelled requests cost nothing, and a session ends without losing any request."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest
from fake_engine import PATIENCE, FakeEngine, Gate, behind, feeds, right, serving

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime import direct, dispatch
from netfuse_onnx.runtime.errors import Closed, QueueFull, Timeout
from netfuse_onnx.runtime.serving import Serving
from netfuse_onnx.runtime.types import Outputs

# ------------------------------------------------------------------------------ bounds, time, cancelling


def test_full_queues_refuse_at_once(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine, max_queue=5, max_queue_per_model=2) as session:
        answers = behind(gate, session, [("b", 1), ("b", 2)])
        with pytest.raises(QueueFull) as full:
            session.submit("b", feeds(3))
        assert full.value.model == "b"
        answers += [session.submit("c", feeds(k)) for k in range(2)] + [session.submit("d", feeds(0))]
        for way in (session.submit, session.run):
            with pytest.raises(QueueFull):
                way("d", feeds(0))
        answers[0].cancel()
        answers[0] = session.submit("d", feeds(1))
        gate.open.set()
        assert all(answer.result(PATIENCE) for answer in answers)
        assert session.stats()["requests"]["refused"] == {"queue_full": 3}


def test_a_request_that_is_too_late_never_runs(gate: Gate) -> None:
    """It is told on time, although every worker is inside a call."""
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        (last,) = behind(gate, session, [("d", 1)])
        late = [session.submit("b", feeds(1), timeout=0.02), session.submit("c", feeds(1), timeout=0.0)]
        for answer in late:
            assert isinstance(answer.exception(PATIENCE), Timeout)
        with pytest.raises(Timeout, match="'b'"):
            session.run("b", feeds(1), timeout=0.01)
        with pytest.raises(Timeout):
            asyncio.run(session.arun("b", feeds(1), timeout=0.01))
        end = time.monotonic() + PATIENCE  # a busy machine may take a moment to take the last one back
        while (queue := session.stats()["queue"]) != {"waiting": 1, "running": 1} and time.monotonic() < end:
            time.sleep(0.001)
        assert queue == {"waiting": 1, "running": 1}
        gate.open.set()
        assert last.result(PATIENCE)
        assert session.stats()["requests"]["timed_out"] == 4
    assert engine.calls == [("alone", [0]), ("alone", [3])]


def test_the_earliest_deadline_counts_whatever_the_order(gate: Gate) -> None:
    with serving(FakeEngine(hook=gate)) as session:
        behind(gate, session, [])
        slow = session.submit("b", feeds(1), timeout=1e9)
        quick = session.submit("b", feeds(1), timeout=0.02)
        assert isinstance(quick.exception(PATIENCE), Timeout)
        assert not slow.done()
        gate.open.set()
        assert slow.result(PATIENCE)


def test_the_timeout_of_the_session_is_that_of_requests_without_one(gate: Gate) -> None:
    with serving(FakeEngine(hook=gate), timeout=0.02) as session:
        session.submit("a", feeds(0), timeout=1e9)
        gate.wait_for_a_call()
        with pytest.raises(Timeout):
            session.run("b", feeds(1))
        gate.open.set()


def test_many_requests_in_one_call_stop_at_their_deadline() -> None:
    engine = FakeEngine(hook=lambda: time.sleep(0.02))
    with serving(engine, max_batch=1, max_rows=1) as session:
        outcomes = session.run_many([("a", feeds(1))] * 9, timeout=0.01, return_errors=True)
    assert right(engine, "a", 1, outcomes[0])
    assert all(isinstance(outcome, Timeout) for outcome in outcomes[1:]) and len(engine.calls) == 1


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_timeout_that_is_no_duration_is_refused(timeout: float) -> None:
    with serving(FakeEngine()) as session, pytest.raises(UsageFault):
        session.run("a", feeds(1), timeout=timeout)


def test_a_cancelled_request_never_runs(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        first, second = behind(gate, session, [("b", 1), ("c", 1)])
        assert first.cancel() and first.cancel()
        with pytest.raises(CancelledError):
            first.result(PATIENCE)
        gate.open.set()
        assert second.result(PATIENCE) and not second.cancel()
        assert session.stats()["requests"]["cancelled"] == 1
    assert engine.calls == [("alone", [0]), ("alone", [2])]


def test_a_cancelled_task_cancels_its_request(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)

    async def main(session: Serving) -> None:
        held = asyncio.create_task(session.arun("a", feeds(1)))
        await asyncio.to_thread(gate.wait_for_a_call)
        task = asyncio.create_task(session.arun("b", feeds(1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open.set()
        assert right(engine, "a", 1, await held)

    with serving(engine) as session:
        asyncio.run(main(session))
    assert engine.calls == [("alone", [0])]


def test_requests_of_asyncio_need_no_thread_each() -> None:
    engine = FakeEngine()

    async def main(session: Serving) -> list[Outputs]:
        return await asyncio.gather(*(session.arun("abcd"[k % 4], feeds(k + 20)) for k in range(200)))

    with serving(engine) as session:
        before = threading.active_count()
        outcomes = asyncio.run(main(session))
        assert threading.active_count() <= before + 2
    assert all(right(engine, "abcd"[k % 4], k + 20, outcome) for k, outcome in enumerate(outcomes))


def test_an_interrupt_of_a_waiting_caller_takes_its_request_back(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        behind(gate, session, [])
        with monkeypatch.context() as patched:
            patched.setattr("netfuse_onnx.runtime.queue.Answer.result", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                session.run("b", feeds(1))
        assert session.stats()["queue"]["waiting"] == 0
        gate.open.set()
    assert engine.calls == [("alone", [0])]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["run", "run_many"])
def test_an_interrupt_inside_a_call_gives_its_slot_back(way: str) -> None:
    engine = FakeEngine(hook=_interrupted)
    with serving(engine) as session:
        with pytest.raises(KeyboardInterrupt):
            session.run("a", feeds(1)) if way == "run" else session.run_many([("a", feeds(1))])
        engine.hook = None
        stats = session.stats()
        assert stats["queue"] == {"waiting": 0, "running": 0}
        assert stats["requests"]["accepted"] == 0  # it has no end that could be counted
        assert right(engine, "a", 1, session.run("a", feeds(1)))
        stats = session.stats()
        assert stats["requests"]["accepted"] == stats["requests"]["answered"] == 1
    assert engine.closes == 1


def test_an_interrupt_on_the_way_out_leaves_nobody_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the session would wait for ever for a caller who is counted and gone."""
    engine = FakeEngine()
    with serving(engine) as session:
        monkeypatch.setattr(direct, "_leave", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run_many([("a", feeds(1)), ("a", feeds(2))])
        assert session.stats()["queue"]["running"] == 0
        monkeypatch.setattr(dispatch.Dispatcher, "finish_one", _interrupted)
        monkeypatch.setattr(dispatch.Dispatcher, "finish", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run("a", feeds(1))
        assert session.stats()["queue"]["running"] == 0 and not session._dispatcher.slots.busy


# ------------------------------------------------------------------------------ closing


def test_close_with_drain_answers_everything(gate: Gate) -> None:
    engine = FakeEngine(hook=gate, slots=2)
    session = serving(engine)
    answers = behind(gate, session, [("abcd"[k % 4], k + 20) for k in range(50)])
    closing = threading.Thread(target=session.close)
    closing.start()
    while not session.is_closed:
        time.sleep(0)
    with pytest.raises(Closed):
        session.submit("a", feeds(1))
    gate.open.set()
    closing.join(PATIENCE)
    assert all(right(engine, "abcd"[k % 4], k + 20, a.result(0)) for k, a in enumerate(answers))
    assert engine.closes == 1 and session.stats()["threads"] == 0


def test_close_without_drain_drops_what_waits_and_waits_for_what_runs(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    session = serving(engine)
    running = session.submit("a", feeds(1))
    gate.wait_for_a_call()
    waits = session.submit("b", feeds(1))
    closing = threading.Thread(target=session.close, args=(False,))
    closing.start()
    assert isinstance(waits.exception(PATIENCE), Closed)
    assert closing.is_alive() and not engine.closes
    gate.open.set()
    closing.join(PATIENCE)
    assert running.result(0) and engine.closes == 1
    assert session.stats()["requests"]["dropped"] == 1


def test_close_gives_up_after_its_time(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    session = serving(engine)
    (waits,) = behind(gate, session, [("b", 1)])
    session.close(timeout=0.01)
    assert isinstance(waits.exception(0), Closed)
    assert not engine.closes, "a call still runs"
    gate.open.set()
    session.close()
    assert engine.closes == 1


def test_a_closed_session_refuses_everything() -> None:
    session = serving(FakeEngine())
    session.close()
    session.close(drain=False)
    for way in (session.run, session.submit):
        with pytest.raises(Closed):
            way("a", feeds(1))
    with pytest.raises(Closed):
        session.run_many([("a", feeds(1))])
    with pytest.raises(Closed):
        session.swap("")


def test_a_callback_may_close_the_session(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    session = serving(engine)
    first, second = behind(gate, session, [("b", 1), ("b", 2)])
    closed = threading.Event()
    first.add_done_callback(lambda _: (session.close(), closed.set()))
    gate.open.set()
    assert closed.wait(PATIENCE) and second.result(PATIENCE)
    session.close()
    assert engine.closes == 1


def test_callbacks_of_two_workers_may_close_the_session() -> None:
    """Each waits neither for its own end nor for the other's."""
    both = threading.Barrier(2)
    engine = FakeEngine(slots=2)
    with serving(engine, max_batch=1, max_rows=1) as session:

        def close(_: object) -> None:
            both.wait(PATIENCE)
            session.close()

        gate = Gate()
        engine.hook = gate
        answers = [session.submit("a", feeds(k)) for k in range(2)]
        for answer in answers:
            answer.add_done_callback(close)
        for _ in range(2):
            gate.wait_for_a_call()
        gate.open.set()
        assert all(answer.result(PATIENCE) for answer in answers)
    for thread in session._workers.threads:
        thread.join(PATIENCE)
    assert engine.closes == 1 and not session.stats()["threads"]


@pytest.mark.parametrize("workers", [1, 2])
def test_callbacks_that_close_do_not_wait_for_each_other(gate: Gate, workers: int) -> None:
    """Each runs in a worker of its own, where there are two."""
    engine = FakeEngine(hook=gate, slots=workers)
    session = serving(engine)
    answers = [session.submit(model, feeds(1)) for model in "ab"]
    ended = []
    for answer in answers:
        answer.add_done_callback(lambda _: ended.append(session.close()))
    gate.open.set()
    assert all(answer.result(PATIENCE) for answer in answers)
    session.close(timeout=PATIENCE)
    assert len(ended) == 2 and engine.closes == 1 and session.stats()["threads"] == 0


def test_errors_keep_what_they_say_between_processes() -> None:
    """multiprocessing pickles them."""
    with serving(FakeEngine(), max_queue=1) as session:
        asked = [("z", feeds(1)), ("a", {}), ("a", feeds(13))]
        errors = session.run_many(asked, return_errors=True)
    with pytest.raises(Closed) as closed:
        session.run("a", feeds(1))
    for error in (*errors, closed.value):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error) and str(copy) == str(error)
        parts = ("message", "hint", "kind", "model", "input", "expected")
        assert all(getattr(copy, part) == getattr(error, part) for part in parts)
    assert errors[1].input == "x" and str(errors[2]).startswith("Model 'a': ")
    assert repr(session) == "<Serving of 4 models, closed>"


def test_a_callback_may_run_requests(gate: Gate) -> None:
    """Its worker can't wait for itself, nor for a slot that it holds."""
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        first, second = behind(gate, session, [("b", 1), ("b", 2)])
        told: list[Outputs] = []
        for answer in (first, second):
            answer.add_done_callback(lambda _: told.append(session.run("c", feeds(3))))
        gate.open.set()
        assert second.result(PATIENCE) and session.submit("d", feeds(4)).result(PATIENCE)
    assert len(told) == 2 and all(right(engine, "c", 3, one) for one in told)


def test_a_session_that_nobody_holds_ends_its_threads_after_the_last_answer(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    session = serving(engine)
    (answer,) = behind(gate, session, [("b", 1)])
    threads, gone = list(session._workers.threads), weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    gate.open.set()
    assert right(engine, "b", 1, answer.result(PATIENCE))
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_an_answered_request_keeps_no_inputs() -> None:
    with serving(FakeEngine()) as session:
        inputs = feeds(1)
        answer = session.submit("a", inputs)
        answer.result(PATIENCE)
        gc.collect()
        gc.disable()
        try:
            held = [r for r in gc.get_objects() if type(r).__name__ == "Request"]
            assert not held
        finally:
            gc.enable()
