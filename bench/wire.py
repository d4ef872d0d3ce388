"""Starts `netfuse-onnx serve` as a process of its own, looks at it, and asks it by stock clients."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from geventhttpclient.response import HTTPConnectionClosed
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from netfuse_onnx.runtime import errors

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
ROOT = Path(__file__).parent.parent
SERVE = (sys.executable, "-m", "netfuse_onnx", "serve")
"""The command that starts a server."""
START = 60.0
"""Seconds to wait for a server that starts."""
PATIENCE = 60.0
"""Seconds to wait for an answer."""


@dataclass(frozen=True)
class Server:
    """A server that runs. Addresses are HOST:PORT."""

    http: str
    grpc: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def resident(self) -> float:
        """Return the resident memory of the process in MiB."""
        return self._memory("VmRSS")

    @property
    def peak(self) -> float:
        """Return the most resident memory that the process ever had, in MiB."""
        return self._memory("VmHWM")

    def _memory(self, field: str) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def files(self) -> int:
        """Return the number of open files."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def metrics(self) -> dict[str, float]:
        """Return the counters that Prometheus would read."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=PATIENCE) as answer:
            lines = [one for one in answer.read().decode().splitlines() if one and not one.startswith("#")]
        return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines)}

    def counted(self, name: str) -> float:
        """Return the sum of the counters with this name, whatever their labels."""
        return sum(value for one, value in self.metrics().items() if one.partition("{")[0] == name)

    def is_ready(self) -> bool:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=5) as one,
        ):
            return bool(one.status == 200)
        return False


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


@contextmanager
def served(bundle: str, folder: Path, *options: str) -> Iterator[Server]:
    """Serve a bundle until the block ends. `folder` gets the log."""
    http, rpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    log = folder / "log"
    command = [*SERVE, bundle, "--http", http, "--grpc", rpc, *options]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
    server = Server(http, rpc, process, log)
    try:
        _wait_for(server)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server: politely, then by force."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
            return


def _wait_for(server: Server) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and server.process.poll() is None:
        if server.is_ready():
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {server.log.read_text()[-3000:]}")


# ----------------------------------------------------------------------------- stock clients

HTTP_ERRORS: Mapping[str, type[errors.ServingError]] = {
    "400": errors.BadInput, "404": errors.UnknownModel, "413": errors.TooLarge, "429": errors.QueueFull,
    "500": errors.CallFailed, "503": errors.Closed, "504": errors.Timeout,
}  # fmt: skip
"""The errors of a session by the status that stands for them."""
GRPC_ERRORS: Mapping[str, type[errors.ServingError]] = {
    "INVALID_ARGUMENT": errors.BadInput, "NOT_FOUND": errors.UnknownModel, "INTERNAL": errors.CallFailed,
    "RESOURCE_EXHAUSTED": errors.QueueFull, "UNAVAILABLE": errors.Closed, "DEADLINE_EXCEEDED": errors.Timeout,
}  # fmt: skip


class Lost(Exception):
    """The connection broke, or none could be made: `before` is True where nothing was sent."""

    def __init__(self, message: str, *, before: bool) -> None:
        super().__init__(message)
        self.before = before


def error_of(raised: BaseException) -> BaseException:
    """Return the error of a session that a client's exception stands for, or the exception itself."""
    if isinstance(raised, InferenceServerException):
        word = str(raised.status()).removeprefix("StatusCode.")
        known = HTTP_ERRORS.get(word) or GRPC_ERRORS.get(word)
        if word == "UNAVAILABLE" and "failed to connect" in str(raised):
            return Lost(str(raised), before=True)
        if word == "CANCELLED":  # so gRPC ends requests that reach a server which has just stopped
            return Lost(str(raised), before=False)
        return known(str(raised.message())) if known else raised
    if isinstance(raised, ConnectionRefusedError):
        return Lost(str(raised), before=True)
    if isinstance(raised, OSError | HTTPConnectionClosed):
        return Lost(f"{type(raised).__name__}: {raised}", before=False)
    return raised


def inputs_of(kind: Any, feeds: Mapping[str, Array], **options: Any) -> list[Any]:
    """Return the inputs of a request for a client: `kind` is its module."""
    inputs = []
    for name, value in feeds.items():
        if value.dtype.kind == "U":
            value = value.astype(object)
        one = kind.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        one.set_data_from_numpy(value, **options)
        inputs.append(one)
    return inputs


class HttpClient:
    """A client of HTTP, for one thread. `binary` is False for JSON both ways."""

    def __init__(self, server: Server, *, binary: bool = True) -> None:
        self._client = httpclient.InferenceServerClient(server.http, network_timeout=PATIENCE)
        self._binary = binary

    def ask(
        self, model: str, feeds: Mapping[str, Array], outputs: Sequence[str], **options: Any
    ) -> dict[str, Array]:
        """Return the outputs. Raises as the client does."""
        wanted = [httpclient.InferRequestedOutput(name, binary_data=self._binary) for name in outputs]
        given = inputs_of(httpclient, feeds, binary_data=self._binary)
        result = self._client.infer(model, given, outputs=wanted, **options)
        return {name: result.as_numpy(name) for name in outputs}

    def close(self) -> None:
        self._client.close()


class GrpcClient:
    """A client of gRPC, for one thread, with a connection of its own."""

    def __init__(self, server: Server) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._client = grpcclient.InferenceServerClient(server.grpc, channel_args=options)

    def ask(
        self, model: str, feeds: Mapping[str, Array], outputs: Sequence[str], **options: Any
    ) -> dict[str, Array]:
        """Return the outputs. Raises as the client does."""
        given = inputs_of(grpcclient, feeds)
        result = self._client.infer(model, given, client_timeout=PATIENCE, **options)
        return {name: result.as_numpy(name) for name in outputs}

    def cancelled(self, model: str, feeds: Mapping[str, Array]) -> None:
        """Send a request, and cancel it at once."""
        call = self._client.async_infer(model, inputs_of(grpcclient, feeds), lambda result, error: None)
        call.cancel()

    def close(self) -> None:
        self._client.close()


CLIENTS = {
    "http": HttpClient,
    "http json": lambda server: HttpClient(server, binary=False),
    "grpc": GrpcClient,
}
"""Makers of clients, by name."""
Client = HttpClient | GrpcClient
NETWORK = (InferenceServerException, grpc.RpcError, OSError, HTTPConnectionClosed)
"""The errors that clients raise."""
