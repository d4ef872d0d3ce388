"""The dims of the outputs of operators, as polynomials (sizes.py)."""

from __future__ import annotations

from itertools import zip_longest

from netfuse_onnx.load.spelled.polynomials import Poly, equal, exact, of_atom, poly, product
from netfuse_onnx.load.spelled.sizes import Dims, Indices, Sizes, dims_rule, unknown
from netfuse_onnx.ops.axes import REDUCERS, from_front
from netfuse_onnx.types import Node

Told = list[Dims | None]
FAR = 1 << 31
"""The smallest bound of a Slice that is beyond every size: exporters write the largest integer."""
BROADCAST = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum",
    "Where", "Xor",
)  # fmt: skip
AS_INPUT = (
    "Abs", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Cos", "CumSum", "DequantizeLinear",
    "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish",
    "Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization",
    "LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "Mish", "Neg", "Not", "PRelu", "QuantizeLinear",
    "RMSNormalization", "Reciprocal", "Relu", "Round", "ScatterElements", "ScatterND", "Selu", "Sigmoid",
    "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
    "Trilu",
)  # fmt: skip


@dims_rule(*AS_INPUT)
def _as_input(sizes: Sizes, node: Node) -> Told:
    return [sizes.shape(node.inputs[0])]


@dims_rule(*BROADCAST)
def _broadcast(sizes: Sizes, node: Node) -> Told:
    return [broadcast([sizes.shape(name) for name in node.inputs], node.outputs[0])]


def broadcast(shapes: list[Dims], name: str) -> Dims:
    """Return the dims of operands that are broadcast. Sizes that are not known to fit are new atoms."""
    rows = list(zip_longest(*[shape[::-1] for shape in shapes], fillvalue=poly(1)))[::-1]
    result = []
    for axis, row in enumerate(rows):
        size: Poly | None = row[0]
        for other in row[1:]:
            size = size if size is None else _common(size, other)
        result.append(unknown(name, axis) if size is None else size)
    return tuple(result)


def _common(a: Poly, b: Poly) -> Poly | None:
    """Return the size of two axes that are broadcast together, in every run that succeeds."""
    if a == b or b.constant == 1:
        return a
    if a.constant == 1:
        return b
    for one, other in ((a, b), (b, a)):
        if one.constant is not None:
            return one  # the other one is 1 or the same
        atom = other.atom
        if atom is not None and atom[0] == "min" and atom[1] == one:
            return one  # min(n, 128) beside n: where n is more than 128, they can't be broadcast
    return None


@dims_rule("MatMul")
def _matmul(sizes: Sizes, node: Node) -> Told:
    a, b = (sizes.shape(name) for name in node.inputs[:2])
    if len(a) < 2 or len(b) < 2:
        return [None]
    return [(*broadcast([a[:-2], b[:-2]], node.outputs[0]), a[-2], b[-1])]


@dims_rule("Gemm")
def _gemm(sizes: Sizes, node: Node) -> Told:
    a, b = (sizes.shape(name) for name in node.inputs[:2])
    return [(a[1 if node.attrs.get("transA") else 0], b[0 if node.attrs.get("transB") else 1])]


@dims_rule("Transpose")
def _transpose(sizes: Sizes, node: Node) -> Told:
    dims = sizes.shape(node.inputs[0])
    return [tuple([dims[k] for k in node.attrs.get("perm") or range(len(dims))[::-1]])]


@dims_rule("Concat")
def _concat(sizes: Sizes, node: Node) -> Told:
    parts = [sizes.shape(name) for name in node.inputs]
    axis = from_front(node.attrs["axis"], len(parts[0]))
    total = sum((part[axis] for part in parts), poly(0))
    return [(*parts[0][:axis], total, *parts[0][axis + 1 :])]


@dims_rule("Gather")
def _gather(sizes: Sizes, node: Node) -> Told:
    data, at = sizes.shape(node.inputs[0]), sizes.shape(node.inputs[1])
    axis = from_front(node.attrs.get("axis", 0), len(data))
    return [(*data[:axis], *at, *data[axis + 1 :])]


@dims_rule("GatherND")
def _gather_nd(sizes: Sizes, node: Node) -> Told:
    data, at = sizes.shape(node.inputs[0]), sizes.shape(node.inputs[1])
    width = at[-1].constant
    if node.attrs.get("batch_dims") or width is None:
        return [None]
    return [(*at[:-1], *data[width:])]


@dims_rule("Unsqueeze")
def _unsqueeze(sizes: Sizes, node: Node) -> Told:
    dims, axes = list(sizes.shape(node.inputs[0])), sizes.axes(node) or []
    rank = len(dims) + len(axes)
    for axis in sorted(from_front(axis, rank) for axis in axes):
        dims.insert(axis, poly(1))
    return [tuple(dims)]


@dims_rule("Squeeze")
def _squeeze(sizes: Sizes, node: Node) -> Told:
    dims, axes = sizes.shape(node.inputs[0]), sizes.axes(node)
    if axes is None:
        if not all(size.constant is not None for size in dims):
            return [None]
        axes = [k for k, size in enumerate(dims) if size.constant == 1]
    dropped = {from_front(axis, len(dims)) for axis in axes}
    return [tuple([size for k, size in enumerate(dims) if k not in dropped])]


@dims_rule("Flatten")
def _flatten(sizes: Sizes, node: Node) -> Told:
    dims = sizes.shape(node.inputs[0])
    axis = node.attrs.get("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    return [(product(dims[:axis]), product(dims[axis:]))]


@dims_rule("Reshape")
def _reshape(sizes: Sizes, node: Node) -> Told:
    target = list(sizes.array(node.inputs[1]).reshape(-1))
    dims = sizes.dims.get(node.inputs[0])
    for k, size in enumerate(target):
        if size.constant == 0 and not node.attrs.get("allowzero"):
            target[k] = dims[k] if dims is not None else unknown(node.outputs[0], k)
    rest = [k for k, size in enumerate(target) if size.constant == -1]
    if not rest:
        return [tuple(target)]
    others = product(size for k, size in enumerate(target) if k not in rest)
    size = exact(product(dims), others) if dims is not None and len(rest) == 1 else None
    target[rest[0]] = unknown(node.outputs[0], rest[0]) if size is None else size
    return [tuple(target)]


@dims_rule("Expand")
def _expand(sizes: Sizes, node: Node) -> Told:
    target = tuple(sizes.array(node.inputs[1]).reshape(-1))
    return [broadcast([sizes.shape(node.inputs[0]), target], node.outputs[0])]


@dims_rule("ConstantOfShape")
def _filled(sizes: Sizes, node: Node) -> Told:
    return [tuple(sizes.array(node.inputs[0]).reshape(-1))]


@dims_rule("Range")
def _range(sizes: Sizes, node: Node) -> Told:
    start, limit, step = (sizes.array(name).reshape(-1)[0] for name in node.inputs)
    count = limit - start
    return [(count,) if step.constant == 1 and count.natural else None]


@dims_rule("Tile")
def _tile(sizes: Sizes, node: Node) -> Told:
    repeats = sizes.array(node.inputs[1]).reshape(-1)
    return [tuple([size * times for size, times in zip(sizes.shape(node.inputs[0]), repeats, strict=True)])]


@dims_rule("Split")
def _split(sizes: Sizes, node: Node) -> Told:
    dims, parts = sizes.shape(node.inputs[0]), sizes.axes(node, 1, "split")
    axis = from_front(node.attrs.get("axis", 0), len(dims))
    if parts is None:
        return []
    return [(*dims[:axis], poly(part), *dims[axis + 1 :]) for part in parts]


@dims_rule(*REDUCERS)
def _reduced(sizes: Sizes, node: Node) -> Told:
    dims, axes = sizes.shape(node.inputs[0]), sizes.axes(node)
    if not axes:
        if node.attrs.get("noop_with_empty_axes"):
            return [dims]
        axes = list(range(len(dims)))
    gone = {from_front(axis, len(dims)) for axis in axes}
    if node.attrs.get("keepdims", 1) == 1:
        return [tuple([poly(1) if k in gone else size for k, size in enumerate(dims)])]
    return [tuple([size for k, size in enumerate(dims) if k not in gone])]


@dims_rule("Slice")
def _slice(sizes: Sizes, node: Node) -> Told:
    dims = list(sizes.shape(node.inputs[0]))
    starts, ends = (list(sizes.array(name).reshape(-1)) for name in node.inputs[1:3])
    axes = sizes.numbers(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else range(len(starts))
    steps = sizes.numbers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = from_front(axis, len(dims))
        size = sliced(dims[at], start, end, step)
        dims[at] = unknown(node.outputs[0], at) if size is None else size
    return [tuple(dims)]


def sliced(size: Poly, start: Poly, end: Poly, step: int) -> Poly | None:
    """Return the number of elements of a Slice along one axis; None where it is not known."""
    n, first, last = size.constant, start.constant, end.constant
    if n is not None and first is not None and last is not None:
        return poly(len(range(*slice(first, None if step < 0 and last < -n else last, step).indices(n))))
    if step != 1 or first is None:
        return None
    if first == 0 and last is None and end.natural:
        return size if equal(size, end) else of_atom("min", end, size) if n is not None else None
    if last is None or last < FAR:
        return None
    if first < 0:
        return poly(-first) if (size + first).natural else None
    return size - first if first == 0 or (size - first).natural else None


def whole(values: object, dims: Dims) -> bool:
    """Return True where index values count the elements of dims, row by row, from 0."""
    if not isinstance(values, Indices):
        return False
    if values.base.terms:
        return False
    expected = poly(1)
    for size, step in zip(values.dims[::-1], values.steps[::-1], strict=True):
        if size.constant != 1 and step != expected:
            return False
        expected = expected * size
    return product(dims) == expected
