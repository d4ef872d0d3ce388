"""No client stops others: bodies, headers, connections and times have bounds, and who goes away is forgotten."""

from __future__ import annotations

import gzip
import json
import socket
import time
from typing import Any

import grpc
import numpy as np
import pytest
from served_app import PATIENCE, Asking, Held, ask, asked, serving, wait_until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

ONE = asked([[1, 2]])
HEAD = b"POST /v2/models/a/infer HTTP/1.1\r\nhost: x\r\n"


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def told(connection: socket.socket) -> bytes:
    """Everything that comes until the server closes the connection."""
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def one_answer(connection: socket.socket) -> bytes:
    """One whole answer, after which the connection may stay open."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    head, _, body = head.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(body) < size:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def test_a_large_body_is_refused_before_it_comes() -> None:
    with serving(Held(at_once=True), max_bytes=1000) as server, connected(server.app.http) as one:
        one.sendall(HEAD + b"content-length: 1000000000\r\n\r\n")
        answer = one_answer(one)
        assert status(answer) == 413 and b"1000000000 bytes" in answer and b"connection: close" in answer
        wait_until(lambda: server.app.core.held == 0)
        assert ask(f"{server.url}/v2/models/a/infer", ONE)[0] == 200


def test_a_large_body_in_chunks_is_refused_while_it_comes() -> None:
    with serving(Held(at_once=True), max_bytes=1000) as server, connected(server.app.http) as one:
        one.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            one.sendall(b"200\r\n" + b"x" * 512 + b"\r\n")
        answer = one_answer(one)
        assert status(answer) == 413 and b"--max-bytes" in answer


def test_a_client_that_goes_on_sending_reads_that_it_is_refused() -> None:
    """Were the connection closed at once, the system would drop the answer that is on its way."""
    with serving(Held(at_once=True), max_bytes=1000) as server:
        for _ in range(5):
            found = ask(f"{server.url}/v2/models/a/infer", b"x" * 3_000_000)
            assert found[0] == 413 and "one request may have 1000" in found[1]["error"]


def test_a_small_body_that_inflates_is_refused() -> None:
    body = gzip.compress(b" " * 1_000_000)
    with serving(Held(at_once=True), max_bytes=10_000) as server:
        url = f"{server.url}/v2/models/a/infer"
        assert len(body) < 10_000 and ask(url, body, {"Content-Encoding": "gzip"})[0] == 413
        small = gzip.compress(json.dumps(ONE).encode())
        assert ask(url, small, {"Content-Encoding": "gzip"})[0] == 200
        assert ask(url, small[:-9], {"Content-Encoding": "gzip"})[0] == 400
        assert ask(url, small, {"Content-Encoding": "br"})[0] == 400
        wait_until(lambda: server.app.core.held == 0)


def test_json_has_a_bound_of_its_own() -> None:
    with serving(Held(at_once=True), max_json=1000) as server:
        found = ask(f"{server.url}/v2/models/a/infer", json.dumps(ONE).encode() + b" " * 1000)
        assert found[0] == 413 and "binary" in found[1]["error"]


def test_all_requests_together_have_a_bound() -> None:
    session = Held()
    size = len(json.dumps(ONE))
    with serving(session, max_held=size + 10) as server:
        url = f"{server.url}/v2/models/a/infer"
        first = Asking(url, ONE)
        session.wait_for(1)
        assert ask(url, ONE)[0] == 429
        session.asked[0].answer()
        assert first.result()[0] == 200
        session.at_once = True
        assert ask(url, ONE)[0] == 200


@pytest.mark.parametrize("sent", [b"", b"POST /v2/models/a/infer HTT", HEAD])
def test_who_does_not_send_a_request_is_cut_off(sent: bytes) -> None:
    with serving(Held(at_once=True), headers=0.5) as server, connected(server.app.http) as slow:
        slow.sendall(sent)
        began = time.monotonic()
        assert ask(f"{server.url}/v2/models/a/infer", ONE)[0] == 200
        assert told(slow) == b"" and time.monotonic() - began < 5


def test_dribbling_headers_gains_no_time() -> None:
    with serving(Held(at_once=True), headers=0.5) as server, connected(server.app.http) as slow:
        began = time.monotonic()
        with pytest.raises(OSError):
            dribble(slow, HEAD + b"a: b\r\n" * 100)
        assert time.monotonic() - began < 5


def dribble(connection: socket.socket, sent: bytes) -> None:
    for letter in sent:
        connection.sendall(bytes([letter]))
        time.sleep(0.02)


def test_who_does_not_finish_a_body_is_told() -> None:
    with serving(Held(at_once=True), body=0.5) as server, connected(server.app.http) as slow:
        slow.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        answer = told(slow)
        assert status(answer) == 408 and b"too long" in answer
        wait_until(lambda: server.app.core.held == server.app.core.inside == 0)


def test_headers_without_end_are_refused() -> None:
    with serving(Held(at_once=True)) as server, connected(server.app.http) as one:
        one.sendall(HEAD + b"a: " + b"x" * 100_000)
        assert status(told(one)) == 400


def test_idle_connections_make_room_for_new_ones() -> None:
    with serving(Held(at_once=True), connections=3) as server:
        idle = [connected(server.app.http) for _ in range(6)]
        assert ask(f"{server.url}/v2/models/a/infer", ONE)[0] == 200
        assert idle[0].recv(1) == b""
        for one in idle:
            one.close()


def test_where_all_connections_are_busy_others_are_told() -> None:
    session = Held()
    with serving(session, connections=2) as server:
        url = f"{server.url}/v2/models/a/infer"
        busy = [Asking(url, ONE) for _ in range(2)]
        session.wait_for(2)
        assert ask(f"{server.url}/v2/health/live")[0] == 503
        for one in session.asked:
            one.answer()
        assert [one.result()[0] for one in busy] == [200, 200]


def test_a_client_that_goes_away_takes_its_request_with_it() -> None:
    session = Held()
    with serving(session) as server:
        one = connected(server.app.http)
        body = json.dumps(ONE).encode()
        one.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        session.wait_for(1)
        one.close()
        wait_until(session.asked[0].future.cancelled)
        wait_until(lambda: server.app.core.inside == 0 and server.app.core.held == 0)


def message(**more: Any) -> Any:
    request = pb.ModelInferRequest(model_name="a", **more)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(np.ones((1, 2), np.float32).tobytes())
    return request


def test_deadlines_and_cancelled_calls_of_grpc_leave_the_queue() -> None:
    session = Held()
    with serving(session, grpc="127.0.0.1:0") as server, grpc.insecure_channel(server.app.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(message(), timeout=0.3)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(session.asked[0].future.cancelled)
        call = stub.ModelInfer.future(message(), timeout=PATIENCE)
        session.wait_for(2)
        call.cancel()
        wait_until(session.asked[1].future.cancelled)
        wait_until(lambda: server.app.core.inside == 0 and server.app.core.held == 0)


def test_large_messages_of_grpc_are_refused() -> None:
    session = Held(at_once=True)
    with (
        serving(session, grpc="127.0.0.1:0", max_bytes=1000) as server,
        grpc.insecure_channel(server.app.grpc) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        large = message()
        large.raw_input_contents.append(b"x" * 1_000_000)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(large, timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and not session.asked
        assert (
            stub.ModelInfer(message(), timeout=PATIENCE).raw_output_contents[0]
            == np.full(2, 2.0, "f4").tobytes()
        )


def test_a_request_says_in_which_time_it_must_start() -> None:
    session = Held(at_once=True)
    with serving(session) as server:
        url = f"{server.url}/v2/models/a/infer"
        for given in ({}, {"timeout": 250_000}, {"timeout": 0}):
            assert ask(url, asked([[1, 2]], parameters=given))[0] == 200
        assert [one.timeout for one in session.asked] == [None, 0.25, None]
        for wrong in (-1, "soon", 1e400):
            assert ask(url, asked([[1, 2]], parameters={"timeout": wrong}))[0] == 400


def test_requests_of_a_stream_wait_together_and_are_answered_in_order() -> None:
    session = Held()
    with serving(session, grpc="127.0.0.1:0") as server, grpc.insecure_channel(server.app.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer(iter([message(id="1"), message(id="2")]), timeout=PATIENCE)
        session.wait_for(2)
        session.asked[1].answer()
        session.asked[0].answer()
        assert [one.infer_response.id for one in answers] == ["1", "2"]
        cut = stub.ModelStreamInfer(iter([message(), message()]), timeout=PATIENCE)
        session.wait_for(4)
        cut.cancel()
        wait_until(lambda: all(one.future.cancelled() for one in session.asked[2:]))
        wait_until(lambda: server.app.core.inside == 0)


def test_objects_of_json_count_and_are_released() -> None:
    session = Held(at_once=True)
    rows = 60_000
    body = json.dumps(asked(np.zeros((rows, 2)))).encode()
    with serving(session, max_held=len(body) * 5) as server:
        assert ask(f"{server.url}/v2/models/a/infer", body)[0] == 429 and not session.asked
        wait_until(lambda: server.app.core.held == 0)
    with serving(session, max_held=len(body) * 20) as server:
        assert ask(f"{server.url}/v2/models/a/infer", body)[0] == 200
        wait_until(lambda: server.app.core.held == 0)
