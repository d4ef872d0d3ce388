"""Asks a Triton server with its own clients, and reads its statistics."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from triton_families import Array, alone
from triton_server import Endpoint

OIP = {"float32": "FP32", "float16": "FP16", "float64": "FP64", "object": "BYTES"}
Feeds = Mapping[str, Array]


def ask(endpoint: Endpoint, model: str, feeds: Feeds, *, http: bool = False, **options: Any) -> Any:
    """The result of one request. Scalars, and rows of scalars, get the axis of 1 that Triton wants."""
    kind = triton_http if http else triton_grpc
    inputs = []
    for name, value in feeds.items():
        one = kind.InferInput(name, list(value.shape), OIP.get(value.dtype.name, value.dtype.name.upper()))
        one.set_data_from_numpy(value)
        inputs.append(one)
    with kind.InferenceServerClient(endpoint.http if http else endpoint.grpc) as client:
        return client.infer(model, inputs, **options)


def assert_equal(result: Any, wanted: Feeds) -> None:
    """The values of a result by name, and their types and shapes but for axes of 1."""
    for name, value in wanted.items():
        found = result.as_numpy(name)
        assert found.size == value.size, name
        assert_close(found.reshape(value.shape), value)


def assert_close(found: Array, wanted: Array) -> None:
    """Equal up to rounding; strings come as bytes in UTF-8."""
    assert found.dtype == wanted.dtype
    if wanted.dtype == object:
        assert [one.decode() for one in found.ravel()] == wanted.ravel().tolist()
    else:
        rtol, atol = (1e-2, 1e-2) if wanted.dtype == np.float16 else (1e-4, 1e-5)
        np.testing.assert_allclose(found, wanted, rtol, atol)


def statistics(endpoint: Endpoint, model: str) -> tuple[int, int]:
    """Rows and executions of a model so far, by Triton's own count."""
    with urllib.request.urlopen(f"http://{endpoint.http}/v2/models/{model}/stats") as answer:
        (found,) = json.load(answer)["model_stats"]
    return found["inference_count"], found["execution_count"]


def executions(endpoint: Endpoint, model: str) -> dict[int, float]:
    """Executions by the number of models in them, as the family counts them."""
    with urllib.request.urlopen(f"http://{endpoint.metrics}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(rf'^netfuse_executions_total{{family="{model}",models="(\d+)".*}} (\S+)$', text, re.M)
    return {int(models): float(count) for models, count in found}


def together(work: list[Callable[[], None]]) -> None:
    """Run functions in threads of their own, and raise the first error."""
    with ThreadPoolExecutor(len(work)) as threads:
        for future in [threads.submit(one) for one in work]:
            future.result()


class Load:
    """Clients that ask one model each, again and again, and compare each answer with those that are allowed."""

    def __init__(self, endpoint: Endpoint, allowed: list[list[str]], *, tolerant: bool = False) -> None:
        self.endpoint, self.tolerant = endpoint, tolerant
        self.stopped = threading.Event()
        self.answers: list[int] = []
        self.failures: list[str] = []
        self.threads = [
            threading.Thread(target=self._client, args=(k, allowed)) for k in range(len(allowed[0]))
        ]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def _client(self, k: int, allowed: list[list[str]]) -> None:
        name = Path(allowed[0][k]).stem
        x = np.random.default_rng(k).standard_normal((1, 64)).astype(np.float32)
        wanted = [alone(paths[k], {"x": x})["y"] for paths in allowed]
        one = triton_grpc.InferInput("x", [1, 64], "FP32")
        one.set_data_from_numpy(x)
        with triton_grpc.InferenceServerClient(self.endpoint.grpc) as client:
            while not self.stopped.is_set():
                try:
                    found = client.infer(name, [one]).as_numpy("y")
                except triton_grpc.InferenceServerException as error:
                    self.failures.append(str(error))
                    time.sleep(0.05)
                    continue
                which = [n for n, each in enumerate(wanted) if np.allclose(found, each, rtol=1e-4, atol=1e-2)]
                self.answers.append(which[0] if which else -1)
