"""The arithmetic of an emitted node, as products of matrices, and the kind of kernel that does it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.ops.shapes_contrib import CHANNEL_BLOCK as BLOCK

LINE = "convolution_line"
"""A convolution along one axis of plain images, one group after the other. A signal of rank 3 has no other
kernel, whatever its channels are."""

FEW = 4
"""Up to so many input channels, an ungrouped convolution reads a plain image into blocks."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """`count` products [m,k] x [k,n] in one launch, by one kind of kernel."""

    kernel: str
    count: int
    m: int
    n: int
    k: int


def work(step: Step, inputs: Sequence[Shape], output: Shape) -> Work | None:
    """The products that a node computes from inputs of these sizes; None where it computes none, or where its
    sizes contradict each other."""
    if len(inputs) < 2:
        return None
    if step.op in ("Conv", "FusedConv", "ConvTranspose"):
        return _convolution(step, inputs[0], inputs[1], output)
    if step.op in ("MatMul", "Gemm", "FusedMatMul"):
        return _product(step, inputs[0], inputs[1], output)
    return _einsum(step, inputs) if step.op == "Einsum" and len(inputs) == 2 else None


def recurrence(step: Step, inputs: Sequence[Shape]) -> Work | None:
    """The products of LSTM, GRU and RNN: for each direction, a row for each step and element of the batch."""
    if step.op not in ("GRU", "LSTM", "RNN") or step.domain or len(inputs) < 3:
        return None
    x, w, r = inputs[:3]
    if not len(x) == len(w) == len(r) == 3:
        return None
    return Work("recurrent", w[0], x[0] * x[1], w[1], x[2] + r[2])


def _einsum(step: Step, inputs: Sequence[Shape]) -> Work | None:
    """The work of an Einsum of two operands. ONNX Runtime copies them to stacks of matrices, and packs
    none."""
    equation = step.attrs["equation"]
    text = equation if isinstance(equation, str) else equation.decode()
    left, _, result = text.replace(" ", "").partition("->")
    x, _, w = left.partition(",")
    each = (*inputs[0], *inputs[1])
    if not (x + w + result).isalpha() or len(x + w) != len(each) or not set(result) <= set(x + w):
        return None
    size = dict(zip(x + w, each, strict=True))

    def product(letters: set[str]) -> int:
        return math.prod(size[c] for c in letters)

    both, out = set(x) & set(w), set(result)
    m, n = product((set(x) - both) & out), product((set(w) - both) & out)
    return Work("einsum", product(both & out), m, n, product(both - out))


def _product(step: Step, x: Shape, w: Shape, y: Shape) -> Work | None:
    if not x or not w:
        return None
    k = x[-2] if step.attrs.get("transA", 0) and len(x) >= 2 else x[-1]
    n = y[-1] if len(w) >= 2 and y else 1
    stored = step.inputs[1] is not None and step.inputs[1].stored
    matrices = math.prod(w[:-2])
    rows = math.prod(y) // max(n, 1)
    if stored and matrices == 1 and len(w) <= 2:  # one matrix for all rows
        return Work("product", 1, rows, n, k)
    count = max(matrices if stored else math.prod(y[:-2]), 1)
    return Work("product_stacked" if stored else "product_values", count, max(rows // count, 1), n, k)


def _convolution(step: Step, x: Shape, w: Shape, y: Shape) -> Work | None:
    if len(w) < 3 or not x or not y:
        return None
    groups = int(step.attrs.get("group", 1))
    if step.op == "ConvTranspose":
        out = w[1] * math.prod(w[2:])
        return Work("convolution_plain", groups, x[0] * math.prod(x[2:]), out, w[0] // groups)
    into, out = w[1], w[0] // groups
    kernel = pointwise_kernel(into, out) if _is_rows(x, w) else convolution_kernel(into, out, groups)
    if len(w) == 3 or (kernel == "convolution_plain" and math.prod(y[2:]) == max(y[2:])):
        kernel = "pointwise_plain" if kernel.startswith("pointwise") else LINE
    return Work(kernel, groups, y[0] * math.prod(y[2:]), out, into * math.prod(w[2:]))


def _is_rows(x: Shape, w: Shape) -> bool:
    """True for a linear layer: its window is one point, and its image one row of points."""
    return math.prod(w[2:]) == 1 and x[0] == 1 and sum(size > 1 for size in x[2:]) <= 1


def convolution_kernel(into: int, out: int, groups: int) -> str:
    """The kind of kernel of a convolution with so many channels in and out of each group."""
    if into == 1 and out == 1:
        return "convolution_depthwise"
    if out % BLOCK == 0 and (into % BLOCK == 0 or (groups == 1 and into < FEW)):
        return "convolution_blocked"
    return "convolution_plain"


def pointwise_kernel(k: int, n: int) -> str:
    """The kind of kernel of a linear layer from k to n channels that runs as a 1x1 convolution."""
    return "pointwise_blocked" if k % BLOCK == 0 and n % BLOCK == 0 else "pointwise_plain"
