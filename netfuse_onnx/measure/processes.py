"""Runs the models in worker processes, which stay for all calls. Each worker has its share of the models, and
all run at once.

Inputs are copied into memory that the workers share, and outputs are copied out of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from netfuse_onnx.measure.contenders import Contender
from netfuse_onnx.measure.worker import Slot, view
from netfuse_onnx.measure.workload import Results
from netfuse_onnx.run.runtime import Array, RunFailed, Value

ALIGNED = 64
"""Arrays in the shared memory begin at multiples of so many bytes."""
COMMAND = (sys.executable, "-m", "netfuse_onnx.measure.worker")
ENDED = "a worker ended"
PATIENCE = 10.0
"""A worker has so many seconds to end by itself."""


class Processes(Contender):
    """As many processes as there are cores, or models, if these are fewer. Each has one thread."""

    kind = "processes"

    def setup(self) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []
        self._resident = 0
        layout = _Layout()
        models = range(self.work.models)
        self._inputs = [layout.slots(self.work.feeds(m)) for m in models]
        self._outputs = [layout.slots(self.work.wants(m)) for m in models]
        self._folder = tempfile.TemporaryDirectory(prefix="netfuse-bench-", dir=_memory())
        self._path = os.path.join(self._folder.name, "arrays")
        self._memory: Array = np.memmap(self._path, np.uint8, "w+", shape=(max(layout.size, 1),))
        self._fed = [
            (view(self._memory, slot), np.asarray(self.work.feeds(m)[name]))
            for m in models
            for name, slot in self._inputs[m].items()
        ]
        self._feed()
        count = min(self.work.models, self.work.cores)
        for first in range(count):
            self._start(range(first, self.work.models, count))
        for worker in self._workers:
            self._resident += self._ready(worker)
        self._folder.cleanup()  # all have mapped it: nothing stays behind, whatever ends this process

    def _start(self, share: range) -> None:
        order = {
            "memory": self._path,
            "provider": self.work.runtime.provider,
            "libraries": self.work.runtime.libraries,
            "settings": dataclasses.asdict(self.settings),
            "tf32": self.work.tf32,
            "models": [
                {"path": self.work.paths[m], "inputs": self._inputs[m], "outputs": self._outputs[m]}
                for m in share
            ],
        }
        worker = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": _search_path()},
            bufsize=0,
            start_new_session=True,  # an interrupt is for this process; a worker ends with its stdin
        )
        self._workers.append(worker)
        _tell(worker, json.dumps(order).encode() + b"\n")

    def _ready(self, worker: subprocess.Popen[bytes]) -> int:
        assert worker.stdout
        answer = json.loads(worker.stdout.readline() or json.dumps({"problem": ENDED}))
        if "problem" in answer:
            raise RunFailed(answer["problem"])
        return int(answer["resident"])

    def _feed(self) -> None:
        for place, array in self._fed:
            place[...] = array

    def run(self) -> object:
        """Run all models. Outputs that the merged model combines are combined in numpy, in this process."""
        return self.work.combine(self.results()) if self.work.combined else self._run()

    def _run(self) -> list[dict[str, Array]]:
        self._feed()
        for worker in self._workers:
            _tell(worker, b".")
        for worker in self._workers:
            assert worker.stdout
            if worker.stdout.read(1) != b".":
                raise RunFailed(ENDED)
        return [
            {name: np.array(view(self._memory, slot)) for name, slot in slots.items()}
            for slots in self._outputs
        ]

    def results(self) -> Results:
        return [self.work.first_names(m, result) for m, result in enumerate(self._run())]

    def elsewhere(self) -> int:
        return self._resident

    def close(self) -> None:
        for worker in self._workers:
            _end(worker)
        self._workers, self._fed = [], []
        if hasattr(self, "_memory"):
            del self._memory
        if hasattr(self, "_folder"):
            self._folder.cleanup()


class _Layout:
    """Assigns places in the shared file."""

    size = 0

    def slots(self, values: Mapping[str, Value]) -> dict[str, Slot]:
        """Assign a slot to each array. Raises RunFailed for sequences and strings."""
        slots = {}
        for name, value in values.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind in "OUSV":
                raise RunFailed(f"{name!r} is no tensor of numbers, which workers don't share")
            slots[name] = (self.size, value.shape, value.dtype.str)
            self.size += -(-value.nbytes // ALIGNED) * ALIGNED
        return slots


def _tell(worker: subprocess.Popen[bytes], what: bytes) -> None:
    assert worker.stdin
    try:
        worker.stdin.write(what)
    except BrokenPipeError as error:
        raise RunFailed(ENDED) from error


def _memory() -> str | None:
    """Return a folder in memory; None where the system has none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _search_path() -> str:
    """Return a PYTHONPATH with which a worker finds this package, in a plain checkout as well."""
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))


def _end(worker: subprocess.Popen[bytes]) -> None:
    for pipe in (worker.stdin, worker.stdout):
        with contextlib.suppress(OSError):
            if pipe:
                pipe.close()
    try:
        worker.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
