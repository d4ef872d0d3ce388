"""Graphs that run N LSTM layers with weights of their own, in all ways that ONNX Runtime has for it.

Each takes x [N, T, B, I], h and c [N, D, B, H], and gives y [N, T, D, B, H]. They are written by hand, so
that they show what the runtime can do, whatever the compiler emits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Sizes:
    """Models, steps, batch, inputs, width of the state, directions."""

    models: int
    steps: int
    batch: int
    inputs: int
    hidden: int
    directions: int = 1

    @property
    def rows(self) -> int:
        return self.models * self.directions

    @property
    def direction(self) -> str:
        return "bidirectional" if self.directions == 2 else "forward"

    @property
    def fed(self) -> Mapping[str, Sequence[int]]:
        state = [self.models, self.directions, self.batch, self.hidden]
        return {"x": [self.models, self.steps, self.batch, self.inputs], "h": state, "c": state}

    def drawn(self) -> dict[str, Array]:
        """Inputs and weights, small enough that nothing saturates."""
        gates, draw = 4 * self.hidden, np.random.default_rng(0)
        weights = {
            "w": [self.models, self.directions, gates, self.inputs],
            "r": [self.models, self.directions, gates, self.hidden],
            "b": [self.models, self.directions, 2 * gates],
        }
        return {
            name: (0.2 * draw.standard_normal(shape)).astype(np.float32)
            for name, shape in {**self.fed, **weights}.items()
        }


class Writer:
    """Collects the nodes and constants of one graph, or of a body, whose names begin with `scope`."""

    def __init__(self, scope: str = "") -> None:
        self.scope = scope
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, op: str, *ins: str, **attrs: object) -> str:
        return self.several(op, ins, 1, **attrs)[0]

    def several(self, op: str, ins: Sequence[str], outs: int, **attrs: object) -> list[str]:
        names = [f"{self.scope}{op}/{len(self.nodes)}/{k}" for k in range(outs)]
        domain = "com.microsoft" if op == "FusedConv" else ""
        self.nodes.append(helper.make_node(op, list(ins), names, domain=domain, **attrs))
        return names

    def const(self, value: object) -> str:
        array = np.asarray(value)
        name = f"{self.scope}const/{len(self.nodes)}/{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self("Reshape", x, self.const(list(shape)))

    def named(self, x: str, name: str) -> None:
        self.nodes.append(helper.make_node("Identity", [x], [name]))

    def model(self, inputs: Mapping[str, Sequence[int]], y: str) -> bytes:
        self.named(y, "y")
        given = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()]
        made = [helper.make_tensor_value_info("y", FLOAT, None)]
        graph = helper.make_graph(self.nodes, "cells", given, made, self.constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def single(sizes: Sizes, drawn: Mapping[str, Array], m: int) -> bytes:
    """Model m alone."""
    write = Writer()
    weights = [write.const(drawn[name][m]) for name in "wrb"]
    y = write(
        "LSTM", "x", *weights, "", "h", "c", hidden_size=sizes.hidden, direction=sizes.direction
    )  # fmt: skip
    return write.model({name: shape[1:] for name, shape in sizes.fed.items()}, y)


def once_per_model(sizes: Sizes, drawn: Mapping[str, Array]) -> bytes:
    """N LSTM nodes."""
    write, axis = Writer(), [0]
    zero = write.const(axis)
    parts = {name: write.several("Split", [name], sizes.models, axis=0) for name in "xhc"}
    made = []
    for m in range(sizes.models):
        x, h, c = (write("Squeeze", parts[name][m], zero) for name in "xhc")
        weights = [write.const(drawn[name][m]) for name in "wrb"]
        settings = {"hidden_size": sizes.hidden, "direction": sizes.direction}
        made.append(write("Unsqueeze", write("LSTM", x, *weights, "", h, c, **settings), zero))
    return write.model(sizes.fed, write("Concat", *made, axis=0))


# --------------------------------------------------------------------------- written out


def products(sizes: Sizes, drawn: Mapping[str, Array]) -> bytes:
    """All steps one after the other, each one product of all models."""
    write, rows = Writer(), sizes.rows
    matrices = write.const(_matrices(sizes, drawn["r"]))
    h, c = (write.reshape(name, rows, sizes.batch, sizes.hidden) for name in "hc")
    made = []
    for pre in _steps(_gates(sizes, drawn, write), sizes, write):
        h, c = _step(write, pre, h, c, matrices)
        made.append(write("Unsqueeze", h, write.const([0])))
    return write.model(sizes.fed, _results(write("Concat", *made, axis=0), sizes, write))


def scan(sizes: Sizes, drawn: Mapping[str, Array]) -> bytes:
    """A Scan over the steps, whose body is one product of all models."""
    return _iterated(sizes, drawn, loop=False)


def loop(sizes: Sizes, drawn: Mapping[str, Array]) -> bytes:
    """The same as a Loop, which reads its step by a Gather."""
    return _iterated(sizes, drawn, loop=True)


def _iterated(sizes: Sizes, drawn: Mapping[str, Array], *, loop: bool) -> bytes:
    write, body = Writer(), Writer("body/")
    state = [sizes.rows, sizes.batch, sizes.hidden]
    matrices = write.const(_matrices(sizes, drawn["r"]))
    steps = _steps(_gates(sizes, drawn, write), sizes, write)
    gates = write("Concat", *(write("Unsqueeze", pre, write.const([0])) for pre in steps), axis=0)
    pre = body("Gather", gates, "t", axis=0) if loop else "pre"
    h, c = _step(body, pre, "h_in", "c_in", matrices)
    for value, name in ((h, "h_out"), (c, "c_out"), (h, "y_out")):
        body.named(value, name)
    given = {"h_in": state, "c_in": state, "pre": [*state[:2], 4 * sizes.hidden]}
    infos = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in given.items()]
    made = [helper.make_tensor_value_info(name, FLOAT, state) for name in ("h_out", "c_out", "y_out")]
    if loop:
        kept = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
        body.nodes.append(helper.make_node("Identity", ["go"], ["go_on"]))
        infos = [helper.make_tensor_value_info("t", TensorProto.INT64, []), kept, *infos[:2]]
        made.insert(0, helper.make_tensor_value_info("go_on", TensorProto.BOOL, []))
    graph = helper.make_graph(body.nodes, "body", infos, made, body.constants)
    first = [write.reshape(name, *state) for name in "hc"]
    if loop:
        y = write.several("Loop", [write.const(sizes.steps), "", *first], 3, body=graph)[2]
    else:
        y = write.several("Scan", [*first, gates], 3, body=graph, num_scan_inputs=1)[2]
    return write.model(sizes.fed, _results(y, sizes, write))


def _gates(sizes: Sizes, drawn: Mapping[str, Array], write: Writer) -> str:
    """The products of all steps with W, [T, N, D, B, 4H]."""
    n, wide = sizes.models, 4 * sizes.directions * sizes.hidden
    w = drawn["w"].reshape(n, wide, sizes.inputs).transpose(0, 2, 1)
    x = write.reshape("x", n, sizes.steps * sizes.batch, sizes.inputs)
    bias = _bias(sizes, drawn).reshape(n, 1, wide)
    gates = write("Add", write("MatMul", x, write.const(w)), write.const(bias))
    gates = write.reshape(gates, n, sizes.steps, sizes.batch, sizes.directions, 4 * sizes.hidden)
    return write("Transpose", gates, perm=[1, 0, 3, 2, 4])


def _steps(gates: str, sizes: Sizes, write: Writer) -> list[str]:
    """The gates of each step, [N*D, B, 4H]. The second direction begins at the end."""
    every = write.several("Split", [gates], sizes.steps, axis=0) if sizes.steps > 1 else [gates]
    if sizes.directions == 2:
        halves = [write.several("Split", [step], 2, axis=2) for step in every]
        backward = [half[1] for half in reversed(halves)]
        every = [write("Concat", half[0], back, axis=2) for half, back in zip(halves, backward, strict=True)]
    return [write.reshape(step, sizes.rows, sizes.batch, 4 * sizes.hidden) for step in every]


def _step(write: Writer, pre: str, h: str, c: str, matrices: str) -> tuple[str, str]:
    gates = write("Add", write("MatMul", h, matrices), pre)
    i, o, f, g = write.several("Split", [gates], 4, axis=2)
    new = write("Mul", write("Sigmoid", i), write("Tanh", g))
    c = write("Add", write("Mul", write("Sigmoid", f), c), new)
    return write("Mul", write("Sigmoid", o), write("Tanh", c)), c


def _results(y: str, sizes: Sizes, write: Writer) -> str:
    """[T, N*D, B, H] -> [N, T, D, B, H]"""
    y = write.reshape(y, sizes.steps, sizes.models, sizes.directions, sizes.batch, sizes.hidden)
    if sizes.directions == 2:
        forward, back = write.several("Split", [y], 2, axis=2)
        ends = [write.const(value) for value in ([sizes.steps - 1], [-sizes.steps - 1], [0], [-1])]
        y = write("Concat", forward, write("Slice", back, *ends), axis=2)
    return write("Transpose", y, perm=[1, 0, 2, 3, 4])


def _matrices(sizes: Sizes, weights: Array) -> Array:
    """[N, D, 4H, K] -> [N*D, K, 4H]"""
    return weights.reshape(sizes.rows, 4 * sizes.hidden, -1).transpose(0, 2, 1)


def _bias(sizes: Sizes, drawn: Mapping[str, Array]) -> Array:
    return drawn["b"].reshape(*drawn["b"].shape[:2], 2, 4 * sizes.hidden).sum(axis=2)


# --------------------------------------------------------------------------- other products


def convolutions(sizes: Sizes, drawn: Mapping[str, Array]) -> bytes:
    """All steps one after the other, each one grouped convolution of ONNX Runtime's own, which adds what the
    input comes to and takes the sigmoid of all gates: tanh(x) is 2 sigmoid(2x) - 1."""
    write, rows, batch, hidden = Writer(), sizes.rows, sizes.batch, sizes.hidden
    twice = np.array([1, 1, 1, 2], np.float32).reshape(4, 1, 1)
    scaled = {
        name: (array.reshape(rows, 4, hidden, -1) * twice).reshape(array.shape)
        for name, array in (("w", drawn["w"]), ("r", drawn["r"]), ("b", _bias(sizes, drawn)))
    }
    gates = _gates(sizes, {**scaled, "b": np.concatenate([scaled["b"], 0 * scaled["b"]], axis=-1)}, write)
    filters = write.const(scaled["r"].reshape(rows * 4 * hidden, hidden, 1, 1))
    h, c = (write("Transpose", write.reshape(name, rows, batch, hidden), perm=[0, 2, 1]) for name in "hc")
    c, made = write.reshape(c, rows, 1, hidden, batch), []
    for step in _steps(gates, sizes, write):
        pre = write.reshape(write("Transpose", step, perm=[0, 2, 1]), 1, rows * 4 * hidden, batch, 1)
        image = write.reshape(h, 1, rows * hidden, batch, 1)
        settings = {"group": rows, "kernel_shape": [1, 1], "activation": "Sigmoid"}
        every = write("FusedConv", image, filters, "", pre, **settings)
        i, o, f, g = write.several("Split", [write.reshape(every, rows, 4, hidden, batch)], 4, axis=1)
        new = write("Sub", write("Mul", write("Add", g, g), i), i)
        c = write("Add", write("Mul", f, c), new)
        h = write("Mul", o, write("Tanh", c))
        made.append(write("Transpose", h, perm=[1, 0, 3, 2]))
    return write.model(sizes.fed, _results(write("Concat", *made, axis=0), sizes, write))


def block_diagonal(sizes: Sizes, drawn: Mapping[str, Array]) -> bytes:
    """One LSTM of N times the width. The zeros between its blocks are N - 1 times its work, and they carry a
    NaN of one model to the others: it is measured, and never emitted."""
    write, n, d, h = Writer(), sizes.models, sizes.directions, sizes.hidden
    wide = {name: np.zeros((d, 4, n, h, n, drawn[name].shape[-1]), np.float32) for name in "wr"}
    bias = np.zeros((d, 8, n, h), np.float32)
    for m in range(n):
        for name, array in wide.items():
            array[:, :, m, :, m] = drawn[name][m].reshape(d, 4, h, -1)
        bias[:, :, m] = drawn["b"][m].reshape(d, 8, h)
    weights = [write.const(array.reshape(d, 4 * n * h, -1)) for array in wide.values()]
    x = write.reshape(write("Transpose", "x", perm=[1, 2, 0, 3]), sizes.steps, sizes.batch, n * sizes.inputs)
    states = [
        write.reshape(write("Transpose", name, perm=[1, 2, 0, 3]), d, sizes.batch, n * h) for name in "hc"
    ]
    settings = {"hidden_size": n * h, "direction": sizes.direction}
    y = write("LSTM", x, *weights, write.const(bias.reshape(d, -1)), "", *states, **settings)
    y = write("Transpose", write.reshape(y, sizes.steps, d, sizes.batch, n, h), perm=[3, 0, 1, 2, 4])
    return write.model(sizes.fed, y)


FORMS: Mapping[str, Callable[[Sizes, Mapping[str, Array]], bytes]] = {
    "once per model": once_per_model,
    "products": products,
    "Scan": scan,
    "Loop": loop,
    "convolutions": convolutions,
    "block diagonal": block_diagonal,
}
"""The one-graph forms by name."""
