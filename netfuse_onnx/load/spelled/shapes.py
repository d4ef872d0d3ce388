"""Forms of operators that only change a shape: Reshape, Flatten, Squeeze and Unsqueeze.

One dim may be unknown on either side, and then the number of elements tells that it is the same. The one
spelling is nothing where the shape stays, Squeeze or Unsqueeze where only axes of size 1 go or come, and else
a Reshape to a constant. Chains of them are one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.engine import Forms, Result, form
from netfuse_onnx.types import Dim, Node

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
OPEN = -1
"""The one dim that is unknown."""


@form(*VIEWS, name="reshapes", opset=13, says="Reshape, Flatten, Squeeze and Unsqueeze got one spelling")
def _view(forms: Forms, node: Node) -> Result:
    """A change of shape that the sizes alone describe is written in one way."""
    x = node.inputs[0]
    if forms.weights.get(x) is not None:
        return None
    inner = forms.producer(x, *VIEWS)
    for start in (inner.inputs[0] if inner else x, x):
        pair = _shapes(forms.dims(start), forms.dims(node.outputs[0]))
        if pair is not None and start not in forms.weights:
            return _written(forms, node, start, *pair)
    return None


def _shapes(before: Sequence[Dim] | None, after: Sequence[Dim] | None) -> tuple[list[int], list[int]] | None:
    """Return both shapes, with OPEN for one dim that is the same in both; None where that is not certain."""
    if before is None or after is None:
        return None
    one, other = ([dim if isinstance(dim, int) else OPEN for dim in dims] for dims in (before, after))
    if 0 in {*one, *other} or max(one.count(OPEN), other.count(OPEN)) > 1:
        return None
    if one.count(OPEN) != other.count(OPEN) or math.prod(one) != math.prod(other):
        return None
    return one, other


def _written(forms: Forms, node: Node, x: str, before: list[int], after: list[int]) -> Result:
    """Return the one spelling of a change of shape."""
    if before == after:
        return x
    for op, large, small in (("Squeeze", before, after), ("Unsqueeze", after, before)):
        axes = _ones(large, small)
        if axes is not None:
            made = replace(node, op=op, inputs=(x, forms.new_constant(np.array(axes, np.int64))), attrs={})
            return None if _is(forms, node, made, axes, len(large)) else made
    made = replace(node, op="Reshape", inputs=(x, forms.new_constant(np.array(after, np.int64))), attrs={})
    held = forms.constant(node.inputs[1]) if node.op == "Reshape" else None
    return None if held is not None and node.inputs[0] == x and _says(held.tolist(), after) else made


def _says(target: list[int], after: list[int]) -> bool:
    """Return True for this target of a Reshape, with OPEN or 0 for the size that stays (one_size.py)."""
    pairs = zip(target, after, strict=False)
    return len(target) == len(after) and all(a == b or (a == 0 and b == OPEN) for a, b in pairs)


def _is(forms: Forms, node: Node, made: Node, axes: list[int], rank: int) -> bool:
    """Return True where a node is already a Squeeze or Unsqueeze with these axes."""
    held = forms.axes(node) if node.op == made.op else None
    return (
        held is not None and sorted(axis % rank for axis in held) == axes and node.inputs[0] == made.inputs[0]
    )


def _ones(large: list[int], small: list[int]) -> list[int] | None:
    """Return the first axes of size 1 of `large` without which it is `small`; None where there are none."""
    axes, rest = [], list(small)
    for axis, size in enumerate(large):
        if rest and rest[0] == size and not (size == 1 and len(large) - axis > len(rest)):
            rest.pop(0)
        elif size == 1:
            axes.append(axis)
        else:
            return None
    return axes if axes and not rest else None
