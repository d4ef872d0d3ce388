"""An interrupt (Ctrl-C) in any line of what a caller's thread does leaves the session in order."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import FrameType
from typing import Any

import pytest
from fake_engine import FakeEngine, Gate, feeds, right, serving

from netfuse_onnx.runtime.serving import Serving
from netfuse_onnx.runtime.types import Outputs

FILES = ("queue.py", "waiting.py", "idle.py", "moments.py", "slots.py")
"""Files whose lines are interrupted. All they do is under the lock of a dispatcher, whose own lines would be
interrupted here at places at which Python looks for no signal, as on the way into the lock."""


def interrupted(act: Callable[[], object], line: int) -> bool:
    """Run with an interrupt in so many lines of these files; False where there are fewer."""
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(tuple(f"runtime/{name}" for name in FILES)):
            return None if event == "call" and frame.f_code.co_filename.endswith("threading.py") else trace
        if event == "line" and frame.f_code.co_name not in ("cancel", "leave"):
            left -= 1
            if not left:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)


def in_order(session: Serving, engine: FakeEngine) -> bool:
    """Return True where a session answers, and nothing of an interrupted request is left in it or counted."""
    answer = session.submit("b", feeds(2))
    assert right(engine, "b", 2, answer.result(30))
    session.close()
    requests = session.stats()["requests"]
    ends = sum(requests[end] for end in ("answered", "failed", "timed_out", "cancelled", "dropped"))
    queue = session.stats()["queue"]
    return requests["accepted"] == ends and queue == {"waiting": 0, "running": 0} and engine.closes == 1


@pytest.mark.parametrize("kind", ["submit", "submit behind others", "cancel", "run"])
def test_a_session_is_in_order_after_an_interrupt_anywhere(kind: str) -> None:
    line, ends = 0, False
    while not ends:
        line += 1
        gate, engine = Gate(), FakeEngine()
        session = serving(engine)
        session.submit("a", feeds(1)).result(30)
        waits: list[Future[Outputs]] = []
        if kind in ("submit behind others", "cancel"):
            engine.hook = gate
            session.submit("a", feeds(1))
            gate.wait_for_a_call()
            waits = [session.submit(model, feeds(3), timeout=60) for model in "bcb"]
        acts: dict[str, Callable[[], object]] = {
            "submit": partial(session.submit, "a", feeds(1)),
            "submit behind others": partial(session.submit, "b", feeds(1), timeout=50),
            "cancel": waits[0].cancel if waits else session.stats,
            "run": partial(session.run, "a", feeds(1)),
        }
        ends = not interrupted(acts[kind], line)
        engine.hook = None
        gate.open.set()
        assert in_order(session, engine), f"line {line}"
    assert line > {"run": 5, "cancel": 5}.get(kind, 15)
    assert threading.active_count() < 50
