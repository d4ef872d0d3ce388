"""Forms of nodes that read constants alone: they become constants.

A change of shape keeps the bytes. Axes of large weights are permuted block by block. All else is computed by
the reference evaluator of onnx, where the result is small; of floats it may round the last bit otherwise than
a runtime.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from netfuse_onnx.load.spelled.constants import CHANNELS
from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.ops.kinds import FLOATS, SHAPE_TYPES
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Node, Weight

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
WHOLE_NUMBERS = (
    "Add", "Sub", "Mul", "Div", "Cast", "Concat", "Gather", "Slice", "Range", "ConstantOfShape", "Expand",
    "Min", "Max", "Where", "Equal", "Less", "Greater", "Not", "And", "Or", "Neg", "Abs", "Size", "ReduceProd",
    "ReduceSum",
)  # fmt: skip
"""Operators that are computed, and of floats those that only move or make them."""
MOVING = ("Concat", "Gather", "Slice", "ConstantOfShape", "Expand", "Where")
ROUNDING = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Neg",
    "Sqrt",
    "Reciprocal",
    "Pow",
    "Exp",
    "Cast",
    "Range",
    "Min",
    "Max",
)


@form(*VIEWS, name="constant-reshaped", says="A constant that was reshaped became one of that shape")
def _reshaped(forms: Forms, node: Node) -> str | None:
    """A constant in another shape has the same bytes."""
    weight, dims = forms.weights.get(node.inputs[0]), forms.dims(node.outputs[0])
    if weight is None or dims is None:
        return None
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    if len(sizes) != len(dims) or math.prod(sizes) != math.prod(weight.shape):
        return None
    return forms.add(Weight(weight.dtype, sizes, weight.data), computed=weight in forms.made)


@form("Transpose", name="constant-transposed", says="A constant that was transposed became one of that order")
def _transposed(forms: Forms, node: Node) -> str | None:
    """A constant whose axes are permuted is a constant."""
    weight = forms.weights.get(node.inputs[0])
    if weight is None:
        return None
    perm = list(node.attrs.get("perm") or range(len(weight.shape))[::-1])
    return node.inputs[0] if perm == sorted(perm) else forms.transposed(node.inputs[0], perm)


@form("Shape", name="known-shape", says="The shape of a value whose sizes are known became a constant")
def _shape(forms: Forms, node: Node) -> str | None:
    """Static sizes are a constant."""
    dims = forms.dims(node.inputs[0])
    if dims is None:
        return None
    wanted = dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
    sizes = [dim for dim in wanted if isinstance(dim, int)]
    return forms.new_constant(np.array(sizes, np.int64)) if len(sizes) == len(wanted) else None


@form(*WHOLE_NUMBERS, name="constant-computed", says="What constants alone decide became a constant")
def _whole(forms: Forms, node: Node) -> str | None:
    """Whole numbers are computed exactly, and so are floats that are only moved."""
    dtype = forms.dtype(node.outputs[0])
    if dtype in SHAPE_TYPES or (dtype in FLOATS and node.op in MOVING):
        return _computed(forms, node)
    return None


@form(
    *ROUNDING,
    name="constant-computed-in-floats",
    exact=False,
    says="What constants alone decide, in floats, became a constant",
)
def _floats(forms: Forms, node: Node) -> str | None:
    """Floats are computed where the result is small."""
    return _computed(forms, node) if forms.dtype(node.outputs[0]) in FLOATS else None


def _computed(forms: Forms, node: Node) -> str | None:
    """Return a constant for the result of a node that reads small constants alone."""
    names = [name for name in node.inputs if name]
    if (
        node.domain
        or len(node.outputs) != 1
        or node.captured
        or not all(name in forms.weights for name in names)
    ):
        return None
    if sum(math.prod(forms.weights[name].shape) for name in names) > CHANNELS:
        return None
    dims = forms.dims(node.outputs[0]) or ()
    sizes = [dim for dim in dims if isinstance(dim, int)]
    if len(sizes) != len(dims) or math.prod(sizes) > CHANNELS:
        return None
    value = _evaluated(forms, node)
    if value is None or value.shape != dims:
        return None
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        return None
    proto = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape))
    floats = proto.data_type in FLOATS and value.size > 1
    return forms.add(Weight(proto.data_type, tuple(proto.dims), proto.raw_data), computed=floats)


def _evaluated(forms: Forms, node: Node) -> NDArray[Any] | None:
    """Return what the reference evaluator computes; None where it can't."""
    from onnx.reference import ReferenceEvaluator  # slow to import, and most families need none

    helper = onnx.helper
    names = [f"i{k}" if name else "" for k, name in enumerate(node.inputs)]
    proto = helper.make_node(node.op, names, ["o"], **node.attrs)
    inputs = [onnx.ValueInfoProto(name=name) for name in names if name]
    graph = helper.make_graph([proto], "constant", inputs, [onnx.ValueInfoProto(name="o")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", forms.opset)])
    given = list(zip(names, node.inputs, strict=True))
    feeds = {name: weights.array(forms.weights[held]) for name, held in given if name}
    try:
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(model).run(None, feeds)
            return np.asarray(results[0])
    except Exception:  # it raises many kinds; what it can't compute stays a node
        return None
