"""Mixed requests of which some are poisoned, and the one right outcome of each.

The family is small and sums rows of a table by index, so that an index out of range fails a whole call. Every
request has inputs of its own, so that an answer that belongs to another request shows; so does one of another
model or generation, whose weights differ.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from netfuse_onnx.runtime.errors import BadInput, CallFailed, ServingError, Timeout, TooLarge, UnknownModel

Array = np.ndarray[Any, Any]

TEXT = """<ir_version: 9, opset_import: ["": 17]>
g (int64[batch, 3] ids, float[batch, 8] x) => (float[batch, 4] y, float[batch, 8] seen) {
    rows = Gather(table, ids)
    one = Constant<value_ints = [1]>()
    sum = ReduceSum<keepdims = 0>(rows, one)
    seen = Add(sum, x)
    h = MatMul(seen, w1)
    r = Tanh(h)
    y = MatMul(r, w2)
}"""
WEIGHTS = {"table": (50, 8), "w1": (8, 16), "w2": (16, 4)}
RTOL, ATOL = 1e-4, 1e-5
POOL = 64
"""Requests that are drawn for each model, with their answers."""
MOST_ROWS = 4
"""Most rows of a request."""
PATIENCE = 60.0
"""Seconds after which a request without an answer counts as lost."""
DROPPED: tuple[type[BaseException], ...] = (CancelledError, Timeout)

POISONS: Mapping[str, tuple[type[BaseException], ...]] = {
    "type": (BadInput,), "missing": (BadInput,), "unknown input": (BadInput,), "rank": (BadInput,),
    "size": (BadInput,), "rows": (BadInput,), "too large": (TooLarge,), "model": (UnknownModel,),
    "index": (CallFailed,), "NaN": (), "cancelled": DROPPED, "late": DROPPED,
}  # fmt: skip
"""The kinds of poison, and the errors in which they end; without any, in an answer. Requests that are dropped
may have been answered before."""
RUN_AT_ONCE = tuple(poison for poison in POISONS if POISONS[poison] is not DROPPED)
"""The kinds of poison that a list of `run_many` may have: its requests can't be dropped one by one."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `answers` are those that each generation gives, or nothing where an error is due."""

    model: str
    feeds: Mapping[str, Any]
    poison: str
    answers: tuple[tuple[Array, ...], ...]

    @property
    def timeout(self) -> float | None:
        """Return the seconds in which the request must start."""
        return 0.0 if self.poison == "late" else None


def family(folder: Path, count: int, generation: int = 0) -> list[str]:
    """Write the models of one generation, m0.onnx and so on. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"m{number}.onnx" for number in range(count)]
    for number, path in enumerate(paths):
        model = onnx.parser.parse_model(TEXT)
        rng = np.random.default_rng([generation, number])
        for name, shape in WEIGHTS.items():
            values = rng.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        path.write_bytes(model.SerializeToString())
    return [str(path) for path in paths]


class Mixed:
    """Draws requests and judges outcomes. `generations` has the sources of each, which serve under the names
    m0, m1 and so on. May be shared by threads, each with a random.Random of its own."""

    def __init__(self, generations: Sequence[Sequence[str]], poisoned: float = 0.05, seed: int = 0) -> None:
        self.poisoned = poisoned
        self.outcomes = Counter[str]()
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._pools = [
            _pool(model, sources, seed) for model, sources in enumerate(zip(*generations, strict=True))
        ]

    def draw(self, rng: random.Random, poisons: Sequence[str] = tuple(POISONS)) -> Ask:
        """Draw a request, poisoned with the probability of the mix."""
        ask = self.innocent(rng)
        return spoilt(ask, rng.choice(poisons), rng) if rng.random() < self.poisoned else ask

    def innocent(self, rng: random.Random) -> Ask:
        """Draw a request that is answered."""
        return rng.choice(rng.choice(self._pools))

    def one_of_each(self, rng: random.Random) -> list[Ask]:
        """Draw a request for every model, all of equal rows, one of them poisoned with the probability of the
        mix: a session may take a short way for them."""
        number = rng.randrange(POOL)
        asks = [pool[number] for pool in self._pools]
        if rng.random() < self.poisoned:
            place = rng.randrange(len(asks))
            asks[place] = spoilt(asks[place], rng.choice(RUN_AT_ONCE), rng)
        return asks

    def judge(self, ask: Ask, outcome: Any) -> int | None:
        """Count an outcome: outputs or an error. Returns the generation that answered, None for errors."""
        wrong, generation = _judged(ask, outcome)
        with self._lock:
            self.outcomes["wrong" if wrong else ask.poison or "innocent"] += 1
            if wrong:
                self.faults.append(f"{ask.poison or 'innocent'} request for {ask.model}: {wrong}")
        return generation


def _judged(ask: Ask, outcome: Any) -> tuple[str, int | None]:
    due = POISONS[ask.poison] if ask.poison else ()
    if isinstance(outcome, BaseException):
        return ("" if isinstance(outcome, due) else f"{type(outcome).__name__}: {outcome}"), None
    if due and due is not DROPPED:
        return f"it was answered, {due[0].__name__} was due", None
    got = (outcome["y"], outcome["seen"])
    for generation, want in enumerate(ask.answers):
        if all(_equal(g, w) for g, w in zip(got, want, strict=True)):
            return "", generation
    return "wrong values", None


def _equal(got: Array, want: Array) -> bool:
    return got.shape == want.shape and np.allclose(got, want, RTOL, ATOL, equal_nan=True)


def _pool(model: int, sources: Sequence[str], seed: int) -> list[Ask]:
    rng, asks = np.random.default_rng([seed, model]), []
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in sources]
    for number in range(POOL):
        rows = 1 + number % MOST_ROWS
        x = rng.standard_normal((rows, 8)).astype(np.float32)
        feeds = {"ids": rng.integers(0, 50, (rows, 3)), "x": x}
        answers = tuple(tuple(own.run(["y", "seen"], feeds)) for own in sessions)
        asks.append(Ask(f"m{model}", feeds, "", answers))
    return asks


def spoilt(ask: Ask, poison: str, rng: random.Random) -> Ask:
    """Return a request with one thing wrong in it."""
    ids, x = ask.feeds["ids"], ask.feeds["x"]
    bad, nan = ids.copy(), x.copy()
    bad[-1, rng.randrange(3)] = rng.choice([50, -51, 2**40])
    nan[0, rng.randrange(8)] = np.nan
    feeds: dict[str, Mapping[str, Any]] = {
        "type": {"ids": ids, "x": np.full(x.shape, "poison")},
        "missing": {"ids": ids},
        "unknown input": {**ask.feeds, "z": x},
        "rank": {"ids": ids, "x": x[0]},
        "size": {"ids": ids, "x": x[:, :7]},
        "rows": {"ids": ids, "x": np.concatenate([x, x[:1]])},
        "too large": {"ids": np.zeros((5000, 3), np.int64), "x": np.zeros((5000, 8), np.float32)},
        "index": {"ids": bad, "x": x},
        "NaN": {"ids": ids, "x": nan},
    }
    given = feeds.get(poison, ask.feeds)
    answers = _with_nan(ask, nan) if poison == "NaN" else ask.answers
    return Ask("nobody" if poison == "model" else ask.model, given, poison, answers)


def _with_nan(ask: Ask, x: Array) -> tuple[tuple[Array, ...], ...]:
    """Return the answers where the first row of x has a NaN: `y` of that row is NaN, and so is its place in
    `seen`; other rows are as they were."""
    changed = []
    for y, seen in ask.answers:
        y, seen = y.copy(), seen.copy()
        y[0] = np.nan
        seen[np.isnan(x)] = np.nan
        changed.append((y, seen))
    return tuple(changed)


# ----------------------------------------------------------------------------- clients of a session


def by_run(session: Any, mixed: Mixed, count: int, seed: int) -> None:
    """Send requests one after the other by `run`."""
    rng = random.Random(seed)
    poisons = [poison for poison in POISONS if poison != "cancelled"]
    for _ in range(count):
        ask = mixed.draw(rng, poisons)
        try:
            outcome: Any = session.run(ask.model, ask.feeds, timeout=ask.timeout)
        except ServingError as error:
            outcome = error
        mixed.judge(ask, outcome)


def by_submit(session: Any, mixed: Mixed, count: int, seed: int, burst: int = 32) -> None:
    """Send bursts of requests by `submit`."""
    rng = random.Random(seed)
    for _ in range(0, count, burst):
        for ask, outcome in answered(session, [mixed.draw(rng) for _ in range(burst)]):
            mixed.judge(ask, outcome)


def answered(session: Any, asks: Sequence[Ask]) -> list[tuple[Ask, Any]]:
    """Submit requests together, and return each with its outcome."""
    sent = [_sent(session, ask) for ask in asks]
    return [(ask, future if isinstance(future, ServingError) else _outcome(future)) for ask, future in sent]


def _sent(session: Any, ask: Ask) -> tuple[Ask, Future[Any] | ServingError]:
    try:
        future = session.submit(ask.model, ask.feeds, timeout=ask.timeout)
    except ServingError as error:
        return ask, error
    if ask.poison == "cancelled":
        future.cancel()
    return ask, future


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result(timeout=PATIENCE)
    except (ServingError, CancelledError) as error:
        return error


def by_asyncio(session: Any, mixed: Mixed, count: int, seed: int, burst: int = 32) -> None:
    """Send bursts of requests by `arun`, in an event loop."""
    rng = random.Random(seed)

    async def one(ask: Ask) -> None:
        task = asyncio.ensure_future(session.arun(ask.model, ask.feeds, timeout=ask.timeout))
        if ask.poison == "cancelled":
            await asyncio.sleep(0)
            task.cancel()
        try:
            outcome: Any = await asyncio.wait_for(task, PATIENCE)
        except (ServingError, asyncio.CancelledError) as error:
            outcome = error if isinstance(error, ServingError) else CancelledError()
        mixed.judge(ask, outcome)

    async def all_bursts() -> None:
        for _ in range(0, count, burst):
            await asyncio.gather(*(one(mixed.draw(rng)) for _ in range(burst)))

    asyncio.run(all_bursts())


def by_run_many(session: Any, mixed: Mixed, count: int, seed: int, burst: int = 32) -> None:
    """Send lists of requests by `run_many`: any, and one for each model."""
    rng = random.Random(seed)
    sent = 0
    while sent < count:
        any_models = [mixed.draw(rng, RUN_AT_ONCE) for _ in range(burst)]
        asks = rng.choice([any_models, mixed.one_of_each(rng)])
        sent += len(asks)
        every = session.run_many([(ask.model, ask.feeds) for ask in asks], return_errors=True)
        generations = {mixed.judge(ask, outcome) for ask, outcome in zip(asks, every, strict=True)} - {None}
        if len(generations) > 1:
            mixed.faults.append("one list was answered by two generations")


CLIENTS: Mapping[str, Callable[..., None]] = {
    "run": by_run, "submit": by_submit, "asyncio": by_asyncio, "run_many": by_run_many,
}  # fmt: skip


def send(session: Any, mixed: Mixed, clients: Sequence[str], count: int, seed: int = 0) -> None:
    """Send `count` requests in all from clients in threads of their own, and wait for their ends. What a
    client raises, and one that does not end, are faults."""

    def client(name: str, place: int) -> None:
        try:
            CLIENTS[name](session, mixed, -(-count // len(clients)), seed + place)
        except BaseException as error:
            mixed.faults.append(f"client {name}: {type(error).__name__}: {error}")

    threads = [
        threading.Thread(target=client, args=(name, place), daemon=True) for place, name in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for name, thread in zip(clients, threads, strict=True):
        thread.join(timeout=2 * PATIENCE)
        if thread.is_alive():
            mixed.faults.append(f"client {name} does not end")
