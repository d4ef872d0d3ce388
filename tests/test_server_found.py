"""No client takes what others need: faults that a stranger found in the server, each with its test."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from served_app import Asking, Held, ask, asked, serving, tensor, wait_until
from test_server_limits import HEAD, connected, one_answer, status
from tritonclient.grpc import service_pb2, service_pb2_grpc

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.elements import Element
from netfuse_onnx.server import http_codec, running
from netfuse_onnx.server.app import parted

ONE = asked([[1, 2]])
GZIP = {"Content-Encoding": "gzip"}


def test_bodies_that_are_only_promised_take_nothing_from_others() -> None:
    """Headers cost their clients nothing: sixteen of them took all that the server holds for requests."""
    with serving(Held(at_once=True), max_bytes=1000, max_held=2000) as server:
        idle = [connected(server.app.http) for _ in range(4)]
        for one in idle:
            one.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
        wait_until(lambda: server.app.core.inside == 4)
        assert ask(f"{server.url}/v2/models/a/infer", ONE)[0] == 200
        for one in idle:
            one.close()
        wait_until(lambda: server.app.core.held == server.app.core.inside == 0)


def test_small_inflated_bodies_take_no_more_than_they_have() -> None:
    session = Held()
    body = gzip.compress(json.dumps(ONE).encode())
    with serving(session, max_bytes=1 << 20, max_held=(1 << 20) + 1000) as server:
        url = f"{server.url}/v2/models/a/infer"
        several = [Asking(url, body, GZIP)]
        session.wait_for(1)
        assert server.app.core.held == len(json.dumps(ONE))
        several.append(Asking(url, body, GZIP))
        session.wait_for(2)
        for one in session.asked:
            one.answer()
        assert [one.result()[0] for one in several] == [200, 200]
        assert server.app.core.held == 0


def test_no_byte_of_deflate_stands_for_more_than_is_counted() -> None:
    from netfuse_onnx.server.http_infer import MOST_INFLATED

    most = 50_000_000
    assert most <= len(gzip.compress(bytes(most), 9)) * MOST_INFLATED


def test_who_is_refused_and_goes_away_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Held(at_once=True), max_bytes=1000) as server:
        with connected(server.app.http) as one:
            one.sendall(HEAD + b"content-length: 5000\r\n\r\nx")
            assert status(one_answer(one)) == 413
        wait_until(lambda: not server.app._server.server_state.connections)  # type: ignore[union-attr]
        time.sleep(0.05)
    assert "Traceback" not in caplog.text and "Exception" not in caplog.text


def test_streams_that_say_nothing_leave_room_for_others() -> None:
    with (
        serving(Held(at_once=True), connections=2, grpc="127.0.0.1:0") as server,
        grpc.insecure_channel(server.app.grpc) as channel,
    ):
        stub, ended = service_pb2_grpc.GRPCInferenceServiceStub(channel), threading.Event()

        def nothing() -> Iterator[Any]:
            ended.wait(20)
            yield from ()

        streams = [stub.ModelStreamInfer(nothing()) for _ in range(2)]
        time.sleep(0.3)
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.ModelStreamInfer(nothing()))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
        ended.set()
        assert [list(one) for one in streams] == [[], []]
        assert list(stub.ModelStreamInfer(iter(()))) == []  # there is room again


def test_a_redirect_goes_to_no_other_host() -> None:
    with serving(Held(at_once=True)) as server, connected(server.app.http) as one:
        one.sendall(b"GET /v2/ HTTP/1.1\r\nhost: elsewhere\r\n\r\n")
        assert status(one_answer(one)) == 404


def test_a_taken_address_is_told_before_files_are_opened(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for addresses in ({"http": address, "grpc": ""}, {"http": "", "grpc": address}):
            with pytest.raises(UsageFault, match="can't be listened on"):
                running.serve(tmp_path / "missing", **addresses)


class Endpoint:
    name = "a"


def written(*outputs: Any, wanted: dict[str, bool] | None = None) -> Any:
    request = http_codec.Asked('"data":null', {}, {}, wanted, False)
    body, size = http_codec.encode(Endpoint(), request, list(outputs))  # type: ignore[arg-type]
    return json.loads(body[:size])


def test_large_outputs_are_written_as_small_ones_are() -> None:
    many = np.random.default_rng(0).standard_normal((3, 5000)).astype(np.float32)
    texts = np.array(['"data":null', "ü"] * 3000, object)
    outputs = [
        (tensor("y"), many.T), (tensor("z"), np.empty((0, 2), np.float32)), (tensor("u"), many[:1, :3]),
        (tensor("b", "BF16", Element("bfloat16", np.dtype(np.uint16))), np.full(4097, 0x3FC0, np.uint16)),
        (tensor("s", "BYTES", Element("str", np.dtype(object))), texts),
    ]  # fmt: skip
    found = written(*outputs)
    assert found["id"] == '"data":null'
    y, z, u, b, s = (one["data"] for one in found["outputs"])
    assert y == many.T.ravel().tolist() and z == [] and u == many[0, :3].tolist()
    assert b == [1.5] * 4097 and s == texts.tolist()
    assert [one["shape"] for one in found["outputs"]] == [[5000, 3], [0, 2], [1, 3], [4097], [6000]]


def test_writing_a_large_output_lets_others_run() -> None:
    """The encoder of JSON ran for ten seconds, in which nothing else did."""
    many = np.random.default_rng(0).standard_normal((1, 1_000_000)).astype(np.float32)
    request = http_codec.Asked("", {}, {}, None, False)
    writer = threading.Thread(target=http_codec.encode, args=(Endpoint(), request, [(tensor("y"), many)]))
    turns = 0
    writer.start()
    while writer.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 20  # in one piece: four


@pytest.mark.parametrize("wrong", ["127.0.0.1:\u00b2", "127.0.0.1:\u0663", "127.0.0.1:-1", "127.0.0.1:65536"])
def test_a_port_is_written_in_digits(wrong: str) -> None:
    with pytest.raises(UsageFault, match="no address"):
        parted(wrong)


def test_closed_standard_streams_are_filled() -> None:
    """Connections got their numbers, and the server ended in SIGABRT."""
    told = """
import os
from netfuse_onnx.server.running import fill_standard_streams
for number in (0, 1):
    os.close(number)
fill_standard_streams()
assert all(os.path.samestat(os.fstat(n), os.stat(os.devnull)) for n in (0, 1))
assert os.open(os.devnull, os.O_RDONLY) > 2
"""
    subprocess.run([sys.executable, "-c", told], check=True, timeout=60)
