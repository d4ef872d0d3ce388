"""The choice on CUDA between merged calls, own sessions at once and one by one, over calls that take the times of
a made-up device: sessions open slowly, and the first calls of a form are slow, until its graph is captured."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from families import family, merged

from netfuse_onnx.runtime import engine as engines
from netfuse_onnx.runtime import streams, threads, timing
from netfuse_onnx.runtime.calls import OnCpu
from netfuse_onnx.runtime.opening import Opening, open_engine
from netfuse_onnx.runtime.ort import Setup, open_session
from netfuse_onnx.runtime.own import OwnSessions
from netfuse_onnx.runtime.schedule import Limits, choose
from netfuse_onnx.runtime.types import Call
from netfuse_onnx.runtime.waiting import Waiting

MODELS = 8
OPENING, CAPTURE, PLAIN = 0.25, 0.1, 1.8
"""Seconds to open a session and to capture a graph; a call without places takes PLAIN times as long."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of an own call, of each further one that starts at once, and of the merged call."""

    own: float
    more: float
    merged: float


class Device(OnCpu):
    """Calls on the CPU that take the times of a made-up device, by its own clock."""

    def __init__(self, times: Times, path: str, paths: Sequence[str], most: int | None) -> None:
        cpu = Setup(("CPUExecutionProvider",))
        self.times, self.now, self.changes, self.uses = times, 0.0, 0, Counter[Any]()

        def opened(one: str) -> Any:
            self.now += OPENING
            self.changes += 1
            return open_session(one, cpu)

        super().__init__(open_session(path, cpu), OwnSessions(paths, opened, most))

    def clock(self) -> float:
        return self.now

    def _takes(self, kind: str, milliseconds: float, rows: int) -> None:
        self.uses[kind, rows] += 1
        self.changes += self.uses[kind, rows] <= 3
        self.now += CAPTURE * (self.uses[kind, rows] == 3)
        self.now += milliseconds / 1e3 * (PLAIN if self.uses[kind, rows] < 3 else 1)

    def alone(self, model: int, packed: Any, wide: bool = False) -> list[Any]:
        outputs = super().alone(model, packed)
        self._takes(f"own {model}", self.times.own, sum(r.rows for r in packed.requests))
        return outputs

    def merged(self, packed: Any) -> list[Any]:
        self._takes("merged", self.times.merged, max(r.rows for r in packed.requests))
        return super().merged(packed)

    def together(self, calls: Sequence[tuple[int, Any]]) -> list[list[Any]]:
        found = []
        for place, (model, packed) in enumerate(calls):
            found.append(super().alone(model, packed))
            rows = sum(r.rows for r in packed.requests)
            self._takes(f"own {model}", self.times.more if place else self.times.own, rows)
        return found


def opened(
    times: Times, folder: Path, patch: pytest.MonkeyPatch, own_sessions: int | None = None
) -> tuple[Any, Device]:
    """An engine over such a device, and the device."""
    made: list[Device] = []
    now = lambda: made[-1].now  # noqa: E731

    class OnDevice(Device):
        def __init__(self, path: str, paths: Sequence[str], setup: Any, most: int | None, _: Any) -> None:
            made.append(self)
            super().__init__(times, path, paths, most)

    patch.setattr(engines, "OnCuda", OnDevice)
    patch.setattr(timing, "measured", functools.partial(timing.measured, clock=now))
    patch.setattr(threads, "clock", lambda *_: now)
    patch.setattr(streams, "time", SimpleNamespace(perf_counter=now))
    paths = family(folder, count=MODELS)
    options = Opening(
        tuple(paths), ("CUDAExecutionProvider",), rows_apart=True, calibrate=1.0, own_sessions=own_sessions
    )
    return open_engine(merged(folder, paths, "stacked"), options), made[-1]


def requests(engine: Any, models: int) -> list[Any]:
    return [engine.check(name, {"x": np.ones((1, 8), np.float32)}) for name in engine.models[:models]]


def chosen(engine: Any, models: int) -> str:
    """The way that serves one request of each of so many models: own, merged or at once."""
    waiting, asked = Waiting(), requests(engine, models)
    for request in asked:
        waiting.add(request)
    call = choose(waiting, engine.costs, 0.0, Limits(rows_apart=engine.rows_apart))
    assert isinstance(call, Call)
    if call.kind == "alone":
        return "own"
    return "at once" if engine._streams is not None and engine._streams.pays(asked) else "merged"


@pytest.mark.parametrize(
    ("times", "right"),
    [
        (Times(1.03, 0.4, 5.5), "at once"),  # ResNet-50, 8 models, on an H100
        (Times(1.5, 0.6, 2.8), "merged"),  # BERT
        (Times(0.2, 0.19, 3.0), "own"),  # neither is much quicker than one by one
    ],
)
def test_the_fastest_way_is_chosen(times: Times, right: str, tmp_path: Path, monkeypatch: Any) -> None:
    """To open the sessions of all models takes longer than all seconds of measuring."""
    engine, device = opened(times, tmp_path, monkeypatch)
    assert MODELS * OPENING > 1.0
    assert chosen(engine, MODELS) == right
    form = requests(engine, 1)[0].form
    best = {"at once": times.own + (MODELS - 1) * times.more, "merged": times.merged}
    if right in best:
        expected = engine.costs.merged(form, dict.fromkeys(range(MODELS), 1))
        assert expected == pytest.approx(best[right] / 1e3, rel=0.05)
    assert engine.costs.alone(form, 1) == pytest.approx(times.own / 1e3, rel=0.05)
    assert len(device.own) <= streams.TRIED


def test_calls_that_open_sessions_and_capture_graphs_teach_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    engine, device = opened(Times(1.03, 0.4, 5.5), tmp_path, monkeypatch)
    asked = requests(engine, MODELS)
    form, rows = asked[0].form, dict.fromkeys(range(MODELS), 1)
    before = engine.costs.merged(form, rows)
    for _ in range(3):  # the first opens sessions, the third captures
        began = device.now
        engine.merged(asked)
        engine.costs.saw(form, "merged", rows, device.now - began)
        assert engine.costs.merged(form, rows) == before
    assert chosen(engine, MODELS) == "at once"
    engine.costs.saw(form, "merged", rows, 1.2 * before)  # it is steady now
    assert engine.costs.merged(form, rows) > before


def test_at_once_run_no_more_sessions_than_are_kept_open(tmp_path: Path, monkeypatch: Any) -> None:
    engine, _ = opened(Times(1.03, 0.4, 5.5), tmp_path, monkeypatch, own_sessions=3)
    assert engine.told()["at_once"] == 3
    assert chosen(engine, 3) == "at once"
    assert chosen(engine, MODELS) == "merged"


def test_sessions_that_fit_are_counted_by_their_bytes_too() -> None:
    sizes = [100 << 20, 50 << 20, 50 << 20]
    for most, megabytes, fitting in ((None, 500, 3), (2, 500, 2), (None, 160, 2), (None, 10, 1)):
        own = OwnSessions(["a", "b", "c"], lambda path: path, most, sizes, megabytes << 20)
        assert own.fitting == fitting
