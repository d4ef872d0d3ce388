"""Forms of LayerNormalization and RMSNormalization that are spelled out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.types import Node

FLOAT = 1
"""onnx.TensorProto.FLOAT: in narrower types, what is spelled out rounds at every step."""
ROOTED = ("Div", "Mul")


@form("Add", name="layer-normalization", opset=17, exact=False, needs=["ReduceMean"],
      says="(x - mean) / sqrt(variance + epsilon) * scale + bias became LayerNormalization")  # fmt: skip
def _layer_norm(forms: Forms, node: Node) -> Node | None:
    """(x - mean) / sqrt(variance + epsilon) * w + b along the last axes is a LayerNormalization."""
    for product, bias in forms.operands_by(node, "Mul"):
        for quotient, scale in forms.operands_by(product, *ROOTED):
            parts = _mean_and_variance(forms, quotient)
            if parts and _along_last(forms, *parts[:2], scale, bias):
                return _normalised(node, "LayerNormalization", (parts[0], scale, bias), *parts[1:])
    return None


@form("Mul", name="layer-normalization-without-bias", opset=17, exact=False, needs=["ReduceMean"],
      says="(x - mean) / sqrt(variance + epsilon) * scale became LayerNormalization")  # fmt: skip
def _layer_norm_without_bias(forms: Forms, node: Node) -> Node | None:
    """(x - mean) / sqrt(variance + epsilon) * w, nothing added, is a LayerNormalization without a bias."""
    for quotient, scale in forms.operands_by(node, *ROOTED):
        parts = _mean_and_variance(forms, quotient)
        if parts and _along_last(forms, *parts[:2], scale) and not _read_with_weight(forms, node, "Add"):
            return _normalised(node, "LayerNormalization", (parts[0], scale), *parts[1:])
    return None


@form("Div", "Mul", name="layer-normalization-without-scale", opset=17, exact=False, needs=["ReduceMean"],
      says="(x - mean) / sqrt(variance + epsilon) became LayerNormalization")  # fmt: skip
def _layer_norm_without_scale(forms: Forms, node: Node) -> Node | None:
    """(x - mean) / sqrt(variance + epsilon) along the last axis, not scaled, has a scale of ones."""
    parts = _mean_and_variance(forms, node)
    if parts is None or _read_with_weight(forms, node, "Mul"):
        return None
    x, axes, _ = parts
    dims = forms.dims(x)
    if not dims or not isinstance(dims[-1], int) or forms.dtype(x) != FLOAT or len(axes) != 1:
        return None
    if axes[0] % len(dims) != len(dims) - 1:
        return None
    scale, bias = (forms.new_constant(np.full(dims[-1], value, np.float32)) for value in (1, 0))
    return _normalised(node, "LayerNormalization", (x, scale, bias), *parts[1:])


@form("Mul", "Add", name="layer-normalization-parameters", exact=False, needs=["ReduceMean"],
      says="A scale and a bias beside a LayerNormalization without became its own")  # fmt: skip
def _with_parameters(forms: Forms, node: Node) -> Node | None:
    """A LayerNormalization with a scale of ones and no bias, times w, has the scale w; plus b, the bias b."""
    for x, given in (node.inputs, node.inputs[::-1]):
        norm, weight = forms.only(x, "LayerNormalization"), forms.weights.get(given)
        if norm is None or weight is None or len([name for name in norm.outputs if name]) > 1:
            continue
        scale, bias = norm.inputs[1], norm.inputs[2] if len(norm.inputs) > 2 else ""
        like = forms.weights.get(scale)
        fits = like is not None and (like.dtype, like.shape) == (weight.dtype, weight.shape)
        if not fits or not _only(forms, bias, 0) or (node.op == "Mul" and not _only(forms, scale, 1)):
            continue
        inputs = (norm.inputs[0], given) if node.op == "Mul" else (*norm.inputs[:2], given)
        return replace(norm, inputs=inputs, outputs=node.outputs)
    return None


def _only(forms: Forms, name: str, value: float) -> bool:
    """Return True for a constant that is this number everywhere, and where there is none."""
    values = forms.vector(name) if name else np.array(value)
    return values is not None and bool((values == value).all())


@form("Mul", name="rms-normalization", opset=23, exact=False, needs=["ReduceMean"],
      says="x / sqrt(mean of squares + epsilon) * scale became RMSNormalization")  # fmt: skip
def _rms_norm(forms: Forms, node: Node) -> Node | None:
    """x / sqrt(mean(x^2) + epsilon) * w along the last axes is an RMSNormalization."""
    for quotient, scale in forms.operands_by(node, *ROOTED):
        centred = _mean_and_variance(forms, quotient) is not None
        for x, root in [] if centred else _rooted(forms, quotient):
            found = _mean_of_squares(forms, root)
            if found and found[0] == x and _along_last(forms, x, found[1], scale):
                return _normalised(node, "RMSNormalization", (x, scale), *found[1:])
    return None


def _normalised(node: Node, op: str, inputs: tuple[str, ...], axes: list[int], epsilon: float) -> Node:
    attrs = {"axis": -len(axes), "epsilon": float(np.float32(epsilon))}
    return replace(node, op=op, inputs=inputs, attrs=attrs)


def _along_last(forms: Forms, x: str, axes: list[int], *parameters: str) -> bool:
    """Return True where the axes are the last ones of a float x, and so are all that the parameters have."""
    dims = forms.dims(x)
    held = [forms.weights.get(name) for name in parameters]
    if dims is None or forms.dtype(x) != FLOAT or any(each is None for each in held):
        return False
    shapes = {each.shape for each in held if each is not None}
    last = list(range(len(dims)))[-len(axes) :]
    return shapes == {tuple(dims[-len(axes) :])} and [axis % len(dims) for axis in axes] == last


def _read_with_weight(forms: Forms, node: Node, op: str) -> bool:
    """Return True where a node that reads this one has a constant beside it, so a longer form applies."""
    return any(
        reader.key == op and any(name in forms.weights for name in reader.inputs)
        for reader in forms.graph.nodes
        if node.outputs[0] in reader.inputs
    )


def _rooted(forms: Forms, quotient: Node) -> list[tuple[str, str]]:
    """Return each numerator and what the root is taken of, where a node is a / sqrt(b)."""
    one, other = quotient.inputs
    if quotient.op == "Div":
        root = _root(forms, other, 0.5)
        return [(one, root)] if root else []
    both = ((a, _root(forms, b, -0.5)) for a, b in ((one, other), (other, one)))
    return [(a, root) for a, root in both if root]


def _root(forms: Forms, name: str, power: float) -> str | None:
    """Return b where a value is b to the power of 0.5 or -0.5."""
    node = forms.producer(name, "Sqrt", "Pow", "Reciprocal", "Div")
    if node is None:
        return None
    if node.op == "Pow":
        return node.inputs[0] if _beside(forms, node.inputs[0], node.inputs[1], power) else None
    if node.op == "Sqrt":
        return node.inputs[0] if power == 0.5 else None
    if power != -0.5 or (node.op == "Div" and not _beside(forms, node.inputs[1], node.inputs[0], 1)):
        return None
    return _root(forms, node.inputs[-1], 0.5)


def _mean_of_squares(forms: Forms, name: str) -> tuple[str, list[int], float] | None:
    """Return x, the axes and epsilon where a value is mean(x^2) + epsilon."""
    shifted = forms.producer(name, "Add")
    with_epsilon = forms.with_scalar(shifted) if shifted else None
    mean = forms.producer(with_epsilon[0], "ReduceMean") if with_epsilon else None
    if with_epsilon is None or mean is None or mean.attrs.get("keepdims", 1) != 1:
        return None
    squared, axes = forms.producer(mean.inputs[0], "Mul", "Pow"), forms.axes(mean)
    if squared is None or not axes or not _square(forms, squared) or not math.isfinite(with_epsilon[1]):
        return None
    return squared.inputs[0], axes, with_epsilon[1]


def _mean_and_variance(forms: Forms, quotient: Node) -> tuple[str, list[int], float] | None:
    """Return x, the axes and epsilon where the quotient is (x - mean) / sqrt(variance + epsilon)."""
    for name, root in _rooted(forms, quotient):
        centred, found = forms.producer(name, "Sub"), _mean_of_squares(forms, root)
        if centred is None or found is None:
            continue
        base, mean = forms.producer(found[0], "Sub"), forms.producer(centred.inputs[1], "ReduceMean")
        if mean is None or base is None or base.inputs != centred.inputs:
            continue
        alike = mean.inputs[0] == centred.inputs[0] and forms.axes(mean) == found[1]
        if alike and mean.attrs.get("keepdims", 1) == 1:
            return centred.inputs[0], *found[1:]
    return None


def _square(forms: Forms, node: Node) -> bool:
    """Return True for x * x and for Pow(x, 2)."""
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    return _beside(forms, node.inputs[0], node.inputs[1], 2)


def _beside(forms: Forms, value: str, constant: str, number: float) -> bool:
    """Return True for a constant that is this number and leaves the rank of a value beside it."""
    return forms.number(constant) == number and forms.keeps_rank(value, constant)
