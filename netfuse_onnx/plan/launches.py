"""The launches of an emitted node on a GPU, as ONNX Runtime's CUDA provider makes them.

Most operators are one kernel that reads all inputs and writes all outputs. The tables have the others. They
were read from traces of ONNX Runtime 1.31.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.layouts.base import GROUP
from netfuse_onnx.plan.account import broadcasts_matrices
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.work import Work, work

PRODUCT, CONVOLUTION, GROUPED = "product", "convolution", "grouped"
"""The kernels that compute products."""
MEMORY, TRANSPOSED, LINK = "memory", "transposed", "link"
"""The ways of bytes: through the device's memory, there in another order, from or to the host."""

ADDRESS = 8
"""The bytes of the address of a tensor or matrix."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch. `moved`: the bytes that go `over` MEMORY, TRANSPOSED or LINK. `cached`: the bytes that
    the tiles of its products read. `element`: the type of what is multiplied. `channels`: those that one
    group of a GROUPED convolution reads. `waits`: the host waits for its end."""

    moved: float
    over: str = MEMORY
    work: Work | None = None
    cached: float = 0.0
    element: int = 0
    channels: int = 0
    waits: bool = False


Launches: TypeAlias = Iterator[Launch]

_READS_WHAT_IT_WRITES = frozenset(
    ("Compress", "Gather", "GatherElements", "GatherND", "Slice", "Split", "EmbedLayerNormalization")
)
"""Operators that read no more of their first input than they write."""

_MORE: Mapping[str, int] = {
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"), 1),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean"), 2),
    **dict.fromkeys(("GatherND", "Resize", "ScatterElements", "ScatterND", "Scatter", "Upsample"), 1),
}
"""Launches beside the one that reads the inputs, each over the output: to clear it, to divide, to prepare."""

_WAITS = frozenset(("Compress", "NonMaxSuppression", "NonZero"))
"""Operators whose output has a size that the host has to learn from the device."""


def launches(step: Step, shapes: Shapes) -> Launches:
    """The launches of a node that has a kernel on the device and copies or computes something."""
    known = _KINDS.get(step.op) if step.domain in ("", "com.microsoft") else None
    yield from (known or _pass)(step, shapes)


def transfers(step: Step, shapes: Shapes) -> Launches:
    """The copies of a node that the host computes: its inputs there, which it waits for, its outputs back."""
    for x in step.inputs:
        if x is not None and not x.stored:
            yield Launch(shapes.nbytes(x), LINK, waits=True)
    for y in step.outputs:
        yield Launch(shapes.nbytes(y), LINK)


# --------------------------------------------------------------------------- bytes


def _bytes(step: Step, shapes: Shapes) -> float:
    """The bytes that a node reads and writes."""
    written = sum(map(shapes.nbytes, step.outputs))
    return 2 * written if step.op in _READS_WHAT_IT_WRITES else written + sum(map(shapes.nbytes, step.inputs))


def _pass(step: Step, shapes: Shapes) -> Launches:
    yield Launch(
        _bytes(step, shapes),
        TRANSPOSED if step.op == "Transpose" else MEMORY,
        waits=step.op in _WAITS,
    )
    for _ in range(_MORE.get(step.op, 0)):
        yield Launch(sum(map(shapes.nbytes, step.outputs)))


def _joins(step: Step, shapes: Shapes) -> Launches:
    """The addresses of many tensors are copied from the host."""
    count = max(len(step.inputs), len(step.outputs))
    if count > GROUP["cuda"]:
        yield Launch(ADDRESS * count, LINK)
    yield from _pass(step, shapes)


# --------------------------------------------------------------------------- products


def _product(step: Step, shapes: Shapes) -> Launches:
    """A MatMul is one product where its second operand is one matrix, strided where both operands have
    equally many matrices, and else by arrays of addresses, which are copied with each call. A batch that the
    file leaves open is not 1 in every call: a product that repeats matrices over it has addresses, too."""
    x, w, y = (shapes.of(tensor) for tensor in (*step.inputs[:2], step.outputs[0]))
    if len(x) < 2 or len(w) < 2 or len(y) < 2:
        yield from _pass(step, shapes)
        return
    k = x[-2] if step.attrs.get("transA", 0) else x[-1]
    left, right, count = (math.prod(dims[:-2]) for dims in (x, w, y))
    if right == 1:
        yield _products(step, shapes, Work(PRODUCT, 1, count * y[-2], y[-1], k))
        return
    if left != right or broadcasts_matrices(step):
        for _ in range(3):
            yield Launch(ADDRESS * count, LINK)
    yield _products(step, shapes, Work(PRODUCT, count, y[-2], y[-1], k))


def _products(step: Step, shapes: Shapes, done: Work) -> Launch:
    """The launch that computes the products of a node."""
    each = done.m * done.k + done.k * done.n + done.m * done.n
    item = shapes.nbytes(step.inputs[0]) / max(1, math.prod(shapes.of(step.inputs[0])))
    moved = sum(map(shapes.nbytes, (*step.inputs, *step.outputs)))
    return Launch(moved, MEMORY, done, item * done.count * each, shapes.dtype(step.inputs[0]))


def _gemm(step: Step, shapes: Shapes) -> Launches:
    """The bias is copied to the output first."""
    if len(step.inputs) > 2 and step.inputs[2] is not None:
        yield Launch(shapes.nbytes(step.inputs[2]) + shapes.nbytes(step.outputs[0]))
    yield from _product(step, shapes)


def _einsum(step: Step, shapes: Shapes) -> Launches:
    """Each operand is copied to a stack of matrices with every call, weights too, and so is the result."""
    done = work(step, tuple(map(shapes.of, step.inputs)), shapes.of(step.outputs[0]))
    for tensor in (*step.inputs, *step.outputs):
        yield Launch(2 * shapes.nbytes(tensor), TRANSPOSED)
    if done is not None:
        yield _products(step, shapes, Work(PRODUCT, done.count, done.m, done.n, done.k))


def _convolution(step: Step, shapes: Shapes) -> Launches:
    """The bias of a Conv is added in a launch of its own; a FusedConv is one launch."""
    x, w, y = (shapes.of(tensor) for tensor in (*step.inputs[:2], step.outputs[0]))
    if len(w) < 3 or len(x) != len(w) or len(y) != len(w):
        yield from _pass(step, shapes)
        return
    fused = step.op == "FusedConv"
    read = step.inputs if fused else step.inputs[:2]
    moved = sum(map(shapes.nbytes, (*read, *step.outputs)))
    groups = max(1, int(step.attrs.get("group", 1)))
    done, element = _filtered(step, groups, (x, w, y)), shapes.dtype(step.inputs[0])
    yield Launch(moved, MEMORY, done, element=element, channels=x[1] // groups)
    if not fused and len(step.inputs) > 2 and step.inputs[2] is not None:
        yield Launch(shapes.nbytes(step.inputs[2]) + 2 * shapes.nbytes(step.outputs[0]))


def _filtered(step: Step, groups: int, xwy: Sequence[tuple[int, ...]]) -> Work:
    """The products of a convolution: pixels x filters, summed over the window."""
    x, w, y = xwy
    into, window = x[1] // groups, math.prod(w[2:])
    kernel = GROUPED if groups > 1 else CONVOLUTION
    if step.op == "ConvTranspose":
        return Work(kernel, groups, x[0] * math.prod(x[2:]), w[1] * window, into)
    return Work(kernel, groups, y[0] * math.prod(y[2:]), w[0] // groups, into * window)


def _recurrent(step: Step, shapes: Shapes) -> Launches:
    """A step in time after the other, each direction by its own kernels. The lengths come from the host."""
    x, w = shapes.of(step.inputs[0]), shapes.of(step.inputs[2])
    if len(x) != 3 or len(w) != 3:
        yield from _pass(step, shapes)
        return
    directions, gates, hidden = w
    yield Launch(ADDRESS * x[1], LINK)
    moved = shapes.nbytes(step.inputs[2]) / directions
    for _ in range(x[0] * directions):
        yield Launch(
            moved, MEMORY, Work(PRODUCT, 1, x[1], gates, hidden), element=shapes.dtype(step.inputs[0])
        )
    yield Launch(2 * sum(map(shapes.nbytes, step.outputs)))


# --------------------------------------------------------------------------- attention


def _attention(step: Step, shapes: Shapes) -> Launches:
    """One kernel: each query with each key, and the scores with the values. Of [B,S,heads*width], or
    [B,heads,S,width]."""
    query, key = shapes.of(step.inputs[0]), shapes.of(step.inputs[min(1, len(step.inputs) - 1)])
    if len(query) < 3 or len(key) < 3:
        yield from _pass(step, shapes)
        return
    heads = max(1, int(step.attrs.get("q_num_heads", step.attrs.get("num_heads", 1))))
    count, width = query[0] * heads, query[-1] // heads
    if len(query) == 4:
        count, width = query[0] * query[1], query[-1]
    done = Work(PRODUCT, 2 * count, query[-2], key[-2], width)
    moved = _bytes(step, shapes)
    yield Launch(moved, MEMORY, done, element=shapes.dtype(step.inputs[0]))


def _packed_attention(step: Step, shapes: Shapes) -> Launches:
    """ONNX Runtime's own Attention multiplies its input by the weights of all three, adds the bias and turns
    the heads, then attends."""
    x, w = shapes.of(step.inputs[0]), shapes.of(step.inputs[1])
    if len(x) != 3 or len(w) != 2:
        yield from _pass(step, shapes)
        return
    heads, item = max(1, int(step.attrs.get("num_heads", 1))), shapes.nbytes(step.inputs[0]) / math.prod(x)
    turned = 2 * item * x[0] * x[1] * w[1]
    yield _products(step, shapes, Work(PRODUCT, 1, x[0] * x[1], w[1], x[2]))
    yield Launch(turned, TRANSPOSED)
    done = Work(PRODUCT, 2 * x[0] * heads, x[1], x[1], w[1] // (3 * heads))
    yield Launch(turned, MEMORY, done, element=shapes.dtype(step.inputs[0]))


_KINDS: Mapping[str, Callable[[Step, Shapes], Launches]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv"), _convolution),
    **dict.fromkeys(("FusedMatMul", "MatMul", "MatMulInteger", "TransposeMatMul"), _product),
    **dict.fromkeys(("FusedGemm", "Gemm"), _gemm),
    **dict.fromkeys(("GroupQueryAttention", "MultiHeadAttention"), _attention),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    **dict.fromkeys(("Concat", "Split"), _joins),
    "Einsum": _einsum,
    "Attention": lambda step, shapes: (_packed_attention if step.domain else _attention)(step, shapes),
}
