"""A session answers each request with its own model's outputs, whatever runs beside it and however calls are made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from fake_engine import PATIENCE, SENTENCE, FakeEngine, Gate, behind, feeds, right, serving

from netfuse_onnx.runtime import generation
from netfuse_onnx.runtime.errors import BadInput, CallFailed, UnknownModel
from netfuse_onnx.runtime.generation import ONE_OF
from netfuse_onnx.runtime.isolation import perform
from netfuse_onnx.runtime.types import Outputs

# ------------------------------------------------------------------------------ the ways in


def test_each_way_in_gives_the_answer_of_the_model() -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        assert right(engine, "b", 1, session.run("b", feeds(1)))
        assert right(engine, "b", 1, session.submit("b", feeds(1)).result(PATIENCE))
        assert right(engine, "b", 1, asyncio.run(session.arun("b", feeds(1))))
        assert right(engine, "b", 1, session.run_many([("a", feeds(1)), ("b", feeds(1))])[1])
        assert right(engine, "b", 1, session.run_all(feeds(1))["b"])
    assert engine.closes == 1


def test_an_idle_session_runs_in_the_thread_of_its_caller() -> None:
    threads = []
    engine = FakeEngine(hook=lambda: threads.append(threading.current_thread()))
    with serving(engine) as session:
        session.run("a", feeds(1))
        session.run_many([(model, feeds(1)) for model in engine.models])
        assert session.stats()["threads"] == 0
    assert set(threads) == {threading.current_thread()}


def test_what_waits_together_runs_together(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        answers = behind(gate, session, [("b", 1), ("c", 2), ("d", 3), ("b", 4)])
        gate.open.set()
        for (model, value), answer in zip([("b", 1), ("c", 2), ("d", 3), ("b", 4)], answers, strict=True):
            assert right(engine, model, value, answer.result(PATIENCE))
    assert engine.calls[0] == ("alone", [0])
    assert [kind for kind, _ in engine.calls[1:]] == ["merged"] and sorted(engine.calls[1][1]) == [1, 1, 2, 3]


def test_a_request_may_have_several_rows_and_forms_do_not_mix(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        behind(gate, session, [])
        sizes = [(model, rows, width) for model in "bcd" for rows in (1, 3) for width in (2, 5)]
        answers = [session.submit(m, feeds(7, rows, width)) for m, rows, width in sizes]
        gate.open.set()
        for (_, rows, width), answer in zip(sizes, answers, strict=True):
            assert answer.result(PATIENCE)["y"].shape == (rows, width)


def test_without_own_sessions_every_call_is_merged(gate: Gate) -> None:
    engine = FakeEngine(own_sessions=False)
    with serving(engine) as session:
        session.run_many([("a", feeds(1)), ("a", feeds(2)), ("b", feeds(3))])
    assert {kind for kind, _ in engine.calls} == {"merged"}


def test_rows_that_may_not_meet_do_not_meet() -> None:
    engine = FakeEngine(rows_apart=False)
    with serving(engine) as session:
        session.run_many([(model, feeds(k, rows)) for k, model in enumerate("abcdabcd") for rows in (1, 2)])
    for _, models in engine.calls:
        assert len(set(models)) == len(models)


def test_inputs_of_a_request_that_waits_are_its_own(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        behind(gate, session, [])
        inputs = feeds(1)
        answer = session.submit("b", inputs)
        inputs["x"][:] = 5
        gate.open.set()
        assert right(engine, "b", 1, answer.result(PATIENCE))


def test_calls_run_beside_each_other_up_to_the_number_of_workers(gate: Gate) -> None:
    engine = FakeEngine(hook=gate, slots=3)
    with serving(engine, max_batch=1, max_rows=1) as session:
        answers = [session.submit("a", feeds(k)) for k in range(9)]
        for _ in range(3):
            gate.wait_for_a_call()
        assert engine.running == 3
        gate.open.set()
        for k, answer in enumerate(answers):
            assert right(engine, "a", k, answer.result(PATIENCE))
    assert engine.most_running == 3


# ------------------------------------------------------------------------------ ensembles


def test_all_models_answer_one_request_and_are_combined() -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        assert list(session.run_all(feeds(1))) == list(engine.models)
        assert session.run_all(feeds(1), reduce="mean")["y"].tolist() == [[1501.0, 1501.0]]
        assert session.run_all(feeds(1), reduce="sum")["y"].tolist() == [[6004.0, 6004.0]]
        scores = {"x": np.array([[0.0, 2.0, 1.0]])}
        assert session.run_all(scores, reduce="vote")["y"].tolist() == [1]


# ------------------------------------------------------------------------------ errors


def test_checks_refuse_at_once_and_are_counted() -> None:
    with serving(FakeEngine()) as session:
        for way in (session.run, session.submit):
            with pytest.raises(UnknownModel) as unknown:
                way("z", feeds(1))
            assert unknown.value.model == "z"
            with pytest.raises(BadInput) as bad:
                way("a", {"x": np.zeros(3)})
            assert (bad.value.model, bad.value.input) == ("a", "x")
        with pytest.raises(UnknownModel):
            asyncio.run(session.arun("z", feeds(1)))
        assert session.stats()["requests"]["refused"] == {"unknown_model": 3, "bad_input": 2}


def test_a_failed_merged_call_blames_the_guilty_alone() -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        outcomes = session.run_many(
            [(m, feeds(13 if m == "b" else 1)) for m in engine.models], return_errors=True
        )
        assert [type(outcome) for outcome in outcomes] == [dict, CallFailed, dict, dict]
        assert SENTENCE in str(outcomes[1]) and outcomes[1].model == "b"
        stats = session.stats()
        assert stats["failed_calls"] == {"alone": 1, "merged": 1}
        assert stats["requests_in_calls"] == {"alone": stats["requests"]["answered"], "merged": 0}
        assert stats["rows"]["useful"] == stats["requests"]["answered"] == 3
        assert session.stats()["retries"] == 4


def test_a_failed_batch_of_one_model_blames_the_guilty_alone() -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        values = [1, 2, 13, 4]
        outcomes = session.run_many([("b", feeds(v)) for v in values], return_errors=True)
    for value, outcome in zip(values, outcomes, strict=True):
        assert isinstance(outcome, CallFailed) if value == 13 else right(engine, "b", value, outcome)


def test_retried_requests_keep_their_order() -> None:
    engine = FakeEngine()
    requests = [engine.check(m, feeds(v)) for m, v in [("b", 1), ("a", 2), ("b", 13), ("a", 4), ("c", 5)]]
    outcomes = perform(engine, "merged", requests).outcomes
    assert isinstance(outcomes[2], CallFailed)
    for k, (model, value) in {0: ("b", 1), 1: ("a", 2), 3: ("a", 4), 4: ("c", 5)}.items():
        assert right(engine, model, value, outcomes[k])  # type: ignore[arg-type]


def test_requests_in_the_queue_are_isolated_too(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        answers = behind(gate, session, [("b", 1), ("c", 13), ("d", 3), ("c", 5)])
        gate.open.set()
        assert right(engine, "b", 1, answers[0].result(PATIENCE))
        with pytest.raises(CallFailed, match=r"'c'.*out of range"):
            answers[1].result(PATIENCE)
        assert right(engine, "d", 3, answers[2].result(PATIENCE))
        assert right(engine, "c", 5, answers[3].result(PATIENCE))


def test_an_error_keeps_nothing_of_other_requests() -> None:
    """Neither its cause nor its context leads to the inputs of others, which a log with variables would show."""
    with serving(FakeEngine()) as session:
        secret = np.full((1, 2), 4.0)
        requests = [("a", {"x": secret}), ("b", feeds(13)), ("c", feeds(1)), ("d", feeds(1))]
        error = session.run_many(requests, return_errors=True)[1]
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            assert not any(secret is x for x in _arrays(trace.tb_frame.f_locals)), (
                trace.tb_frame.f_code.co_name
            )
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def _arrays(names: dict[str, object]) -> Iterator[object]:
    for value in names.values():
        for request in value if isinstance(value, list | tuple) else [value]:
            yield from getattr(request, "inputs", ())


def test_one_request_that_fails_runs_once() -> None:
    engine = FakeEngine()
    with serving(engine) as session, pytest.raises(CallFailed, match="out of range"):
        session.run("a", feeds(13))
    assert len(engine.calls) == 1


def test_the_first_error_is_raised_after_all_have_run() -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        with pytest.raises(CallFailed, match="'b'"):
            session.run_many([("a", feeds(1)), ("b", feeds(13)), ("c", feeds(13)), ("d", feeds(1))])
        assert session.stats()["requests"]["answered"] == 2
        calls = len(engine.calls)
        with pytest.raises(UnknownModel):
            session.run_many([("a", feeds(1)), ("z", feeds(1))])
        assert len(engine.calls) == calls
        outcomes = session.run_many([("z", feeds(1)), ("a", feeds(1))], return_errors=True)
    assert isinstance(outcomes[0], UnknownModel) and right(engine, "a", 1, outcomes[1])


def test_a_repeat_offender_is_kept_out_until_it_succeeds() -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        everyone = [(m, feeds(13 if m == "b" else 1)) for m in engine.models]
        for _ in range(2):
            session.run_many(everyone, return_errors=True)
        assert session.stats()["kept_out"] == ["b"]
        engine.calls.clear()
        session.run_many(everyone, return_errors=True)
        assert ("merged", [0, 2, 3]) in engine.calls and session.stats()["failed_calls"]["merged"] == 2
        for _ in range(3):
            session.run("b", feeds(1))
        assert session.stats()["kept_out"] == []
        engine.calls.clear()
        session.run_many([(m, feeds(1)) for m in engine.models])
    assert engine.calls == [("merged", [0, 1, 2, 3])]


def test_merged_calls_that_fail_for_nobodys_fault_are_left_for_a_while() -> None:
    class NoMemory(FakeEngine):
        def merged(self, requests: object) -> list[Outputs]:
            self.calls.append(("merged", []))
            raise MemoryError

    engine = NoMemory()
    with serving(engine) as session:
        for _ in range(3):
            outcomes = session.run_many([(m, feeds(1)) for m in engine.models])
            assert right(engine, "c", 1, outcomes[2])
    assert [kind for kind, _ in engine.calls].count("merged") == 1


def test_an_engine_that_gives_too_few_answers_fails_no_innocent() -> None:
    class Short(FakeEngine):
        def merged(self, requests: object) -> list[Outputs]:
            return super().merged(requests)[1:]  # type: ignore[arg-type]

    engine = Short()
    with serving(engine) as session:
        outcomes = session.run_many([(m, feeds(k)) for k, m in enumerate(engine.models)])
    assert all(right(engine, m, k, outcomes[k]) for k, m in enumerate(engine.models))


# ------------------------------------------------------------------------------ our own mistakes


def test_a_mistake_of_the_scheduler_costs_speed_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("netfuse_onnx.runtime.generation.choose", broken)
    engine = FakeEngine()
    with serving(engine) as session:
        answers = [session.submit("abcd"[k % 4], feeds(k + 20)) for k in range(8)]
        for k, answer in enumerate(answers):
            assert right(engine, "abcd"[k % 4], k + 20, answer.result(PATIENCE))
        assert session.stats()["scheduler_faults"] == 8
    (told,) = caplog.records
    assert "scheduler failed" in told.getMessage() and told.exc_info and told.exc_info[0] is ZeroDivisionError


def test_a_mistake_of_the_counting_fails_its_requests_and_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "LONG", float("inf"))  # a slow machine's calls are no longer ones
    engine = FakeEngine()
    with serving(engine) as session:
        right_costs = engine.costs
        engine.costs.saw = _broken  # type: ignore[method-assign]
        ends = [session.submit("a", feeds(1)).exception(PATIENCE) for _ in range(2 * ONE_OF)]
        assert [type(end) for end in ends if end] == [CallFailed] * 2
        with pytest.raises(ZeroDivisionError):
            session.run("a", feeds(1))
        del engine.costs.saw  # type: ignore[method-assign]
        assert right(engine, "a", 1, session.submit("a", feeds(1)).result(PATIENCE))
        assert session.stats()["queue"] == {"waiting": 0, "running": 0} and right_costs is engine.costs


def test_requests_that_end_by_a_mistake_of_ours_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeEngine()) as session:
        monkeypatch.setattr("netfuse_onnx.runtime.workers.perform_one", _broken)
        assert isinstance(session.submit("a", feeds(1)).exception(PATIENCE), CallFailed)
        requests = session.stats()["requests"]
        assert requests["accepted"] == requests["failed"] == 1


def _broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_mistake_of_the_queue_leaves_no_future_behind(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        answers = behind(gate, session, [("b", 1), ("c", 1)])
        with monkeypatch.context() as patched:
            patched.setattr("netfuse_onnx.runtime.queue.Queue.take", _broken)
            gate.open.set()
            for answer in answers:
                assert isinstance(answer.exception(PATIENCE), CallFailed)
        assert right(engine, "b", 1, session.submit("b", feeds(1)).result(PATIENCE))


def test_a_callback_that_raises_harms_nobody(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        answers = behind(gate, session, [("b", 1), ("b", 2), ("b", 3)])
        answers[0].add_done_callback(_broken)
        answers[1].add_done_callback(_interrupted)
        gate.open.set()
        assert all(answer.result(PATIENCE) for answer in answers)
        assert session.submit("b", feeds(1)).result(PATIENCE)


def test_a_future_that_its_holder_answers_harms_nobody(gate: Gate) -> None:
    engine = FakeEngine(hook=gate)
    with serving(engine) as session:
        answers = behind(gate, session, [("b", 1), ("c", 2), ("d", 3)])
        answers[0].set_result({})
        gate.open.set()
        assert right(engine, "c", 2, answers[1].result(PATIENCE))
        assert right(engine, "d", 3, answers[2].result(PATIENCE))
