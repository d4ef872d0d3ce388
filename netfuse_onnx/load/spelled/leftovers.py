"""Forms of operators that change nothing, or nothing in inference, and of pairs that undo each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.engine import Forms, Result, form
from netfuse_onnx.types import Node


@form("Dropout", name="dropout", says="Dropout in inference was removed")
def _dropout(forms: Forms, node: Node) -> str | None:
    """Dropout gives its input where it does not train."""
    training = node.inputs[2] if len(node.inputs) > 2 else ""
    value = forms.constant(training) if training else np.array(False)
    return None if value is None or value.any() else node.inputs[0]


@form("Identity", name="identity", says="Identity was removed")
def _identity(forms: Forms, node: Node) -> str:
    """Identity gives its input."""
    return node.inputs[0]


@form("Cast", name="cast-to-itself", says="A Cast to the type that a value has was removed")
def _cast(forms: Forms, node: Node) -> str | None:
    """A Cast to the same type changes nothing."""
    return node.inputs[0] if forms.dtype(node.inputs[0]) == node.attrs["to"] else None


@form("CastLike", name="cast-like", says="CastLike became Cast")
def _cast_like(forms: Forms, node: Node) -> Node | None:
    """The element type of the second operand is known."""
    dtype = forms.dtype(node.inputs[1])
    return (
        replace(node, op="Cast", inputs=node.inputs[:1], attrs={**node.attrs, "to": dtype}) if dtype else None
    )


@form(
    "Concat",
    "Sum",
    "Max",
    "Min",
    "Mean",
    name="one-operand",
    says="A Concat, Sum, Max, Min or Mean of one value was removed",
)
def _one_operand(forms: Forms, node: Node) -> str | None:
    """A node that joins one value gives that value."""
    return node.inputs[0] if len(node.inputs) == 1 else None


@form("Sum", name="sum-of-several", says="Sum became Add")
def _sum(forms: Forms, node: Node) -> list[Node] | None:
    """Sum is a chain of Adds from the first operand on."""
    if len(node.inputs) < 2:
        return None
    made, total = list[Node](), node.inputs[0]
    for name in node.inputs[1:]:
        last = name is node.inputs[-1] and len(made) == len(node.inputs) - 2
        result = node.outputs[0] if last else forms.fresh(node.outputs[0])
        made.append(Node("Add", "", node.name, (total, name), (result,), {}))
        total = result
    return made


@form("Transpose", name="transposes", says="Transposes after one another became one, or none")
def _transposes(forms: Forms, node: Node) -> Result:
    """A Transpose of a Transpose is one Transpose, and one that moves no axis is none."""
    dims = forms.dims(node.inputs[0])
    perm = node.attrs.get("perm") or (list(range(len(dims)))[::-1] if dims is not None else None)
    if perm is None:
        return None
    if list(perm) == list(range(len(perm))):
        return node.inputs[0]
    inner = forms.producer(node.inputs[0], "Transpose")
    before = inner.attrs.get("perm") or list(range(len(perm)))[::-1] if inner else None
    if inner is None or before is None or sorted(before) != list(range(len(perm))):
        return None
    return replace(node, inputs=inner.inputs, attrs={"perm": [before[axis] for axis in perm]})


@form("Pad", name="no-padding", says="A Pad by nothing was removed")
def _no_padding(forms: Forms, node: Node) -> str | None:
    """A Pad by zeros in all places changes nothing."""
    pads = forms.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return node.inputs[0] if pads is not None and not pads.any() else None


@form("Slice", name="whole-slice", says="A Slice of a whole axis was removed")
def _whole_slice(forms: Forms, node: Node) -> str | None:
    """A Slice from the start to beyond the end, step by step, changes nothing."""
    parts = [forms.constant(name) if name else None for name in node.inputs[1:]]
    if len(parts) < 2 or parts[0] is None or parts[1] is None:
        return None
    starts, ends = parts[0].reshape(-1), parts[1].reshape(-1)
    steps = len(parts) < 4 or not node.inputs[4] or (parts[3] is not None and (parts[3] == 1).all())
    whole = steps and not starts.any() and (ends >= (1 << 31) - 1).all()
    return node.inputs[0] if whole else None


@form("Expand", name="no-expansion", says="An Expand to the shape that a value has was removed")
def _no_expansion(forms: Forms, node: Node) -> str | None:
    """An Expand that broadcasts nothing changes nothing."""
    target, dims = forms.constant(node.inputs[1]), forms.dims(node.inputs[0])
    if target is None or dims is None or target.ndim != 1 or len(target) > len(dims):
        return None
    pairs = zip(target.tolist(), dims[len(dims) - len(target) :], strict=True)
    return node.inputs[0] if all(size in (1, dim) for size, dim in pairs) else None
