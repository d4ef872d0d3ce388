"""Forms of arithmetic with constants: one operator for each way to write it, one shape for each constant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.ops.kinds import FLOATS
from netfuse_onnx.storage import numbers
from netfuse_onnx.types import Node, Weight

BROADCASTING = (
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Less", "LessOrEqual", "Greater",
    "GreaterOrEqual", "Equal", "And", "Or", "Mod", "PRelu",
)  # fmt: skip
MODERATE = 100.0
"""Products of numbers up to it, and from its reciprocal on, leave no type's range."""


@form(*BROADCASTING, name="leading-ones", says="Constants lost leading axes of size 1 that broadcasting adds")
def _leading_ones(forms: Forms, node: Node) -> Node | None:
    """An operand [1, 1, C] is as good as [C] beside one whose rank is as large."""
    inputs = list(node.inputs)
    for k, name in enumerate(inputs):
        weight = forms.weights.get(name)
        if weight is None or not weight.shape or weight.shape[0] != 1 or isinstance(weight.data, tuple):
            continue
        others = [forms.dims(other) for j, other in enumerate(inputs) if j != k]
        if max((len(dims) for dims in others if dims is not None), default=0) < len(weight.shape):
            continue
        if node.op == "PRelu" and k == 0:
            continue
        sizes = [size != 1 for size in weight.shape]
        first = sizes.index(True) if True in sizes else len(sizes)
        inputs[k] = forms.add(Weight(weight.dtype, weight.shape[first:], weight.data))
    return replace(node, inputs=tuple(inputs)) if tuple(inputs) != node.inputs else None


@form("Sub", name="minus-a-constant", says="Sub of a number became Add of its negative")
def _minus(forms: Forms, node: Node) -> Node | None:
    """x - c is x + (-c)."""
    x, constant = node.inputs
    values = forms.vector(constant)
    if values is None or values.size != 1 or x in forms.weights:
        return None
    return replace(node, op="Add", inputs=(x, forms.of_type(-values, forms.weights[constant].dtype)))


@form("Div", name="through-a-constant", exact=False, says="Div by a number became Mul by its reciprocal")
def _through(forms: Forms, node: Node) -> Node | None:
    """x / c is x * (1 / c)."""
    x, constant = node.inputs
    values = forms.vector(constant)
    if values is None or values.size != 1 or x in forms.weights or not values.all():
        return None
    dtype = forms.weights[constant].dtype
    inverse = 1.0 / values
    lost = np.abs(numbers.rounded(inverse, dtype) / inverse - 1.0) > 2.0 ** (1 - numbers.DIGITS[dtype])
    return None if lost.any() else replace(node, op="Mul", inputs=(x, forms.of_type(inverse, dtype)))


@form(
    "Pow",
    name="power",
    exact=False,
    says="A square, a root or a reciprocal that was written as Pow became Mul, Sqrt or Div",
)
def _power(forms: Forms, node: Node) -> Node | list[Node] | None:
    """x^2 is x * x, x^0.5 the square root."""
    x, constant = node.inputs
    exponent = forms.number(constant)
    if exponent is None or forms.dtype(x) not in FLOATS or not forms.keeps_rank(x, constant):
        return None
    if exponent == 2:
        return replace(node, op="Mul", inputs=(x, x))
    if exponent == 0.5:
        return replace(node, op="Sqrt", inputs=(x,))
    return replace(node, op="Reciprocal", inputs=(x,)) if exponent == -1 else None


@form("Div", name="one-through", says="1 / x became Reciprocal")
def _one_through(forms: Forms, node: Node) -> Node | None:
    """1 / x is the reciprocal."""
    constant, x = node.inputs
    one = forms.number(constant) == 1 and forms.dtype(x) in FLOATS and x not in forms.weights
    return replace(node, op="Reciprocal", inputs=(x,)) if one and forms.keeps_rank(x, constant) else None


@form("Mul", name="times-a-reciprocal", exact=False, needs=["Reciprocal", "Div", "Pow"],
      says="A product with a reciprocal became Div")  # fmt: skip
def _times_reciprocal(forms: Forms, node: Node) -> Node | None:
    """x * (1 / y) is x / y."""
    for inverse, x in forms.operands_by(node, "Reciprocal"):
        if forms.number(x) is None:
            return replace(node, op="Div", inputs=(x, inverse.inputs[0]))
    return None


@form("Mul", name="numbers-after-one-another", exact=False,
      says="Products with several numbers became one with their product")  # fmt: skip
def _combined(forms: Forms, node: Node) -> Node | None:
    """(x * a) * b is x * (a b), for numbers neither large nor small."""
    outer = forms.with_scalar(node)
    inner = forms.only(outer[0], "Mul") if outer else None
    within = forms.with_scalar(inner) if inner else None
    if outer is None or within is None or forms.dtype(within[0]) not in FLOATS:
        return None
    if not all(1 / MODERATE <= abs(number) <= MODERATE for number in (outer[1], within[1])):
        return None
    number = forms.of_type(outer[1] * within[1], forms.dtype(within[0]))
    return replace(node, inputs=(within[0], number))
