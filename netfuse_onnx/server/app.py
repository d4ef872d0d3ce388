"""A server from start to end: binds, serves HTTP and gRPC in one event loop, drains, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.errors import Closed
from netfuse_onnx.server import grpc_server
from netfuse_onnx.server.core import Core
from netfuse_onnx.server.http_app import HttpApp
from netfuse_onnx.server.http_connection import Connection, keep_alive, watch
from netfuse_onnx.server.options import Options
from netfuse_onnx.server.repository import Repository
from netfuse_onnx.server.session import Session

BACKLOG = 2048
"""Connections that may wait to be accepted."""
LAST_WORDS = 0.2
"""Seconds for which requests are still refused, rather than connections, once all others are answered."""


class App:
    """A server of one session, in the event loop in which it is made. The session stays its maker's.

    `await start()` binds and serves; `http` and `grpc` then have the addresses, '' for what is switched off.
    `await stop()` refuses new requests, answers those that were accepted, and closes all connections.
    """

    def __init__(self, session: Session, options: Options | None = None) -> None:
        self.core = Core(session, options or Options())
        self.repository = Repository(self.core)
        self.http = self.grpc = ""
        self._tasks: list[asyncio.Task[Any]] = []
        self._server: _Uvicorn | None = None
        self._grpc: Any = None

    async def start(self) -> None:
        """Bind the addresses and serve. Raises UsageFault for one that can't be bound."""
        options = self.core.options
        if not (options.http or options.grpc):
            raise UsageFault("Neither HTTP nor gRPC is to be served.", "Leave one of them on.")
        if options.http:
            listener = bound(options.http)
            keep_alive(listener)
            self.http = _written(listener)
            self._server = _Uvicorn(self._config())
            self._tasks.append(asyncio.create_task(self._server.serve([listener])))
            while not self._server.started:
                await asyncio.sleep(0.005)
            self._tasks.append(asyncio.create_task(watch(self._server.server_state.connections)))
        if options.grpc:
            parted(options.grpc)
            self._grpc, self.grpc = await grpc_server.started(self.core, self.repository)

    def _config(self) -> uvicorn.Config:
        options = self.core.options
        bounded = type("BoundedConnection", (Connection,), {"options": options})
        return uvicorn.Config(
            HttpApp(self.core, self.repository), http=bounded, ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, timeout_keep_alive=int(options.idle), backlog=BACKLOG,
            log_level="error", timeout_graceful_shutdown=1,
        )  # fmt: skip

    async def stop(self, drain: float | None = None) -> bool:
        """Refuse new requests, answer the accepted ones for at most `drain` seconds (by default those of the
        options), and close. Return True where all were answered."""
        core = self.core
        core.is_ready = False
        loop = asyncio.get_running_loop()
        until = loop.time() + (core.options.drain if drain is None else drain)
        while core.inside and loop.time() < until:
            await asyncio.sleep(0.01)
        is_drained = not core.inside
        await asyncio.sleep(LAST_WORDS if is_drained else 0)
        if self._grpc is not None:
            await self._grpc.stop(LAST_WORDS if is_drained else 0)
        if self._server is not None:
            if not is_drained:
                await self._cut(self._server)
            self._server.should_exit = True
            self._server.force_exit = not is_drained
            await self._tasks[0]
        for task in self._tasks[1:]:
            task.cancel()
        return is_drained

    async def _cut(self, server: _Uvicorn) -> None:
        """Tell those who still wait that they get no answer."""
        error = Closed("The server ended before the request was answered.", "Ask another replica.")
        for one in list(server.server_state.connections):
            if isinstance(one, Connection):
                one.cut(error)
        await asyncio.sleep(LAST_WORDS)


class _Uvicorn(uvicorn.Server):
    """A server of uvicorn that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def bound(address: str) -> socket.socket:
    """Return a socket that listens on HOST:PORT. Raises UsageFault."""
    host, port = parted(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UsageFault(
            f"The address {address} can't be listened on: {error.strerror or error}.",
            "Choose another port, or port 0 for any that is free.",
        ) from error
    return listener


def parted(address: str) -> tuple[str, int]:
    """Return the host and port of HOST:PORT. Raises UsageFault."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageFault(f"{address!r} is no address.", "Write it as HOST:PORT, 127.0.0.1:8000.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(address: str) -> bool:
    """Return True for an address that only programs on this machine reach."""
    host, _ = parted(address)
    return host in ("localhost", "::1") or host.startswith("127.")


def _written(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
