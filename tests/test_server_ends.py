"""The end of a server: what was accepted is answered, what comes later is refused, and the exit code says so."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort
import pytest
from families import family, merged
from served_app import Asking, Held, ask, asked, serving, wait_until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from netfuse_onnx.runtime.cost_table import CostTable

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)
SMALL = asked([[1, 2]])


def test_what_was_accepted_is_answered_and_the_rest_refused() -> None:
    session = Held()
    with serving(session, grpc="127.0.0.1:0") as server, grpc.insecure_channel(server.app.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        url = f"{server.url}/v2/models/a/infer"
        request = pb.ModelInferRequest(model_name="b", raw_input_contents=[np.ones(2, "f4").tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        first, second = Asking(url, SMALL), stub.ModelInfer.future(request, timeout=20)
        session.wait_for(2)
        ends = asyncio.run_coroutine_threadsafe(server.app.stop(20), server.loop)
        wait_until(lambda: not server.app.core.is_ready)
        assert ask(f"{server.url}/v2/health/ready")[0] == 503
        assert ask(f"{server.url}/v2/health/live")[0] == 200
        assert not stub.ServerReady(pb.ServerReadyRequest()).ready
        status, told = ask(url, SMALL)
        assert status == 503 and "takes no more" in told["error"]
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not ends.done()
        for one in session.asked:
            one.answer()
        assert ends.result(20) is True
        assert first.result()[0] == 200 and second.result().model_name == "b"


def test_the_time_for_the_last_answers_is_bounded() -> None:
    session = Held()
    with serving(session) as server:
        client = Asking(f"{server.url}/v2/models/a/infer", SMALL)
        session.wait_for(1)
        began = time.monotonic()
        assert server.run(server.app.stop(0.3)) is False
        assert time.monotonic() - began < 5
        status, told = client.result()
        assert status == 503 and "before the request was answered" in told["error"]
        assert session.asked[0].future.cancelled()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A merged file without a bundle, and the models' own files."""
    folder = tmp_path_factory.mktemp("made")
    paths = family(folder)
    merged(folder, paths, io="stacked")
    return folder, paths


@contextmanager
def started(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str], list[str]]]:
    """The command, its addresses by kind, and the lines that it wrote until it serves."""
    command = [
        sys.executable,
        "-m",
        "netfuse_onnx",
        "serve",
        "merged.onnx",
        "--http",
        "127.0.0.1:0",
        *options,
    ]
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    try:
        lines = list[str]()
        for line in process.stderr:
            lines.append(line.rstrip())
            if line.startswith("Serving "):
                break
        told = dict(line.split(": ", 1) for line in lines if line.startswith(("HTTP: ", "gRPC: ")))
        yield process, told, lines
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_the_command_serves_and_ends(made: tuple[Path, list[str]]) -> None:
    folder, paths = made
    options = [option for path in paths for option in ("--source", path)]
    with started(folder, "--grpc", "", *options) as (process, told, lines):
        assert "gRPC" not in told and "Calls measured here" in lines[0]
        assert any(line.startswith(("Merging pays from ", "Merging does not pay")) for line in lines)
        for path in paths:
            status, found = ask(f"{told['HTTP']}/v2/models/{Path(path).stem}/infer", asked(X))
            wanted = ort.InferenceSession(path).run(None, {"x": X})[0]
            assert status == 200 and np.allclose(found["outputs"][0]["data"], wanted.ravel(), atol=1e-5)
        assert ask(f"{told['HTTP']}/v2/models/merged")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_second_signal_ends_at_once(made: tuple[Path, list[str]]) -> None:
    folder, _ = made
    with started(folder, "--grpc", "127.0.0.1:0", "--drain", "60") as (process, told, _):
        host, _, port = told["HTTP"].removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as slow:  # a request that is accepted and never ends
            slow.sendall(b"POST /v2/models/a/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == -signal.SIGINT


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netfuse_onnx", "serve", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_mistakes_at_the_start(made: tuple[Path, list[str]]) -> None:
    folder, _ = made
    for options, code, words in (
        (("none.onnx",), 3, "none.onnx"),
        (("merged.onnx", "--http", "127.0.0.1"), 2, "no address"),
        (("merged.onnx", "--http", "", "--grpc", ""), 2, "Neither HTTP nor gRPC"),
        (("merged.onnx", "--name", "a"), 2, "as one of its models"),
        (("merged.onnx", "--max-bytes", "much"), 2, "no amount of bytes"),
    ):
        done = run(folder, *options)
        assert done.returncode == code and words in done.stderr, (options, done.stderr)
        assert "Traceback" not in done.stderr


def test_costs_are_written_and_nothing_is_served(made: tuple[Path, list[str]]) -> None:
    folder, _ = made
    (folder / "mine.json").write_text("[1]")
    done = run(folder, "merged.onnx", "--costs", "mine.json")
    assert done.returncode == 3 and (folder / "mine.json").read_text() == "[1]"
    for _ in range(2):
        assert run(folder, "merged.onnx", "--costs", "costs.json").returncode == 0
    assert CostTable.of_dict(json.loads((folder / "costs.json").read_text())).models == 2
