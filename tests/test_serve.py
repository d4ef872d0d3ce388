"""A stock server that batches on axis 0, over a routed file: rows of several models run in one call, and all are
right. The server is LitServe, as `examples/serve_routed.py` starts it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
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
    not importlib.util.find_spec("litserve"), reason="LitServe is missing: pip install -e .[serve]"
)
ROOT = Path(__file__).parent.parent
CLIENTS, ROUNDS = 8, 8
EXAMPLE = ROOT / "examples" / "serve_routed.py"
RECORDING = '''
"""The server of the example, which also writes down the models of each call."""
from pathlib import Path

class Recording(Routed):
    def predict(self, rows):
        with Path(CALLS).open("a") as file:
            print(*(model for model, _ in rows), file=file)
        return super().predict(rows)

Routed = Recording
'''


@dataclass(frozen=True)
class Server:
    """A server that runs. `calls` names the file in which it writes down the models of each call."""

    port: int
    calls: Path

    def ask(self, body: dict[str, Any]) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        return servers.ask(f"http://127.0.0.1:{self.port}/predict", body)


@contextmanager
def started(folder: Path, merged: str) -> Iterator[Server]:
    """Start the example on a free port, with a class that writes down the models of each call."""
    calls, script, port = folder / "calls", folder / "serve.py", servers.free_port()
    text, mark = EXAMPLE.read_text(), '\n\nif __name__ == "__main__":'
    assert mark in text
    script.write_text(text.replace(mark, RECORDING.replace("CALLS", repr(str(calls))) + mark))
    health = f"http://127.0.0.1:{port}/health"
    with servers.running(script, merged, str(port), folder=folder, health=health):
        yield Server(port, calls)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return family(tmp_path_factory.mktemp("sources"), count=CLIENTS)


@pytest.fixture(scope="module", params=["slots", "index"])
def server(
    request: pytest.FixtureRequest, paths: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    merged = str(folder / "merged.onnx")
    netfuse_onnx.merge(paths, merged, io="routed", routing=request.param, verify=False)
    with started(folder, merged) as found:
        yield found


def rows(client: int) -> np.ndarray:
    return np.random.default_rng(client).standard_normal((ROUNDS, 8)).astype(np.float32)


def right(path: str, client: int) -> np.ndarray:
    """The source's answers, row by row."""
    session = oracle.session(path, oracle.LEVELS[0])
    return np.concatenate([session.run(["y"], {"x": row[None]})[0] for row in rows(client)])


def asks(server: Server, client: int, together: Barrier) -> list[tuple[int, Any]]:
    """The answers to one client, who asks for its model row by row, each time together with all others."""
    answers = []
    for row in rows(client):
        together.wait(30)
        answers.append(server.ask({"model": "abcdefgh"[client], "x": row.tolist()}))
    return answers


def test_clients_of_several_models_at_once(server: Server, paths: list[str]) -> None:
    """Rows of several models run in one call, and each gets the answer of its own model."""
    together = Barrier(CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = [*pool.map(lambda client: asks(server, client, together), range(CLIENTS))]
    for client, answers in enumerate(found):
        assert {status for status, _ in answers} == {200}
        got = np.array([answer for _, answer in answers], np.float32)
        np.testing.assert_allclose(got, right(paths[client], client), rtol=1e-4, atol=1e-5)
    calls = [line.split() for line in server.calls.read_text().splitlines()]
    assert max(len(set(call)) for call in calls) > 1, "no call had rows of several models"


@pytest.mark.parametrize("wrong", [{"model": "z"}, {"model": -1}, {"x": [1.0]}, {"x": ["much"] * 8}])
def test_a_wrong_row_hurts_no_other(server: Server, paths: list[str], wrong: dict[str, Any]) -> None:
    """It is refused before it stands beside others, which get their answers."""
    together = Barrier(CLIENTS + 1)

    def bad() -> list[int]:
        statuses = []
        for row in rows(0):
            together.wait(30)
            statuses.append(server.ask({"model": "a", "x": row.tolist()} | wrong)[0])
        return statuses

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        refused = pool.submit(bad)
        found = [*pool.map(lambda client: asks(server, client, together), range(CLIENTS))]
    assert set(refused.result()) == {422}
    for client, answers in enumerate(found):
        got = np.array([answer for _, answer in answers], np.float32)
        np.testing.assert_allclose(got, right(paths[client], client), rtol=1e-4, atol=1e-5)
