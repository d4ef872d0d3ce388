"""Measures the constants of the cost model for the CPU at hand, for a file of `merge --target`.

Each case is a chain of one kind of node with weights of its own, so long that the weights of a real network
go by, not the same few from the cache. A node's time is the chain's shortest time over its length, of all
sweeps over the cases: other processes only ever add to it, and may do so for seconds. The speeds of a kernel
over sizes are then fitted by (gflops, half, start) of plan/targets.py; the error is the sum of squared
logarithms of predicted over measured time, weighted by the root of the time: a wrong choice costs more where
there is more to lose.
"""

from __future__ import annotations

import datetime
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.plan.targets import Kernel
from netfuse_onnx.run import hardware
from netfuse_onnx.run.runtime import Runtime, onnxruntime
from netfuse_onnx.tune.clock import Clock, Run
from netfuse_onnx.tune.kernel_cases import Case, Made, cases, chain, graph

LOW, HIGH = [-2, -4, -4, -4, -4], [14, 7, 7, 7, 4]  # of the logarithms of gflops, half and start

# --------------------------------------------------------------------------- time


@dataclass(frozen=True)
class Timer:
    """Gives the shortest time of a run of a model whose inputs are all floats, in microseconds."""

    threads: int
    rounds: int

    def __call__(self, model: bytes) -> float:
        once = self.ready(model)
        return min(once() for _ in range(self.rounds + 1))

    def ready(self, model: bytes, sizes: Mapping[str, int] | None = None) -> Run:
        """A loaded model, to be run and timed once; `sizes` are those of its open dims."""
        feeds = {}
        for value in onnx.load_from_string(model).graph.input:
            dims = value.type.tensor_type.shape.dim
            shape = [(sizes or {}).get(dim.dim_param, 1) if dim.dim_param else dim.dim_value for dim in dims]
            feeds[value.name] = np.ones(shape, np.float32)
        return Clock(Runtime("cpu"), self.threads, left_out=()).ready(model, feeds)

    def node(self, make: Callable[[int], bytes], few: int, many: int) -> float:
        """The time of each further node, or input: the median of some tries, since it is a difference."""
        return statistics.median((self(make(many)) - self(make(few))) / (many - few) for _ in range(5))


# --------------------------------------------------------------------------- fit


def fitted(cases: Sequence[tuple[Case, float]], launch: float) -> tuple[Kernel, float]:
    """The kernel's constants, and the typical factor between predicted and measured."""
    measured = np.log([t for _, t in cases])
    sizes = np.array([[c.m, c.n, c.k] for c, _ in cases], float)
    operations = np.array([c.operations for c, _ in cases])
    weights = np.exp(measured / 2)

    def off(p: Any) -> Any:
        slowed = np.prod(1.0 + np.exp(p[1:4]) / sizes, axis=1)
        taken = launch + np.exp(p[4]) + 1e-3 * operations / np.exp(p[0]) * slowed
        return np.square(np.log(taken) - measured)

    def error(p: Any) -> float:
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


def launches(timer: Timer) -> dict[str, float]:
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
        "launch": round(timer.node(small, 10, 110), 3),
        "view": round(timer.node(lambda length: chain([4, 4], length, view), 10, 110), 3),
        "part": round(timer.node(joined, 4, 64), 3),
    }


def rates(timer: Timer) -> dict[str, float]:
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
            attrs: dict[str, Any] = {"perm": [0, 2, 1]} if op == "Transpose" else {}
            return helper.make_node(op, [x], [f"y{i}"], **attrs), []

        return len(ops) * timer.node(lambda length: chain(shape, length, link), 4, 12)

    return {
        "copied": round(nbytes / time_of("Tile"), 1),
        # Two Transposes in a row would cancel out.
        "transposed": round(nbytes / (time_of("Softmax", "Transpose") - time_of("Softmax")), 1),
        "streamed": round(nbytes / (time_of("Abs", "Neg") / 2), 1),
    }


# --------------------------------------------------------------------------- all


def provenance(provider: str, threads: int) -> dict[str, object]:
    """The machine and the versions that constants were measured on."""
    return {
        "measured": datetime.date.today().isoformat(),
        "by": "bench/calibrate.py",
        "provider": provider,
        "processor": hardware.processor(),
        "threads": threads,
        "onnxruntime": onnxruntime().__version__,
    }


def measured(timer: Timer, sweeps: int, tell: Callable[[str], None] = print) -> dict[str, object]:
    """The constants of the CPU as targets/cpu.json has them; `tell` is given a line for each case."""
    times, speeds = launches(timer), rates(timer)
    tell(f"{times} {speeds}")
    least: dict[Case, float] = {}
    for case in itertools.chain.from_iterable(cases() for _ in range(sweeps)):
        taken, known = timer(case.model) / case.length, replace(case, model=b"")
        least[known] = min(taken, least.get(known, taken))
    found: dict[str, list[tuple[Case, float]]] = {}
    for case, taken in least.items():
        found.setdefault(case.kernel, []).append((case, taken))
        size = f"{case.count} x [{case.m},{case.k}] x [{case.k},{case.n}]"
        tell(f"{case.kernel:24} {size:32} {taken:10.1f} us {1e-3 * case.operations / taken:8.1f} GFLOPS")
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
        tell(f"{kind} {kernels[kind]}")
    return {"microseconds": times, "bytes_per_microsecond": speeds, "kernels": kernels}
