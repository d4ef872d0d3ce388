"""Connections of HTTP clients, with bounds that uvicorn has not: on their number, and on slow clients.

A connection is closed that has not sent the headers of a request in time, or sends too many; that does not
finish a body; or does not take its answer. Where too many are open, the one goes that has been idle longest.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.server.http_infer import EXTENSION, SlowClient
from netfuse_onnx.server.options import Options

MOST_HEADERS = 64 << 10
"""Bytes of the headers of one request."""
MOST_PIPELINED = 32
"""Requests that a client may send before it has the answer to an earlier one."""
EVERY = 0.5
"""Seconds between two looks at all connections."""
BUSY = b'{"error":"The server has as many connections as it takes. Try again later."}'
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(BUSY), BUSY)
)
LATE = "The client took too long to send its request."
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""Options of sockets by which the system finds out that the other end is gone."""


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    options: Options
    """Set for the subclass that a server makes for itself."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.task: asyncio.Task[Any] | None = None
        """The task of the inference request that is being answered."""
        self.refusal: ServingError | None = None
        """The error of the request that is cut off."""
        self._running: Any = None
        """The cycle that is being answered; `cycle` is the one that was read last."""
        self.is_lost = False
        self._was_taken = False
        self.idle_since = self._waits_since = self.loop.time()
        self._waits = True
        """The headers of a request are to come, or are coming."""
        self._head = 0
        self._stuck_since = 0.0
        """The time since which the client does not take what is written; 0: it does."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there is room for it."""
        if len(self.connections) >= self.options.connections and not self._made_room():
            transport.write(FULL)
            transport.close()
            return
        self._was_taken = True
        super().connection_made(transport)

    def _made_room(self) -> bool:
        """Close the connection that has been idle for longest; False where all are busy."""
        idle = [one for one in self.connections if isinstance(one, Connection) and one.is_idle]
        if not idle:
            return False
        victim = min(idle, key=lambda one: one.idle_since)
        victim.transport.abort()
        self.connections.discard(victim)
        return True

    @property
    def is_idle(self) -> bool:
        """True where no request of the connection is being answered."""
        cycle: Any = self.cycle  # None before the first request
        return cycle is None or (cycle.response_complete and not self.pipeline)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request that nobody waits for any more."""
        if not self._was_taken:
            return
        self.is_lost = True
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came, up to a number of bytes of headers."""
        super().data_received(data)
        if self._waits:
            self._head += len(data)
            if self._head > MOST_HEADERS and not self.transport.is_closing():
                self.send_400_response("The headers of the request are too long.")

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Note which request is being answered."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, where anybody still listens."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Note that headers are coming. End a connection on which too many requests wait for their turn."""
        if len(self.pipeline) >= MOST_PIPELINED:
            self.transport.abort()
            raise ConnectionAbortedError  # the parser stops, too
        super().on_message_begin()
        if not self._waits:
            self._waits, self._waits_since, self._head = True, self.loop.time(), 0
        self.scope["extensions"] = cast(Any, {EXTENSION: self})

    def on_headers_complete(self) -> None:
        """Note that a request has begun."""
        self._waits = False
        super().on_headers_complete()
        self._waits_since = self.loop.time()

    def on_response_complete(self) -> None:
        """Note that the connection is idle again. Where requests wait for their turn, no others are read."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        self.idle_since = self.loop.time()

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._stuck_since = self.loop.time()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        self._stuck_since = 0.0

    def look(self, now: float) -> None:
        """End what takes too long."""
        if self.transport.is_closing():
            self._stuck_since = self._stuck_since or now
        if self._stuck_since and now - self._stuck_since > self.options.body:
            self.transport.abort()
        elif self._waits and now - self._waits_since > self.options.headers:
            self.transport.close()
        elif self._reads_body and now - self._waits_since > self.options.body:
            self._expire()

    @property
    def _reads_body(self) -> bool:
        return not self._waits and self.cycle.more_body and not self.cycle.response_complete

    def _expire(self) -> None:
        if self.refusal is not None or not self.cut(SlowClient(LATE)):
            self.transport.abort()

    def cut(self, error: ServingError) -> bool:
        """End the inference request that is being answered, with an error; False where there is none."""
        if self.task is None:
            return False
        self.refusal = error
        return self.task.cancel()


async def watch(connections: set[Any]) -> None:
    """Look at all connections from time to time, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(EVERY)
        for one in list(connections):
            if isinstance(one, Connection):
                one.look(loop.time())


def keep_alive(listener: socket.socket) -> None:
    """Let the system find out when clients are gone. Sockets that are accepted inherit it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
