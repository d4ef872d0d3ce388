"""The cases of calibrate.py: chains of one kind of node, each with weights of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.plan.work import convolution_kernel, pointwise_kernel

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

LINES = (  # channels in, out, length of the signal, of the filter, groups
    (16, 16, 48, 3, 1), (8, 8, 192, 5, 1), (24, 24, 32, 3, 1), (64, 64, 128, 3, 1), (128, 128, 50, 3, 1),
    (257, 257, 21, 3, 1), (12, 12, 21, 5, 1), (40, 40, 21, 5, 1), (5, 5, 21, 3, 1), (16, 32, 12, 7, 1),
    (1, 16, 640, 9, 1), (32, 32, 64, 3, 32), (256, 256, 128, 3, 256), (20, 20, 21, 5, 20),
    (32, 32, 31, 15, 4), (64, 64, 1000, 3, 1), (40, 40, 21, 5, 10),
)  # fmt: skip

SQUARES = tuple((c, m, k) for c in (12, 48, 96) for m, k in ((16, 64), (128, 64), (64, 32), (256, 32)))
"""Sizes in attention: heads of all models, words, width of a head."""

RECURRENT = tuple(
    (op, steps, rows, k, n)
    for op in ("LSTM", "GRU")
    for steps, rows in ((1, 1), (1, 8), (4, 1), (20, 1), (20, 8), (100, 1))
    for k, n in ((16, 16), (40, 64), (64, 128), (200, 100))
)
"""Steps in time, size of the batch, inputs, and width of the state."""

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


# --------------------------------------------------------------------------- graphs


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


def cases() -> Iterator[Case]:
    yield from products()
    yield from products_of_values()
    yield from einsums()
    yield from convolutions()
    yield from lines()
    yield from recurrences()


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


def convolution(into: int, out: int, side: int, groups: int, models: int, axes: int = 2) -> Link:
    def link(i: int, x: str) -> Made:
        a, b = turn(i, into, out)
        weight = stored(f"w{i}", models * b, a // groups, *[side] * axes)
        attrs: dict[str, Any] = {"group": models * groups, "pads": [side // 2] * 2 * axes}
        return helper.make_node("Conv", [x, weight.name], [f"y{i}"], **attrs), [weight]

    return link


def products_of_values() -> Iterator[Case]:
    """As attention has them: [c,m,k] x [c,k,m], then [c,m,m] x [c,m,k]."""
    for count, m, k in SQUARES:

        def link(i: int, x: str, count: int = count, m: int = m, k: int = k) -> Made:
            shape = (count, k, m) if i % 2 == 0 else (count, m, k)
            return helper.make_node("MatMul", [x, f"w{i}"], [f"y{i}"]), [stored(f"w{i}", *shape)]

        yield Case("product_values", count, m, m, k, 8, chain([count, m, k], 8, link))


def einsums() -> Iterator[Case]:
    """The same, [m,c,k] and [m,c,k] to [c,m,m] and back, by ONNX Runtime's Einsum."""
    for count, m, k in SQUARES:
        yield Case("einsum", count, m, m, k, 8, chain([m, count, k], 8, einsum(count, m, k)))


def einsum(count: int, m: int, k: int) -> Link:
    def link(i: int, x: str) -> Made:
        equation = "icd,jcd->cij" if i % 2 == 0 else "cij,jcd->icd"
        weight = stored(f"w{i}", m, count, k)
        return helper.make_node("Einsum", [x, weight.name], [f"y{i}"], equation=equation), [weight]

    return link


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


def lines() -> Iterator[Case]:
    """Convolutions over one axis."""
    for into, out, length_of_signal, side, groups in LINES:
        for models in (1, 2, 8):
            a, b = into // groups, out // groups
            length = min(long(out * a * side, models), 8)
            link = convolution(into, out, side, groups, models, axes=1)
            model = chain([1, models * into, length_of_signal], length, link)
            yield Case("convolution_line", models * groups, length_of_signal, b, a * side, length, model)


def recurrences() -> Iterator[Case]:
    """Recurrent layers of one direction, which read the same input."""
    for op, steps, rows, k, n in RECURRENT:
        gates = {"GRU": 3, "LSTM": 4}[op] * n
        length = max(1, min(LONGEST, WEIGHTS // (4 * gates * (k + n)), 400 // steps))
        nodes, weights = [], []
        for i in range(length):
            weights += [stored(f"w{i}", 1, gates, k), stored(f"r{i}", 1, gates, n)]
            read = ["x", f"w{i}", f"r{i}"]
            nodes.append(helper.make_node(op, read, [f"y{i}"], hidden_size=n))
        made = {f"y{i}": TensorProto.FLOAT for i in range(length)}
        yield Case(
            "recurrent", 1, steps * rows, gates, k + n, length,
            graph(nodes, {"x": [steps, rows, k]}, made, weights),
        )  # fmt: skip
