"""The clock: loads models, and times their runs in turns. The shortest time counts: other processes only ever
add to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
EQUAL_NODES = "CommonSubexpressionElimination"
"""The optimiser that makes one node of equal nodes that read the same values."""
WARM_UP = {"cpu": 1, "cuda": 3}
"""Runs before those that count: on CUDA the second captures a graph."""


@dataclass(frozen=True)
class Clock:
    """Sessions on `runtime` whose operators share `threads` threads. On CUDA inputs and outputs stay on the
    device; `graph` says if runs are replayed as a CUDA graph: by default where the provider can. `left_out`
    names optimisers; without `optimise` all are left out."""

    runtime: Runtime
    threads: int = 0
    graph: bool | None = None
    optimise: bool = True
    left_out: tuple[str, ...] = (EQUAL_NODES,)

    def ready(self, model: bytes | str, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Run:
        """Load a model and run it once or more, so that all is in place. Raises RunFailed."""
        if self.runtime.provider != "cuda" or self.graph is not None:
            return self._ready(model, feeds, graph=bool(self.graph))
        try:
            return self._ready(model, feeds, graph=True)
        except RunFailed:
            return self._ready(model, feeds, graph=False)

    def _ready(self, model: bytes | str, feeds: Mapping[str, np.ndarray[Any, Any]], *, graph: bool) -> Run:
        session = self._session(model, graph)
        binding, place = session.io_binding(), device(self.runtime)
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

        for _ in range(WARM_UP[self.runtime.provider]):
            once()
        return once

    def _session(self, model: bytes | str, graph: bool) -> Any:
        options = session_options()
        options.intra_op_num_threads = self.threads
        # Else the threads of the session before wait actively, on the cores that this one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not self.optimise:
            options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        runtime = replace(self.runtime, left_out=(*self.runtime.left_out, *self.left_out))
        more = [CUDA_GRAPH] if graph else []
        return open_session(model, options, runtime, providers(runtime.provider, *more, tf32=True))


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
