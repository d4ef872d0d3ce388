"""The experimental operators from before opset 10, written out as ONNX Runtime computes them."""

from __future__ import annotations

from onnx import NodeProto

from netfuse_onnx.load.lift import Lift, attr, step


def _number(lift: Lift, node: NodeProto, name: str, default: float) -> str:
    """Return a constant of the type of the input."""
    return lift.const(attr(node, name, default), lift.numbers(node.input[0]))


@step(10, "Affine")
def affine(lift: Lift, node: NodeProto) -> None:
    """Affine is alpha * x + beta."""
    scaled = lift.emit("Mul", [node.input[0], _number(lift, node, "alpha", 1.0)])
    lift.emit("Add", [scaled, _number(lift, node, "beta", 0.0)], node.output, node.name)


@step(10, "Scale")
def scale(lift: Lift, node: NodeProto) -> None:
    """Scale is scale * x."""
    lift.emit("Mul", [node.input[0], _number(lift, node, "scale", 1.0)], node.output, node.name)


@step(10, "ImageScaler")
def image_scaler(lift: Lift, node: NodeProto) -> None:
    """ImageScaler is scale * x + bias, one bias for each channel."""
    scaled = lift.emit("Mul", [node.input[0], _number(lift, node, "scale", 1.0)])
    bias = lift.const([[[value]] for value in attr(node, "bias")], lift.numbers(node.input[0]))
    lift.emit("Add", [scaled, bias], node.output, node.name)


@step(10, "ScaledTanh")
def scaled_tanh(lift: Lift, node: NodeProto) -> None:
    """ScaledTanh is alpha * tanh(beta * x)."""
    curve = lift.emit("Tanh", [lift.emit("Mul", [node.input[0], _number(lift, node, "beta", 1.0)])])
    lift.emit("Mul", [curve, _number(lift, node, "alpha", 1.0)], node.output, node.name)


@step(10, "ParametricSoftplus")
def parametric_softplus(lift: Lift, node: NodeProto) -> None:
    """ParametricSoftplus is alpha * log(1 + exp(beta * x))."""
    if attr(node, "alpha") is None or attr(node, "beta") is None:
        raise lift.refused(node, "it lacks its alpha or its beta")
    curve = lift.emit("Softplus", [lift.emit("Mul", [node.input[0], _number(lift, node, "beta", 1.0)])])
    lift.emit("Mul", [curve, _number(lift, node, "alpha", 1.0)], node.output, node.name)


@step(10, "Crop")
def crop(lift: Lift, node: NodeProto) -> None:
    """Crop cuts off borders (left, top, right, bottom), or keeps `scale` pixels from the first two on."""
    left, top, right, bottom = attr(node, "border")
    size = attr(node, "scale")
    ends = [top + size[0], left + size[1]] if size else [-end or 1 << 62 for end in (bottom, right)]
    bounds = [lift.const(values) for values in ([top, left], ends, [2, 3])]
    lift.emit("Slice", [node.input[0], *bounds], node.output, node.name)


@step(9, "MeanVarianceNormalization")
def across(lift: Lift, node: NodeProto) -> None:
    """MeanVarianceNormalization runs along all axes but the channels', or along all."""
    if not attr(node, "normalize_variance", 1):
        raise lift.refused(node, "it keeps the variance")
    axes = [0, 1, 2, 3] if attr(node, "across_channels", 0) else [0, 2, 3]
    lift.keep(node, across_channels=None, normalize_variance=None, axes=axes)
