"""Random graphs of pieces that forms respell, some spelled nearly right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

KINDS = {"f": np.float32, "d": np.float64, "e": np.float16}
Array = NDArray[Any]


@dataclass
class Builder:
    """A graph that grows by one node at a time. `nearly` is the share of constants that are a little off."""

    seed: int
    kind: str = "f"
    opset: int = 17
    nearly: float = 0.0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def const(self, values: Array | float | list[int], exact: bool = False) -> str:
        array = np.asarray(values)
        if array.dtype.kind == "f":
            off = 1 + (1e-3 if not exact and self.rng.random() < self.nearly else 0)
            array = (array * off).astype(KINDS[self.kind])
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def number(self, value: float) -> str:
        """A number, of rank 0, or with an axis of size 1."""
        return self.const(np.full([1] * int(self.rng.integers(3)), value, np.float64))

    def normal(self, *dims: int) -> str:
        return self.const(self.rng.standard_normal(dims) * 0.5, exact=True)

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, **attrs: Any) -> str:
        name = f"v{len(self.values)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        self.values.append(name)
        return name

    def mixed(self, op: str, *inputs: str) -> str:
        """A commutative operator, its operands in any order."""
        return self.add(op, *(inputs if self.rng.random() < 0.5 else inputs[::-1]))

    def some(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def model(self, dims: tuple[int | str, ...], last: str, more: int = 0) -> ModelProto:
        """The model, with so many inner values as further outputs."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(KINDS[self.kind]))
        inner = [name for name in self.values if name != last]
        outputs = [last, *sorted({str(name) for name in self.rng.choice(inner, more)})] if inner else [last]
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", kind, dims)],
            [onnx.ValueInfoProto(name=name) for name in outputs], self.weights,
        )  # fmt: skip
        typed = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        found = onnx.shape_inference.infer_shapes(typed, data_prop=True)
        types = {info.name: info for info in (*found.graph.value_info, *found.graph.output)}
        del typed.graph.output[:]
        for name in outputs:
            elem = types[name].type.tensor_type.elem_type if name in types else kind
            typed.graph.output.append(helper.make_tensor_value_info(name, elem, None))
        return typed


# --------------------------------------------------------------------------- pictures [B, C, H, W]


def conv_and_norm(b: Builder, x: str) -> str:
    """Conv or ConvTranspose of 4 channels, then BatchNormalization, or a scale and a shift."""
    groups, op = b.some(1, 2), b.some("Conv", "Conv", "ConvTranspose")
    weights = b.normal(4, 4 // groups, 3, 3)
    bias = [b.normal(4)] if b.rng.random() < 0.5 else []
    x = b.add(op, x, weights, *bias, group=groups, pads=[1, 1, 1, 1])
    if b.rng.random() < 0.5:
        numbers = [b.normal(4), b.normal(4), b.normal(4), b.const(b.rng.random(4) + 0.1, exact=True)]
        return b.add("BatchNormalization", x, *numbers, epsilon=b.some(1e-5, 1e-3))
    shape = b.some((4, 1, 1), (1, 4, 1, 1), (1, 1, 1), (4,), (1, 5), (5, 1))
    x = b.mixed("Mul", x, b.normal(*shape)) if b.rng.random() < 0.7 else x
    return b.mixed("Add", x, b.normal(*b.some(shape, (4, 1, 1))))


def padded(b: Builder, x: str) -> str:
    value = [b.const(b.some(0.0, 0.0, 1.0), exact=True)] if b.rng.random() < 0.5 else []
    pads = b.some((0, 0, 1, 0, 0, 0, 1, 2), (0, 0, 0, 0, 0, 0, 2, 2), (0, 1, 1, 1, 0, -1, 1, 1))
    x = b.add("Pad", x, b.ints(*pads), *value, mode=b.some("constant", "constant", "reflect"))
    if b.rng.random() < 0.6:
        return b.add("Conv", x, b.normal(4, 4, 3, 3), pads=b.some([0] * 4, [1, 1, 0, 0]))
    return b.add(
        "AveragePool", x, kernel_shape=[3, 3], count_include_pad=b.some(0, 1), pads=b.some([0] * 4, [1] * 4)
    )


def hard_swish(b: Builder, x: str) -> str:
    """x * Clip(x + 3, 0, 6) / 6, or HardSigmoid in the place of the rest, the factors in any order."""
    if b.rng.random() < 0.3:
        gate = b.add("HardSigmoid", x, alpha=b.some(1 / 6, 0.1667, 0.2), beta=b.some(0.5, 0.5, 0.4))
        return b.mixed("Mul", x, gate) if b.rng.random() < 0.7 else gate
    gate = b.add("Clip", b.mixed("Add", x, b.number(3)), b.const(0.0), b.const(6.0))
    if b.rng.random() < 0.5:
        gate = (
            b.add("Div", gate, b.number(6)) if b.rng.random() < 0.5 else b.mixed("Mul", gate, b.number(1 / 6))
        )
        return b.mixed("Mul", x, gate) if b.rng.random() < 0.7 else gate
    return b.add("Div", b.mixed("Mul", x, gate), b.number(b.some(6, 6, 5)))


def bounded(b: Builder, x: str) -> str:
    low, high = b.some((0.0, 6.0), (-1.0, 1.0), (0.5, 0.2))
    if b.rng.random() < 0.5:
        return b.add("Clip", b.add("Relu", x), b.const(low), b.const(high))
    return b.mixed("Min", b.mixed("Max", x, b.number(low)), b.number(high))


# --------------------------------------------------------------------------- sequences [B, S, 8]


def layer_norm(b: Builder, x: str) -> str:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, in its ways, and of other axes."""
    axis = b.some(-1, -1, 2, 1)
    centred = b.add("Sub", x, b.add("ReduceMean", x, axes=[axis]))
    other = centred if b.rng.random() < 0.9 else x
    squared = b.mixed("Mul", centred, other) if b.rng.random() < 0.5 else b.add("Pow", centred, b.number(2))
    variance = b.add("ReduceMean", squared, axes=[b.some(axis, axis, -1)])
    return _over_root(b, centred, variance)


def rms_norm(b: Builder, x: str) -> str:
    squared = b.mixed("Mul", x, x) if b.rng.random() < 0.5 else b.add("Pow", x, b.number(b.some(2, 2, 3)))
    return _over_root(b, x, b.add("ReduceMean", squared, axes=[b.some(-1, 2, 1)]))


def _over_root(b: Builder, x: str, variance: str) -> str:
    shifted = b.mixed("Add", variance, b.number(b.some(1e-5, 1e-3)))
    root = b.add("Sqrt", shifted) if b.rng.random() < 0.7 else b.add("Pow", shifted, b.number(0.5))
    ways = b.some("div", "reciprocal", "one")
    if ways == "div":
        x = b.add("Div", x, root)
    else:
        inverse = b.add("Reciprocal", root) if ways == "reciprocal" else b.add("Div", b.const(1.0), root)
        x = b.mixed("Mul", x, inverse)
    shape = b.some((8,), (8,), (1, 1, 8), (4, 8), (1,))
    x = b.mixed("Mul", x, b.normal(*shape)) if b.rng.random() < 0.8 else x
    return b.mixed("Add", x, b.normal(*shape)) if b.rng.random() < 0.7 else x


def gelu(b: Builder, x: str) -> str:
    """0.5 * x * (1 + erf(x / sqrt(2))) or by tanh, the factors in any order and nesting."""
    if b.rng.random() < 0.5:
        inner = b.add(
            "Erf",
            b.add("Div", x, b.number(2**0.5))
            if b.rng.random() < 0.5
            else b.mixed("Mul", x, b.number(0.5**0.5)),
        )
    else:
        cube = (
            b.add("Pow", x, b.number(3)) if b.rng.random() < 0.5 else b.mixed("Mul", b.mixed("Mul", x, x), x)
        )
        total = b.mixed("Add", x, b.mixed("Mul", cube, b.number(0.044715)))
        inner = b.add("Tanh", b.mixed("Mul", total, b.number((2 / np.pi) ** 0.5)))
    one = b.mixed("Add", inner, b.number(b.some(1, 1, 1, 2)))
    parts = [x, one, b.number(b.some(0.5, 0.5, 0.25))]
    b.rng.shuffle(parts)
    if parts[0].startswith("w") and parts[1].startswith("w"):
        parts = parts[::-1]
    return b.mixed("Mul", b.mixed("Mul", parts[0], parts[1]), parts[2])


def product(b: Builder, x: str) -> str:
    """A product with a matrix, of rank 3, or of rank 2 between Reshapes."""
    weights = b.normal(8, 8) if b.rng.random() < 0.5 else b.add("Transpose", b.normal(8, 8), perm=[1, 0])
    if b.rng.random() < 0.5:
        x = b.add("MatMul", x, weights)
        return b.mixed("Add", x, b.normal(*b.some((8,), (1, 1, 8), (4, 8)))) if b.rng.random() < 0.7 else x
    x = b.add("Reshape", x, b.ints(*b.some((-1, 8), (8, 8))))
    attrs = b.some({}, {"transB": 1}, {"transA": 0, "alpha": 1.0}, {"alpha": 0.5}, {"beta": 2.0, "transB": 1})
    bias = [b.normal(*b.some((8,), (1, 8), ()))] if b.rng.random() < 0.7 else []
    x = b.add("Gemm", x, weights, *bias, **attrs) if b.rng.random() < 0.6 else b.add("MatMul", x, weights)
    return b.add("Reshape", x, b.ints(*b.some((2, 4, 8), (-1, 4, 8), (2, -1, 8), (4, 2, 8), (2, 4, -1))))


def moved(b: Builder, x: str) -> str:
    """Operators that change nothing, or a shape and back."""
    way = b.some("dropout", "cast", "turn", "twice")
    if way == "dropout":
        return b.add("Dropout", x)
    if way == "cast":
        return b.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(KINDS[b.kind])))
    if way == "turn":
        x = b.add("Transpose", b.add("Transpose", x, perm=[2, 0, 1]), perm=b.some([1, 2, 0], [1, 0, 2]))
        return b.add("Reshape", x, b.ints(2, 4, 8))
    return b.add("Reshape", b.add("Unsqueeze", x, b.ints(1)), b.ints(*b.some((2, 4, 8), (2, -1, 8))))


def arithmetic(b: Builder, x: str) -> str:
    for _ in range(int(b.rng.integers(1, 4))):
        way = b.some("sub", "div", "mul", "square", "root", "sum", "over")
        number = b.number(b.some(0.5, 3.0, 1.0, 7.0, 0.001))
        if way in ("sub", "div"):
            x = b.add(way.title(), x, number)
        elif way == "mul":
            x = b.mixed("Mul", x, number)
        elif way == "square":
            x = b.add("Pow", x, b.const(2.0))
        elif way == "root":
            x = b.add("Pow", b.add("Abs", x), b.const(0.5))
        elif way == "sum":
            x = b.add("Sum", x, x, number)
        else:
            x = b.mixed("Mul", x, b.add("Reciprocal", b.add("Add", b.add("Abs", x), b.number(1))))
    return x


Piece = Callable[[Builder, str], str]
PICTURES: tuple[Piece, ...] = (conv_and_norm, padded, hard_swish, bounded)
SEQUENCES: tuple[Piece, ...] = (layer_norm, rms_norm, gelu, hard_swish, product, arithmetic, moved, bounded)


def graph(seed: int) -> tuple[ModelProto, tuple[int, ...]]:
    """A model and the dims of its input x."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(["f", "f", "f", "d", "e"]))
    builder = Builder(seed, kind, int(rng.choice([17, 17, 20])), nearly=float(rng.choice([0, 0, 0.2])))
    pictures = rng.random() < 0.4
    pieces, dims = (PICTURES, (2, 4, 5, 5)) if pictures else (SEQUENCES, (2, 4, 8))
    x = "x"
    for _ in range(int(rng.integers(1, 4))):
        x = pieces[int(rng.integers(len(pieces)))](builder, x)
    if pictures and rng.random() < 0.5:
        x = builder.add("ReduceMean", x, axes=builder.some([2, 3], [3, 2], [2]), keepdims=builder.some(0, 1))
    symbols = ("n", *dims[1:]) if rng.random() < 0.3 else dims
    return builder.model(symbols, x, more=int(rng.choice([0, 0, 1, 3]))), dims
