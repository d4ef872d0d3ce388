"""Forms of comparing, slicing and softmax that older exports spell in several operators. All are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.ops.kinds import INTEGERS
from netfuse_onnx.types import Node


@form(
    "Not",
    name="not-less",
    says="Not of a comparison of whole numbers became the opposite comparison",
    opset=12,
)
def _not_less(forms: Forms, node: Node) -> Node | None:
    """Not(a < b) is a >= b, for element types without NaN."""
    for op, reverse in (("Less", "GreaterOrEqual"), ("Greater", "LessOrEqual")):
        maker = forms.producer(node.inputs[0], op)
        if maker is not None and forms.dtype(maker.inputs[0]) in INTEGERS:
            return replace(node, op=reverse, inputs=maker.inputs)
    return None


@form("Squeeze", name="slice-of-one", says="A Slice of one element that is squeezed became a Gather")
def _gather_of_one(forms: Forms, node: Node) -> Node | None:
    """A slice of one element along an axis that is then squeezed is a Gather."""
    cut = forms.producer(node.inputs[0], "Slice")
    axes = forms.axes(node)
    if cut is None or axes is None or len(axes) != 1 or len(cut.inputs) < 3:
        return None
    constants = [forms.constant(name) for name in cut.inputs[1:]]
    if any(values is None or values.size != 1 for values in constants):
        return None
    bounds = [int(values.reshape(-1)[0]) for values in constants if values is not None]
    start, end, axis, step = bounds + [0, 1][len(bounds) - 2 :]
    (squeezed,), dims = axes, forms.dims(cut.inputs[0])
    if axis != squeezed and (dims is None or axis % len(dims) != squeezed % len(dims)):
        return None
    size = dims[axis] if dims is not None else None
    last = start == -1 and end >= (size if isinstance(size, int) else 1 << 31) - 1 and end > 0
    if step != 1 or not (last or (end - start == 1 and start != -1)):
        return None
    inputs = (cut.inputs[0], forms.new_constant(np.array(start, np.int64)))
    return replace(node, op="Gather", inputs=inputs, attrs={"axis": axis})


@form("Transpose", name="softmax-of-an-axis", opset=13,
      says="A Softmax between two Transposes that undo each other became one along another axis")  # fmt: skip
def _softmax_of_an_axis(forms: Forms, node: Node) -> Node | None:
    """A Softmax between two Transposes that undo each other is one along another axis."""
    soft = forms.producer(node.inputs[0], "Softmax", "LogSoftmax", "Hardmax")
    if soft is None:
        return None
    transposed = forms.producer(soft.inputs[0], "Transpose")
    if transposed is None or "perm" not in transposed.attrs or "perm" not in node.attrs:
        return None
    perm, inverse = transposed.attrs["perm"], node.attrs["perm"]
    if [perm[k] for k in inverse] != list(range(len(perm))):
        return None
    axis = perm[soft.attrs.get("axis", -1)]
    return replace(node, op=soft.op, inputs=transposed.inputs, attrs={"axis": axis}, name=soft.name)
