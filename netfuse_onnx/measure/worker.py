"""A process that runs some of the models on request: `python -m netfuse_onnx.measure.worker`.

It reads one line of JSON, loads its models and answers with one line. Then it runs all of them once for every
byte on stdin, and answers with a byte. Arrays are in a file that both sides map. It ends when its stdin is
closed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from netfuse_onnx.measure.memory import resident
from netfuse_onnx.measure.sessions import Runner, Settings
from netfuse_onnx.run.runtime import Array, Runtime

Slot = tuple[int, tuple[int, ...], str]
"""The place of an array in the shared file: offset in bytes, shape, type."""


def view(memory: Array, slot: Slot) -> Array:
    """Return the array at a slot of the mapped bytes."""
    offset, shape, dtype = slot
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return memory[offset : offset + size].view(dtype).reshape(shape)


def main() -> int:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not be read as an answer
    empty = resident()
    order = json.loads(sys.stdin.buffer.readline())
    memory = np.memmap(order["memory"], np.uint8, "r+")
    runtime = Runtime(order["provider"], tuple(order["libraries"]))
    try:
        models = [_Model(row, memory, runtime, order) for row in order["models"]]
        for model in models:
            model.run()
    except Exception as error:  # it has no other way to say so
        answers.write(json.dumps({"problem": str(error)}).encode() + b"\n")
        return 1
    answers.write(json.dumps({"resident": resident() - empty}).encode() + b"\n")
    while sys.stdin.buffer.read(1):
        for model in models:
            model.run()
        answers.write(b".")
    return 0


class _Model:
    def __init__(
        self, row: Mapping[str, Any], memory: Array, runtime: Runtime, order: Mapping[str, Any]
    ) -> None:
        self.wants = {name: view(memory, slot) for name, slot in row["outputs"].items()}
        feeds = {name: view(memory, slot) for name, slot in row["inputs"].items()}
        settings = Settings(**order["settings"])
        self.runner = Runner(row["path"], feeds, self.wants, runtime, settings, order["tf32"])

    def run(self) -> None:
        for name, value in zip(self.runner.outputs, self.runner.run(), strict=True):
            self.wants[name][...] = value


if __name__ == "__main__":
    sys.exit(main())
