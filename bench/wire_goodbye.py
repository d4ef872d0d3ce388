"""Clients that go away before their answer comes: their requests are cancelled, and nothing of them stays."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from bench import wire, wire_mixed
from bench.mixed import Mixed
from bench.wire import Server
from bench.wire_open import Slow
from netfuse_onnx.runtime.errors import Closed

ENDED = 'netfuse_requests_total{end="%s"}'
DEPTH = "netfuse_queue_depth"


@dataclass
class Gone:
    """Count how requests ended whose clients went away."""

    sent: int = 0
    cancelled: int = 0
    answered: int = 0
    emptied: float = 0.0
    """Seconds until nothing waited any more."""
    faults: list[str] = field(default_factory=list)


def _request(slow: Slow, rng: random.Random) -> tuple[str, Any, Any]:
    model = rng.choice([*slow.pool])
    x, want = rng.choice(slow.pool[model])
    return model, x, want


def disconnects(server: Server, slow: Slow, count: int) -> Gone:
    """Send requests over HTTP, each on its own connection, and close these while most requests wait."""
    rng = random.Random(3)

    def go() -> None:
        held = []
        for _ in range(count):
            model, x, _ = _request(slow, rng)
            one = socket.create_connection(wire_mixed.address(server.http), timeout=wire.PATIENCE)
            one.sendall(wire_mixed.raw_post(model, {"x": x}))
            held.append(one)
        _wait(lambda: server.counted(DEPTH) > 0)
        for one in held:
            one.close()

    gone = _gone(server, count, go)
    if gone.cancelled < count // 2:
        gone.faults.append(f"of {count} requests, {gone.cancelled} were cancelled")
    return gone


def deadlines(server: Server, slow: Slow, count: int, seconds: float = 0.1) -> Gone:
    """Send requests over gRPC whose deadlines pass while most of them wait, or before they are sent."""
    rng, ends = random.Random(4), list[str]()

    def go() -> None:
        with grpcclient.InferenceServerClient(server.grpc) as client:
            came = threading.Semaphore(0)

            def told(result: Any, error: Any) -> None:
                ends.append("" if error is None else str(error.status()))
                came.release()

            for _ in range(count):
                model, x, _ = _request(slow, rng)
                client.async_infer(model, wire.inputs_of(grpcclient, {"x": x}), told, client_timeout=seconds)
            for _ in range(count):
                came.acquire(timeout=wire.PATIENCE)

    gone = _gone(server, count, go)
    late = sum("DEADLINE_EXCEEDED" in one for one in ends)
    if late + ends.count("") != count or not late:
        gone.faults.append(f"of {count} requests, {late} were late and {ends.count('')} answered")
    return gone


def _gone(server: Server, count: int, go: Callable[[], None]) -> Gone:
    """Compare the session's counters before and after."""
    before = server.metrics()
    go()
    began = time.monotonic()
    gone = Gone(sent=count)
    _wait(lambda: server.counted(DEPTH) == 0)
    gone.emptied = time.monotonic() - began

    def ended(name: str) -> int:
        key = ENDED % name
        return int(server.metrics().get(key, 0) - before.get(key, 0))

    with suppress(TimeoutError):
        _wait(lambda: ended("cancelled") + ended("answered") >= count, 10)
    gone.cancelled, gone.answered = ended("cancelled"), ended("answered")
    if gone.cancelled + gone.answered > count or not gone.cancelled:
        gone.faults.append(f"of {count} requests, {gone.cancelled} were cancelled")
    return gone


def _wait(ready: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


@dataclass
class Steady:
    """The memory in MiB, open files and threads of a server, before and after many requests."""

    before: tuple[float, int, int] = (0.0, 0, 0)
    after: tuple[float, int, int] = (0.0, 0, 0)
    faults: list[str] = field(default_factory=list)


GROWTH = 8.0
"""MiB by which memory may grow."""


def steady(server: Server, load: Mixed, count: int, warm: int) -> Steady:
    """Send mixed requests, of which a part is given up, and compare what the server holds."""
    found = Steady()
    found.faults += wire_mixed.load(server, load, warm).faults
    found.before = _held(server)
    found.faults += wire_mixed.load(server, load, count).faults
    _wait(lambda: _held(server)[1] <= found.before[1] + 2, 10)
    found.after = _held(server)
    if found.after[0] > found.before[0] + GROWTH:
        found.faults.append(f"memory grew from {found.before[0]:.1f} to {found.after[0]:.1f} MiB")
    if found.after[2] > found.before[2] + 2:
        found.faults.append(f"threads grew from {found.before[2]} to {found.after[2]}")
    if server.counted(DEPTH):
        found.faults.append("requests wait that nobody sent")
    return found


def _held(server: Server) -> tuple[float, int, int]:
    time.sleep(0.5)  # until connections that were closed are gone
    return server.resident, server.files, server.threads


@dataclass
class Drained:
    """The ends of requests that waited when the server was told to end. It had counted `accepted` by then."""

    code: int | None = None
    accepted: int = 0
    answered: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def drained(server: Server, slow: Slow, count: int) -> Drained:
    """Send many requests at once, then SIGTERM while most wait: what was accepted is answered, right."""
    rng, found, before = random.Random(6), Drained(), server.metrics()[ENDED % "answered"]
    ends: list[tuple[Any, Any, Any]] = []
    came = threading.Semaphore(0)
    with grpcclient.InferenceServerClient(server.grpc) as client:
        for _ in range(count):
            model, x, want = _request(slow, rng)

            def told(result: Any, error: InferenceServerException | None, want: Any = want) -> None:
                ends.append((result, error, want))
                came.release()

            given = wire.inputs_of(grpcclient, {"x": x})
            client.async_infer(model, given, told, client_timeout=wire.PATIENCE)
        _wait(lambda: server.counted(DEPTH) > count // 4)
        metrics = server.metrics()
        found.accepted = int(metrics[ENDED % "answered"] - before + metrics[DEPTH])
        server.process.send_signal(signal.SIGTERM)
        for _ in range(count):
            came.acquire(timeout=wire.PATIENCE)
    found.code = server.process.wait(wire.PATIENCE)
    for result, error, want in ends:
        if error is not None and isinstance(wire.error_of(error), Closed):
            found.refused += 1
        elif error is not None:
            found.faults.append(str(error))
        elif np.allclose(result.as_numpy("y"), want, rtol=1e-3, atol=1e-3):
            found.answered += 1
        else:
            found.faults.append("a wrong answer")
    if found.answered < found.accepted:
        found.faults.append(f"{found.accepted} requests were accepted, and {found.answered} answered")
    return found
