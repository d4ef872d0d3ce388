"""Mixed load over the wire: requests of mixed.py, some of them poisoned, from many stock clients."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import wire
from bench.mixed import POISONS, Ask, Mixed
from bench.wire import Client, GrpcClient, Server
from netfuse_onnx.runtime.errors import BadInput, QueueFull, TooLarge

OUTPUTS = ("y", "seen")
KINDS = ("http", "grpc", "http json", "grpc")
"""Clients in turns."""
WIRE_POISONS = (*POISONS, "truncated")
"""A truncated body is one that ends before its tensors do: only HTTP can send it."""


@dataclass
class Told:
    """Clients fill it: faults, the generations that answered, the times of answers, and errors by class."""

    faults: list[str] = field(default_factory=list)
    generations: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    sent: int = 0

    def quantile(self, part: float) -> float:
        """Return the time that a part of the answers did not exceed, in seconds."""
        return float(np.quantile(self.seconds, part)) if self.seconds else 0.0


def outcome_of(client: Client, server: Server, ask: Ask) -> Any:
    """Send a request, poisoned as it says, and return its outputs or its error."""
    if ask.poison == "cancelled":
        return _given_up(client, server, ask)
    options = {"timeout": 1} if ask.poison == "late" else {}  # a microsecond
    try:
        return client.ask(ask.model, ask.feeds, OUTPUTS, **options)
    except wire.NETWORK as raised:
        error = wire.error_of(raised)
        if isinstance(client, GrpcClient) and ask.poison == "too large":
            both = isinstance(error, BadInput | QueueFull)  # one code of gRPC has both meanings
            return TooLarge(str(error)) if both else error
        return error


def _given_up(client: Client, server: Server, ask: Ask) -> Any:
    """Send a request and go away before its answer comes."""
    if isinstance(client, GrpcClient):
        client.cancelled(ask.model, ask.feeds)
        return CancelledError()
    with socket.create_connection(address(server.http), timeout=wire.PATIENCE) as one:
        one.sendall(raw_post(ask.model, ask.feeds))
    return CancelledError()


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def raw_body(feeds: Any) -> tuple[bytes, int]:
    """Return the body of a request with binary tensors, and the length of the JSON in front of them."""
    inputs = [
        {
            "name": name, "shape": value.shape, "datatype": wire.np_to_triton_dtype(value.dtype),
            "parameters": {"binary_data_size": value.nbytes},
        }
        for name, value in feeds.items()
    ]  # fmt: skip
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(value.tobytes() for value in feeds.values()), len(head)


def raw_post(model: str, feeds: Any) -> bytes:
    """Return a whole request of HTTP."""
    body, head = raw_body(feeds)
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1", "Host: test", f"Content-Length: {len(body)}",
        f"Inference-Header-Content-Length: {head}", "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + body


def truncated(server: Server, ask: Ask) -> str:
    """Send a body without its last bytes. Returns '' for a refusal, or else what is wrong."""
    body, head = raw_body(ask.feeds)
    connection = http.client.HTTPConnection(server.http, timeout=wire.PATIENCE)
    try:
        headers = {"Inference-Header-Content-Length": str(head)}
        connection.request("POST", f"/v2/models/{ask.model}/infer", body[:-5], headers)
        answer = connection.getresponse()
        answer.read()
        return "" if answer.status == 400 else f"a truncated body got {answer.status}"
    finally:
        connection.close()


def client_loop(
    server: Server, mixed: Mixed, kind: str, seed: int, told: Told, is_over: Callable[[], bool]
) -> None:
    """Send requests one after the other until it is over, and judge the outcomes."""
    rng, client = random.Random(seed), wire.CLIENTS[kind](server)
    poisons = [one for one in WIRE_POISONS if one != "truncated" or kind != "grpc"]
    try:
        while not is_over():
            ask = mixed.draw(rng, [one for one in poisons if one in POISONS])
            told.sent += 1
            if ask.poison and "truncated" in poisons and rng.random() < 1 / len(poisons):
                if wrong := truncated(server, mixed.innocent(rng)):
                    told.faults.append(wrong)
                continue
            began = time.perf_counter()
            outcome = outcome_of(client, server, ask)
            _tell(told, mixed, ask, outcome, time.perf_counter() - began)
    finally:
        client.close()


def _tell(told: Told, mixed: Mixed, ask: Ask, outcome: Any, seconds: float) -> None:
    if isinstance(outcome, BaseException):
        told.errors[type(outcome).__name__] += 1
    generation = mixed.judge(ask, outcome)
    if generation is not None:
        told.generations[generation] += 1
        told.seconds.append(seconds)


def load(server: Server, mixed: Mixed, count: int, clients: int = 16, kinds: Sequence[str] = KINDS) -> Told:
    """Send `count` requests from clients that each have one on the way, and return what they saw."""
    told = Told()
    run_clients(server, mixed, told, clients, lambda: told.sent >= count, kinds)
    told.faults += mixed.faults
    return told


def run_clients(
    server: Server, mixed: Mixed, told: Told, clients: int, is_over: Callable[[], bool],
    kinds: Sequence[str] = KINDS,
) -> None:  # fmt: skip
    """Run clients in threads until it is over. What a client raises is a fault."""

    def run(place: int) -> None:
        try:
            client_loop(server, mixed, kinds[place % len(kinds)], place, told, is_over)
        except Exception as error:
            told.faults.append(f"client {place}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(4 * wire.PATIENCE)
        if one.is_alive():
            told.faults.append("a client does not end")
