"""The model that Triton's python backend runs: all requests of an execution are one call of a session.

The repository's model.py imports TritonPythonModel from here, so the server's Python needs netfuse-onnx and
ONNX Runtime. Triton's dynamic batcher brings requests of all endpoints together; each is answered by itself.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx.deploy.triton_requests import Requests, Work, outcome
from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.runtime.errors import BadInput, ServingError
from netfuse_onnx.runtime.session import MergedSession
from netfuse_onnx.runtime.types import Array

LAYOUT = "family.json"
"""The file beside model.py that says how requests name their models."""
OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "providers": lambda text: text.split(","),
    "max_batch": int, "max_rows": int, "threads": int, "workers": int, "own_sessions": int,
    "calibrate": float, "libraries": lambda text: text.split(","),
}  # fmt: skip
"""The parameters of config.pbtxt that are options of MergedSession."""
SECONDS = 1.0
"""Seconds between two updates of the counters: each takes a message to the server."""
STATUS = {
    "INVALID_ARGUMENT": "INVALID_ARG", "NOT_FOUND": "NOT_FOUND", "RESOURCE_EXHAUSTED": "UNAVAILABLE",
    "UNAVAILABLE": "UNAVAILABLE", "DEADLINE_EXCEEDED": "UNAVAILABLE",
}  # fmt: skip
"""Triton's codes of errors by those of gRPC; all others are INTERNAL."""


def utils() -> Any:
    """Return the module that Triton's python backend brings."""
    return importlib.import_module("triton_python_backend_utils")


class TritonPythonModel:
    """The class that Triton's python backend looks for in model.py."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session of the version at hand. Raises TritonModelException with our sentence."""
        self.pb = utils()
        try:
            self._warn_of_numpy_2()
            self._open(args)
        except (NetfuseError, ValueError, OSError) as error:
            raise self.pb.TritonModelException(str(error)) from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response for each request, in order."""
        works = [self._work(request) for request in requests]
        asked = [one for work in works if isinstance(work, Work) for one in work.asked]
        outcomes = iter(self.session.run_many(asked, return_errors=True))
        found = [
            outcome(work, [next(outcomes) for _ in work.asked]) if isinstance(work, Work) else work
            for work in works
        ]
        self._count(len({model for model, _ in asked}))
        return [self._response(one) for one in found]

    def finalize(self) -> None:
        """End the session: Triton has answered all requests by then."""
        if hasattr(self, "session"):
            self.session.close()

    # ------------------------------------------------------------------ files

    def _open(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        with open(os.path.join(folder, LAYOUT), encoding="utf-8") as file:
            layout = json.load(file)
        given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        options = {key: read(given[key]) for key, read in OPTIONS.items() if given.get(key)}
        if "libraries" in options:
            options["libraries"] = [os.path.join(folder, name) for name in options["libraries"]]
        self.session = MergedSession(os.path.join(folder, layout["file"]), **options)
        signatures = [self.session.signature(model) for model in self.session.models]
        self.requests = Requests(signatures, layout)
        every = (tensor for one in signatures for tensor in (*one.inputs, *one.outputs))
        self.texts = {tensor.name for tensor in every if tensor.datatype == "BYTES"}
        self._metrics(args)

    def _warn_of_numpy_2(self) -> None:
        """Say in the server's log why answers may be empty. It can't be found out here: the arrays are
        measured where they leave this process."""
        if int(np.__version__.partition(".")[0]) >= 2:
            self.pb.Logger.log_warn(
                f"numpy is {np.__version__}: versions of Triton that were built for numpy 1 answer without "
                "values then. If yours does, install 'numpy<2' in the server's Python."
            )

    # ------------------------------------------------------------------ requests

    def _work(self, request: Any) -> Work | ServingError:
        try:
            inputs = {tensor.name(): self._array(tensor) for tensor in request.inputs()}
            return self.requests.read(inputs, request.requested_output_names())
        except ServingError as error:
            return error

    def _array(self, tensor: Any) -> Array:
        array: Array = tensor.as_numpy()
        if array.dtype.kind != "O":
            return array
        try:
            texts = [one.decode("utf-8") for one in array.ravel().tolist()]
        except UnicodeDecodeError as error:
            raise BadInput(
                f"Input {tensor.name()!r} has bytes that are no UTF-8: {error.reason}.",
                "ONNX has strings in UTF-8 alone.", input=str(tensor.name()),
            ) from error  # fmt: skip
        return np.array(texts, dtype=object).reshape(array.shape)

    def _response(self, found: dict[str, Any] | ServingError) -> Any:
        if isinstance(found, ServingError):
            code = getattr(self.pb.TritonError, STATUS.get(found.grpc, "INTERNAL"))
            return self.pb.InferenceResponse(error=self.pb.TritonError(str(found), code))
        # ascontiguousarray gives scalars an axis of 1, as the configuration says
        tensors = [self.pb.Tensor(name, np.ascontiguousarray(value)) for name, value in found.items()]
        return self.pb.InferenceResponse(tensors)

    # ------------------------------------------------------------------ counters

    def _metrics(self, args: Mapping[str, str]) -> None:
        family = self.pb.MetricFamily
        kind = {"kind": family.COUNTER}
        self.executions = family(
            name="netfuse_executions_total", description="Executions by the number of models in them", **kind
        )
        self.calls = family(name="netfuse_calls_total", description="Calls of ONNX Runtime by kind", **kind)
        self.labels = {"family": args["model_name"], "version": args["model_version"]}
        self.counters: dict[tuple[str, str], Any] = {}
        self.counted: Counter[tuple[str, str]] = Counter()
        self.reported: Counter[tuple[str, str]] = Counter()
        self.due = 0.0

    def _count(self, models: int) -> None:
        """Note an execution, and tell the server from time to time."""
        self.counted["models", str(models)] += 1
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + SECONDS
        for kind, calls in self.session.stats()["calls"].items():
            self.counted["kind", kind] = calls
        for key, count in self.counted.items():
            if count > self.reported[key]:
                self._counter(key).increment(count - self.reported[key])
                self.reported[key] = count

    def _counter(self, key: tuple[str, str]) -> Any:
        if key not in self.counters:
            family = self.executions if key[0] == "models" else self.calls
            self.counters[key] = family.Metric(labels=self.labels | {key[0]: key[1]})
        return self.counters[key]
