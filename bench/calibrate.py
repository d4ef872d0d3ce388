"""Measures the constants of the cost model on the machine at hand, and writes netfuse_onnx/targets/NAME.json.

    python bench/calibrate.py                        # the CPU
    python bench/calibrate.py --provider cuda
    python bench/calibrate.py --out mine.json        # for merge --target mine.json

Each case is a chain of one kind of node with weights of its own, so long that the weights of a real network
go by, not the same few from the cache. A node's time is the chain's shortest time over its length: other
processes only ever add to it. The speeds of a kernel over sizes are then fitted by (gflops, half) of
plan/targets.py; the error is the sum of squared logarithms of predicted over measured time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.plan.targets import Kernel
from netfuse_onnx.plan.work import convolution_kernel, pointwise_kernel

TARGETS = Path(__file__).parent.parent / "netfuse_onnx" / "targets"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
WEIGHTS = 160 << 20  # bytes that a chain's weights come to, more than a cache holds, where LONGEST allows it
LONGEST = 128  # matrices in a chain: as many where each model has its own node as where they share one
LARGEST = 2e9  # multiplications in a node
WIDTHS = (
    (64, 6), (512, 6), (128, 1), (17, 64), (64, 64), (128, 128), (256, 256), (768, 768), (768, 3072),
    (1536, 128),
)  # fmt: skip
ROWS = (1, 8, 16, 64, 128, 512)
MODELS = (1, 4, 8, 32)
CONVOLUTIONS = (  # channels in, out, side of the image, side of the filter, groups
    (64, 64, 56, 3, 1), (128, 128, 28, 3, 1), (256, 256, 14, 3, 1), (512, 512, 7, 3, 1),
    (64, 256, 56, 1, 1), (256, 1024, 14, 1, 1), (512, 2048, 7, 1, 1), (128, 128, 56, 3, 32),
    (256, 256, 28, 3, 32), (512, 512, 14, 3, 32), (3, 64, 112, 7, 1), (3, 32, 48, 3, 1),
    (24, 144, 24, 1, 1), (32, 192, 12, 1, 1), (96, 576, 6, 1, 1), (20, 40, 24, 3, 1),
    (96, 96, 48, 3, 96), (144, 144, 24, 3, 144), (576, 576, 6, 3, 576), (16, 96, 16, 1, 1),
    (96, 24, 16, 1, 1), (384, 64, 4, 1, 1), (960, 160, 2, 1, 1), (96, 4, 1, 1, 1), (480, 20, 1, 1, 1),
    (64, 64, 9, 3, 1), (144, 144, 8, 3, 144), (960, 960, 2, 3, 960), (24, 144, 56, 1, 1),
    (96, 96, 112, 3, 96),
)  # fmt: skip

Made = tuple[onnx.NodeProto, list[onnx.TensorProto]]
Link = Callable[[int, str], Made]
"""Node i of a chain, reading a value of that name, and its weights."""


@dataclass(frozen=True)
class Case:
    """A chain of `length` nodes, each `count` products [m,k] x [k,n] by one kind of kernel."""

    kernel: str
    count: int
    m: int
    n: int
    k: int
    length: int
    model: bytes

    @property
    def operations(self) -> float:
        return 2.0 * self.count * self.m * self.n * self.k


# --------------------------------------------------------------------------- chains


def chain(shape: Sequence[int], length: int, link: Link) -> bytes:
    """x of `shape` -> node 0 -> node 1 -> .. -> y"""
    at, nodes, weights = "x", [], []
    for i in range(length):
        node, more = link(i, at)
        nodes.append(node)
        weights += more
        at = node.output[0]
    return graph(nodes, {"x": shape}, {at: TensorProto.FLOAT}, weights)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, int],
    weights: Sequence[onnx.TensorProto],
) -> bytes:
    """From the shapes of the inputs, all float, and the types of the outputs."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    return serialised(helper.make_graph(nodes, "chain", given, result, weights))


def serialised(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def stored(name: str, *shape: int) -> onnx.TensorProto:
    """A weight. Its values are small, and others than those of weights of other names: equal ones may be
    one to the runtime."""
    value = (1.0 + 1e-3 * int(name[1:])) / math.prod(shape[1:])
    return numpy_helper.from_array(np.full(shape, value, np.float32), name)


def long(elements: int, models: int) -> int:
    """An even number of nodes, each with `models` matrices of so many elements."""
    return 2 * max(1, min(LONGEST, WEIGHTS // (4 * elements)) // (2 * models))


def turn(i: int, k: int, n: int) -> tuple[int, int]:
    """Every other node leads back."""
    return (k, n) if i % 2 == 0 else (n, k)


def products() -> Iterator[Case]:
    """A linear layer: one, N as a batch of matrices, and N as one convolution."""
    for k, n in WIDTHS:
        for rows in ROWS:
            for models in MODELS:
                if models * rows * k * n > LARGEST or (models == 32 and k * n > 70_000):
                    continue
                length = long(k * n, models)
                if models == 1:
                    model = chain([rows, k], length, product((), k, n))
                    yield Case("product", 1, rows, n, k, length, model)
                    continue
                model = chain([models, rows, k], length, product((models,), k, n))
                yield Case("product_stacked", models, rows, n, k, length, model)
                model = chain([1, models * k, rows, 1], length, convolution(k, n, 1, 1, models))
                yield Case(pointwise_kernel(k, n), models, rows, n, k, length, model)


def product(front: tuple[int, ...], k: int, n: int) -> Link:
    def link(i: int, x: str) -> Made:
        return helper.make_node("MatMul", [x, f"w{i}"], [f"y{i}"]), [stored(f"w{i}", *front, *turn(i, k, n))]

    return link


def convolution(into: int, out: int, side: int, groups: int, models: int) -> Link:
    def link(i: int, x: str) -> Made:
        a, b = turn(i, into, out)
        weight = stored(f"w{i}", models * b, a // groups, side, side)
        attrs = {"group": models * groups, "pads": [side // 2] * 4}
        return helper.make_node("Conv", [x, weight.name], [f"y{i}"], **attrs), [weight]

    return link


def products_of_values() -> Iterator[Case]:
    """As attention has them: [c,m,k] x [c,k,m], then [c,m,m] x [c,m,k]."""
    for count in (12, 48, 96):
        for m, k in ((16, 64), (128, 64), (64, 32), (256, 32)):

            def link(i: int, x: str, count: int = count, m: int = m, k: int = k) -> Made:
                shape = (count, k, m) if i % 2 == 0 else (count, m, k)
                return helper.make_node("MatMul", [x, f"w{i}"], [f"y{i}"]), [stored(f"w{i}", *shape)]

            yield Case("product_values", count, m, m, k, 8, chain([count, m, k], 8, link))


def convolutions() -> Iterator[Case]:
    for into, out, image, side, groups in CONVOLUTIONS:
        for models in (1, 2, 8):
            a, b = into // groups, out // groups
            kind = convolution_kernel(a, b, models * groups)
            there_and_back = kind == convolution_kernel(b, a, models * groups)
            length = min(long(out * a * side * side, models), 8) if there_and_back else 1
            link = convolution(into, out, side, groups, models)
            model = chain([1, models * into, image, image], length, link)
            yield Case(kind, models * groups, image * image, b, a * side * side, length, model)


# --------------------------------------------------------------------------- time


class Bench:
    """The shortest time of a run of a model, in microseconds."""

    def __init__(self, provider: str, threads: int, rounds: int) -> None:
        self.rounds, self.provider = rounds, provider
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.log_severity_level = 3

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
        """What each further node, or input, costs."""
        return (self(make(many)) - self(make(few))) / (many - few)


# --------------------------------------------------------------------------- fit


def fitted(cases: Sequence[tuple[Case, float]], launch: float) -> tuple[Kernel, float]:
    """The kernel's constants, and the typical factor between predicted and measured."""
    measured = np.log([t for _, t in cases])
    sizes = np.array([[c.m, c.n, c.k] for c, _ in cases], float)
    operations = np.array([c.operations for c, _ in cases])

    def error(p: np.ndarray) -> float:
        slowed = np.prod(1.0 + np.exp(p[1:4]) / sizes, axis=1)
        taken = launch + np.exp(p[4]) + 1e-3 * operations / np.exp(p[0]) * slowed
        return float(np.sum((np.log(taken) - measured) ** 2))

    best, step = np.log([100.0, 8.0, 8.0, 8.0, 1.0]), 1.0
    while step > 1e-3:
        moves = [sign * step * np.eye(5)[axis] for axis in range(5) for sign in (1, -1)]
        found = min(
            (np.clip(best + move, [-2, -4, -4, -4, -4], [14, 7, 7, 7, 4]) for move in moves), key=error
        )
        if error(found) < error(best) - 1e-12:
            best = found
        else:
            step /= 2
    gflops, m, n, k, start = (round(float(value), 3) for value in np.exp(best))
    return Kernel(gflops, (m, n, k), start), math.exp(math.sqrt(error(best) / len(cases)))


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
        """Of these operators, one after the other, again and again."""

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


def measured(bench: Bench) -> dict[str, object]:
    times, speeds = launches(bench), rates(bench)
    print(times, speeds, flush=True)
    found: dict[str, list[tuple[Case, float]]] = {}
    for case in (*products(), *products_of_values(), *convolutions()):
        taken = bench(case.model) / case.length
        found.setdefault(case.kernel, []).append((case, taken))
        size = f"{case.count} x [{case.m},{case.k}] x [{case.k},{case.n}]"
        print(f"{case.kernel:24} {size:32} {taken:10.1f} us {1e-3 * case.operations / taken:8.1f} GFLOPS")
    kernels = {}
    for kind, cases in sorted(found.items()):
        kernel, factor = fitted(cases, times["launch"])
        kernels[kind] = {
            "gflops": kernel.gflops,
            "half": list(kernel.half),
            "start": kernel.start,
            "cases": len(cases),
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="default: the installed target of that provider")
    given = parser.parse_args()
    constants = measured(Bench(given.provider, given.threads, given.rounds))
    value = {"provenance": machine(given.provider, given.threads), **constants}
    out = given.out or TARGETS / f"{given.provider}.json"
    out.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
