"""Answers inference requests over HTTP: reads the body within bounds, and writes the answer.

This is plain ASGI, without Starlette around it, because small models are asked thousands of times a second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from netfuse_onnx.errors import NetfuseError, UsageFault
from netfuse_onnx.runtime.errors import BadInput, ServingError, TooLarge
from netfuse_onnx.server import http_codec
from netfuse_onnx.server.core import UNPACKED, Core
from netfuse_onnx.server.endpoints import Endpoint, seconds_of

LOG = logging.getLogger(__name__)
Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")
CLOSE = (b"connection", b"close")
HERE = 256 << 10
"""Bytes of JSON or strings that are read in the event loop; more are read in a thread beside it."""
MOST_INFLATED = 1032
"""The most bytes that one byte of deflate can stand for."""
LINGER = 2.0
"""Seconds for which the body of a refused request is read and thrown away, so that its client, who is still
writing, comes to read the answer."""
GONE = 499
"""The status that is counted for requests whose client went away."""
EXTENSION = "netfuse.connection"
"""The name of our connection in the scope, where the server is ours."""


class SlowClient(ServingError):
    """The client did not send the rest of its request in time."""

    kind = "slow_client"
    http = 408
    grpc = "DEADLINE_EXCEEDED"


class Body:
    """The body of one request while it is read: the bytes that the server holds for it are counted."""

    def __init__(self, core: Core, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._core = core
        self.length: int | None = None
        self.json: int | None = None
        self.encoding = b""
        self.held = 0
        self.is_read = False
        for name, value in headers:
            if name == b"content-length":
                self.length = _number(name, value)
            elif name == http_codec.JSON_SIZE:
                self.json = _number(name, value)
            elif name == b"content-encoding":
                self.encoding = value.lower()

    def hold(self, size: int) -> None:
        """Count bytes that are held from now on. Raises TooLarge and QueueFull."""
        most = self._core.options.max_bytes
        if self.held + size > most:
            raise too_large(self.held + size, most)
        self._core.hold(size)
        self.held += size

    def unpack(self, size: int) -> None:
        """Count the objects that so many bytes of JSON or strings become. Raises QueueFull."""
        self._core.hold(size * UNPACKED)
        self.held += size * UNPACKED

    async def read(self, receive: Receive) -> bytes:
        """Return the whole body. Raises TooLarge before more than its bound is in memory."""
        most = self._core.options.max_bytes
        if self.length and self.length > most:
            raise too_large(self.length, most)
        message = await receive()
        if not message.get("more_body", False):
            first: bytes = message.get("body", b"")
            self.is_read = True
            self.hold(len(first))
            return await self._inflated(first) if self.encoding else first
        parts = []
        while message["type"] == "http.request":
            self.hold(len(message["body"]))  # what came, not what is promised, which costs clients nothing
            parts.append(message["body"])
            if not message.get("more_body", False):
                self.is_read = True
                whole = b"".join(parts)
                del parts
                return await self._inflated(whole) if self.encoding else whole
            message = await receive()
        raise asyncio.CancelledError  # the client is gone

    async def _inflated(self, body: bytes) -> bytes:
        if self.encoding == b"identity":
            return body
        if self.encoding not in (b"gzip", b"deflate"):
            said = f"The encoding {self.encoding.decode('latin-1')[:20]!r} of the body is not known."
            raise BadInput(said, "Send it as it is, or with gzip or deflate.")
        most = self._core.options.max_bytes
        self.hold(min(most - self.held, len(body) * MOST_INFLATED))  # as much as it may become
        whole = await asyncio.to_thread(inflated, body, most)
        self.release()
        self.hold(len(whole))
        return whole

    def release(self) -> None:
        """Count the bytes as free again."""
        self._core.held -= self.held
        self.held = 0


def _number(name: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadInput(f"The header {name.decode()} is no number of bytes.")
    return int(value)


def too_large(size: int, most: int) -> TooLarge:
    """Return the error of a body with too many bytes."""
    return TooLarge(
        f"The request has {size} bytes or more; one request may have {most}.",
        "Split it, or start the server with a larger --max-bytes.", expected=f"at most {most} bytes",
    )  # fmt: skip


def inflated(body: bytes, most: int) -> bytes:
    """Return what a body was before gzip or deflate made it smaller. Raises TooLarge, BadInput."""
    engine = zlib.decompressobj(32 + zlib.MAX_WBITS)
    try:
        whole = engine.decompress(body, most + 1)
    except zlib.error as error:
        raise BadInput(f"The body can't be inflated: {error}.") from None
    if len(whole) > most:
        raise too_large(len(whole), most)
    if not engine.eof or engine.unused_data:
        raise BadInput("The body can't be inflated: it ends too early or goes on after its end.")
    return whole


async def infer(core: Core, scope: Scope, receive: Receive, send: Send, name: str, version: str) -> None:
    """Answer one inference request."""
    began = time.perf_counter_ns()
    connection = scope.get("extensions", {}).get(EXTENSION)
    if connection is not None:
        connection.task = asyncio.current_task()
    status, rows, body = 200, 0, None
    try:
        with core.entered():
            body = Body(core, scope["headers"])
            raw = await body.read(receive)
            endpoint, asked = await _decoded(core, name, version, raw, body)
            outputs = await endpoint.answer(asked.feeds, asked.parameters, seconds_of(asked.parameters))
            rows = http_codec.rows_of(asked.feeds)
            if sum(value.size for _, value in outputs) > HERE // 8 and not http_codec.is_binary(asked):
                answer, size = await asyncio.to_thread(http_codec.encode, endpoint, asked, outputs)
            else:
                answer, size = http_codec.encode(endpoint, asked, outputs)
            await send_answer(send, 200, answer, size)
    except asyncio.CancelledError:
        status = await _broken(connection, send)
    except Exception as error:
        status, rows = status_of(error), 0
        if body is not None:
            body.release()
        try:
            await refuse(core, error, receive, send, body)
        except asyncio.CancelledError:
            await _broken(connection, send)
    finally:
        if connection is not None:
            connection.task = None
        if body is not None:
            body.release()
        known = name if name in core.catalog.endpoints else ""
        core.counted.ended("http", str(status), known, rows, began)


async def _decoded(
    core: Core, name: str, version: str, raw: bytes, body: Body
) -> tuple[Endpoint, http_codec.Asked]:
    """Return a request and its endpoint, which is of the generation that serves now."""
    size = len(raw) if body.json is None else body.json
    if size > core.options.max_json:
        raise TooLarge(
            f"The request has {size} bytes of JSON; one request may have {core.options.max_json}.",
            "Send its tensors in binary form.",
        )
    while True:
        catalog = core.catalog
        endpoint = catalog.find(name, version)
        if size > HERE or (len(raw) > HERE and http_codec.has_text(endpoint)):
            body.unpack(len(raw) if http_codec.has_text(endpoint) else size)
            asked = await asyncio.to_thread(http_codec.decode, endpoint, raw, body.json)
        else:
            asked = http_codec.decode(endpoint, raw, body.json)
        if catalog is core.catalog:
            return endpoint, asked


async def _broken(connection: Any, send: Send) -> int:
    """Say why the task was cancelled; where its client is gone, nobody hears it."""
    if connection is None or not (connection.refusal or connection.is_lost):
        raise asyncio.CancelledError
    if connection.is_lost:
        return GONE
    error: ServingError = connection.refusal
    with suppress(Exception):
        await send_answer(send, error.http, told(error), None, CLOSE)
    return error.http


async def send_answer(
    send: Send, status: int, body: bytes, json_size: int | None, *more: tuple[bytes, bytes]
) -> None:
    """Send an answer; `json_size` is that of the JSON before binary tensors, None where there are none."""
    headers = [(b"content-length", str(len(body)).encode()), *more]
    if json_size is None:
        headers.append(JSON)
    else:
        headers += [BINARY, (http_codec.JSON_SIZE, str(json_size).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, ServingError):
        return error.http
    return 400 if isinstance(error, UsageFault) else 500


def told(error: Exception) -> bytes:
    """Return the body that tells clients an error. Those that are no user's mistake are logged."""
    if isinstance(error, NetfuseError):
        return json.dumps({"error": str(error)}).encode()
    LOG.error("A request failed inside of the server.", exc_info=error)
    return json.dumps({"error": f"The server has a bug: {type(error).__name__}."}).encode()


async def refuse(core: Core, error: Exception, receive: Receive, send: Send, body: Body | None) -> None:
    """Answer with an error. Where the client is still sending, what comes is thrown away for a while."""
    answer = told(error)
    if body is None or body.is_read or not (body.length or body.length is None):
        await send_answer(send, status_of(error), answer, None)
        return
    headers = [(b"content-length", str(len(answer)).encode()), JSON, CLOSE]
    await send({"type": "http.response.start", "status": status_of(error), "headers": headers})
    await send({"type": "http.response.body", "body": answer, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})
