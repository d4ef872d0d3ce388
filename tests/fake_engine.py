"""An engine without ONNX Runtime, for tests of what stands before it: queue, workers, isolation, swap.

Model m of generation g answers `x` [rows, k] with `y` = x + 1000 * m + 1e6 * g, so that an answer of another
model or generation is seen. A row with a 13 in it makes its call fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.bounds import Bounds
from netfuse_onnx.runtime.errors import BadInput, UnknownModel
from netfuse_onnx.runtime.schedule import Limits
from netfuse_onnx.runtime.serving import Serving
from netfuse_onnx.runtime.types import Array, Feeds, Kind, Outputs, Request

PATIENCE = 30.0
"""Seconds after which a test gives up on something that must happen."""
BAD = 13.0
SENTENCE = "Non-zero status code returned while running Gather node: index 13 is out of range"


class FakeCosts:
    """Own calls of 1 s and merged calls of 1.5 s: two waiting models do not pay, three do."""

    io = "separate"

    def __init__(self, merged: float = 1.5) -> None:
        self.seen: list[tuple[Kind, dict[int, int]]] = []
        self._times = FakeFormCosts(merged)

    def forms(self) -> list[Hashable]:
        return [()]

    def of(self, form: Hashable) -> FakeFormCosts:
        return self._times

    def alone(self, form: Hashable, rows: int) -> float:
        return self._times.alone(rows)

    def merged(self, form: Hashable, rows: Mapping[int, int]) -> float:
        return self._times.merged(len(rows), max(rows.values()), sum(rows.values()))

    def saw(
        self, form: Hashable, kind: Kind, rows: Mapping[int, int], seconds: float, *, wide: bool = False
    ) -> None:
        self.seen.append((kind, dict(rows)))


class FakeFormCosts:
    """The times of FakeCosts."""

    runs_all = True

    def __init__(self, merged: float) -> None:
        self._merged = merged
        self.on_all = 1.0
        """The part of its time that an own call takes on all cores."""

    def alone(self, rows: int) -> float:
        return 1.0 + 0.1 * rows

    def wide(self, rows: int) -> float:
        return self.on_all * self.alone(rows)

    def merged(self, models: int, most: int, total: int) -> float:
        return self._merged * (1 + 0.2 * most)

    def served(self, rows: int, most: int) -> tuple[float, float]:
        top = min(rows, most)
        return rows * self.alone(top) / top, self.alone(top)


class Gate:
    """Holds calls until it is opened, and tells when one has come."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self) -> None:
        self.arrived.release()
        assert self.open.wait(PATIENCE), "a gate was left closed"

    def wait_for_a_call(self) -> None:
        assert self.arrived.acquire(timeout=PATIENCE), "no call came"


class FakeEngine:
    """An Engine that adds numbers. `hook` runs at the start of each call, and may raise or wait."""

    def __init__(
        self,
        models: Sequence[str] = ("a", "b", "c", "d"),
        *,
        generation: int = 0,
        own_sessions: bool = True,
        rows_apart: bool = True,
        slots: int = 1,
        hook: Callable[[], None] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.costs = FakeCosts()
        self.own_sessions, self.rows_apart, self.slots = own_sessions, rows_apart, slots
        self.clock = time.perf_counter
        self.wide = False
        self.wide_calls = self.beside_wide = self._wide = 0
        """Wide calls, and calls that ran beside one."""
        self.unopened: set[int] = set()
        """Models whose session does not pay to open."""
        self.generation = generation
        self.hook = hook
        self.calls: list[tuple[Kind, list[int]]] = []
        """The models of the requests of each call, in order."""
        self.closes = 0
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()

    def check(self, model: str, feeds: Feeds, *, copy: bool = False) -> Request:
        if model not in self.models:
            raise UnknownModel(f"no model {model!r}", model=model)
        x = feeds.get("x")
        if not isinstance(x, np.ndarray) or x.dtype != np.float64 or x.ndim != 2:
            raise BadInput(
                "x must be float64 [rows, k]", model=model, input="x", expected="float64 [rows, k]"
            )
        return Request(self.models.index(model), (x.copy() if copy else x,), len(x), x.shape[1:])

    def everyone(self, feeds: Feeds) -> list[tuple[str, Feeds]]:
        return [(model, feeds) for model in self.models]

    def prepare(self, requests: Sequence[Request], *, must: bool = False) -> bool:
        return must or requests[0].model not in self.unopened

    def is_open(self, model: int) -> bool:
        return model not in self.unopened

    def alone(self, requests: Sequence[Request], *, wide: bool = False) -> list[Outputs]:
        assert len({request.model for request in requests}) == 1
        return self._run("alone", requests, wide)

    def merged(self, requests: Sequence[Request]) -> list[Outputs]:
        return self._run("merged", requests)

    def warm_up(self, models: Sequence[str] | None, ends: Callable[[], bool]) -> int:
        return 0

    def alike(self, pairs: object, pays: object) -> None:
        return None

    def computed_rows(self, rows: Mapping[int, int]) -> int:
        return len(self.models) * max(rows.values())

    def told(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        with self._lock:
            assert not self.running, "closed while a call runs"
            self.closes += 1

    def answer(self, model: str, x: Array) -> Array:
        """The right answer of a model to an input."""
        return x + 1000.0 * self.models.index(model) + 1e6 * self.generation

    def _run(self, kind: Kind, requests: Sequence[Request], wide: bool = False) -> list[Outputs]:
        with self._lock:
            assert not self.closes, "a call on closed files"
            self.beside_wide += bool(self.running and (wide or self._wide))
            self.wide_calls += wide
            self._wide += wide
            self.calls.append((kind, [request.model for request in requests]))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            assert len({request.form for request in requests}) == 1
            if self.hook:
                self.hook()
            if any((request.inputs[0] == BAD).any() for request in requests):
                raise RuntimeError(SENTENCE)
            return [{"y": self.answer(self.models[r.model], r.inputs[0])} for r in requests]
        finally:
            with self._lock:
                self.running -= 1
                self._wide -= wide


def serving(engine: FakeEngine, **options: object) -> Serving:
    """A session over an engine. Options are those of Limits, of Bounds, and of Serving."""
    limits = Limits(**{k: options.pop(k) for k in ("max_rows", "max_batch", "max_wait") if k in options})  # type: ignore[arg-type]
    bounds = Bounds(**{k: options.pop(k) for k in ("max_queue", "max_queue_per_model") if k in options})  # type: ignore[arg-type]
    return Serving(lambda _: engine, "", limits, bounds, **options)  # type: ignore[arg-type]


def feeds(value: float, rows: int = 1, width: int = 2) -> dict[str, Array]:
    """The inputs of a request, all of one number."""
    return {"x": np.full((rows, width), float(value))}


class Versions:
    """Opens one fake engine after the other. `fail` makes opening fail."""

    def __init__(self, engine: type[FakeEngine] = FakeEngine, **options: object) -> None:
        self.engine, self.options = engine, options
        self.engines: list[FakeEngine] = []
        self.fail = False

    def __call__(self, path: object) -> FakeEngine:
        if self.fail:
            raise FileFault("no such file")
        engine = self.engine(generation=len(self.engines), **self.options)  # type: ignore[arg-type]
        self.engines.append(engine)
        return engine


def right(engine: FakeEngine, model: str, value: float, outputs: Outputs) -> bool:
    """Return True where outputs are what the model makes of `feeds(value)`."""
    return bool((outputs["y"] == engine.answer(model, feeds(value)["x"])).all())


def behind(gate: Gate, session: Serving, requests: list[tuple[str, float]]) -> list[Future[Outputs]]:
    """Submit requests while a first call, of model a, is held at the gate; return the futures of the others."""
    session.submit("a", feeds(0))
    gate.wait_for_a_call()
    return [session.submit(model, feeds(value)) for model, value in requests]
