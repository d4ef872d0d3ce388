"""A source as onnx's converter is given it, with what it would else miss or get wrong.

Its inference tells fewer ranks than ours. Where it does not know that the axis of a Softmax of before opset
13 is the last one, it wraps the operator in reshapes. It leaves a Hardmax of before opset 13 to its new
meaning. And it gives up on some axes that count from the back in files of before opset 11, where the standard
has none, but exporters write them and ONNX Runtime takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx import ModelProto

from netfuse_onnx.load import rebuild, within
from netfuse_onnx.ops import walk
from netfuse_onnx.ops.axes import ONE, ROWS, SETS, counted_in, from_front
from netfuse_onnx.types import Node, Source, ValueType

LEGAL = 11
"""The opset from which on axes may count from the back."""
ONE_AXIS = 13
"""The opset from which on SOFTMAXES work along one axis; before, along all from theirs on."""
SOFTMAXES = frozenset({"Hardmax", "LogSoftmax", "Softmax"})


class ManyAxes(Exception):
    """An operator that works along several axes, as it can't from opset 13 on; `op` is its name."""

    def __init__(self, op: str) -> None:
        super().__init__(op)
        self.op = op


def skeleton(source: Source, version: int) -> ModelProto:
    """The skeleton of a source that is to be converted to `version` of the standard, its only domain.
    Raises ManyAxes."""
    source = fronted(replace(source, opsets={"": source.opsets.get("", 0)}))
    graph = source.graph
    crosses = source.opsets[""] < ONE_AXIS <= version
    bodies = [body for node in graph.nodes for body in walk.bodies_of(node.attrs).values()]
    if crosses and any(inner.op_type == "Hardmax" for body in bodies for inner in walk.nodes(body)):
        raise ManyAxes("Hardmax")
    if not crosses or not any(node.op in SOFTMAXES for node in graph.nodes):
        return rebuild.model(source)
    declared = {name: ValueType(graph.types[name].dtype) for name in graph.outputs if name in graph.types}
    kinds = {name: kind for name, kind in within.kinds(source).items() if kind.dims is not None}
    nodes = tuple([_last_axis(node, kinds) if node.op == "Hardmax" else node for node in graph.nodes])
    values = [name for node in graph.nodes for name in node.outputs if name in kinds]
    typed = replace(source, graph=replace(graph, types={**declared, **kinds}, nodes=nodes))
    return rebuild.model(typed, values=[name for name in values if name not in graph.outputs])


def _last_axis(node: Node, kinds: Mapping[str, ValueType]) -> Node:
    """A Hardmax along the last axis alone, with that axis written down. Raises ManyAxes for others."""
    rank = kinds.get(node.inputs[0], ValueType()).rank
    if rank is None or from_front(node.attrs.get("axis", 1), rank) != rank - 1:
        raise ManyAxes(node.op)
    return replace(node, attrs={**node.attrs, "axis": rank - 1})


def fronted(source: Source) -> Source:
    """The source with all axes of its main graph counted from the front whose rank inference can tell."""
    while source.opsets.get("", 0) < LEGAL and any(map(_backward, source.graph.nodes)):
        kinds = within.kinds(source)
        weights = source.graph.weights
        kinds |= {name: ValueType(weight.dtype, weight.shape) for name, weight in weights.items()}
        nodes = tuple([_front(node, kinds) for node in source.graph.nodes])
        if nodes == source.graph.nodes:
            break
        source = replace(source, graph=replace(source.graph, nodes=nodes))
    return source


def _axes(node: Node) -> dict[str, Any]:
    """The attributes that hold axes from the back."""
    names = (*ONE.get(node.key, ()), *SETS.get(node.key, ()), *ROWS.get(node.key, ()))
    held = {name: node.attrs[name] for name in names if name in node.attrs and node.op != "Scan"}
    rows = {name: axes if isinstance(axes, list) else [axes] for name, axes in held.items()}
    return {name: held[name] for name, row in rows.items() if any(_from_back(axis) for axis in row)}


def _from_back(axis: Any) -> bool:
    return isinstance(axis, int) and axis < 0


def _backward(node: Node) -> bool:
    return bool(_axes(node))


def _front(node: Node, kinds: Mapping[str, ValueType]) -> Node:
    inputs = [kinds.get(name, ValueType()) for name in node.inputs]
    rank = counted_in(node.key, node.attrs, inputs)
    if rank is None:
        return node
    attrs = {
        name: [from_front(axis, rank) for axis in axes] if isinstance(axes, list) else from_front(axes, rank)
        for name, axes in _axes(node).items()
    }
    return replace(node, attrs={**node.attrs, **attrs}) if attrs else node
