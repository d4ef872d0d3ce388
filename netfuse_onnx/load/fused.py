"""Forms that are one operator in newer exports and several in older ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.load.forms import Forms, form
from netfuse_onnx.ops.kinds import INTEGERS
from netfuse_onnx.types import Node

"""Element types that hold no NaN."""


@form("Not")
def _not_less(forms: Forms, node: Node) -> Node | None:
    """Not(a < b) is a >= b where there is no NaN."""
    for op, reverse in (("Less", "GreaterOrEqual"), ("Greater", "LessOrEqual")):
        maker = forms.maker(node.inputs[0], op)
        if maker is not None and forms.opset >= 12 and forms.dtype(maker.inputs[0]) in INTEGERS:
            return replace(node, op=reverse, inputs=maker.inputs)
    return None


@form("Squeeze")
def _one_of_an_axis(forms: Forms, node: Node) -> Node | None:
    """A slice of one element without its axis is a Gather."""
    cut = forms.maker(node.inputs[0], "Slice")
    axes = forms.axes(node)
    if cut is None or axes is None or len(axes) != 1 or len(cut.inputs) not in (3, 4):
        return None
    bounds = [forms.const(name) for name in cut.inputs[1:]]
    if any(values is None or values.size != 1 for values in bounds):
        return None
    start, end, *along = [int(values.reshape(-1)[0]) for values in bounds if values is not None]
    axis, (squeezed,), dims = (along or [0])[0], axes, forms.dims(cut.inputs[0])
    if axis != squeezed and (dims is None or axis % len(dims) != squeezed % len(dims)):
        return None
    size = dims[axis] if dims is not None else None
    last = start == -1 and end >= (size if isinstance(size, int) else 1 << 31) - 1 and end > 0
    if end - start != 1 and not last:
        return None
    if start == -1 and not last:
        return None
    inputs = (cut.inputs[0], forms.constant(np.array(start, np.int64)))
    return replace(node, op="Gather", inputs=inputs, attrs={"axis": axis})


@form("Hardmax", "LogSoftmax", "Softmax")
def _of_the_last_axis(forms: Forms, node: Node) -> Node | None:
    dims, axis = forms.dims(node.inputs[0]), node.attrs.get("axis", -1)
    if dims is None or forms.opset < 13 or axis < 0 or axis != len(dims) - 1:
        return None
    return replace(node, attrs={**node.attrs, "axis": -1})


@form("Transpose")
def _softmax_of_an_axis(forms: Forms, node: Node) -> Node | None:
    """The last axis of a transposed value, moved back: an axis of the value itself."""
    soft = forms.makers.get(node.inputs[0])
    if soft is None or soft.op not in ("Softmax", "LogSoftmax", "Hardmax") or forms.opset < 13:
        return None
    moved = forms.maker(soft.inputs[0], "Transpose")
    if moved is None or "perm" not in moved.attrs or "perm" not in node.attrs:
        return None
    there, back = moved.attrs["perm"], node.attrs["perm"]
    if [there[k] for k in back] != list(range(len(there))):
        return None
    axis = there[soft.attrs.get("axis", -1)]
    return replace(node, op=soft.op, inputs=moved.inputs, attrs={"axis": axis}, name=soft.name)


@form("Add")
def _layer_norm(forms: Forms, node: Node) -> Node | None:
    """(x - mean) / sqrt(variance + epsilon) * w + b along the last axes."""
    scaled = next((each for each in forms.pairs(node, "Mul") if forms.pair(each[0], "Div")), None)
    normal = forms.pair(scaled[0], "Div") if scaled else None
    if forms.opset < 17 or scaled is None or normal is None:
        return None
    bias, scale = scaled[1], normal[1]
    held = [forms.graph.weights.get(name) for name in (scale, bias)]
    found = _normalised(forms, normal[0])
    if found is None or any(each is None for each in held):
        return None
    x, axes, epsilon = found
    dims, shapes = forms.dims(x), {each.shape for each in held if each is not None}
    if dims is None or {tuple(dims[-len(axes) :])} != shapes or forms.dtype(x) != 1:
        return None
    if [axis % len(dims) for axis in axes] != list(range(len(dims)))[-len(axes) :]:
        return None
    attrs = {"axis": -len(axes), "epsilon": float(np.float32(epsilon))}
    return replace(node, op="LayerNormalization", inputs=(x, scale, bias), attrs=attrs)


@form("Div")
def _plain_layer_norm(forms: Forms, node: Node) -> Node | None:
    """(x - mean) / sqrt(variance + epsilon) along the last axis, which nothing scales behind."""
    found = _normalised(forms, node)
    if forms.opset < 17 or found is None:
        return None
    x, axes, epsilon = found
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
    inputs = (x, forms.constant(np.ones(size, np.float32)), forms.constant(np.zeros(size, np.float32)))
    attrs = {"axis": -1, "epsilon": float(np.float32(epsilon))}
    return replace(node, op="LayerNormalization", inputs=inputs, attrs=attrs)


def _normalised(forms: Forms, quotient: Node) -> tuple[str, list[int], float] | None:
    """What (x - mean) / sqrt(variance + epsilon) normalises, along which axes, and epsilon."""
    centred = forms.maker(quotient.inputs[0], "Sub")
    root = forms.maker(quotient.inputs[1], "Sqrt")
    shifted = forms.maker(root.inputs[0], "Add") if root else None
    numbers = forms.with_scalar(shifted) if shifted else None
    variance = forms.maker(numbers[0], "ReduceMean") if numbers else None
    mean = forms.maker(centred.inputs[1], "ReduceMean") if centred else None
    if centred is None or numbers is None or variance is None or mean is None:
        return None
    x, axes = centred.inputs[0], forms.axes(mean)
    kept = all(each.attrs.get("keepdims", 1) for each in (mean, variance))
    if mean.inputs[0] != x or not axes or not kept or forms.axes(variance) != axes:
        return None
    squared = forms.makers.get(variance.inputs[0])
    if squared is None or squared.domain or not _square(forms, squared):
        return None
    base = forms.maker(squared.inputs[0], "Sub")
    return (x, axes, numbers[1]) if base is not None and base.inputs == centred.inputs else None


def _square(forms: Forms, node: Node) -> bool:
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    return node.op == "Pow" and forms.scalar(node.inputs[1]) == 2


@form("Mul")
def _gelu(forms: Forms, node: Node) -> Node | None:
    """0.5 * x * (1 + erf(x / sqrt(2))), the factors in any order."""
    if forms.opset < 20 or len(node.inputs) != 2:
        return None
    factors = [*node.inputs]
    for k, name in enumerate(node.inputs):
        if (inner := forms.maker(name, "Mul")) is not None:
            factors[k : k + 1] = inner.inputs
            break
    halves = [name for name in factors if forms.scalar(name) == 0.5]
    waves = [name for name in factors if (x := _one_plus_erf(forms, name)) is not None and x in factors]
    if len(factors) != 3 or len(halves) != 1 or len(waves) != 1:
        return None
    (rest,) = [name for name in factors if name not in (halves[0], waves[0])] or [""]
    if _one_plus_erf(forms, waves[0]) != rest:
        return None
    return replace(node, op="Gelu", inputs=(rest,), attrs={"approximate": b"none"})


@form("Mul")
def _gelu_by_tanh(forms: Forms, node: Node) -> Node | None:
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))), as torch writes it."""
    half = forms.with_scalar(node) if forms.opset >= 20 else None
    product = forms.maker(half[0], "Mul") if half and half[1] == 0.5 else None
    for total, x in forms.pairs(product, "Add"):
        if _one_plus_tanh(forms, total, x):
            return replace(node, op="Gelu", inputs=(x,), attrs={"approximate": b"tanh"})
    return None


def _one_plus_tanh(forms: Forms, total: Node, x: str) -> bool:
    one = forms.with_scalar(total)
    tanh = forms.maker(one[0], "Tanh") if one and one[1] == 1 else None
    scaled = forms.maker(tanh.inputs[0], "Mul") if tanh else None
    inner = forms.with_scalar(scaled) if scaled else None
    if inner is None or abs(inner[1] - (2 / np.pi) ** 0.5) > 1e-6:
        return False
    for cubic, other in forms.pairs(forms.maker(inner[0], "Add"), "Mul"):
        cube = forms.with_scalar(cubic)
        if other == x and cube and abs(cube[1] - 0.044715) < 1e-7 and _cube(forms, cube[0], x):
            return True
    return False


def _cube(forms: Forms, name: str, x: str) -> bool:
    power = forms.maker(name, "Pow")
    if power is not None:
        return power.inputs[0] == x and forms.scalar(power.inputs[1]) == 3
    squares = forms.pairs(forms.maker(name, "Mul"), "Mul")
    return any(other == x and square.inputs == (x, x) for square, other in squares)


@form("Mul")
def _hard_swish(forms: Forms, node: Node) -> Node | None:
    """x * HardSigmoid(x) with the slope 1 / 6"""
    found = forms.pair(node, "HardSigmoid")
    if found is None or forms.opset < 14 or found[0].inputs != (found[1],):
        return None
    alpha, beta = found[0].attrs.get("alpha", 0.2), found[0].attrs.get("beta", 0.5)
    if np.float32(alpha) != np.float32(1 / 6) or beta != 0.5:
        return None
    return replace(node, op="HardSwish", inputs=(found[1],), attrs={})


def _one_plus_erf(forms: Forms, name: str) -> str | None:
    """x where the value is 1 + erf(x / sqrt(2))."""
    total = forms.maker(name, "Add")
    found = forms.with_scalar(total) if total else None
    erf = forms.maker(found[0], "Erf") if found and found[1] == 1 else None
    if erf is None:
        return None
    for op, wanted in (("Div", 2**0.5), ("Mul", 0.5**0.5)):
        inner = forms.maker(erf.inputs[0], op)
        scaled = forms.with_scalar(inner) if inner else None
        if (
            scaled
            and abs(scaled[1] - wanted) < 1e-6
            and inner
            and (op == "Mul" or inner.inputs[0] == scaled[0])
        ):
            return scaled[0]
    return None
