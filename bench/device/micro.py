"""Times single operators in the forms that a merged graph can take, N = 32. Started by run.py.

    python micro.py --out OUT/results.jsonl --provider cuda --work /dev/shm --until 0

A graph holds up to COPIES of the operator, each with its own weights, and is replayed as a CUDA graph, so
that the host's launches are not measured. Each line has a shape, a form, and us (microseconds) or an
error.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.measure.rounds import Effort, sample
from netfuse_onnx.measure.sessions import Settings as Options
from netfuse_onnx.measure.sessions import session
from netfuse_onnx.run.bound import Bound
from netfuse_onnx.run.runtime import Runtime

EFFORT = Effort(least=0.002, pause=0.0)
SAMPLES = 20
COPIES, BYTES = 8, 2.5e8
"""A graph has so many copies, but no more bytes of weights than that: the host has to make them."""
MODELS = 32
MICROSOFT = "com.microsoft"
# channels in and out of one model, side of the image, kernel, stride, groups of one model
CONVOLUTIONS = (
    (64, 256, 56, 1, 1, 1),
    (256, 64, 56, 1, 1, 1),
    (128, 512, 28, 1, 1, 1),
    (512, 128, 28, 1, 1, 1),
    (1024, 256, 14, 1, 1, 1),
    (512, 2048, 7, 1, 1, 1),
    (2048, 512, 7, 1, 1, 1),
    (3, 64, 224, 7, 2, 1),
    (64, 64, 56, 3, 1, 1),
    (128, 128, 28, 3, 1, 1),
    (256, 256, 14, 3, 1, 1),
    (512, 512, 7, 3, 1, 1),
    (128, 128, 56, 3, 1, 32),
    (512, 512, 14, 3, 1, 32),
    (96, 96, 48, 3, 1, 96),
)
# rows of one model as (outer, inner), columns in and out
PRODUCTS = (
    (1, 128, 768, 768),
    (1, 128, 768, 3072),
    (1, 128, 3072, 768),
    (8, 128, 768, 768),
    (128, 1, 768, 3072),
)
ROWS, WIDTH = 128, 768


class Builder:
    """A graph of several times the same nodes."""

    def __init__(self, opset: int = 18) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: list[tuple[str, tuple[int, ...]]] = []
        self.bytes = 0
        self.opset = opset
        self.numbers = np.random.default_rng(0)

    def data(self, *shape: int) -> str:
        name = "x" + "_".join(map(str, shape))
        self.inputs[name] = self.numbers.standard_normal(shape, dtype=np.float32)
        return name

    def weight(self, *shape: int) -> str:
        block = self.numbers.standard_normal(100_003, dtype=np.float32) / 30
        array = np.resize(block, shape)
        self.bytes += array.nbytes
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def give(self, name: str, *shape: int) -> None:
        self.outputs.append((name, shape))

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], domain=domain, **attributes))
        return out

    def save(self, path: str) -> None:
        inputs = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in self.inputs.items()
        ]
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.outputs]
        graph = helper.make_graph(self.nodes, "micro", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def main() -> None:
    given = _arguments()
    models, last = (2, -1) if given.tiny else (MODELS, None)
    with given.out.open("a") as out:
        for shape, form, nhwc, make in forms(models, CONVOLUTIONS[last:], PRODUCTS[last:]):
            if time.time() > given.until:
                break
            row: dict[str, object] = {"shape": shape, "form": form}
            try:
                row["us"] = _measure(make, nhwc, Runtime(given.provider), given.work)
            except Exception as error:  # a form that does not run is a result, too
                row["error"] = " ".join(str(error).split())[:300]
            out.write(json.dumps(row) + "\n")
            out.flush()


def _measure(make: Callable[[Builder], None], nhwc: bool, runtime: Runtime, work: str) -> float:
    builder = Builder()
    while not builder.outputs or (len(builder.outputs) < COPIES and builder.bytes < BYTES / 2):
        make(builder)
    like = {name: np.empty(shape, np.float32) for name, shape in builder.outputs}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        path = f"{folder}/micro.onnx"
        builder.save(path)
        made = session(path, runtime, Options(graph=True, nhwc=nhwc))
        bound = Bound(made, builder.inputs, like, runtime)
        bound.run()
        times = sorted(sample(bound.run, EFFORT) for _ in range(SAMPLES))
    return times[SAMPLES // 2] * 1e6 / len(builder.outputs)


def forms(n: int, convolutions: tuple, products: tuple) -> Iterator[tuple]:
    """Yield a shape, a form, the use of NHWC, and the function that builds one copy."""
    yield from _products(n, products)
    yield from _norms(n)
    for one in convolutions:
        yield from _convolution(n, *one)


def _convolution(n: int, c: int, o: int, side: int, k: int, stride: int, groups: int) -> Iterator[tuple]:
    shape = f"Conv {k}x{k}/{stride} {c}->{o} at {side}, groups {groups}, x{n}, + ReLU"
    common = {"group": n * groups, "pads": [k // 2] * 4, "strides": [stride] * 2, "kernel_shape": [k, k]}
    after = (side + 2 * (k // 2) - k) // stride + 1

    def conv(b: Builder) -> None:
        x, w = b.data(1, n * c, side, side), b.weight(n * o, c // groups, k, k)
        y = b.op("Relu", b.op("Conv", x, w, b.weight(n * o), **common))
        b.give(y, 1, n * o, after, after)

    def fused(b: Builder) -> None:
        x, w = b.data(1, n * c, side, side), b.weight(n * o, c // groups, k, k)
        y = b.op("FusedConv", x, w, b.weight(n * o), domain=MICROSOFT, activation="Relu", **common)
        b.give(y, 1, n * o, after, after)

    def product(b: Builder) -> None:
        y = b.op("MatMul", b.weight(n, o, c), b.data(n, c, side * side))
        b.give(b.op("Relu", b.op("Add", y, b.weight(n, o, 1))), n, o, side * side)

    yield shape, "grouped", False, conv
    yield shape, "FusedConv", False, fused
    yield shape, "nhwc", True, conv
    if k == 1:
        yield shape, "MatMul", False, product


def _products(n: int, products: tuple) -> Iterator[tuple]:
    for outer, inner, k, o in products:
        shape = f"MatMul [{outer},{inner},{k}]x[{k},{o}] x{n}"

        def rows(b: Builder, outer: int = outer, inner: int = inner, k: int = k, o: int = o) -> None:
            b.give(b.op("MatMul", b.data(n, outer * inner, k), b.weight(n, k, o)), n, outer * inner, o)

        def rank4(b: Builder, outer: int = outer, inner: int = inner, k: int = k, o: int = o) -> None:
            b.give(b.op("MatMul", b.data(n, outer, inner, k), b.weight(n, 1, k, o)), n, outer, inner, o)

        yield shape, "rows", False, rows
        yield shape, "rank 4", False, rank4


def _norms(n: int) -> Iterator[tuple]:
    shape = f"LayerNorm [{ROWS},{WIDTH}] x{n}"

    def own(b: Builder) -> None:
        x = b.data(n, ROWS, WIDTH)
        y = b.op("LayerNormalization", x, b.weight(n, 1, WIDTH), b.weight(n, 1, WIDTH), axis=2)
        b.give(y, n, ROWS, WIDTH)

    def apart(b: Builder) -> None:
        y = b.op("LayerNormalization", b.data(n, 1, ROWS, WIDTH), b.weight(WIDTH), axis=3)
        y = b.op("Add", b.op("Mul", y, b.weight(n, 1, 1, WIDTH)), b.weight(n, 1, 1, WIDTH))
        b.give(y, n, 1, ROWS, WIDTH)

    yield shape, "own scale", False, own
    yield shape, "Mul and Add after", False, apart


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--work", default="/tmp")
    parser.add_argument("--until", type=float, default=float("inf"), help="the end, in seconds of the clock")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
