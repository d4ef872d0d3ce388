"""Measures the constants of the cost model on the machine at hand, and writes netfuse_onnx/targets/NAME.json.

    python bench/calibrate.py                 # --provider cpu
    python bench/calibrate.py --provider cuda

Each case is a chain of one kind of node with weights of its own, so long that the weights of a real network
go by, not the same few from the cache. A node's time is the chain's shortest time over its length: other
processes only ever add to it. The speeds of a kernel over sizes are then fitted by (gflops, half) of
plan/targets.py, with the sum of squared logarithms of predicted over measured time as the error.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.plan.targets import Kernel
from netfuse_onnx.plan.work import convolution_kernel

TARGETS = Path(__file__).parent.parent / "netfuse_onnx" / "targets"
WEIGHTS = 48 << 20  # bytes that a chain's weights come to, where LONGEST allows it
LONGEST = 48  # nodes
SIZES = ((17, 64), (64, 64), (128, 128), (256, 256), (768, 768), (768, 3072), (1536, 128))
ROWS = (1, 8, 16, 64, 128, 512)
MODELS = (1, 4, 8, 32)


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


def chain(
    shape: Sequence[int],
    length: int,
    node: Callable[[int, str], tuple[onnx.NodeProto, list[onnx.TensorProto]]],
) -> bytes:
    """x of `shape` -> node 0 -> node 1 -> .. -> y, which is made small, so that nothing of it is timed."""
    at, nodes, weights = "x", [], []
    for i in range(length):
        made, more = node(i, at)
        nodes.append(made)
        weights += more
        at = made.output[0]
    nodes.append(helper.make_node("Shape", [at], ["y"]))
    nodes.append(helper.make_node("Identity", [at], ["z"]))
    graph = helper.make_graph(
        nodes, "chain", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    del graph.node[len(nodes) - 2]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def stored(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape, np.float32) / math.sqrt(shape[-1])
    return numpy_helper.from_array(values.astype(np.float32), name)


def long(nbytes: int) -> int:
    """An even length whose weights come to WEIGHTS bytes."""
    return 2 * max(1, min(LONGEST, WEIGHTS // max(nbytes, 1)) // 2)


def products() -> Iterator[Case]:
    for k, n in SIZES:
        for rows in ROWS:
            for models in MODELS:
                if (
                    models * rows * k * n > 4e9 / 2
                    or models * k * n > 40e6
                    or (models == 32 and k * n > 70000)
                ):
                    continue
                length = long(4 * models * k * n)
                if models == 1:
                    yield from product(rows, k, n, length)
                else:
                    yield stacked(models, rows, k, n, length)
                    yield pointwise(models, rows, k, n, length)


def turns(i: int, k: int, n: int) -> tuple[int, int]:
    return (k, n) if i % 2 == 0 else (n, k)


def product(rows: int, k: int, n: int, length: int) -> Iterator[Case]:
    def node(i: int, x: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        return helper.make_node("MatMul", [x, f"w{i}"], [f"y{i}"]), [stored(f"w{i}", *turns(i, k, n))]

    yield Case("product", 1, rows, n, k, length, chain([rows, k], length, node))


def stacked(models: int, rows: int, k: int, n: int, length: int) -> Case:
    def node(i: int, x: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        return helper.make_node("MatMul", [x, f"w{i}"], [f"y{i}"]), [stored(f"w{i}", models, *turns(i, k, n))]

    return Case("product_stacked", models, rows, n, k, length, chain([models, rows, k], length, node))


def pointwise(models: int, rows: int, k: int, n: int, length: int) -> Case:
    def node(i: int, x: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        into, out = turns(i, k, n)
        weight = stored(f"w{i}", models * out, into, 1, 1)
        return helper.make_node("Conv", [x, weight.name], [f"y{i}"], group=models), [weight]

    return Case(
        "convolution_pointwise", models, rows, n, k, length, chain([1, models * k, rows, 1], length, node)
    )


def products_of_values() -> Iterator[Case]:
    """Scores and their use, as attention has them: [c,m,k] x [c,k,m], then [c,m,m] x [c,m,k]."""
    for count in (12, 48, 96):
        for m, k in ((16, 64), (128, 64), (64, 32), (256, 32)):
            ones = np.full((count, k, m), 1.0 / k, np.float32), np.full((count, m, k), 1.0 / m, np.float32)

            def node(
                i: int, x: str, ones: tuple[np.ndarray, np.ndarray] = ones
            ) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
                held = [numpy_helper.from_array(ones[i % 2], f"w{i}")]
                return helper.make_node("MatMul", [x, f"w{i}"], [f"y{i}"]), held

            yield Case("product_values", count, m, m, k, 8, chain([count, m, k], 8, node))


def convolutions() -> Iterator[Case]:
    shapes = (
        (64, 64, 56, 3, 1), (128, 128, 28, 3, 1), (256, 256, 14, 3, 1), (512, 512, 7, 3, 1), (64, 256, 56, 1, 1),
        (256, 1024, 14, 1, 1), (512, 2048, 7, 1, 1), (128, 128, 56, 3, 32), (256, 256, 28, 3, 32), (512, 512, 14, 3, 32),
        (3, 64, 112, 7, 1), (3, 32, 48, 3, 1), (24, 144, 24, 1, 1), (32, 192, 12, 1, 1), (96, 576, 6, 1, 1), (20, 40, 24, 3, 1),
        (96, 96, 48, 3, 96), (144, 144, 24, 3, 144), (576, 576, 6, 3, 576),
    )  # fmt: skip
    for into, out, side, kernel, groups in shapes:
        for models in (1, 2, 8):
            nbytes = 4 * models * out * (into // groups) * kernel * kernel
            length = min(long(nbytes), 8)

            def node(
                i: int,
                x: str,
                into: int = into,
                out: int = out,
                kernel: int = kernel,
                groups: int = groups,
                models: int = models,
            ) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
                a, b = turns(i, into, out)
                weight = stored(f"w{i}", models * b, a // groups, kernel, kernel)
                pads = [kernel // 2] * 4
                return helper.make_node(
                    "Conv", [x, weight.name], [f"y{i}"], group=models * groups, pads=pads
                ), [weight]

            kind = convolution_kernel(into // groups, out // groups, models * groups)
            if kind != convolution_kernel(out // groups, into // groups, models * groups):
                length = 1
            model = chain([1, models * into, side, side], length, node)
            k, n = into // groups * kernel * kernel, out // groups
            yield Case(kind, models * groups, side * side, n, k, length, model)


# --------------------------------------------------------------------------- time


class Bench:
    """Shortest time of a run, in microseconds."""

    def __init__(self, provider: str, threads: int, rounds: int) -> None:
        self.rounds, self.provider = rounds, provider
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.log_severity_level = 3

    def __call__(self, model: bytes, feeds: dict[str, np.ndarray] | None = None) -> float:
        names = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        session = ort.InferenceSession(model, self.options, providers=[names[self.provider]])
        if session.get_providers()[0] != names[self.provider]:
            raise SystemExit(f"{self.provider} is not usable here")
        binding = session.io_binding()
        for value in session.get_inputs():
            fed = np.ones(value.shape, np.float32)
            binding.bind_ortvalue_input(value.name, ort.OrtValue.ortvalue_from_numpy(fed, self.provider, 0))
        for value in session.get_outputs():
            binding.bind_output(value.name, self.provider)
        best = math.inf
        for _ in range(self.rounds + 2):
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            best = min(best, time.perf_counter() - start)
        return best * 1e6


# --------------------------------------------------------------------------- fit


def fitted(cases: Sequence[tuple[Case, float]], launch: float) -> tuple[Kernel, float]:
    """The kernel's constants, and the typical factor between predicted and measured."""
    measured = np.log([t for _, t in cases])
    sizes = np.array([[c.m, c.n, c.k] for c, _ in cases], float)
    operations = np.array([c.operations for c, _ in cases])

    def error(p: np.ndarray) -> float:
        slowed = np.prod(1.0 + np.exp(p[1:]) / sizes, axis=1)
        return float(np.sum((np.log(launch + 1e-3 * operations / np.exp(p[0]) * slowed) - measured) ** 2))

    best, step = np.log([100.0, 8.0, 8.0, 8.0]), 1.0
    while step > 1e-3:
        tries = [best + step * move for axis in range(4) for move in (np.eye(4)[axis], -np.eye(4)[axis])]
        tries = [np.clip(p, [-2, -4, -4, -4], [14, 7, 7, 7]) for p in tries]
        found = min(tries, key=error)
        if error(found) < error(best) - 1e-12:
            best = found
        else:
            step /= 2
    halves = [round(float(h), 3) for h in np.exp(best[1:])]
    kernel = Kernel(round(float(np.exp(best[0])), 2), (halves[0], halves[1], halves[2]))
    return kernel, math.exp(math.sqrt(error(best) / len(cases)))


# --------------------------------------------------------------------------- the rest of the constants


def small(op: str, length: int, **attrs: object) -> bytes:
    return chain([4, 4], length, lambda i, x: (helper.make_node(op, [x], [f"y{i}"], **attrs), []))


def launches(bench: Bench) -> dict[str, float]:
    """One node that does next to nothing, and one that copies nothing; alone, and as a part of a Concat."""

    def slope(make: Callable[[int], bytes], few: int, many: int) -> float:
        return (bench(make(many)) - bench(make(few))) / (many - few)

    def joined(count: int) -> bytes:
        ins = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, 4]) for i in range(count)]
        node = helper.make_node("Concat", [v.name for v in ins], ["y"], axis=0)
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "join", ins, [out])
        return bytes(
            helper.make_model(
                graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
            ).SerializeToString()
        )

    def views(length: int) -> bytes:
        def node(i: int, x: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
            shape = np.array([2, 8] if i % 2 == 0 else [4, 4], np.int64)
            return helper.make_node("Reshape", [x, f"s{i}"], [f"y{i}"], allowzero=1), [
                numpy_helper.from_array(shape, f"s{i}")
            ]

        return chain([4, 4], length, node)

    return {
        "launch": round(slope(lambda n: small("Sin", n), 10, 110), 3),
        "view": round(slope(views, 10, 110), 3),
        "part": round(slope(joined, 4, 64), 3),
    }


def rates(bench: Bench) -> dict[str, float]:
    """Bytes read and written per microsecond, of tensors like those between layers."""
    shape, nbytes = [8, 128, 768], 2 * 4 * 8 * 128 * 768

    def per_node(
        node: Callable[[int, str], tuple[onnx.NodeProto, list[onnx.TensorProto]]], size: int = nbytes
    ) -> float:
        return size / ((bench(chain(shape, 12, node)) - bench(chain(shape, 4, node))) / 8)

    def transpose(i: int, x: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        return helper.make_node("Transpose", [x], [f"y{i}"], perm=[0, 2, 1]), []

    def copy(i: int, x: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        half = numpy_helper.from_array(np.array([1, 1, 1], np.int64), f"r{i}")
        return helper.make_node("Tile", [x, f"r{i}"], [f"y{i}"]), [half]

    def add(i: int, x: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        return helper.make_node("Neg" if i % 2 else "Abs", [x], [f"y{i}"]), []

    # Two Transposes in a row would be cancelled, so an operator that is timed apart stands between.
    plain = (bench(chain(shape, 12, add)) - bench(chain(shape, 4, add))) / 8
    both = (
        bench(chain(shape, 12, lambda i, x: transpose(i, x) if i % 2 else softmax(i, x)))
        - bench(chain(shape, 4, lambda i, x: transpose(i, x) if i % 2 else softmax(i, x)))
    ) / 4
    soft = (bench(chain(shape, 12, softmax)) - bench(chain(shape, 4, softmax))) / 8
    return {
        "copied": round(per_node(copy), 1),
        "transposed": round(nbytes / max(both - soft, 1.0), 1),
        "streamed": round(nbytes / plain, 1),
    }


def softmax(i: int, x: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    return helper.make_node("Softmax", [x], [f"y{i}"], axis=-1), []


def machine(provider: str, threads: int) -> dict[str, object]:
    model = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    return {
        "measured": datetime.date.today().isoformat(), "by": "bench/calibrate.py", "provider": provider,
        "processor": model or platform.processor(), "threads": threads, "onnxruntime": ort.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    bench = Bench(given.provider, given.threads, given.rounds)
    times, speeds = launches(bench), rates(bench)
    print(times, speeds, flush=True)
    found: dict[str, list[tuple[Case, float]]] = {}
    for case in (*products(), *products_of_values(), *convolutions()):
        taken = bench(case.model) / case.length
        found.setdefault(case.kernel, []).append((case, taken))
        print(
            f"{case.kernel:24}{case.count:5} x [{case.m},{case.k}] x [{case.k},{case.n}]: {taken:9.1f} us, {1e-3 * case.operations / taken:7.1f} GFLOPS",
            flush=True,
        )
    kernels = {}
    for kind, cases in sorted(found.items()):
        kernel, factor = fitted(cases, times["launch"])
        kernels[kind] = {
            "gflops": kernel.gflops,
            "half": list(kernel.half),
            "cases": len(cases),
            "typical_factor": round(factor, 3),
        }
        print(kind, kernels[kind])
    value = {
        "provenance": machine(given.provider, given.threads), "microseconds": times, "bytes_per_microsecond": speeds, "kernels": kernels,
    }  # fmt: skip
    out = given.out or TARGETS / f"{given.provider}.json"
    out.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
