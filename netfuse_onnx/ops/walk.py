"""Nested graphs: If, Loop and their like hold graphs in attributes, whose nodes may hold graphs again.

Every walk through them is here. In a file a body is an attribute of a NodeProto; in a `types.Node` it is a
value of `attrs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

from netfuse_onnx.ops.schemas import canonical, value_of
from netfuse_onnx.types import Node

TRIVIAL = ("Constant", "Identity")
"""Operators that compute nothing."""


def key(node: NodeProto) -> str:
    """`Conv`, or `com.microsoft.FusedConv` outside the default domain, as `types.Node.key`."""
    domain = canonical(node.domain)
    return f"{domain}.{node.op_type}" if domain else node.op_type


def bodies(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs that a node holds, each with the name of its attribute."""
    for attribute in node.attribute:
        yield from ((attribute.name, graph) for graph in graphs_of(attribute))


def graphs_of(attribute: AttributeProto) -> Iterator[GraphProto]:
    """The graphs of an attribute, whatever it says that it is."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """The nodes of a graph in order, each followed by those of its bodies, however deep."""
    for node in graph.node:
        yield node
        for _, body in bodies(node):
            yield from nodes(body)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, then all graphs inside of it, however deep."""
    yield graph
    for node in graph.node:
        for _, body in bodies(node):
            yield from graphs(body)


def count(graph: GraphProto) -> int:
    """The number of nodes that compute something."""
    return sum(node.op_type not in TRIVIAL for node in nodes(graph))


def defined(graph: GraphProto) -> Iterator[str]:
    """Every name that a graph and those inside of it define, a stored input once."""
    for inner in graphs(graph):
        stored = dict.fromkeys(tensor.name for tensor in inner.initializer)
        yield from stored
        yield from (tensor.values.name for tensor in inner.sparse_initializer)
        yield from (value.name for value in inner.input if value.name not in stored)
        yield from (name for node in inner.node for name in node.output if name)


def outer_names(graph: GraphProto) -> list[str]:
    """The names that a body reads and does not define, in order of first use, bodies inside included."""
    local = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    local |= {tensor.values.name for tensor in graph.sparse_initializer}
    local |= {name for node in graph.node for name in node.output}
    reads: list[str] = []
    for node in graph.node:
        reads += node.input
        for _, body in bodies(node):
            reads += outer_names(body)
    reads += [value.name for value in graph.output]
    return list(dict.fromkeys(name for name in reads if name and name not in local))


def rename(graph: GraphProto, name: Callable[[str], str]) -> None:
    """Rename every value of a graph and of those inside of it, in place."""
    for inner in graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            value.name = name(value.name)
        for node in inner.node:
            for values in (node.input, node.output):
                values[:] = [name(value) if value else "" for value in values]


# --------------------------------------------------------------------------- bodies in a Node


def node_of(proto: NodeProto) -> Node:
    """A node of a body in normal form."""
    captured = dict.fromkeys(name for _, body in bodies(proto) for name in outer_names(body))
    attrs = {attribute.name: value_of(attribute) for attribute in proto.attribute}
    ins, outs = tuple(proto.input), tuple(proto.output)
    return Node(proto.op_type, proto.domain, proto.name, ins, outs, attrs, tuple(captured))


def bodies_of(attrs: Mapping[str, Any]) -> dict[str, GraphProto]:
    """The attributes of a `types.Node` that are bodies."""
    return {name: value for name, value in attrs.items() if isinstance(value, GraphProto)}


def without_bodies(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a `types.Node` that are no bodies."""
    return {name: value for name, value in attrs.items() if not isinstance(value, GraphProto)}


def with_bodies(node: Node, change: Callable[[GraphProto], None]) -> Node:
    """The node with copies of its bodies, each of which `change` was applied to."""
    copies = {name: copied(body) for name, body in bodies_of(node.attrs).items()}
    for body in copies.values():
        change(body)
    return replace(node, attrs={**node.attrs, **copies}) if copies else node


def copied(graph: GraphProto) -> GraphProto:
    copy = GraphProto()
    copy.CopyFrom(graph)
    return copy
