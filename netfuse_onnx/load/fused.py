"""Groups of operators in older exports for which newer exports write one operator.

Only families whose files do not match as they are get respelled. Each form computes the same numbers as the
spelling of the file, except layer normalisation and Gelu: these become one operator (from opset 17 and 20 on)
and round as ONNX Runtime rounds when it fuses them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.load.forms import Forms, form
from netfuse_onnx.ops.kinds import INTEGERS
from netfuse_onnx.types import Node, Source


def respelled(source: Source) -> Source:
    """Return the source with every form in its one spelling; the same object where nothing changes."""
    graph = source.graph
    while (changed := Forms(source, graph).run()) is not graph:
        graph = changed
    return source if graph is source.graph else replace(source, graph=graph)


@form("Not")
def _not_less(forms: Forms, node: Node) -> Node | None:
    """Not(a < b) is a >= b, for element types without NaN."""
    for op, reverse in (("Less", "GreaterOrEqual"), ("Greater", "LessOrEqual")):
        maker = forms.producer(node.inputs[0], op)
        if maker is not None and forms.opset >= 12 and forms.dtype(maker.inputs[0]) in INTEGERS:
            return replace(node, op=reverse, inputs=maker.inputs)
    return None


@form("Squeeze")
def _gather_of_one(forms: Forms, node: Node) -> Node | None:
    """A slice of one element along an axis that is then squeezed is a Gather."""
    cut = forms.producer(node.inputs[0], "Slice")
    axes = forms.axes(node)
    if cut is None or axes is None or len(axes) != 1 or len(cut.inputs) < 3:
        return None
    constants = [forms.constant(name) for name in cut.inputs[1:]]
    if any(values is None or values.size != 1 for values in constants):
        return None
    bounds = [int(values.reshape(-1)[0]) for values in constants if values is not None]
    start, end, axis, step = bounds + [0, 1][len(bounds) - 2 :]
    (squeezed,), dims = axes, forms.dims(cut.inputs[0])
    if axis != squeezed and (dims is None or axis % len(dims) != squeezed % len(dims)):
        return None
    size = dims[axis] if dims is not None else None
    last = start == -1 and end >= (size if isinstance(size, int) else 1 << 31) - 1 and end > 0
    if step != 1 or not (last or (end - start == 1 and start != -1)):
        return None
    inputs = (cut.inputs[0], forms.new_constant(np.array(start, np.int64)))
    return replace(node, op="Gather", inputs=inputs, attrs={"axis": axis})


@form("Transpose")
def _softmax_of_an_axis(forms: Forms, node: Node) -> Node | None:
    """A Softmax between two Transposes that undo each other is one along another axis."""
    soft = forms.producers.get(node.inputs[0])
    if soft is None or soft.op not in ("Softmax", "LogSoftmax", "Hardmax") or forms.opset < 13:
        return None
    transposed = forms.producer(soft.inputs[0], "Transpose")
    if transposed is None or "perm" not in transposed.attrs or "perm" not in node.attrs:
        return None
    perm, inverse = transposed.attrs["perm"], node.attrs["perm"]
    if [perm[k] for k in inverse] != list(range(len(perm))):
        return None
    axis = perm[soft.attrs.get("axis", -1)]
    return replace(node, op=soft.op, inputs=transposed.inputs, attrs={"axis": axis}, name=soft.name)


@form("Add")
def _layer_norm(forms: Forms, node: Node) -> Node | None:
    """(x - mean) / sqrt(variance + epsilon) * w + b along the last axes is a LayerNormalization."""
    scaled = next((each for each in forms.operands_by(node, "Mul") if forms.operand_by(each[0], "Div")), None)
    quotient = forms.operand_by(scaled[0], "Div") if scaled else None
    if forms.opset < 17 or scaled is None or quotient is None:
        return None
    bias, scale = scaled[1], quotient[1]
    parameters = [forms.graph.weights.get(name) for name in (scale, bias)]
    parts = _mean_and_variance(forms, quotient[0])
    if parts is None or any(each is None for each in parameters):
        return None
    x, axes, epsilon = parts
    dims, shapes = forms.dims(x), {each.shape for each in parameters if each is not None}
    if dims is None or {tuple(dims[-len(axes) :])} != shapes or forms.dtype(x) != 1:
        return None
    if [axis % len(dims) for axis in axes] != list(range(len(dims)))[-len(axes) :]:
        return None
    attrs = {"axis": -len(axes), "epsilon": float(np.float32(epsilon))}
    return replace(node, op="LayerNormalization", inputs=(x, scale, bias), attrs=attrs)


@form("Div")
def _layer_norm_without_scale(forms: Forms, node: Node) -> Node | None:
    """(x - mean) / sqrt(variance + epsilon) along the last axis, not scaled, has a scale of ones."""
    parts = _mean_and_variance(forms, node)
    if forms.opset < 17 or parts is None:
        return None
    x, axes, epsilon = parts
    dims = forms.dims(x)
    size = dims[-1] if dims else None
    scaled = any(
        reader.op == "Mul" and any(name in forms.graph.weights for name in reader.inputs)
        for reader in forms.graph.nodes
        if node.outputs[0] in reader.reads
    )
    if dims is None or not isinstance(size, int) or scaled or forms.dtype(x) != 1:
        return None
    if len(axes) != 1 or axes[0] % len(dims) != len(dims) - 1:
        return None
    scale, bias = (forms.new_constant(np.full(size, value, np.float32)) for value in (1, 0))
    attrs = {"axis": -1, "epsilon": float(np.float32(epsilon))}
    return replace(node, op="LayerNormalization", inputs=(x, scale, bias), attrs=attrs)


def _mean_and_variance(forms: Forms, quotient: Node) -> tuple[str, list[int], float] | None:
    """Return x, the axes and epsilon where the quotient is (x - mean) / sqrt(variance + epsilon)."""
    centred = forms.producer(quotient.inputs[0], "Sub")
    root = forms.producer(quotient.inputs[1], "Sqrt")
    shifted = forms.producer(root.inputs[0], "Add") if root else None
    with_epsilon = forms.with_scalar(shifted) if shifted else None
    variance = forms.producer(with_epsilon[0], "ReduceMean") if with_epsilon else None
    mean = forms.producer(centred.inputs[1], "ReduceMean") if centred else None
    if centred is None or with_epsilon is None or variance is None or mean is None:
        return None
    x, axes = centred.inputs[0], forms.axes(mean)
    keepdims = all(each.attrs.get("keepdims", 1) for each in (mean, variance))
    if mean.inputs[0] != x or not axes or not keepdims or forms.axes(variance) != axes:
        return None
    squared = forms.producers.get(variance.inputs[0])
    if squared is None or squared.domain or not _square(forms, squared):
        return None
    base = forms.producer(squared.inputs[0], "Sub")
    return (x, axes, with_epsilon[1]) if base is not None and base.inputs == centred.inputs else None


def _square(forms: Forms, node: Node) -> bool:
    """Return True for x * x and for Pow(x, 2)."""
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    return node.op == "Pow" and forms.scalar(node.inputs[1]) == 2


@form("Mul")
def _gelu(forms: Forms, node: Node) -> Node | None:
    """0.5 * x * (1 + erf(x / sqrt(2))), the factors in any order, is a Gelu."""
    if forms.opset < 20 or len(node.inputs) != 2:
        return None
    factors = [*node.inputs]
    for k, name in enumerate(node.inputs):
        if (inner := forms.producer(name, "Mul")) is not None:
            factors[k : k + 1] = inner.inputs
            break
    halves = [name for name in factors if forms.scalar(name) == 0.5]
    sums = [name for name in factors if (x := _one_plus_erf(forms, name)) is not None and x in factors]
    if len(factors) != 3 or len(halves) != 1 or len(sums) != 1:
        return None
    (rest,) = [name for name in factors if name not in (halves[0], sums[0])] or [""]
    if _one_plus_erf(forms, sums[0]) != rest:
        return None
    return replace(node, op="Gelu", inputs=(rest,), attrs={"approximate": b"none"})


@form("Mul")
def _gelu_by_tanh(forms: Forms, node: Node) -> Node | None:
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))), as torch writes it, is a Gelu."""
    half = forms.with_scalar(node) if forms.opset >= 20 else None
    product = forms.producer(half[0], "Mul") if half and half[1] == 0.5 else None
    for total, x in forms.operands_by(product, "Add"):
        if _one_plus_tanh(forms, total, x):
            return replace(node, op="Gelu", inputs=(x,), attrs={"approximate": b"tanh"})
    return None


def _one_plus_tanh(forms: Forms, total: Node, x: str) -> bool:
    """Return True where the sum is 1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))."""
    one = forms.with_scalar(total)
    tanh = forms.producer(one[0], "Tanh") if one and one[1] == 1 else None
    scaled = forms.producer(tanh.inputs[0], "Mul") if tanh else None
    inner = forms.with_scalar(scaled) if scaled else None
    if inner is None or abs(inner[1] - (2 / np.pi) ** 0.5) > 1e-6:
        return False
    for cubic, other in forms.operands_by(forms.producer(inner[0], "Add"), "Mul"):
        cube = forms.with_scalar(cubic)
        if other == x and cube and abs(cube[1] - 0.044715) < 1e-7 and _cube(forms, cube[0], x):
            return True
    return False


def _cube(forms: Forms, name: str, x: str) -> bool:
    """Return True where the value is x * x * x or Pow(x, 3)."""
    power = forms.producer(name, "Pow")
    if power is not None:
        return power.inputs[0] == x and forms.scalar(power.inputs[1]) == 3
    squares = forms.operands_by(forms.producer(name, "Mul"), "Mul")
    return any(other == x and square.inputs == (x, x) for square, other in squares)


@form("Mul")
def _hard_swish(forms: Forms, node: Node) -> Node | None:
    """x * HardSigmoid(x) with a slope of 1 / 6 is a HardSwish."""
    gate = forms.operand_by(node, "HardSigmoid")
    if gate is None or forms.opset < 14 or gate[0].inputs != (gate[1],):
        return None
    alpha, beta = gate[0].attrs.get("alpha", 0.2), gate[0].attrs.get("beta", 0.5)
    if np.float32(alpha) != np.float32(1 / 6) or beta != 0.5:
        return None
    return replace(node, op="HardSwish", inputs=(gate[1],), attrs={})


def _one_plus_erf(forms: Forms, name: str) -> str | None:
    """Return x where the value is 1 + erf(x / sqrt(2))."""
    total = forms.producer(name, "Add")
    one = forms.with_scalar(total) if total else None
    erf = forms.producer(one[0], "Erf") if one and one[1] == 1 else None
    if erf is None:
        return None
    for op, factor in (("Div", 2**0.5), ("Mul", 0.5**0.5)):
        inner = forms.producer(erf.inputs[0], op)
        if inner is None or (scaled := forms.with_scalar(inner)) is None:
            continue
        if abs(scaled[1] - factor) < 1e-6 and (op == "Mul" or inner.inputs[0] == scaled[0]):
            return scaled[0]
    return None
