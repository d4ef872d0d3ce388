"""Clients that want to harm a server: slow ones, silent ones, and bodies of sizes that it can't hold.

Each is a function of a server and an event that ends it; `size` is 1.0 for what production may meet, and less
in tests. It returns what it saw, in words and numbers: the caller judges how others fared meanwhile.
"""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench import wire_mixed
from bench.wire import ROOT, Server

Found = dict[str, Any]
Hostile = Callable[[Server, threading.Event, float], Found]
MIB, GIB = 1 << 20, 1 << 30
STEP = 0.2
"""Seconds between two bytes of a slow client."""
INFER = "/v2/models/m1/infer"
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n"
RIGHT = {"ids": np.array([[1, 2, 3]]), "x": np.ones((1, 8), np.float32)}


def _connected(server: Server, count: int, refused: Counter[str] | None = None) -> list[socket.socket]:
    found = []
    for _ in range(count):
        try:
            found.append(socket.create_connection(wire_mixed.address(server.http), timeout=5))
        except OSError as error:
            if refused is not None:
                refused[type(error).__name__] += 1
    return found


@contextmanager
def _closing(every: list[socket.socket]) -> Iterator[list[socket.socket]]:
    try:
        yield every
    finally:
        for one in every:
            one.close()


def _trickle(server: Server, over: threading.Event, count: int, start: bytes, rest: bytes) -> Found:
    """Send `rest` byte by byte on many connections, until it is over."""
    with _closing(_connected(server, count)) as every:
        for one in every:
            one.sendall(start)
        place, broken = 0, 0
        while not over.wait(STEP):
            for one in every:
                with suppress(OSError):
                    one.sendall(rest[place % len(rest) :][:1])
            place += 1
        for one in every:
            one.setblocking(False)
            with suppress(BlockingIOError):
                try:
                    broken += one.recv(1 << 16) == b""
                except ConnectionError:
                    broken += 1
    return {"connections": count, "closed by the server": broken}


def slow_headers(server: Server, over: threading.Event, size: float) -> Found:
    """Send headers that never end."""
    return _trickle(server, over, int(200 * size) + 4, (HEAD % 100).encode(), b"X-Slow: 1\r\n")


def slow_bodies(server: Server, over: threading.Event, size: float) -> Found:
    """Send bodies a byte at a time."""
    body, head = wire_mixed.raw_body(RIGHT)
    start = HEAD % len(body) + f"Inference-Header-Content-Length: {head}\r\n\r\n"
    return _trickle(server, over, int(200 * size) + 4, start.encode(), body)


def slow_readers(server: Server, over: threading.Event, size: float) -> Found:
    """Send requests on and on, and read no answer."""
    one_request, refused = wire_mixed.raw_post("m1", RIGHT), 0
    sent = Counter[int]()
    with _closing(_connected(server, int(40 * size) + 2)) as every:
        for one in every:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setblocking(False)
        while not over.wait(0.01):
            for place, one in enumerate(every):
                try:
                    sent[place] += one.send(one_request * 16)
                except BlockingIOError:
                    pass
                except OSError:
                    refused += 1
    return {"connections": len(every), "bytes sent": sum(sent.values()), "refused": refused}


def unread_streams(server: Server, over: threading.Event, size: float) -> Found:
    """Send requests on streams of gRPC on and on, and read no answer."""
    message = service_pb2.ModelInferRequest(model_name="m1")
    for name, value in RIGHT.items():
        word = wire_mixed.wire.np_to_triton_dtype(value.dtype)
        message.inputs.add(name=name, datatype=word, shape=value.shape)
        message.raw_input_contents.append(value.tobytes())
    sent = Counter[int]()

    def requests(place: int) -> Iterator[Any]:
        while not over.is_set():
            sent[place] += 1
            yield message

    calls = []
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for place in range(int(20 * size) + 2):
            calls.append(stub.ModelStreamInfer(requests(place)))
        over.wait()
        for one in calls:
            one.cancel()
    return {"streams": len(calls), "requests sent": sum(sent.values())}


def half_open(server: Server, over: threading.Event, size: float) -> Found:
    """Send a half of a request and end the own side, or stay silent."""
    request = wire_mixed.raw_post("m1", RIGHT)
    with _closing(_connected(server, int(200 * size) + 4)) as every:
        for place, one in enumerate(every):
            one.sendall(request[: len(request) // 2])
            if place % 2:
                one.shutdown(socket.SHUT_WR)
        over.wait()
    return {"connections": len(every)}


def idle(server: Server, over: threading.Event, size: float) -> Found:
    """Open connections to both ports, and say nothing."""
    refused = Counter[str]()
    with _closing(_connected(server, int(1000 * size), refused)) as every:
        for _ in range(int(100 * size)):
            with suppress(OSError):
                every.append(socket.create_connection(wire_mixed.address(server.grpc), timeout=5))
        over.wait()
    return {"connections": len(every), "refused": dict(refused)}


# ----------------------------------------------------------------------------- bodies


def _posted(server: Server, body: Any, headers: Mapping[str, str], *, chunked: bool = False) -> str:
    """Return the status of a body, or the word of the error that ended it."""
    connection = http.client.HTTPConnection(server.http, timeout=30)
    try:
        try:
            connection.request("POST", INFER, body, dict(headers), encode_chunked=chunked)
        except (ConnectionError, TimeoutError) as error:
            try:  # a server may answer before it closes
                connection.sock.settimeout(2)
                answer = connection.sock.recv(64)
                return answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/") else type(error).__name__
            except OSError:
                return type(error).__name__
        answered = connection.getresponse()
        answered.read()
        return str(answered.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def _until(over: threading.Event, once: Callable[[], str]) -> Found:
    """Do something again and again, at least once, and count how it ends."""
    ends = Counter[str]()
    while True:
        ends[once()] += 1
        if over.wait(0.05):
            return {"ends": dict(ends)}


def declared_huge(server: Server, over: threading.Event, size: float) -> Found:
    """Declare a body of a gigabyte, and send it."""
    total = int(GIB * max(size, 0.25))

    def parts() -> Iterator[bytes]:
        for _ in range(total // MIB):
            yield bytes(MIB)

    return _until(over, lambda: _posted(server, parts(), {"Content-Length": str(total)}))


def chunked_huge(server: Server, over: threading.Event, size: float) -> Found:
    """Send a gigabyte in chunks, which declare nothing."""
    total = int(GIB * max(size, 0.25))

    def parts() -> Iterator[bytes]:
        for _ in range(total // MIB):
            yield bytes(MIB)

    headers = {"Transfer-Encoding": "chunked", "Inference-Header-Content-Length": "100"}
    return _until(over, lambda: _posted(server, parts(), headers, chunked=True))


def grpc_huge(server: Server, over: threading.Event, size: float) -> Found:
    """Send a message of gRPC of a gigabyte."""
    message = service_pb2.ModelInferRequest(model_name="m1")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 8])
    message.raw_input_contents.append(bytes(int(GIB * max(size, 0.1))))
    wide = [("grpc.max_send_message_length", -1)]

    def once() -> str:
        with grpc.insecure_channel(server.grpc, options=wide) as channel:
            try:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60)
                return "OK"
            except grpc.RpcError as error:
                return str(error.code().name)  # type: ignore[attr-defined]

    return _until(over, once)


def gzip_bomb(server: Server, over: threading.Event, size: float) -> Found:
    """Send a megabyte of gzip that is a gigabyte of zeros."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        for _ in range(int(GIB * max(size, 0.25)) // MIB):
            file.write(bytes(MIB))
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": "100"}
    return _until(over, lambda: _posted(server, packed.getvalue(), headers))


def deep_json(server: Server, over: threading.Event, size: float) -> Found:
    """Send JSON that is nested 100,000 deep."""
    body = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    return _until(over, lambda: _posted(server, body, {}))


def long_json(server: Server, over: threading.Event, size: float) -> Found:
    """Send lists of numbers as long as JSON may be, and longer."""
    sizes = iter([2_000_000, 30_000_000] * 10_000)

    def once() -> str:
        numbers = b"1," * (next(sizes) // 2) + b"1"
        head = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": ['
        return _posted(server, head + numbers + b"]}]}", {})

    return _until(over, once)


HOSTILE: Mapping[str, Hostile] = {
    "slow headers": slow_headers, "slow bodies": slow_bodies, "slow readers": slow_readers,
    "unread streams": unread_streams,
    "half-open": half_open, "idle": idle, "a declared gigabyte": declared_huge,
    "a gigabyte in chunks": chunked_huge, "a gigabyte of gRPC": grpc_huge, "gzip bombs": gzip_bomb,
    "deep JSON": deep_json, "long JSON": long_json,
}  # fmt: skip
"""All of them, by name."""


@contextmanager
def under(hostile: Hostile, server: Server, size: float) -> Iterator[Found]:
    """Run a hostile client until the block ends. Its findings are in the dictionary then."""
    over, found = threading.Event(), Found()

    def run() -> None:
        try:
            found.update(hostile(server, over, size))
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    time.sleep(0.3)  # until it is at work
    try:
        yield found
    finally:
        over.set()
        thread.join(120)
        if thread.is_alive():
            found["error"] = "it does not end"


# ----------------------------------------------------------------------------- in processes of their own


@contextmanager
def apart(name: str, server: Server, size: float) -> Iterator[Found]:
    """Run a hostile client as a process until the block ends, so that others lose nothing to it."""
    command = [sys.executable, "-m", "bench.wire_hostile", name, server.http, server.grpc, str(size)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = Found()
    try:
        process.stdout.readline()  # it is at work
        yield found
        out, _ = process.communicate(timeout=120)  # which closes its stdin: it is over
        found.update(json.loads(out))
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Addresses:
    """As much of a server as a hostile client knows."""

    http: str
    grpc: str


def main() -> None:
    name, http_address, grpc_address, size = sys.argv[1:]
    server: Any = Addresses(http_address, grpc_address)
    with under(HOSTILE[name], server, float(size)) as found:
        print(flush=True)
        sys.stdin.read()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
