"""A source prepared for onnx's version converter, with what the converter would else miss or get wrong.

Its inference tells fewer ranks than ours. Where it does not know that the axis of a Softmax of before opset
13 is the last one, it wraps the operator in reshapes. It leaves a Hardmax of before opset 13 to its new
meaning. And it fails on some axes that count from the back in files of before opset 11: the standard did not
have these, but exporters write them and ONNX Runtime accepts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx import ModelProto

from netfuse_onnx.load import rebuild, within
from netfuse_onnx.load.lift import Unconvertible
from netfuse_onnx.ops import walk
from netfuse_onnx.ops.axes import ONE, ROWS, SETS, counted_in, from_front
from netfuse_onnx.types import Graph, Node, Source, ValueType

LEGAL = 11
"""The opset from which on axes may count from the back."""
ONE_AXIS = 13
"""The opset from which on SOFTMAXES work along one axis; before, along all axes from theirs on."""
SOFTMAXES = frozenset({"Hardmax", "LogSoftmax", "Softmax"})


def skeleton(source: Source, version: int) -> ModelProto:
    """Return the skeleton of a source to convert to `version` of the standard. Raises Unconvertible."""
    source = fronted(replace(source, opsets={"": source.opsets.get("", 0)}))
    graph = source.graph
    crosses = source.opsets[""] < ONE_AXIS <= version
    bodies = [body for node in graph.nodes for body in walk.bodies_of(node.attrs).values()]
    if crosses and any(inner.op_type == "Hardmax" for body in bodies for inner in walk.nodes(body)):
        raise _many_axes(source, "Hardmax")
    if not crosses or not any(node.op in SOFTMAXES for node in graph.nodes):
        return rebuild.model(source)
    declared = {name: ValueType(graph.types[name].dtype) for name in graph.outputs if name in graph.types}
    types = {
        name: value_type
        for name, value_type in within.all_types(source).items()
        if value_type.dims is not None
    }
    nodes = tuple([_last_axis(source, node, types) if node.op == "Hardmax" else node for node in graph.nodes])
    values = [name for node in graph.nodes for name in node.outputs if name in types]
    typed = source.with_graph(types={**declared, **types}, nodes=nodes)
    return rebuild.model(typed, values=[name for name in values if name not in graph.outputs])


def _many_axes(source: Source, op: str) -> Unconvertible:
    """Return the error for an operator that works along several axes, as it can't from opset 13 on."""
    use = f"{source.path} uses {op} of opset {source.opsets['']} along several axes, or of unknown rank"
    return Unconvertible(f"{use}: opset 13 has another meaning for it")


def _last_axis(source: Source, node: Node, types: Mapping[str, ValueType]) -> Node:
    """Write down the axis of a Hardmax along the last axis. Raises Unconvertible for others."""
    rank = types.get(node.inputs[0], ValueType()).rank
    if rank is None or from_front(node.attrs.get("axis", 1), rank) != rank - 1:
        raise _many_axes(source, node.op)
    return replace(node, attrs={**node.attrs, "axis": rank - 1})


def fronted(source: Source) -> Source:
    """Return the source with all axes of its main graph counted from the front, if the rank is known."""
    while source.opsets.get("", 0) < LEGAL and any(map(_backward_axes, source.graph.nodes)):
        typed = replace(source.graph, types=within.all_types(source))
        nodes = tuple([_front(node, typed) for node in typed.nodes])
        if nodes == source.graph.nodes:
            break
        source = source.with_graph(nodes=nodes)
    return source


def _backward_axes(node: Node) -> dict[str, Any]:
    """Return the attributes that hold axes from the back."""
    names = (*ONE.get(node.key, ()), *SETS.get(node.key, ()), *ROWS.get(node.key, ()))
    values = {name: node.attrs[name] for name in names if name in node.attrs and node.op != "Scan"}
    rows = {name: axes if isinstance(axes, list) else [axes] for name, axes in values.items()}
    negative = [name for name, row in rows.items() if any(isinstance(axis, int) and axis < 0 for axis in row)]
    return {name: values[name] for name in negative}


def _front(node: Node, typed: Graph) -> Node:
    """Count the axes of a node from the front, where the rank is known."""
    rank = counted_in(node.key, node.attrs, [typed.type_of(name) for name in node.inputs])
    if rank is None:
        return node
    attrs = {
        name: [from_front(axis, rank) for axis in axes] if isinstance(axes, list) else from_front(axes, rank)
        for name, axes in _backward_axes(node).items()
    }
    return replace(node, attrs={**node.attrs, **attrs}) if attrs else node
