"""Starts the app of `netfuse-onnx export ray` in Ray Serve, and asks it, for the tests of the engine."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import oracle
import servers

STEPS = 250
TEXT = f"""g (float[n, 8] x, int64[n] k) => (float[n, 4] y) {{
    h0 = MatMul(x, w1)
    {" ".join(f"p{i} = Mul(h{i}, s) q{i} = Add(p{i}, b) h{i + 1} = Div(q{i}, s)" for i in range(STEPS))}
    r = Relu(h{STEPS})
    m = MatMul(r, w2)
    t = Gather(table, k)
    y = Add(m, t)
}}"""
WEIGHTS = {"w1": (8, 16), "s": (16,), "b": (16,), "w2": (16, 4), "table": (5, 4)}
"""Many small steps, which take longer than to merge them: requests that come meanwhile share the next call."""
MODELS, CLIENTS, ROUNDS = "abcdefgh", 16, 12
Feeds = dict[str, np.ndarray]
Ask = Callable[[str, Feeds], np.ndarray]


@dataclass
class Running:
    """The app while it runs. `sources` are the models' own files, by family and model."""

    port: int
    build: Callable[[Mapping[str, str]], Any]
    folder: Path
    handle: Any
    sources: dict[tuple[str, str], str]
    sessions: dict[str, Any] = field(default_factory=dict)

    def truth(self, family: str, model: str, feeds: Feeds) -> np.ndarray:
        path = self.sources[family, model]
        if path not in self.sessions:
            self.sessions[path] = oracle.session(path, oracle.LEVELS[0])
        return np.asarray(self.sessions[path].run(["y"], feeds)[0])

    def deploy(self, **args: str) -> None:
        from ray import serve

        self.handle = serve.run(self.build(args), name="default")

    def family(self, method: str, *given: Any, name: str = "eight") -> Any:
        from ray import serve

        handle = serve.get_deployment_handle(name, "default")
        return getattr(handle, method).remote(*given).result(timeout_s=60)

    def by_handle(self, model: str, feeds: Feeds) -> np.ndarray:
        return np.asarray(self.handle.infer.remote(model, feeds).result(timeout_s=60)["y"])

    def by_http(self) -> Ask:
        """A client of its own, which sends and takes tensors as bytes."""
        from tritonclient.http import InferenceServerClient, InferInput

        client = InferenceServerClient(f"127.0.0.1:{self.port}", network_timeout=60)

        def ask(model: str, feeds: Feeds) -> np.ndarray:
            inputs = []
            for name, value in feeds.items():
                kind = "FP32" if value.dtype == np.float32 else "INT64"
                inputs.append(InferInput(name, list(value.shape), kind))
                inputs[-1].set_data_from_numpy(value)
            found = client.infer(model, inputs).as_numpy("y")
            assert found is not None
            return np.asarray(found)

        return ask


class Local:
    """Ray with its files in a folder of its own, whose path must be short, on loopback alone."""

    def __enter__(self) -> int:
        import ray
        from ray import serve

        self.folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
        os.environ |= {"RAY_AUTH_TOKEN": "a" * 64, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        port = servers.free_port()
        ray.init(
            num_cpus=4, include_dashboard=False, _temp_dir=self.folder, _node_ip_address="127.0.0.1",
            log_to_driver=False, logging_level="ERROR", object_store_memory=100 << 20,
        )  # fmt: skip
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        return port

    def __exit__(self, *error: object) -> None:
        import ray
        from ray import serve

        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def feeds(seed: tuple[int, ...]) -> Feeds:
    """One to three rows."""
    rng = np.random.default_rng(seed)
    rows = 1 + sum(seed) % 3
    return {"x": rng.standard_normal((rows, 8)).astype(np.float32), "k": rng.integers(0, 5, rows)}


def name_of(model: str) -> str:
    return f"eight.{model}" if model in "gh" else model


def right(running: Running, answer: np.ndarray, model: str, given: Feeds) -> None:
    np.testing.assert_allclose(answer, running.truth("eight", model, given), rtol=1e-4, atol=1e-5)


class Load:
    """Clients that ask until the block ends. `allowed` says which answers are right besides those of `running`."""

    def __init__(self, running: Running, *others: Running) -> None:
        self.right, self.errors = 0, list[Exception]()
        self.wrong = list[str]()
        self._truths = (running, *others)
        self._end = Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(8)]

    def _ask(self, number: int) -> None:
        first = self._truths[0]
        ask = first.by_http() if number % 2 else first.by_handle
        turn = 0
        while not self._end.is_set():
            turn += 1
            model, given = MODELS[(number + turn) % 8], feeds((number, turn))
            try:
                answer = ask(name_of(model), given)
            except Exception as error:
                self.errors.append(error)
                continue
            wanted = [one.truth("eight", model, given) for one in self._truths]
            if any(np.allclose(answer, want, rtol=1e-4, atol=1e-5) for want in wanted):
                self.right += 1
            else:
                self.wrong.append(model)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def more(self, count: int) -> None:
        """Wait for so many further right answers."""
        goal, end = self.right + count, time.monotonic() + 90
        while self.right < goal:
            assert time.monotonic() < end, (self.right, self.errors[-3:])
            time.sleep(0.02)
