"""How operators are spelled in the next version of theirs, where that is another spelling.

A step emits what computes the same values, in ONNX Runtime's reading of both versions. lift.py takes them.
https://onnx.ai/onnx/operators/ shows the versions side by side.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from netfuse_onnx.load.lift import Lift, attr, step
from netfuse_onnx.ops.axes import REDUCERS

# ------------------------------------------------------------------ opsets 1 to 8


@step(2, "GlobalLpPool", "LpPool")
def _whole_p(lift: Lift, node: NodeProto) -> None:
    p = attr(node, "p", 2.0)
    if p != int(p) or (node.op_type == "LpPool" and attr(node, "kernel_shape") is None):
        raise lift.refused(node, "its p or its kernel_shape has no newer form")
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


@step(
    6, "Abs", "Add", "Ceil", "Clip", "Div", "Elu", "Exp", "Floor", "HardSigmoid", "InstanceNormalization",
    "LeakyRelu", "Log", "Max", "Mean", "Min", "Mul", "Neg", "PRelu", "Reciprocal", "Relu", "Sigmoid", "Sqrt",
    "Sub", "Sum", "Tanh",
)  # fmt: skip
def _nothing_consumed(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, consumed_inputs=None)


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
        raise lift.refused(node, f"'{name}' is no type")
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
    """From opset 7 on the last axes meet; before, those from `axis` on."""
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


@step(7, "BatchNormalization")
def _tested(lift: Lift, node: NodeProto) -> None:
    if not attr(node, "is_test", 0):
        raise lift.refused(node, "it is in training mode")
    lift.keep(node, is_test=None)


@step(7, "Dropout")
def _nothing_dropped(lift: Lift, node: NodeProto) -> None:
    if not attr(node, "is_test", 0):
        raise lift.refused(node, "it is in training mode")
    lift.keep(node, is_test=None)


@step(7, "Gemm")
def _gemm(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, broadcast=None)


@step(7, "GRU", "LSTM", "RNN")
def _recurrent(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, output_sequence=None)


@step(7, "PRelu")
def _slope_of_channels(lift: Lift, node: NodeProto) -> None:
    """Before opset 7 a vector of slopes is one for each channel, axis 1."""
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
    """With spatial = 0 each element of an image has statistics of its own, which is written out."""
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
def _mask_of_another_type(lift: Lift, node: NodeProto) -> None:
    if any(node.output[1:]):
        raise lift.refused(node, "it gives its mask")
    lift.keep(node)


@step(10, "Slice")
def _bounds_to_inputs(lift: Lift, node: NodeProto) -> None:
    given = [attr(node, name) for name in ("starts", "ends", "axes")]
    bounds = [lift.const(values) for values in given if values is not None]
    lift.keep(node, [node.input[0], *bounds], starts=None, ends=None, axes=None)


@step(10, "TopK")
def _count_to_input(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, [node.input[0], lift.const([attr(node, "k")])], k=None)


@step(10, "Upsample")
def _resized(lift: Lift, node: NodeProto) -> None:
    """Still with the coordinates of Upsample, see the step to Resize 11. All its scales are at least 1."""
    scales = lift.values(node.input[1])
    if scales is not None and (scales < 1).any():
        raise lift.refused(node, "a scale is below 1")
    nearest = attr(node, "mode", b"nearest") == b"nearest"
    lift.keep(node, op="Resize", nearest_mode="floor" if nearest else None)


@step(11, "Clip")
def _limits_to_inputs(lift: Lift, node: NodeProto) -> None:
    """The limits of float16 and double are those of float32 where they are not given."""
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


@step(11, "Scatter")
def _by_elements(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, op="ScatterElements")


@step(12, "Dropout")
def _ratio_of_training(lift: Lift, node: NodeProto) -> None:
    """The ratio means nothing outside of training, where these versions are not."""
    lift.keep(node, ratio=None)


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


@step(13, "ReduceSum", "Squeeze", "Unsqueeze")
@step(18, *sorted(REDUCERS - {"ReduceSum"}))
def _axes_to_input(lift: Lift, node: NodeProto) -> None:
    axes = attr(node, "axes")
    lift.keep(node, [node.input[0], *([] if axes is None else [lift.const(axes)])], axes=None)


@step(13, "Resize")
def _region_is_optional(lift: Lift, node: NodeProto) -> None:
    """An empty region, and empty scales beside sizes, are left out."""
    if attr(node, "coordinate_transformation_mode", b"half_pixel") == b"tf_half_pixel_for_nn":
        raise lift.refused(node, "its coordinates, tf_half_pixel_for_nn, were withdrawn")
    ins = list(node.input)
    for k, name in enumerate(ins):
        values = lift.values(name)
        if k and values is not None and not values.size:
            ins[k] = ""
    lift.keep(node, ins)


@step(13, "Split")
def _sizes_to_input(lift: Lift, node: NodeProto) -> None:
    sizes = attr(node, "split")
    lift.keep(node, [node.input[0], *([] if sizes is None else [lift.const(sizes)])], split=None)


@step(14, "BatchNormalization")
def _inference(lift: Lift, node: NodeProto) -> None:
    if any(node.output[1:]):
        raise lift.refused(node, "it gives statistics")
    lift.keep(node)


@step(16, "RoiAlign")
def _half_pixels(lift: Lift, node: NodeProto) -> None:
    lift.keep(node, coordinate_transformation_mode="output_half_pixel")


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
