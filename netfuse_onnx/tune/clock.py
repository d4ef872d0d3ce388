"""The clock: loads models, and times their runs in turns. The shortest time counts: other processes only ever
add to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from netfuse_onnx.run.bound import CUDA_GRAPH, device
from netfuse_onnx.run.runtime import (
    RunFailed,
    Runtime,
    first_line,
    onnxruntime,
    open_session,
    providers,
    session_options,
)

Run = Callable[[], float]
"""Runs a model once. Gives the microseconds that it took."""
LEFT_OUT = "CommonSubexpressionElimination"
"""The optimiser that would make one node of equal nodes that read the same values."""


@dataclass(frozen=True)
class Clock:
    """Sessions on `runtime` whose operators share `threads` threads."""

    runtime: Runtime
    threads: int = 0
    tf32: bool = True

    def ready(self, model: bytes, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Run:
        """Load a model. On CUDA inputs and outputs stay there, and runs are replayed as a CUDA graph where
        the provider can. Raises RunFailed."""
        if self.runtime.provider == "cuda":
            try:
                return self._ready(model, feeds, CUDA_GRAPH)
            except RunFailed:
                pass
        return self._ready(model, feeds, {})

    def _ready(self, model: bytes, feeds: Mapping[str, np.ndarray[Any, Any]], more: Mapping[str, str]) -> Run:
        options = session_options()
        options.intra_op_num_threads = self.threads
        # Else the threads of the session before wait actively, on the cores that this one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        left_out = (*self.runtime.left_out, LEFT_OUT)
        runtime = Runtime(self.runtime.provider, self.runtime.libraries, left_out=left_out)
        session = open_session(model, options, runtime, providers(runtime.provider, more, tf32=self.tf32))
        binding, place = session.io_binding(), device(runtime)
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, _value(array, place))
        for value in session.get_outputs():
            binding.bind_output(value.name, place)

        def once() -> float:
            try:
                start = time.perf_counter()
                session.run_with_iobinding(binding)
                return (time.perf_counter() - start) * 1e6
            except Exception as error:
                raise RunFailed(first_line(error)) from error

        for _ in range(3 if more else 1):  # the second run captures a CUDA graph
            once()
        return once


def _value(array: np.ndarray[Any, Any], place: str) -> Any:
    ort = onnxruntime()
    if array.dtype.kind in "fiub" and array.dtype.isbuiltin:
        return ort.OrtValue.ortvalue_from_numpy(array, place, 0)
    number = helper.np_dtype_to_tensor_dtype(array.dtype)
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


def in_turns(runs: Sequence[Run], rounds: int, until: float = math.inf) -> list[float]:
    """The shortest time of each, in microseconds. No round but the first starts after `until`, a time of
    time.monotonic."""
    best = [math.inf] * len(runs)
    for done in range(rounds):
        if done and time.monotonic() > until:
            break
        best = [min(old, once()) for old, once in zip(best, runs, strict=True)]
    return best
