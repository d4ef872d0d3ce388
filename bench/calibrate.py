"""Measures the constants of the cost model on the machine at hand, and writes netfuse_onnx/targets/NAME.json.

    python bench/calibrate.py                        # the CPU
    python bench/calibrate.py --provider cuda
    python bench/calibrate.py --out mine.json        # for merge --target mine.json

The constants of a GPU are others, and bench/cards.py measures them, within 90 seconds. What follows is about
a CPU.

Each case is a chain of one kind of node with weights of its own, so long that the weights of a real network
go by, not the same few from the cache. A node's time is the chain's shortest time over its length, of all
sweeps over the cases: other processes only ever add to it, and may do so for seconds. The speeds of a kernel
over sizes are then fitted by (gflops, half, start) of plan/targets.py; the error is the sum of squared
logarithms of predicted over measured time, weighted by the root of the time: a wrong choice costs more where
there is more to lose.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import cards
from bench.chains import Case, Made, cases, chain, graph
from netfuse_onnx.plan.targets import Kernel
from netfuse_onnx.run.runtime import onnxruntime

ort = onnxruntime()

TARGETS = Path(__file__).parent.parent / "netfuse_onnx" / "targets"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LOW, HIGH = [-2, -4, -4, -4, -4], [14, 7, 7, 7, 4]  # of the logarithms of gflops, half and start

# --------------------------------------------------------------------------- time


class Bench:
    """The shortest time of a run of a model, in microseconds."""

    def __init__(self, provider: str, threads: int, rounds: int) -> None:
        self.rounds, self.provider = rounds, provider
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.log_severity_level = 3
        # Else the threads of the session before wait actively, on the cores that this one needs.
        self.options.add_session_config_entry("session.force_spinning_stop", "1")

    def __call__(self, model: bytes) -> float:
        once = self.ready(model)
        return min(once() for _ in range(self.rounds + 2))

    def ready(self, model: bytes, sizes: Mapping[str, int] | None = None) -> Callable[[], float]:
        """A loaded model, to be run and timed once; `sizes` are those of its open dims."""
        session = ort.InferenceSession(model, self.options, providers=[PROVIDERS[self.provider]])
        if session.get_providers()[0] != PROVIDERS[self.provider]:
            raise SystemExit(f"{self.provider} is not usable here.")
        binding = session.io_binding()
        for value in session.get_inputs():
            fed = np.ones([(sizes or {}).get(dim, dim) for dim in value.shape], np.float32)
            binding.bind_ortvalue_input(value.name, ort.OrtValue.ortvalue_from_numpy(fed, self.provider, 0))
        for value in session.get_outputs():
            binding.bind_output(value.name, self.provider)

        def once() -> float:
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            return (time.perf_counter() - start) * 1e6

        return once

    def node(self, make: Callable[[int], bytes], few: int, many: int) -> float:
        """What each further node, or input, costs: the median of some tries, since it is a difference."""
        return statistics.median((self(make(many)) - self(make(few))) / (many - few) for _ in range(5))


# --------------------------------------------------------------------------- fit


def fitted(cases: Sequence[tuple[Case, float]], launch: float) -> tuple[Kernel, float]:
    """The kernel's constants, and the typical factor between predicted and measured."""
    measured = np.log([t for _, t in cases])
    sizes = np.array([[c.m, c.n, c.k] for c, _ in cases], float)
    operations = np.array([c.operations for c, _ in cases])
    weights = np.exp(measured / 2)

    def off(p: np.ndarray) -> np.ndarray:
        slowed = np.prod(1.0 + np.exp(p[1:4]) / sizes, axis=1)
        taken = launch + np.exp(p[4]) + 1e-3 * operations / np.exp(p[0]) * slowed
        return np.square(np.log(taken) - measured)

    def error(p: np.ndarray) -> float:
        return float(np.average(off(p), weights=weights))

    best, step = np.log([100.0, 8.0, 8.0, 8.0, 1.0]), 1.0
    while step > 1e-3:
        moves = [sign * step * axis for axis in np.eye(len(best)) for sign in (1, -1)]
        found = min((np.clip(best + move, LOW, HIGH) for move in moves), key=error)
        if error(found) < error(best) - 1e-12:
            best = found
        else:
            step /= 2
    gflops, m, n, k, start = (round(float(value), 3) for value in np.exp(best))
    return Kernel(gflops, (m, n, k), start), math.exp(math.sqrt(np.mean(off(best))))


# --------------------------------------------------------------------------- everything but products


def launches(bench: Bench) -> dict[str, float]:
    """A node that does next to nothing, one that copies nothing, and one more input of a Concat."""

    def small(length: int) -> bytes:
        return chain([4, 4], length, lambda i, x: (helper.make_node("Sin", [x], [f"y{i}"]), []))

    def view(i: int, x: str) -> Made:
        shape = numpy_helper.from_array(np.array([2, 8] if i % 2 == 0 else [4, 4], np.int64), f"s{i}")
        return helper.make_node("Reshape", [x, shape.name], [f"y{i}"], allowzero=1), [shape]

    def joined(count: int) -> bytes:
        ins = {f"x{i}": [1, 4] for i in range(count)}
        return graph(
            [helper.make_node("Concat", list(ins), ["y"], axis=0)], ins, {"y": TensorProto.FLOAT}, []
        )

    return {
        "launch": round(bench.node(small, 10, 110), 3),
        "view": round(bench.node(lambda length: chain([4, 4], length, view), 10, 110), 3),
        "part": round(bench.node(joined, 4, 64), 3),
    }


def rates(bench: Bench) -> dict[str, float]:
    """Bytes read and written per microsecond, of tensors like those between layers."""
    shape = [8, 128, 768]
    nbytes = 2 * 4 * math.prod(shape)

    def time_of(*ops: str) -> float:
        """A chain of these operators, one after the other, repeated."""

        def link(i: int, x: str) -> Made:
            op = ops[i % len(ops)]
            if op == "Tile":
                once = numpy_helper.from_array(np.ones(3, np.int64), f"r{i}")
                return helper.make_node(op, [x, once.name], [f"y{i}"]), [once]
            attrs = {"perm": [0, 2, 1]} if op == "Transpose" else {}
            return helper.make_node(op, [x], [f"y{i}"], **attrs), []

        return len(ops) * bench.node(lambda length: chain(shape, length, link), 4, 12)

    return {
        "copied": round(nbytes / time_of("Tile"), 1),
        # Two Transposes in a row would cancel out.
        "transposed": round(nbytes / (time_of("Softmax", "Transpose") - time_of("Softmax")), 1),
        "streamed": round(nbytes / (time_of("Abs", "Neg") / 2), 1),
    }


def machine(provider: str, threads: int) -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    return {
        "measured": datetime.date.today().isoformat(),
        "by": "bench/calibrate.py",
        "provider": provider,
        "processor": processor or platform.processor(),
        "threads": threads,
        "onnxruntime": ort.__version__,
    }


def measured(bench: Bench, sweeps: int) -> dict[str, object]:
    times, speeds = launches(bench), rates(bench)
    print(times, speeds, flush=True)
    least: dict[Case, float] = {}
    for case in itertools.chain.from_iterable(cases() for _ in range(sweeps)):
        taken, known = bench(case.model) / case.length, replace(case, model=b"")
        least[known] = min(taken, least.get(known, taken))
    found: dict[str, list[tuple[Case, float]]] = {}
    for case, taken in least.items():
        found.setdefault(case.kernel, []).append((case, taken))
        size = f"{case.count} x [{case.m},{case.k}] x [{case.k},{case.n}]"
        print(f"{case.kernel:24} {size:32} {taken:10.1f} us {1e-3 * case.operations / taken:8.1f} GFLOPS")
    kernels = {}
    for kind, timed in sorted(found.items()):
        kernel, factor = fitted(timed, times["launch"])
        kernels[kind] = {
            "gflops": kernel.gflops,
            "half": list(kernel.half),
            "start": kernel.start,
            "cases": len(timed),
            "typical_factor": round(factor, 3),
        }
        print(kind, kernels[kind])
    return {"microseconds": times, "bytes_per_microsecond": speeds, "kernels": kernels}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", default="cpu", choices=PROVIDERS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7, help="of a case in a sweep; default: 7")
    parser.add_argument("--sweeps", type=int, default=4, help="over all cases; default: 4")
    parser.add_argument("--out", type=Path, help="default: the installed target of that provider")
    parser.add_argument("--seconds", type=float, default=cards.SECONDS, help="for CUDA; default: %(default)g")
    given = parser.parse_args()
    out = given.out or TARGETS / f"{given.provider}.json"
    if given.provider == "cuda":
        write(out, cuda(given.threads, given.seconds))
        return
    constants = measured(Bench(given.provider, given.threads, given.rounds), given.sweeps)
    write(out, {"provenance": machine(given.provider, given.threads), **constants})


def cuda(threads: int, seconds: float) -> dict[str, object]:
    """The installed constants of CUDA, measured anew."""
    installed = json.loads((TARGETS / "cuda.json").read_text())
    provenance = machine("cuda", threads) | {"device": cards.device_name()}
    provenance["sources"] = installed["provenance"]["sources"]
    return {**installed, "provenance": provenance, "constants": cards.measured(installed, seconds)}


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
