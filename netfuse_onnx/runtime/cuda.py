"""Calls of sessions on CUDA.

Inputs and outputs of each form have fixed places on the device, so that a call is one copy there, one launch
of a captured CUDA graph, and one copy back. ONNX Runtime keeps captured graphs for the thread that captured
them, so one thread makes all calls. It can start the own sessions of many models, each on its own stream, and
wait for all of them together.

A file whose shapes are computed on the device from open sizes is refused by CUDA graphs. It is opened once
for each form, with its sizes fixed, up to FORMS of them. Files that wait for the ids of a call (selected,
index) can't be captured at all.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import onnxruntime

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime.calls import Results, is_plain, run
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.errors import CallFailed
from netfuse_onnx.runtime.ort import CUDA, Setup, first_line, names_of, open_session
from netfuse_onnx.runtime.own import OwnSessions
from netfuse_onnx.runtime.packing import Packed
from netfuse_onnx.runtime.pinned import Block
from netfuse_onnx.runtime.types import Array

GRAPHS = 16
"""Forms of one session that have a captured CUDA graph; others run without."""
FORMS = 2
"""Forms for which a file is opened with fixed sizes, where CUDA graphs ask for it: each has the weights once
more on the device."""
USUAL = {"cudnn_conv_algo_search": "HEURISTIC"}
"""Options of the provider where the user names none: by default cuDNN times all its algorithms for each new
shape, which takes seconds in the middle of serving."""
GRAPH = {"enable_cuda_graph": "1"}
NO_GRAPH = "-1"
"""The id of a run that neither captures a graph nor replays one."""
Answer = TypeVar("Answer")


class DeviceThread:
    """The one thread that calls sessions on the device."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="netfuse-cuda", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], Answer]) -> Answer:
        """Run a job there, and return what it returns, or raise what it raises."""
        if threading.current_thread() is self._thread:
            return job()
        future: Future[Answer] = Future()

        def told() -> None:
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(told)
        return future.result()

    def close(self) -> None:
        """End the thread when it has done what waits."""
        self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            job()
            del job


class Placed:
    """A session with places on the device for the inputs and outputs of one form."""

    def __init__(self, session: Any, feeds: Mapping[str, Array], graph: str, device: int) -> None:
        """Take arrays of the shapes of the inputs, on which the session runs once to show its outputs.
        `graph` is the id of the CUDA graph of this form, or NO_GRAPH."""
        self.session, self.binding = session, session.io_binding()
        self.inputs = Block({n: (a.shape, a.dtype) for n, a in feeds.items()}, device)
        for name, array in feeds.items():
            self.inputs.arrays[name][...] = array
        self.inputs.bind_inputs(self.binding)
        self.inputs.to_device()
        names = names_of(session.get_outputs())
        for name in names:
            self.binding.bind_output(name, "cuda", device)
        session.run_with_iobinding(self.binding, _options(NO_GRAPH))
        found = dict(zip(names, self.binding.get_outputs(), strict=True))
        likes = {name: (value.shape(), _dtype(value.data_type())) for name, value in found.items()}
        self.outputs = Block(likes, device)
        self.binding.clear_binding_outputs()
        self.outputs.bind_outputs(self.binding)
        self._waits, self._goes_on = _options(graph), _options(graph, wait=False)
        self.run()

    def start(self) -> None:
        """Copy the inputs to the device, and start a run without waiting for it."""
        self.inputs.to_device()
        self.session.run_with_iobinding(self.binding, self._goes_on)

    def wait(self) -> None:
        """Wait for the device, whatever runs on it."""
        self.binding.synchronize_outputs()

    def run(self) -> Results:
        """Run on what the host's side of the inputs holds, and return the outputs there."""
        self.inputs.to_device()
        self.session.run_with_iobinding(self.binding, self._waits)
        return self.get()

    def get(self) -> Results:
        """Copy the outputs of a run that has ended to the host, and return them."""
        self.outputs.to_host()
        return self.outputs.arrays


class DeviceFile:
    """The sessions of one file on the device, and its forms that have places there."""

    def __init__(self, path: str, setup: Setup) -> None:
        self._path, self._setup = path, setup
        self._forms: dict[Any, Placed | None] = {}
        self.session, self._open_sizes = self._first()
        ports = (*self.session.get_inputs(), *self.session.get_outputs())
        self._placeable = all(is_plain(port.type) for port in ports)
        self._fixed = 0

    @property
    def graphs(self) -> bool:
        """True where calls replay CUDA graphs, of some forms at least."""
        return self._open_sizes or self._fixed > 0

    def placed(self, feeds: Mapping[str, Array]) -> Placed | None:
        """Return the places for inputs of these shapes. None where they can't have any, or outputs come out
        in other sizes from call to call."""
        if not self._placeable:
            return None
        key = tuple([array.shape for array in feeds.values()])
        if key not in self._forms:
            self._forms[key] = self._new(feeds)
        return self._forms[key]

    def forget(self, placed: Placed) -> None:
        """Give a form no places any more."""
        for key, one in self._forms.items():
            if one is placed:
                self._forms[key] = None

    def _first(self) -> tuple[Any, bool]:
        """Return a session with open sizes, and True where CUDA graphs take it."""
        try:
            return open_session(self._path, _with(self._setup, GRAPH)), True
        except (FileFault, UsageFault):
            return open_session(self._path, _with(self._setup, {})), False

    def _new(self, feeds: Mapping[str, Array]) -> Placed | None:
        device, number = _device(self._setup), len(self._forms)
        if number >= 4 * GRAPHS:
            return None
        if self._open_sizes:
            return Placed(self.session, feeds, str(number) if number < GRAPHS else NO_GRAPH, device)
        if self._fixed < FORMS:
            try:
                session = open_session(
                    self._path, replace(_with(self._setup, GRAPH), dims=self._sizes(feeds))
                )
                self._fixed += 1
                return Placed(session, feeds, "0", device)
            except (FileFault, UsageFault):
                self._fixed = FORMS
        return Placed(self.session, feeds, NO_GRAPH, device)

    def _sizes(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """Return the sizes of the symbolic axes."""
        sizes = {}
        for port in self.session.get_inputs():
            for dim, size in zip(port.shape, feeds[port.name].shape, strict=True):
                if isinstance(dim, str):
                    sizes[dim] = size
        return sizes


class OnCuda:
    """Calls on CUDA, by one thread of the engine."""

    def __init__(
        self, path: str, paths: Sequence[str], setup: Setup, most: int, sizes: Sequence[int] | None
    ) -> None:
        self.thread, self._setup = DeviceThread(), setup
        self.file = self.thread.do(lambda: DeviceFile(path, setup))
        self.own = OwnSessions(paths, lambda one: DeviceFile(one, setup), most, sizes)
        self.contract: Contract | None = None

    def edges(self) -> tuple[Any, Any]:
        """Return the session of the merged file, and that of the first model or None."""
        first = self.thread.do(lambda: self.own.get(0)) if self.own.paths else None
        return self.file.session, first.session if first else None

    def alone(self, model: int, packed: Packed) -> tuple[Results, bool]:
        """Call a model's own session."""
        return self.thread.do(lambda: self._alone(model, packed)), False

    def merged(self, packed: Packed) -> tuple[Results, bool]:
        """Call the session of the merged file."""
        return self.thread.do(lambda: self._call(self.file, packed.wanted, packed.feeds)), False

    def together(self, calls: Sequence[tuple[int, Packed]]) -> list[Results]:
        """Call the own sessions of different models at once, each on its own stream. Raises CallFailed."""
        return self.thread.do(lambda: self._together(calls))

    def close(self) -> None:
        """Release the sessions, in the thread that made them."""

        def release() -> None:
            self.own.clear()
            del self.file

        self.thread.do(release)
        self.thread.close()

    def _alone(self, model: int, packed: Packed) -> Results:
        rows = self._rows(packed)
        results = self._call(self.own.get(model), packed.wanted, self._rounded(model, packed, rows))
        return self._cut(model, results, rows)

    def _call(self, file: DeviceFile, wanted: Sequence[str], feeds: Mapping[str, Array]) -> Results:
        placed = file.placed(feeds)
        if placed is None:
            return run(file.session, wanted, feeds)
        try:
            _fill(placed, feeds)
            return placed.run()
        except Exception as error:
            return self._unplaced(file, placed, wanted, feeds, error)

    def _unplaced(
        self,
        file: DeviceFile,
        placed: Placed,
        wanted: Sequence[str],
        feeds: Mapping[str, Array],
        error: Exception,
    ) -> Results:
        """Run without places after a run with them failed. Where that works, this form has none from then on:
        sizes of its outputs depend on data."""
        try:
            results = run(file.session, wanted, feeds)
        except CallFailed:
            raise CallFailed(f"ONNX Runtime failed: {first_line(error)}.") from error
        file.forget(placed)
        return results

    def _together(self, calls: Sequence[tuple[int, Packed]]) -> list[Results]:
        started: list[tuple[int, Placed | Results, int]] = []
        try:
            for model, packed in calls:
                rows, file = self._rows(packed), self.own.get(model)
                feeds = self._rounded(model, packed, rows)
                placed = file.placed(feeds)
                if placed is None:
                    started.append((model, run(file.session, packed.wanted, feeds), rows))
                    continue
                _fill(placed, feeds)
                placed.start()
                started.append((model, placed, rows))
            for _, one, _ in started:
                if isinstance(one, Placed):
                    one.wait()
        except CallFailed:
            raise
        except Exception as error:
            raise CallFailed(f"ONNX Runtime failed: {first_line(error)}.") from error
        return [
            self._cut(model, one.get() if isinstance(one, Placed) else one, rows)
            for model, one, rows in started
        ]

    def _rows(self, packed: Packed) -> int:
        return sum([request.rows for request in packed.requests])

    def _rounded(self, model: int, packed: Packed, rows: int) -> Mapping[str, Array]:
        """Return the inputs with the next power of two of rows, where rows are apart: fewer forms have to be
        captured. The rows behind those of the requests repeat the first one."""
        contract, most = self.contract, 1 << (rows - 1).bit_length()
        if contract is None or not contract.side_by_side or most == rows:
            return packed.feeds
        feeds = dict(packed.feeds)
        for port in contract.inputs:
            if port.rows:
                name = port.own[model]
                own = feeds[name]
                feeds[name] = np.concatenate([own, np.broadcast_to(own[:1], (most - rows, *own.shape[1:]))])
        return feeds

    def _cut(self, model: int, results: Results, rows: int) -> Results:
        """Return outputs without the rows that `_rounded` added."""
        contract = self.contract
        if contract is None or not contract.side_by_side:
            return results
        by_rows = {port.own[model] for port in contract.outputs if port.rows}
        return {name: value[:rows] if name in by_rows else value for name, value in results.items()}


def _fill(placed: Placed, feeds: Mapping[str, Array]) -> None:
    for name, array in feeds.items():
        np.copyto(placed.inputs.arrays[name], array)


def _options(graph: str, wait: bool = True) -> Any:
    """Return RunOptions for a graph id. They always name one: without, ONNX Runtime 1.31 throws and catches
    an error inside each run with options, which takes 0.1 ms."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    if not wait:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _with(setup: Setup, more: Mapping[str, str]) -> Setup:
    """Return a setup whose CUDA provider has more options, and the usual ones beside the user's."""
    found = []
    for one in setup.providers:
        name, own = (one, {}) if isinstance(one, str) else one
        found.append((name, {**USUAL, **own, **more}) if name == CUDA else one)
    return replace(setup, providers=tuple(found))


def _device(setup: Setup) -> int:
    first = setup.providers[0]
    return 0 if isinstance(first, str) else int(first[1].get("device_id", 0))


def _dtype(kind: str) -> np.dtype[Any]:
    """Return numpy's type of a tensor, by ONNX Runtime's words."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
