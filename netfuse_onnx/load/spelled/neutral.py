"""Operators that change nothing: times 1, plus 0, a mask of which all is allowed; and Slices that are one."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

import numpy as np

from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.types import Node

FLOATS = (1, 10, 11, 16)
"""Element types of floats. Plus 0 makes 0 of -0, which is equal."""


@form("Mul", "Div", name="times-one", says="A product with 1, or a division by 1, was removed")
def _times_one(forms: Forms, node: Node) -> str | None:
    pairs = (node.inputs, node.inputs[::-1]) if node.op == "Mul" else (node.inputs,)
    for value, one in pairs:
        if _all(forms, one, 1) and value not in forms.weights and forms.keeps_rank(value, one):
            return value
    return None


@form("Add", "Sub", name="plus-zero", says="A sum with 0 was removed", exact=False)
def _plus_zero(forms: Forms, node: Node) -> str | None:
    pairs = (node.inputs, node.inputs[::-1]) if node.op == "Add" else (node.inputs,)
    for value, zero in pairs:
        if forms.dtype(value) not in FLOATS or value in forms.weights:
            continue
        if _all(forms, zero, 0) and forms.keeps_rank(value, zero):
            return value
        if _allowed_mask(forms, zero) and _fits(forms, zero, value):
            return value
    return None


def _all(forms: Forms, name: str, number: int) -> bool:
    """Return True for a constant of one element that is the number."""
    values = forms.constant(name) if name in forms.weights else None
    return values is not None and values.size == 1 and bool(values.reshape(-1)[0] == number)


def _allowed_mask(forms: Forms, name: str) -> bool:
    """Return True for Where(mask, 0, ...) of a mask that is a constant of True, expanded or not."""
    choice = forms.producer(name, "Where")
    if choice is None or not _all(forms, choice.inputs[1], 0):
        return False
    mask = choice.inputs[0]
    while (spread := forms.producer(mask, "Expand", "Unsqueeze", "Reshape", "Squeeze")) is not None:
        mask = spread.inputs[0]
    values = forms.constant(mask) if mask in forms.weights else None
    return values is not None and values.size > 0 and bool(np.all(values))


def _fits(forms: Forms, mask: str, value: str) -> bool:
    """Return True where broadcasting a mask leaves the shape of a value."""
    few, many = forms.dims(mask), forms.dims(value)
    if few is None or many is None or len(few) > len(many):
        return False
    pairs = zip_longest(few[::-1], many[::-1], fillvalue=1)
    return all(a == 1 or (a == b and a is not None) for a, b in pairs)


@form("Slice", name="slices", opset=10, says="Slices along several axes, one after the other, became one")
def _one_slice(forms: Forms, node: Node) -> Node | None:
    inner = forms.producer(node.inputs[0], "Slice")
    rows = [_cuts(forms, each) for each in (inner, node) if each is not None]
    if inner is None or len(rows) != 2 or not all(rows) or rows[0].keys() & rows[1].keys():
        return None
    cuts = sorted((rows[0] | rows[1]).items())
    columns = zip(*[(start, end, axis, step) for axis, (start, end, step) in cuts], strict=True)
    operands = [forms.new_constant(np.array(column, np.int64)) for column in columns]
    return replace(node, inputs=(inner.inputs[0], *operands), attrs={})


def _cuts(forms: Forms, node: Node) -> dict[int, tuple[int, int, int]]:
    """Return the start, end and step by axis, counted from the front; none where one is not constant."""
    dims = forms.dims(node.inputs[0])
    columns = [forms.constant(name) for name in node.inputs[1:]]
    if dims is None or len(columns) not in (3, 4) or any(column is None for column in columns):
        return {}  # an axis that is not given comes before steps that are
    starts, ends, axes, *steps = [column.reshape(-1).tolist() for column in columns if column is not None]
    rows = zip(axes, starts, ends, steps[0] if steps else [1] * len(axes), strict=True)
    return {axis % len(dims): (start, end, step) for axis, start, end, step in rows}
