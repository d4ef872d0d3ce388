"""The steps of operators whose next version is written differently.

A step emits nodes that compute the same values, as ONNX Runtime reads both versions. lift.py takes them.
https://onnx.ai/onnx/operators/ shows the versions side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from netfuse_onnx.load.lift import Lift, attr, step
from netfuse_onnx.ops.axes import REDUCERS

# ------------------------------------------------------------------ other attributes, or another name


def _kept_with(since: int, *ops: str, op: str = "", **changes: Any) -> None:
    """Register a step to other attributes, None for one that is removed, or to another operator."""
    step(since, *ops)(lambda lift, node: lift.keep(node, op=op, **changes))


_kept_with(
    6, "Abs", "Add", "Ceil", "Clip", "Div", "Elu", "Exp", "Floor", "HardSigmoid", "InstanceNormalization",
    "LeakyRelu", "Log", "Max", "Mean", "Min", "Mul", "Neg", "PRelu", "Reciprocal", "Relu", "Sigmoid", "Sqrt",
    "Sub", "Sum", "Tanh", consumed_inputs=None,
)  # fmt: skip
_kept_with(7, "Gemm", broadcast=None)
_kept_with(7, "GRU", "LSTM", "RNN", output_sequence=None)
_kept_with(11, "Scatter", op="ScatterElements")
_kept_with(12, "Dropout", ratio=None)  # it has no effect outside of training
_kept_with(16, "RoiAlign", coordinate_transformation_mode="output_half_pixel")


# ------------------------------------------------------------------ opsets 1 to 8


@step(2, "GlobalLpPool", "LpPool")
def _whole_p(lift: Lift, node: NodeProto) -> None:
    p = attr(node, "p", 2.0)
    if p != int(p) or (node.op_type == "LpPool" and attr(node, "kernel_shape") is None):
        raise lift.refused(node, "its p or its kernel_shape can not be written at a newer opset")
    lift.keep(node, p=int(p))


@step(2, "Pad")
def _pads(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, paddings=None, pads=attr(node, "paddings"))


@step(2, "Split")
def _split_as_attribute(lift: Lift, node: NodeProto) -> None:
    sizes = attr(node, "split")
    if len(node.input) > 1 and node.input[1]:
        values = lift.values(node.input[1])
        if values is None:
            raise lift.refused(node, "its sizes are computed")
        sizes = [int(value) for value in values.reshape(-1)]
    lift.keep(node, [node.input[0]], split=sizes)


@step(4, "Concat")
def _concat_axis(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, axis=attr(node, "axis", 1))


@step(5, "Reshape")
def _reshape_to_input(lift: Lift, node: NodeProto) -> None:
    if attr(node, "shape") is None:
        raise lift.refused(node, "it has no shape")
    shape = lift.const(attr(node, "shape"))
    lift.keep(node, [node.input[0], shape], shape=None, consumed_inputs=None)


@step(6, "BatchNormalization", "Dropout")
def _keep_the_mode(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, consumed_inputs=None, is_test=attr(node, "is_test", 0))


@step(6, "Selu")
def _selu_constants(lift: Lift, node: NodeProto) -> None:
    alpha, gamma = attr(node, "alpha", 1.6732), attr(node, "gamma", 1.0507)
    lift.keep(node, consumed_inputs=None, alpha=float(alpha), gamma=float(gamma))


@step(6, "Cast")
def _cast_by_number(lift: Lift, node: NodeProto) -> None:
    name = attr(node, "to", b"").decode(errors="replace").upper()
    if name not in [*TensorProto.DataType.keys()]:
        raise lift.refused(node, f"'{name}' is no type of ONNX")
    lift.keep(node, to=TensorProto.DataType.Value(name))


@step(6, "Tile")
def _tile_by_repeats(lift: Lift, node: NodeProto) -> None:
    rank, tiles, axis = lift.rank(node.input[0]), *(lift.values(name) for name in node.input[1:3])
    if rank is None or tiles is None or axis is None:
        raise lift.refused(node, "its rank, tiles or axis is not known")
    repeats = [1] * rank
    repeats[int(axis.reshape(-1)[0])] = int(tiles.reshape(-1)[0])
    lift.keep(node, [node.input[0], lift.const(repeats)])


@step(7, "Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
def _broadcast(lift: Lift, node: NodeProto) -> None:
    """From opset 7 on the last axes are aligned; before, the axes from `axis` on."""
    first, second = node.input
    axis = attr(node, "axis")
    if attr(node, "broadcast", 0) and axis is not None:
        wide, narrow = lift.rank(first), lift.rank(second)
        if wide is None or narrow is None:
            raise lift.refused(node, "it broadcasts along an axis, and the ranks are not known")
        after = wide - (axis + wide if axis < 0 else axis) - narrow
        if after > 0:
            axes = list(range(narrow, narrow + after))
            second = lift.emit("Unsqueeze", [second], axes=axes)
    lift.keep(node, [first, second], broadcast=None, axis=None)


@step(7, "BatchNormalization", "Dropout")
def _inference_only(lift: Lift, node: NodeProto) -> None:
    if not attr(node, "is_test", 0):
        raise lift.refused(node, "it is in training mode")
    lift.keep(node, is_test=None)


@step(7, "PRelu")
def _slope_of_channels(lift: Lift, node: NodeProto) -> None:
    """Before opset 7 a vector of slopes has one for each channel, axis 1."""
    data, slope = node.input
    slopes, rank = lift.dims(slope), lift.rank(data)
    if slopes is None or rank is None:
        raise lift.refused(node, "the rank of its slope or its input is not known")
    if len(slopes) == 1 and slopes[0] != 1 and rank > 2:
        slope = lift.emit("Unsqueeze", [slope], axes=list(range(1, rank - 1)))
    lift.keep(node, [data, slope])


@step(7, "Upsample")
def _two_scales(lift: Lift, node: NodeProto) -> None:
    scales = [1.0, 1.0, attr(node, "height_scale"), attr(node, "width_scale")]
    mode = {b"bilinear": "linear"}.get(attr(node, "mode", b"nearest"), "nearest")
    lift.keep(node, height_scale=None, width_scale=None, scales=scales, mode=mode)


@step(9, "BatchNormalization")
def _spatial(lift: Lift, node: NodeProto) -> None:
    """With spatial = 0 each element of an image has its own statistics, which is written out."""
    if attr(node, "spatial", 1):
        lift.keep(node, spatial=None)
        return
    if any(node.output[1:]):
        raise lift.refused(node, "it gives statistics")
    x, scale, bias, mean, variance = node.input
    epsilon = lift.const(attr(node, "epsilon", 1e-5), np.float32)
    deviation = lift.emit("Sqrt", [lift.emit("Add", [variance, epsilon])])
    normal = lift.emit("Div", [lift.emit("Sub", [x, mean]), deviation])
    lift.emit("Add", [lift.emit("Mul", [normal, scale]), bias], node.output[:1], node.name)


# ------------------------------------------------------------------ opsets 9 to 12


@step(9, "Upsample")
def _scales_as_input(lift: Lift, node: NodeProto) -> None:
    scales = lift.const(attr(node, "scales"), np.float32)
    lift.keep(node, [node.input[0], scales], scales=None)


@step(10, "Dropout")
@step(14, "BatchNormalization")
def _one_output(lift: Lift, node: NodeProto) -> None:
    if any(node.output[1:]):
        raise lift.refused(node, "its outputs after the first one are in use, and have changed")
    lift.keep(node)


@step(10, "TopK")
def _count_to_input(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, [node.input[0], lift.const([attr(node, "k")])], k=None)


@step(10, "Upsample")
def _resized(lift: Lift, node: NodeProto) -> None:
    """The coordinates stay those of Upsample until the step to Resize 11. All scales are at least 1."""
    scales = lift.values(node.input[1])
    if scales is not None and (scales < 1).any():
        raise lift.refused(node, "a scale is below 1")
    nearest = attr(node, "mode", b"nearest") == b"nearest"
    lift.keep(node, op="Resize", nearest_mode="floor" if nearest else None)


@step(11, "Clip")
def _limits_to_inputs(lift: Lift, node: NodeProto) -> None:
    """The limits of float16 and double are those of float32 where they are absent."""
    ins = [node.input[0]]
    for name in ("min", "max"):
        value = attr(node, name)
        ins.append("" if value is None else lift.const(value, lift.numbers(node.input[0])))
    while not ins[-1]:
        ins.pop()
    lift.keep(node, ins, min=None, max=None)


@step(11, "Pad")
def _pads_to_inputs(lift: Lift, node: NodeProto) -> None:
    ins, value = [node.input[0], lift.const(attr(node, "pads"))], attr(node, "value", 0.0)
    if value:
        ins.append(lift.const(value, lift.numbers(node.input[0])))
    lift.keep(node, ins, pads=None, value=None)


@step(11, "Resize")
def _coordinates_as_before(lift: Lift, node: NodeProto) -> None:
    """Before opset 11 a coordinate was divided by its scale, and the nearest pixel was the one below, or the
    one above along an axis that shrinks."""
    nearest = attr(node, "nearest_mode")
    scales = lift.values(node.input[1])
    if nearest is None and attr(node, "mode", b"nearest") == b"nearest":
        if scales is None or ((scales < 1).any() and (scales > 1).any()):
            raise lift.refused(node, "its scales are computed, or shrink one axis and stretch another")
        nearest = "ceil" if (scales < 1).any() else "floor"
    ins = [node.input[0], lift.const([], np.float32), node.input[1]]
    lift.keep(node, ins, nearest_mode=nearest, coordinate_transformation_mode="asymmetric")


# ------------------------------------------------------------------ opset 13 and later


@step(13, "Hardmax", "LogSoftmax", "Softmax")
def _of_one_axis(lift: Lift, node: NodeProto) -> None:
    """Before opset 13 all axes from `axis` on are one."""
    x, axis, dims = node.input[0], attr(node, "axis", 1), lift.dims(node.input[0])
    at = axis if dims is None or axis >= 0 else axis + len(dims)
    if axis == -1 or lift.guessing or (dims is not None and all(size == 1 for size in dims[at + 1 :])):
        lift.keep(node, axis=axis)
        return
    flat = lift.emit(node.op_type, [lift.emit("Flatten", [x], axis=axis)], name=node.name, axis=-1)
    lift.emit("Reshape", [flat, lift.emit("Shape", [x])], node.output[:1])


@step(10, "Slice")
@step(13, "ReduceSum", "Split", "Squeeze", "Unsqueeze")
@step(18, *sorted(REDUCERS - {"ReduceSum"}))
def _integers_to_inputs(lift: Lift, node: NodeProto) -> None:
    names = {"Slice": ("starts", "ends", "axes"), "Split": ("split",)}.get(node.op_type, ("axes",))
    given = [attr(node, name) for name in names]
    ins = [node.input[0], *(lift.const(values) for values in given if values is not None)]
    lift.keep(node, ins, "", **dict.fromkeys(names))


@step(13, "Resize")
def _region_is_optional(lift: Lift, node: NodeProto) -> None:
    """An empty region, and empty scales beside sizes, are removed."""
    if attr(node, "coordinate_transformation_mode", b"half_pixel") == b"tf_half_pixel_for_nn":
        raise lift.refused(node, "its coordinates, tf_half_pixel_for_nn, were withdrawn")
    ins = list(node.input)
    for k, name in enumerate(ins):
        values = lift.values(name)
        if k and values is not None and not values.size:
            ins[k] = ""
    lift.keep(node, ins)


@step(18, "Split")
def _equal_parts(lift: Lift, node: NodeProto) -> None:
    sized = len(node.input) > 1 and node.input[1]
    lift.keep(node, num_outputs=None if sized else len(node.output))


@step(20, "DFT")
def _axis_to_input(lift: Lift, node: NodeProto) -> None:
    ins = [*node.input, ""][:2]
    lift.keep(node, [*ins, lift.const(attr(node, "axis", 1))], axis=None)


@step(20, "GridSample")
def _linear(lift: Lift, node: NodeProto) -> None:
    mode = attr(node, "mode", b"bilinear")
    lift.keep(node, mode={b"bilinear": "linear", b"bicubic": "cubic"}.get(mode, mode))


@step(21, "GroupNormalization")
def _scale_of_channels(lift: Lift, node: NodeProto) -> None:
    raise lift.refused(node, "its scale is one of each group")


# ------------------------------------------------------------------ experimental operators, before opset 10


def _number(lift: Lift, node: NodeProto, name: str, default: float = 1.0) -> str:
    """Return a constant of the type of the input."""
    return lift.const(attr(node, name, default), lift.numbers(node.input[0]))


@step(10, "Affine", "ImageScaler", "Scale")
def _scaled(lift: Lift, node: NodeProto) -> None:
    """Affine is alpha * x + beta, Scale scale * x, ImageScaler scale * x + bias, a bias for each channel."""
    factor = _number(lift, node, "alpha" if node.op_type == "Affine" else "scale")
    if node.op_type == "Scale":
        lift.emit("Mul", [node.input[0], factor], node.output, node.name)
        return
    scaled = lift.emit("Mul", [node.input[0], factor])
    if node.op_type == "Affine":
        shift = _number(lift, node, "beta", 0.0)
    else:
        shift = lift.const([[[value]] for value in attr(node, "bias")], lift.numbers(node.input[0]))
    lift.emit("Add", [scaled, shift], node.output, node.name)


@step(10, "ParametricSoftplus", "ScaledTanh")
def _curve(lift: Lift, node: NodeProto) -> None:
    """ParametricSoftplus is alpha * log(1 + exp(beta * x)), ScaledTanh is alpha * tanh(beta * x)."""
    op = "Tanh" if node.op_type == "ScaledTanh" else "Softplus"
    if op == "Softplus" and (attr(node, "alpha") is None or attr(node, "beta") is None):
        raise lift.refused(node, "it lacks its alpha or its beta")
    curve = lift.emit(op, [lift.emit("Mul", [node.input[0], _number(lift, node, "beta")])])
    lift.emit("Mul", [curve, _number(lift, node, "alpha")], node.output, node.name)


@step(10, "Crop")
def _crop(lift: Lift, node: NodeProto) -> None:
    """Crop cuts off borders (left, top, right, bottom), or keeps `scale` pixels from the first two on."""
    left, top, right, bottom = attr(node, "border")
    size = attr(node, "scale")
    ends = [top + size[0], left + size[1]] if size else [-end or 1 << 62 for end in (bottom, right)]
    bounds = [lift.const(values) for values in ([top, left], ends, [2, 3])]
    lift.emit("Slice", [node.input[0], *bounds], node.output, node.name)


@step(9, "MeanVarianceNormalization")
def _across(lift: Lift, node: NodeProto) -> None:
    """MeanVarianceNormalization runs along all axes but the channels', or along all."""
    if not attr(node, "normalize_variance", 1):
        raise lift.refused(node, "it keeps the variance")
    axes = [0, 1, 2, 3] if attr(node, "across_channels", 0) else [0, 2, 3]
    lift.keep(node, across_channels=None, normalize_variance=None, axes=axes)
