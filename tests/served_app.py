"""Runs our server inside of the test's process: in a thread, with a session that the test may hold in its hands."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.elements import Element
from netfuse_onnx.runtime.signature import Signature, Tensor
from netfuse_onnx.server.app import App
from netfuse_onnx.server.options import Options

FLOAT = Element("float32", np.dtype(np.float32))
PATIENCE = 20.0
"""Seconds after which a test has failed."""


def tensor(name: str, datatype: str = "FP32", element: Element | None = FLOAT) -> Tensor:
    return Tensor(name, datatype, (-1, 2), True, element)


@dataclass
class Asked:
    """A request that a held session was given."""

    model: str
    feeds: dict[str, Any]
    timeout: float | None
    future: Future[dict[str, Any]] = field(default_factory=Future)

    def answer(self) -> None:
        """Twice the input, as the only output."""
        self.future.set_result({"y": self.feeds["x"] * 2})


class Held:
    """A session whose requests wait until the test answers them, or are answered at once."""

    def __init__(self, *models: str, at_once: bool = False, apart: bool = True) -> None:
        self.models = models or ("a", "b")
        self.at_once, self.apart = at_once, apart
        self.asked: list[Asked] = []
        self.is_closed = False
        self.inputs = (tensor("x"),)

    def signature(self, model: str) -> Signature:
        return Signature(model, self.inputs, (tensor("y"),), batched=True, apart=self.apart)

    def submit(self, model: str, feeds: Any, *, timeout: float | None = None) -> Future[dict[str, Any]]:
        one = Asked(model, {name: np.array(value) for name, value in feeds.items()}, timeout)
        self.asked.append(one)
        if self.at_once:
            one.answer()
        return one.future

    def prepare(self, path: Any) -> Any:
        raise FileFault("There is nothing else.")

    def prometheus(self) -> str:
        return "held 1\n"

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        self.is_closed = True

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.asked) >= count)


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@dataclass
class Running:
    app: App
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://{self.app.http}"

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)


@contextmanager
def serving(session: Any, **options: Any) -> Iterator[Running]:
    """Serve a session until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    given = {"http": "127.0.0.1:0", "grpc": ""} | options

    async def start() -> App:
        app = App(session, Options(**given))
        await app.start()
        return app

    try:
        running = Running(asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE), loop)
        yield running
        running.run(running.app.stop(0))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)


def asked(values: Any, **more: Any) -> dict[str, Any]:
    """The JSON of a request with the input x."""
    array = np.asarray(values, np.float32)
    one = {"name": "x", "shape": array.shape, "datatype": "FP32", "data": array.ravel().tolist()}
    return {"inputs": [one]} | more


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """The status and body of an answer, JSON as Python's values; POST where there is a body."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, parsed(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, parsed(error.read())


def parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw


class Asking(threading.Thread):
    """A client in a thread of its own; `result` waits for what it was told."""

    def __init__(self, *given: Any) -> None:
        super().__init__(daemon=True)
        self._given = given
        self._told: Any = None
        self.start()

    def run(self) -> None:
        self._told = ask(*self._given)

    def result(self) -> tuple[int, Any]:
        self.join(PATIENCE)
        assert self._told is not None, "no answer came"
        return self._told
