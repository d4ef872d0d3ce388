"""A session answers each request with its own model's outputs, whatever runs beside it and however calls are made."""

from __future__ import annotations

import asyncio

import pytest
from fake_engine import FakeEngine, feeds, serving

from netfuse_onnx.runtime.errors import CallFailed, UnknownModel


def test_each_way_in_gives_the_answer_of_the_model() -> None:
    engine = FakeEngine()
    wanted = engine.answer("b", feeds(1)["x"]).tolist()
    with serving(engine) as session:
        assert session.run("b", feeds(1))["y"].tolist() == wanted
        assert session.submit("b", feeds(1)).result()["y"].tolist() == wanted
        assert asyncio.run(session.arun("b", feeds(1)))["y"].tolist() == wanted
        assert session.run_many([("a", feeds(1)), ("b", feeds(1))])[1]["y"].tolist() == wanted
        assert session.run_all(feeds(1))["b"]["y"].tolist() == wanted
        with pytest.raises(UnknownModel):
            session.run("z", feeds(1))
    assert engine.closes == 1


def test_a_failed_merged_call_blames_the_guilty_alone() -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        outcomes = session.run_many(
            [(m, feeds(13 if m == "b" else 1)) for m in engine.models], return_errors=True
        )
    assert [type(o) for o in outcomes] == [dict, CallFailed, dict, dict]
    assert "Gather" in str(outcomes[1]) and outcomes[1].model == "b"
