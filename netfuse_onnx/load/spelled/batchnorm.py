"""Forms that put a scale and a shift of each channel into the weights before them.

BatchNormalization in inference computes x * s + t with s = scale / sqrt(variance + epsilon) and
t = bias - mean * s. Exporters fold that into a convolution, W' = s W and b' = s b + t, or leave it, or write
it as Mul and Add. W' is computed in float64 and rounded once, which is within a unit in the last place of
what they compute in float32. A form applies only where nothing else reads what the convolution gives.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.constants import Numbers
from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.ops.kinds import FLOATS
from netfuse_onnx.types import Node, Weight

CONVOLUTIONS = ("Conv", "ConvTranspose")


@form("BatchNormalization", name="batch-normalization-folded", exact=False,
      says="BatchNormalization was folded into the weights before it")  # fmt: skip
def _batch_norm(forms: Forms, node: Node) -> list[Node] | None:
    """BatchNormalization of what a convolution or a product with a matrix gives is part of their weights."""
    if node.attrs.get("training_mode", 0) or len([name for name in node.outputs if name]) != 1:
        return None
    x, *names = node.inputs
    scale, bias, mean, variance = (forms.vector(name) for name in names)
    if scale is None or bias is None or mean is None or variance is None:
        return None
    if not scale.shape == bias.shape == mean.shape == variance.shape or len(scale.shape) != 1:
        return None
    with np.errstate(all="ignore"):
        s = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    if not np.isfinite(s).all():
        return None
    shift = bias - mean * s
    if (conv := forms.only(x, *CONVOLUTIONS)) is not None:
        return _convolution(forms, node, conv, s, shift)
    return _product(forms, node, x, s, shift)


@form("Mul", name="channel-scale-folded", exact=False, needs=CONVOLUTIONS,
      says="A product with a number for each channel was folded into the convolution before it")  # fmt: skip
def _scale(forms: Forms, node: Node) -> list[Node] | None:
    """A convolution times a constant for each channel is a convolution."""
    for x, constant in (node.inputs, node.inputs[::-1]):
        conv = forms.only(x, *CONVOLUTIONS)
        scale = _per_channel(forms, conv, constant) if conv else None
        if conv is not None and scale is not None:
            return _convolution(forms, node, conv, scale, np.zeros(len(scale)))
    return None


@form("Add", name="convolution-bias", exact=False, needs=CONVOLUTIONS,
      says="A number for each channel that was added to a convolution became its bias")  # fmt: skip
def _shift(forms: Forms, node: Node) -> list[Node] | None:
    """A convolution plus a constant for each channel is a convolution with a bias."""
    for x, constant in (node.inputs, node.inputs[::-1]):
        conv = forms.only(x, *CONVOLUTIONS)
        shift = _per_channel(forms, conv, constant) if conv else None
        if conv is None or shift is None:
            continue
        weight = forms.weights[constant]
        if len(conv.inputs) < 3 and math.prod(weight.shape) == len(shift):
            name = forms.add(Weight(weight.dtype, shift.shape, weight.data))  # the same bytes
            return [replace(conv, inputs=(*conv.inputs[:2], name), outputs=node.outputs)]
        return _convolution(forms, node, conv, None, shift)
    return None


def _channels(forms: Forms, conv: Node) -> int | None:
    """Return the number of channels that a convolution gives; None where its weights are not constant."""
    weight, bias = (forms.weights.get(name) for name in (*conv.inputs[1:3], "")[:2])
    if (
        weight is None
        or weight.dtype not in FLOATS
        or isinstance(weight.data, tuple)
        or len(weight.shape) < 3
    ):
        return None
    count = weight.shape[0] if conv.op == "Conv" else weight.shape[1] * conv.attrs.get("group", 1)
    has_bias = len(conv.inputs) > 2 and conv.inputs[2]
    return count if not has_bias or (bias is not None and bias.shape == (count,)) else None


def _per_channel(forms: Forms, conv: Node, constant: str) -> Numbers | None:
    """Return a constant as one number for each channel of a convolution, where it is broadcast like that."""
    values, count = forms.vector(constant), _channels(forms, conv)
    if (
        values is None
        or count is None
        or forms.weights[constant].dtype != forms.weights[conv.inputs[1]].dtype
    ):
        return None
    rank = len(forms.weights[conv.inputs[1]].shape)
    if values.ndim > rank:
        return None
    dims = (1,) * (rank - values.ndim) + values.shape
    if any(size != 1 for axis, size in enumerate(dims) if axis != 1) or dims[1] not in (1, count):
        return None
    return np.broadcast_to(values.reshape(-1), (count,)).copy()


def _convolution(
    forms: Forms, node: Node, conv: Node, scale: Numbers | None, shift: Numbers
) -> list[Node] | None:
    """Return a convolution that gives scale * conv + shift, in the place of `node`."""
    count = _channels(forms, conv)
    if count != len(shift):
        return None
    weight = conv.inputs[1]
    dtype, shape = forms.weights[weight].dtype, forms.weights[weight].shape
    bias = forms.vector(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] else np.zeros(count)
    if bias is None:
        return None
    if scale is not None:
        groups = conv.attrs.get("group", 1) if conv.op == "ConvTranspose" else 1
        rows = scale[:, None]
        if conv.op == "ConvTranspose":  # [C, O/g, k..]: channel c belongs to group c // (C/g)
            rows = np.repeat(scale.reshape(groups, 1, -1), shape[0] // groups, axis=1).reshape(-1, 1)
        weight = forms.scaled(weight, rows, math.prod(shape) // max(1, len(rows)))
        bias = bias * scale
    name = forms.of_type(bias + shift, dtype, computed=True)
    return [replace(conv, inputs=(conv.inputs[0], weight, name), outputs=node.outputs)]


def _product(forms: Forms, node: Node, x: str, scale: Numbers, shift: Numbers) -> list[Node] | None:
    """Return a product with a matrix, of rank 2, and its bias in the place of a BatchNormalization of it."""
    add = forms.only(x, "Add")
    found = forms.operand_by(add, "MatMul") if add else None
    product, bias = found or (forms.only(x, "MatMul"), "")
    if product is None or forms.reads[product.outputs[0]] != 1:
        return None
    weight, dims = forms.weights.get(product.inputs[1]), forms.dims(product.outputs[0])
    if bias and not forms.keeps_rank(product.outputs[0], bias):
        return None  # the channels of a sum of rank 3 are not its last axis
    values = forms.vector(bias) if bias else np.zeros(len(scale))
    if weight is None or weight.dtype not in FLOATS or dims is None or len(dims) != 2 or values is None:
        return None
    if len(weight.shape) != 2 or weight.shape[1] != len(scale) or values.shape[-1:] not in ((), scale.shape):
        return None
    if values.size not in (1, len(scale)):
        return None
    scaled = forms.scaled(product.inputs[1], scale, len(scale))
    total = np.broadcast_to(values.reshape(-1), scale.shape) * scale + shift
    added = forms.of_type(total, weight.dtype, computed=True)
    inner = forms.fresh(x)
    multiplied = replace(product, inputs=(product.inputs[0], scaled), outputs=(inner,))
    return [multiplied, Node("Add", "", node.name, (inner, added), node.outputs, {})]
