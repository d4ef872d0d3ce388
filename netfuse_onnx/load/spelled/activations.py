"""Forms of activations: Gelu, HardSwish, HardSigmoid, Mish, Relu and Clip, spelled out or as one operator."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.algebra import Polynomial, candidates, equals, inside, polynomial
from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.ops.kinds import FLOATS, NARROW_FLOATS
from netfuse_onnx.types import Node

HALF_OF_BOTH: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
"""x / 2 + x y / 2, which is a Gelu where y is the right erf or tanh of x."""
BY_ERF: Polynomial = {(1,): 0.5**0.5}
BY_TANH: Polynomial = {(1,): (2 / math.pi) ** 0.5, (3,): (2 / math.pi) ** 0.5 * 0.044715}
"""sqrt(2 / pi) (x + 0.044715 x^3)"""


def _of(forms: Forms, node: Node, inner: Node, outer: Polynomial, within: Polynomial) -> str | None:
    """Return x where a node computes the polynomial `outer` of x and of what the node `inner` makes of the
    polynomial `within` of x."""
    for x in candidates(forms, inner.inputs[0]):
        dtype = forms.dtype(x)
        found = polynomial(forms, node.outputs[0], {x: 0, inner.outputs[0]: 1})
        if equals(found, outer, dtype) and equals(polynomial(forms, inner.inputs[0], {x: 0}), within, dtype):
            return x if dtype in NARROW_FLOATS else None
    return None


@form("Mul", "Div", name="gelu", opset=20, exact=False, needs=["Erf"],
      says="0.5 * x * (1 + erf(x / sqrt(2))) became Gelu")  # fmt: skip
def _gelu(forms: Forms, node: Node) -> Node | None:
    """0.5 * x * (1 + erf(x / sqrt(2))), the factors in any order, is a Gelu."""
    inner = inside(forms, node.outputs[0], "Erf")
    x = _of(forms, node, inner, HALF_OF_BOTH, BY_ERF) if inner else None
    return replace(node, op="Gelu", inputs=(x,), attrs={"approximate": b"none"}) if x else None


@form("Mul", "Div", name="gelu-by-tanh", opset=20, exact=False, needs=["Tanh"],
      says="0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) became Gelu")  # fmt: skip
def _gelu_by_tanh(forms: Forms, node: Node) -> Node | None:
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))), in any order, is a Gelu."""
    inner = inside(forms, node.outputs[0], "Tanh")
    x = _of(forms, node, inner, HALF_OF_BOTH, BY_TANH) if inner else None
    return replace(node, op="Gelu", inputs=(x,), attrs={"approximate": b"tanh"}) if x else None


@form("Mul", name="hard-swish", opset=14, says="x * HardSigmoid(x) became HardSwish", needs=["HardSigmoid"])
def _hard_swish(forms: Forms, node: Node) -> Node | None:
    """x * HardSigmoid(x) with a slope of 1 / 6 is a HardSwish."""
    gate = forms.operand_by(node, "HardSigmoid")
    if gate is None or gate[0].inputs != (gate[1],):
        return None
    alpha, beta = gate[0].attrs.get("alpha", 0.2), gate[0].attrs.get("beta", 0.5)
    if not math.isclose(alpha, 1 / 6, rel_tol=1e-6) or beta != 0.5:
        return None
    return replace(node, op="HardSwish", inputs=(gate[1],), attrs={})


@form("Mul", "Div", name="hard-swish-by-clip", opset=14, exact=False, needs=["Clip"],
      says="x * Clip(x + 3, 0, 6) / 6 became HardSwish")  # fmt: skip
def _hard_swish_by_clip(forms: Forms, node: Node) -> Node | None:
    """x * Clip(x + 3, 0, 6) / 6, in any order, is a HardSwish; so is it with all in units of 6."""
    inner = inside(forms, node.outputs[0], "Clip")
    for bound, slope in ((6.0, 1.0), (1.0, 1 / 6)) if inner and node.inputs[0] != node.inputs[1] else ():
        if inner is not None and _bounds(forms, inner) == (0.0, bound):
            within: Polynomial = {(1,): slope, (0,): bound / 2}
            if x := _of(forms, node, inner, {(1, 1): 1 / bound}, within):
                return replace(node, op="HardSwish", inputs=(x,), attrs={})
    return None


@form("Mul", "Div", name="hard-sigmoid-by-clip", exact=False, needs=["Clip"],
      says="Clip(x + 3, 0, 6) / 6 became HardSigmoid")  # fmt: skip
def _hard_sigmoid_by_clip(forms: Forms, node: Node) -> Node | None:
    """Clip(a x + b, 0, c) / c is a HardSigmoid with a slope of a / c."""
    inner = inside(forms, node.outputs[0], "Clip", depth=2)
    low, high = _bounds(forms, inner) if inner else (None, None)
    if (
        inner is None
        or low != 0.0
        or high is None
        or not 0 < high < math.inf
        or forms.dtype(inner.outputs[0]) not in NARROW_FLOATS
    ):
        return None
    scaled = polynomial(forms, node.outputs[0], {inner.outputs[0]: 0})
    if not equals(scaled, {(1,): 1 / high}, forms.dtype(inner.outputs[0])):
        return None
    for x in candidates(forms, inner.inputs[0])[1:]:
        line = polynomial(forms, inner.inputs[0], {x: 0})
        if line is not None and line.keys() == {(1,), (0,)} and x not in forms.weights:
            attrs = {"alpha": float(np.float32(line[1,] / high)), "beta": float(np.float32(line[0,] / high))}
            return replace(node, op="HardSigmoid", inputs=(x,), attrs=attrs)
    return None


@form(
    "HardSigmoid",
    name="slope-of-a-sixth",
    says="A slope of 0.1667 as exporters round it became 1 / 6",
    exact=False,
)
def _sixth(forms: Forms, node: Node) -> Node | None:
    """A slope of 0.16667, as exporters round it, is 1 / 6."""
    alpha, sixth = node.attrs.get("alpha", 0.2), float(np.float32(1 / 6))
    near = alpha != sixth and math.isclose(alpha, sixth, rel_tol=1e-6)
    return replace(node, attrs={**node.attrs, "alpha": sixth}) if near else None


@form("Mul", name="mish", opset=18, exact=False, needs=["Softplus"], says="x * tanh(softplus(x)) became Mish")
def _mish(forms: Forms, node: Node) -> Node | None:
    """x * tanh(softplus(x)) is a Mish."""
    for tanh, x in forms.operands_by(node, "Tanh"):
        soft = forms.producer(tanh.inputs[0], "Softplus")
        if soft is not None and soft.inputs == (x,):
            return replace(node, op="Mish", inputs=(x,), attrs={})
    return None


# --------------------------------------------------------------------------- bounds


def _bounds(forms: Forms, clip: Node) -> tuple[float | None, float | None]:
    """Return the bounds of a Clip, infinite where they are absent, None where they are not constant."""
    given = [*clip.inputs[1:], "", ""][:2]
    ends = (-math.inf, math.inf)
    low, high = (forms.number(name) if name else end for name, end in zip(given, ends, strict=True))
    return low, high


def _clip(forms: Forms, node: Node, x: str, low: float, high: float) -> Node | None:
    """Return a Clip with constant bounds, or a Relu."""
    dtype = forms.dtype(x)
    if dtype not in FLOATS or low == math.inf or high == -math.inf:
        return None  # a bound that all values exceed is no absent bound
    if (low, high) == (0.0, math.inf):
        return replace(node, op="Relu", inputs=(x,), attrs={})
    names = ["" if math.isinf(each) else forms.of_type(each, dtype) for each in (low, high)]
    inputs = (x, *names) if names[1] else (x, names[0])
    return replace(node, op="Clip", inputs=inputs, attrs={})


def _clip_of_relu(forms: Forms, node: Node) -> tuple[str, float, float] | None:
    """Return x and the bounds of a Clip of a Relu, and of a Clip from 0 without an end."""
    low, high = _bounds(forms, node)
    if low is None or high is None:
        return None
    inner = forms.producer(node.inputs[0], "Relu")
    if inner is not None and high > 0:
        return inner.inputs[0], max(low, 0.0), high
    return (node.inputs[0], low, high) if (low, high) == (0.0, math.inf) else None


def _min_max(forms: Forms, node: Node) -> tuple[str, float, float] | None:
    """Return x and the bounds of a Min or Max with a number, and of one of another bound."""
    if len(node.inputs) != 2 or (found := forms.with_scalar(node)) is None or not math.isfinite(found[1]):
        return None
    x, number = found
    low, high = (-math.inf, number) if node.op == "Min" else (number, math.inf)
    inner = forms.producer(x, "Clip", "Relu", "Min", "Max")
    before = _bounded(forms, inner) if inner is not None else None
    if before is None or not before[1] <= number <= before[2]:
        return x, low, high
    return before[0], max(low, before[1]), min(high, before[2])


def _bounded(forms: Forms, node: Node) -> tuple[str, float, float] | None:
    """Return x and the bounds that one node sets; None where they are not constant."""
    if node.op == "Relu":
        return node.inputs[0], 0.0, math.inf
    if node.op == "Clip":
        low, high = _bounds(forms, node)
        return None if low is None or high is None else (node.inputs[0], low, high)
    return _min_max(forms, node)


def _finite(low: float, high: float) -> bool:
    """Return True where infinity becomes a bound, or for a Relu, which keeps it. A Clip with one bound makes
    the largest number of it."""
    return math.isfinite(low) and (math.isfinite(high) or low == 0)


@form("Clip", name="clip-of-relu", opset=12, says="A Relu before a Clip became one of its bounds")
def _clip_with_relu(forms: Forms, node: Node) -> Node | None:
    """Clip(Relu(x), .., h) is Clip(x, 0, h)."""
    found = _clip_of_relu(forms, node)
    return _clip(forms, node, *found) if found and math.isfinite(found[2]) else None


@form("Clip", name="clip-without-end", opset=12, exact=False,
      says="A Clip without upper bound became Relu, or one Clip with the Relu before it")  # fmt: skip
def _clip_without_end(forms: Forms, node: Node) -> Node | None:
    """Clip(x, 0) is a Relu, but for infinity."""
    found = _clip_of_relu(forms, node)
    return _clip(forms, node, *found) if found else None


@form(
    "Min",
    "Max",
    name="min-max",
    opset=12,
    says="Min and Max with numbers became Clip with both bounds, or Relu",
)
def _clip_of_both(forms: Forms, node: Node) -> Node | None:
    """Min(Max(x, l), h) is Clip(x, l, h), and Max(x, 0) a Relu."""
    found = _min_max(forms, node)
    return _clip(forms, node, *found) if found and _finite(*found[1:]) else None


@form("Min", "Max", name="min-or-max", opset=12, exact=False, says="Min or Max with a number became Clip")
def _clip_of_one(forms: Forms, node: Node) -> Node | None:
    """Max(x, l) and Min(x, h) are Clips with one bound, but for infinity."""
    found = _min_max(forms, node)
    return _clip(forms, node, *found) if found else None
