"""Axes along which a node works, and dims that onnx does not infer, for the proof that rows stay apart."""

from __future__ import annotations

from netfuse_onnx.dims import broadcast
from netfuse_onnx.ops.axes import INPUTS
from netfuse_onnx.plan.row_states import Facts, Mixed
from netfuse_onnx.rules.elementwise import BROADCAST, UNARY
from netfuse_onnx.types import Dim, Node


def axes_of(facts: Facts, node: Node, rank: int) -> list[int] | None:
    """The axes along which a node works, counted from the front; None where they are not known."""
    if (place := INPUTS.get(node.key)) is not None and len(node.inputs) > place and node.inputs[place]:
        value = facts.constant(node.inputs[place])
        given = None if value is None else [int(axis) for axis in value.reshape(-1)]
    else:
        found = node.attrs.get("axes", node.attrs.get("axis"))
        given = (
            None
            if found is None
            else [int(axis) for axis in (found if isinstance(found, list | tuple) else [found])]
        )
    return None if given is None else sorted(axis % rank for axis in given)


def finer(facts: Facts, node: Node) -> tuple[Dim, ...] | None:
    """The dims of an output where more is known than onnx infers: a Slice keeps the axes that it does not
    cut."""
    try:
        dims = [facts.dims(name) for name in node.inputs if name]
    except Mixed:
        return None
    if node.op == "Slice" and len(node.inputs) > 3:
        axes = axes_of(facts, node, len(dims[0]))
        return None if axes is None else tuple(None if i in axes else d for i, d in enumerate(dims[0]))
    if node.op == "Gather":
        axis = int(node.attrs.get("axis", 0)) % len(dims[0])
        return (*dims[0][:axis], *dims[1], *dims[0][axis + 1 :])
    if node.op == "GatherElements":
        return dims[1]
    if node.op in UNARY:
        return dims[0]
    return broadcast(dims) if node.op in BROADCAST else None
