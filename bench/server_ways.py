"""Ways to serve a family behind the server of `netfuse-onnx serve`, for `server_load.py`: a merged session,
the models' own sessions one by one, and their batches, model by model. The code of the server is the same."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench import rivals
from bench.children import Tasks
from bench.served import Served
from bench.server_client import GRPC, HTTP
from netfuse_onnx import MergedSession
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.errors import QueueFull
from netfuse_onnx.runtime.signature import Signature

MERGED, OWN, PER_MODEL = "merged", "own", "batches"
WAYS = (MERGED, OWN, PER_MODEL)
"""The merged session; a session per model, each request by itself; and batches of each model's requests."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A way, and of a rival the number of workers and the threads of each call."""

    way: str
    workers: int = 0
    threads: int = 0

    def __str__(self) -> str:
        return f"workers {self.workers}, threads {self.threads}" if self.workers else "as it chooses"


class Behind:
    """One of `rivals`, as a session for the server."""

    is_closed = False

    def __init__(self, served: Served, setting: Setting) -> None:
        with MergedSession(served.bundle, calibrate=0) as session:
            self._signatures = {model: session.signature(model) for model in session.models}
        kind = rivals.OneByOne if setting.way == OWN else rivals.PerModel
        self._rival = kind(served.sources, setting.workers, setting.threads)
        self._places = {model: place for place, model in enumerate(served.models)}
        self.models = served.models

    def signature(self, model: str) -> Signature:
        return self._signatures[model]

    def submit(
        self, model: str, feeds: Mapping[str, Any], *, timeout: float | None = None
    ) -> Future[dict[str, Any]]:
        try:
            return self._rival.submit(self._places[model], feeds)
        except rivals.Full:
            raise QueueFull("Too many requests wait.", model=model) from None

    def prepare(self, path: str | os.PathLike[str]) -> Any:
        raise UsageFault("A rival loads nothing.")

    def prometheus(self) -> str:
        return ""

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        self._rival.close()


def _session(served: Served, setting: Setting) -> Any:
    if setting.way != MERGED:
        return Behind(served, setting)
    queue = rivals.MAX_QUEUE
    session = MergedSession(served.bundle, max_queue=queue, max_queue_per_model=queue)
    session.warm_up()  # as the rivals, which open all sessions at once
    return session


@contextmanager
def server(served: Served, setting: Setting) -> Iterator[Tasks]:
    """Serve in this process, in a thread with an event loop, as `netfuse-onnx serve` does in its main one."""
    session = _session(served, setting)
    loop, ports = _loop(), dict[str, int]()
    ready, ended = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_serve(session, ports, ready, ended)))
    thread.start()
    try:
        if not ready.wait(60.0):
            raise SystemExit("The server did not start.")
        stats: Callable[[], Any] = getattr(session, "stats", dict)
        yield {"ports": lambda: ports, "pid": os.getpid, "stats": stats}
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30.0)
        session.close(drain=False)


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(session: Any, ports: dict[str, int], ready: threading.Event, ended: asyncio.Event) -> None:
    from netfuse_onnx.server.app import App
    from netfuse_onnx.server.options import Options

    app = App(session, Options(http="127.0.0.1:0", grpc="127.0.0.1:0"))
    await app.start()
    for protocol, address in ((HTTP, app.http), (GRPC, app.grpc)):
        if address:
            ports[protocol] = int(address.rpartition(":")[2])
    ready.set()
    await ended.wait()
    await app.stop(drain=0.0)


def processor_seconds(pid: int) -> float:
    """Return the seconds of the processor that another process has taken, by its clock (Linux)."""
    return time.clock_gettime((~pid << 3) | 2)
