"""Times calls of a family, merged and alone, and writes the table that simulations read (tests/costs).

    python bench/call_costs.py a.onnx b.onnx c.onnx -o family.json
    python bench/call_costs.py build/lora/*.onnx -o lora.json --dim past=63 --io routed --merge=--low-rank

A call counts whole: filling the buffers of a merged call with rows, and ONNX Runtime. Each size counts with
the processor time of its shortest call on one thread, so other processes on the machine matter little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent.parent))

from netfuse_onnx.runtime.timing import measured
from netfuse_onnx.runtime.types import Io, Kind

OWN_SESSIONS = 4
"""Sessions of single models that take turns: one alone would find its weights in the processor's caches."""


def main() -> None:
    arguments = parsed()
    io: Io = arguments.io
    sizes = {name: int(size) for name, _, size in (text.partition("=") for text in arguments.dim)}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        file = merged_file(arguments.files, Path(folder) / "merged.onnx", io, arguments.merge)
        calls = Calls(io, [opened(path) for path in arguments.files[:OWN_SESSIONS]], opened(file), sizes)
    models = len(arguments.files)
    costs = measured(
        calls.run,
        ["form"],
        io,
        models,
        max_rows=arguments.max_rows,
        max_batch=arguments.max_batch,
        seconds=arguments.seconds,
        rounds=1000,
        size=lambda _: 1.0,
        clock=time.process_time,
    )
    times = costs.of("form")
    table = {
        "family": arguments.name or Path(arguments.out).stem,
        "about": arguments.about,
        "models": models,
        "io": io,
        "sizes": sizes,
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": ort.__version__,
        "threads": 1,
        "own": times.own.points(),
        "merged": {rows: curve.points() for rows, curve in times.together.items()},
    }
    Path(arguments.out).write_text(json.dumps(table, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--about", default="")
    parser.add_argument("--io", default="stacked", choices=["stacked", "selected", "slots", "index"])
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--merge", action="append", default=[], metavar="OPTION")
    parser.add_argument("--max-rows", type=int, default=8)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--scratch", default=None)
    return parser.parse_args()


def merged_file(files: list[str], out: Path, io: Io, options: list[str]) -> Path:
    """Merge the files for the interface."""
    words = {
        "stacked": ["--io", "stacked"],
        "selected": ["--io", "stacked", "--select"],
        "slots": ["--io", "routed", "--routing", "slots"],
        "index": ["--io", "routed", "--routing", "index"],
    }[io]
    command = [sys.executable, "-m", "netfuse_onnx", "merge", *files, "-o", str(out), *words, *options]
    done = subprocess.run([*command, "--no-verify"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return out


def opened(path: str | Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Calls:
    """Runs calls of any size on made-up rows."""

    def __init__(
        self, io: Io, own: list[ort.InferenceSession], merged: ort.InferenceSession, sizes: Mapping[str, int]
    ) -> None:
        self.io, self.own, self.merged, self.sizes = io, itertools.cycle(own), merged, sizes
        self.inputs = own[0].get_inputs()
        self.ids = {i.name for i in merged.get_inputs()} - {i.name for i in self.inputs}
        self.buffers: dict[Any, dict[str, np.ndarray[Any, Any]]] = {}

    def run(self, kind: Kind, form: Hashable, rows: Mapping[int, int]) -> None:
        most, total = max(rows.values()), sum(rows.values())
        if kind == "alone":
            next(self.own).run(None, self._rows(total))
        elif self.io in ("slots", "index"):
            models = np.repeat(np.array(list(rows)), list(rows.values()))
            self.merged.run(None, self._rows(total) | dict.fromkeys(self.ids, models))
        else:
            self.merged.run(None, self._stacked(list(rows), most))

    def _rows(self, total: int) -> dict[str, np.ndarray[Any, Any]]:
        """Return inputs of so many rows, collected from requests of one row."""
        if ("rows", total) not in self.buffers:
            self.buffers["rows", total] = self._made((), total)
        buffers = self.buffers["rows", total]
        for array in buffers.values():
            for row in range(1, total):
                array[row] = array[0]
        return buffers

    def _stacked(self, models: list[int], most: int) -> dict[str, np.ndarray[Any, Any]]:
        key = "stacked", len(models), most
        if key not in self.buffers:
            self.buffers[key] = self._made((len(models),), most)
        buffers = self.buffers[key]
        for array in buffers.values():
            for place in range(len(models)):
                array[place] = array[0]
        return buffers | dict.fromkeys(self.ids, np.array(models))

    def _made(self, front: tuple[int, ...], batch: int) -> dict[str, np.ndarray[Any, Any]]:
        """Return random floats, and ones in the place of whole numbers."""
        rng, made = np.random.default_rng(0), {}
        for given in self.inputs:
            shape = (*front, batch, *(self._size(dim) for dim in given.shape[1:]))
            if given.type == "tensor(float)":
                made[given.name] = rng.random(shape, np.float32)
            else:
                made[given.name] = np.ones(shape, {"tensor(int32)": np.int32}.get(given.type, np.int64))
        return made

    def _size(self, dim: int | str) -> int:
        """Return a size; a sum such as `past + 1` is computed."""
        if isinstance(dim, int):
            return dim
        return sum(int(part) if part.isdigit() else self.sizes[part] for part in dim.split(" + "))


if __name__ == "__main__":
    main()
