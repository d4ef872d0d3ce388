"""The web server of `examples/serve_fastapi.py`, asked over HTTP by several clients at once: each gets its own model's
answer, and each error has its status."""

from __future__ import annotations

import importlib.util
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import oracle
import pytest
import servers
from families import family

import netfuse_onnx

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("fastapi"), reason="FastAPI is missing: pip install -e .[serve]"
)
EXAMPLE = Path(__file__).parent.parent / "examples" / "serve_fastapi.py"
TEXT = """g (float[n, 8] x, int64[n] k) => (float[n, 4] y) {
    h = MatMul(x, w1)
    r = Relu(h)
    m = MatMul(r, w2)
    t = Gather(table, k)
    y = Add(m, t)
}"""
WEIGHTS = {"w1": (8, 16), "w2": (16, 4), "table": (5, 4)}
CLIENTS, ROUNDS = 8, 6
LAYERS, SIDE = 30, 1024
SLOW = f"""g (float[n, 1] x) => (float[n, 1] y) {{
    h0 = MatMul(x, wide)
    {" ".join(f"m{k} = MatMul(h{k}, w) h{k + 1} = LpNormalization(m{k})" for k in range(LAYERS))}
    y = MatMul(h{LAYERS}, narrow)
}}"""
SLOW_WEIGHTS = {"wide": (1, SIDE), "w": (SIDE, SIDE), "narrow": (SIDE, 1)}
"""A call with 64 rows takes a tenth of a second, whatever its few numbers."""


@dataclass(frozen=True)
class Server:
    """A server that runs, and the sources of its models."""

    port: int
    paths: list[str]
    process: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, model: str, body: Any) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        return servers.ask(f"{self.url}/models/{model}", body)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            return str(answer.read().decode())


@contextmanager
def started(folder: Path, bundle: str, paths: list[str], change: Mapping[str, str]) -> Iterator[Server]:
    """Start the example on a free port, with some of its text changed."""
    script, text, port = folder / "serve.py", EXAMPLE.read_text(), servers.free_port()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    script.write_text(text)
    health = f"http://127.0.0.1:{port}/metrics"
    with servers.running(script, bundle, str(port), folder=folder, health=health) as process:
        yield Server(port, paths, process)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A bundle of eight models, and their files."""
    folder = tmp_path_factory.mktemp("bundle")
    paths = family(folder, TEXT, WEIGHTS, count=CLIENTS)
    netfuse_onnx.merge(paths, str(folder / "served"), io="stacked", views=True, verify=False)
    return str(folder / "served"), paths


@pytest.fixture(scope="module")
def server(bundle: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("server"), *bundle, {}) as found:
        yield found


def feeds(client: int, turn: int) -> dict[str, np.ndarray]:
    """One to three rows."""
    rng = np.random.default_rng((client, turn))
    rows = 1 + turn % 3
    return {"x": rng.standard_normal((rows, 8)).astype(np.float32), "k": rng.integers(0, 5, rows)}


def as_json(given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in given.items()}


def right(path: str, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """The source's answer."""
    return np.asarray(oracle.session(path, oracle.LEVELS[0]).run(["y"], dict(given))[0])


def asks(server: Server, client: int, together: Barrier) -> None:
    """One client asks its model again and again, each time together with all others."""
    for turn in range(ROUNDS):
        given = feeds(client, turn)
        together.wait(30)
        status, answer = server.ask("abcdefgh"[client], as_json(given))
        assert status == 200, answer
        wanted = right(server.paths[client], given)
        np.testing.assert_allclose(np.array(answer["y"], np.float32), wanted, rtol=1e-4, atol=1e-5)


def test_clients_of_several_models_at_once(server: Server) -> None:
    together = Barrier(CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(asks, server, client, together) for client in range(CLIENTS)]:
            done.result()
    assert 'netfuse_requests_total{end="answered"}' in server.metrics()


BODY = {"x": [[0.0] * 8], "k": [0]}
WRONG = {
    "no model": (404, "z", BODY),
    "a missing input": (400, "a", {"x": [[0.0] * 8]}),
    "an unknown input": (400, "a", BODY | {"z": [1]}),
    "a short row": (400, "a", BODY | {"x": [[0.0] * 7]}),
    "rows of unequal length": (400, "a", BODY | {"x": [[0.0] * 8, [0.0]]}),
    "text": (400, "a", BODY | {"x": [["much"] * 8]}),
    "no JSON": (422, "a", b"{"),
    "too many rows": (413, "a", {"x": [[0.0] * 8] * 65, "k": [0] * 65}),
    "an index that no table has": (500, "a", BODY | {"k": [77]}),
}


def test_what_json_lacks_is_null(server: Server) -> None:
    """NaN goes in as Python's json writes it, and the outputs that it reaches come out as null."""
    status, answer = server.ask("a", {"x": [[float("nan")] * 8, [0.0] * 8], "k": [0, 0]})
    assert status == 200 and set(answer["y"][0]) == {None}
    assert all(isinstance(value, float) for value in answer["y"][1])


@pytest.mark.parametrize(("status", "model", "body"), WRONG.values(), ids=WRONG)
def test_a_wrong_request_hurts_no_other(server: Server, status: int, model: str, body: Any) -> None:
    """It has a status of its own, and all that run beside it get their answers."""
    together = Barrier(CLIENTS + 1)

    def bad() -> list[tuple[int, Any]]:
        answers = []
        for _ in range(ROUNDS):
            together.wait(30)
            answers.append(server.ask(model, body))
        return answers

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        refused = pool.submit(bad)
        for done in [pool.submit(asks, server, client, together) for client in range(CLIENTS)]:
            done.result()
    assert {found for found, _ in refused.result()} == {status}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A bundle of two models with slow calls, and their files."""
    folder = tmp_path_factory.mktemp("slow")
    paths = family(folder, SLOW, SLOW_WEIGHTS, count=2)
    netfuse_onnx.merge(paths, str(folder / "served"), io="stacked", views=True, verify=False)
    return str(folder / "served"), paths


X = np.linspace(1e-3, 1, 64, dtype=np.float32)[:, None]


def test_a_full_queue_and_a_request_that_is_late(slow: tuple[str, list[str]], tmp_path: Path) -> None:
    """One slow call runs at a time, and two requests may wait for a fifth of its time: of twelve that come together
    some are refused at once, some wait in vain, and those that run are right."""
    together = Barrier(12)

    def ask(client: int) -> tuple[int, Any]:
        together.wait(30)
        return server.ask("ab"[client % 2], {"x": X.tolist()})

    change = {"timeout=1.0": "timeout=0.02, max_queue=2, workers=1"}
    with started(tmp_path, *slow, change) as server, ThreadPoolExecutor(12) as pool:
        answers = [*pool.map(ask, range(12))]
        told = server.metrics()
    assert {status for status, _ in answers} == {200, 429, 504}
    for client, (status, answer) in enumerate(answers):
        if status == 200:
            wanted = right(server.paths[client % 2], {"x": X})
            assert np.abs(np.array(answer["y"]) - wanted).max() <= 1e-3 * np.abs(wanted).max()
    assert 'netfuse_refused_total{error="queue_full"}' in told
    late = sum(status == 504 for status, _ in answers)
    assert f'netfuse_requests_total{{end="timed_out"}} {late}' in told


def test_what_was_accepted_is_answered_when_the_server_ends(
    slow: tuple[str, list[str]], tmp_path: Path
) -> None:
    """Two requests run or wait when the signal comes."""
    change = {"timeout=1.0": "timeout=10.0, workers=1"}
    with started(tmp_path, *slow, change) as server, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(server.ask, model, {"x": X.tolist()}) for model in "ab"]
        end = time.monotonic() + 20
        while not _both_came(server.metrics()):
            assert time.monotonic() < end
        server.process.send_signal(signal.SIGTERM)
        assert [answer.result()[0] for answer in answers] == [200, 200]
        assert server.process.wait(20) in (0, -signal.SIGTERM)


def _both_came(told: str) -> bool:
    """Return True once the metrics count two requests: those that wait, run or are answered."""
    names = ("netfuse_queue_depth ", "netfuse_running_calls ", 'netfuse_requests_total{end="answered"} ')
    found = [line.rpartition(" ")[2] for line in told.splitlines() if line.startswith(names)]
    return sum(map(float, found)) >= 2
