"""Calls of sessions on CUDA.

Inputs and outputs of each form have fixed places on the device, so that a call is one copy there, one launch
of a captured CUDA graph, and one copy back. ONNX Runtime keeps captured graphs for the thread that captured
them, so one thread makes all calls. It can start the own sessions of many models, each on its own stream, and
wait for all of them together.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from netfuse_onnx.runtime.calls import Results
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.errors import CallFailed, Closed
from netfuse_onnx.runtime.ort import Setup, first_line
from netfuse_onnx.runtime.own import OwnSessions
from netfuse_onnx.runtime.packing import Packed
from netfuse_onnx.runtime.placed import DeviceFile, Placed
from netfuse_onnx.runtime.types import Array, Outputs

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
        if not self._thread.is_alive():
            raise Closed("The sessions of these files are closed.")
        reply: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def told() -> None:
            try:
                reply.put((job(), None))
            except BaseException as error:
                reply.put((None, error))

        self._jobs.put(told)
        answer, error = reply.get()
        if error is not None:
            raise error
        return cast(Answer, answer)

    def close(self) -> None:
        """End the thread when it has done what waits."""
        self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            job()
            del job


@dataclass(slots=True)
class Changes:
    """A count that an engine and what opens its sessions share."""

    count: int = 0


class OnCuda:
    """Calls on CUDA, by one thread of the engine."""

    def __init__(
        self, path: str, paths: Sequence[str], setup: Setup, most: int | None, sizes: Sequence[int] | None
    ) -> None:
        self.thread = DeviceThread()
        weakref.finalize(self, self.thread.close)
        self.file = self.thread.do(lambda: DeviceFile(path, setup))
        changes = self._changes = Changes()

        def opened(one: str) -> DeviceFile:
            changes.count += 1
            return DeviceFile(one, setup)

        self.own = OwnSessions(paths, opened, most, sizes)
        self.wide: OwnSessions | None = None
        self._contract: Contract | None = None

    @property
    def changes(self) -> int:
        """The sessions of models that were opened, and the calls that ran before their form had places or
        that made them. Such calls say nothing of those after them."""
        return self._changes.count

    def edges(self) -> tuple[Any, Any]:
        """Return the session of the merged file, and that of the first model or None."""
        first = self.thread.do(lambda: self.own.get(0)) if self.own.paths else None
        return self.file.session, first.session if first else None

    def use(self, contract: Contract) -> None:
        """Take the contract, which says if rows may be added to a call."""
        self._contract = contract

    def alone(self, model: int, packed: Packed, wide: bool = False) -> list[Outputs]:
        """Call a model's own session, which has the whole device."""
        return self.thread.do(lambda: self._alone(model, packed))

    def merged(self, packed: Packed) -> list[Outputs]:
        """Call the session of the merged file."""

        def call() -> list[Outputs]:
            return packed.split(self._call(self.file, packed.wanted, packed.feeds), fresh=False)

        return self.thread.do(call)

    def together(self, calls: Sequence[tuple[int, Packed]]) -> list[list[Outputs]]:
        """Call the own sessions of different models at once, each on its own stream. Raises CallFailed."""
        return self.thread.do(lambda: self._together(calls))

    def _placed(self, file: DeviceFile, feeds: Mapping[str, Array]) -> Placed | None:
        before = file.unsteady
        placed = file.placed(feeds)
        self._changes.count += file.unsteady - before
        return placed

    def close(self) -> None:
        """Release the sessions, in the thread that made them."""

        def release() -> None:
            self.own.clear()
            del self.file

        self.thread.do(release)
        self.thread.close()

    def _alone(self, model: int, packed: Packed) -> list[Outputs]:
        rows = _rows(packed)
        results = self._call(self.own.get(model), packed.wanted, self._rounded(model, packed, rows))
        return packed.split(self._cut(model, results, rows), fresh=False)

    def _call(self, file: DeviceFile, wanted: Sequence[str], feeds: Mapping[str, Array]) -> Results:
        placed = self._placed(file, feeds)
        if placed is None:
            return file.run(wanted, feeds)
        try:
            placed.fill(feeds)
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
            results = file.run(wanted, feeds)
        except CallFailed:
            raise CallFailed(f"ONNX Runtime failed: {first_line(error)}.") from error
        file.forget(placed)
        return results

    def _together(self, calls: Sequence[tuple[int, Packed]]) -> list[list[Outputs]]:
        """Start all, wait once, and take the outputs. What has no places on the device runs by itself."""
        started: list[Placed | Results] = []
        try:
            for model, packed in calls:
                started.append(
                    self._started(self.own.get(model), self._rounded(model, packed, _rows(packed)), packed)
                )
            last = next((one for one in reversed(started) if isinstance(one, Placed)), None)
            if last is not None:
                last.wait()
            results = [one.get() if isinstance(one, Placed) else one for one in started]
        except CallFailed:
            raise
        except Exception as error:
            raise CallFailed(f"ONNX Runtime failed: {first_line(error)}.") from error
        return [
            packed.split(self._cut(model, found, _rows(packed)), fresh=False)
            for (model, packed), found in zip(calls, results, strict=True)
        ]

    def _started(self, file: DeviceFile, feeds: Mapping[str, Array], packed: Packed) -> Placed | Results:
        placed = self._placed(file, feeds)
        if placed is None:
            return file.run(packed.wanted, feeds)
        placed.fill(feeds)
        placed.start()
        return placed

    def _rounded(self, model: int, packed: Packed, rows: int) -> Mapping[str, Array]:
        """Return the inputs with the next power of two of rows, where rows are apart: fewer forms have to be
        captured. The rows behind those of the requests repeat the first one."""
        contract, most = self._contract, 1 << (rows - 1).bit_length()
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
        contract = self._contract
        if contract is None or not contract.side_by_side:
            return results
        by_rows = {port.own[model] for port in contract.outputs if port.rows}
        return {name: value[:rows] if name in by_rows else value for name, value in results.items()}


def _rows(packed: Packed) -> int:
    return sum([request.rows for request in packed.requests])
