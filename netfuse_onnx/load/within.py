"""The types of all values of a source, also of those inside of bodies, by inference alone.

What a file declares of its outputs and of inner values does not count here: ONNX Runtime does not hold a
model to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from onnx import AttributeProto, GraphProto, NodeProto

from netfuse_onnx.load.claims import Complete, resolve_claims
from netfuse_onnx.load.infer import infer, inferred, unknown
from netfuse_onnx.load.normal import value_type
from netfuse_onnx.types import Node, Source, ValueType

Names = Callable[[str], str]
SHAPED = {"ConstantOfShape": 0, "Reshape": 1}
"""Operator -> the input that is the shape of the output; onnx's inference needs its values."""
MOST = 64
"""The highest rank that is believed. No runtime has tensors with more axes."""
PASSES = 4
"""Rounds of inference, each of which starts from the ranks that the one before told by lengths of shapes."""


def prefix(owner: str, attribute: str) -> str:
    """Return the start of the names inside of a body of the node whose first output is `owner`."""
    return f"{owner}\0{attribute}\0"


def all_types(source: Source, complete: Complete | None = None) -> dict[str, ValueType]:
    """Return the types by value; values of bodies have the names that match gives them."""
    inputs = {name: kind for name, kind in source.graph.types.items() if name in source.graph.inputs}
    nodes = tuple([_undeclared(node) for node in source.graph.nodes])
    bare = source.with_graph(types=inputs, nodes=nodes)
    typed = infer(bare)
    for _ in range(PASSES):
        ranks = _by_length(typed)
        if not ranks:
            break
        bare = bare.with_graph(types={**bare.graph.types, **ranks})
        typed = infer(bare)
    if complete is not None and unknown(typed):
        typed, _ = resolve_claims(bare, complete)
    types = dict(typed.graph.types)
    if any(map(_has_bodies, nodes)):
        ranked = {name: kind for name, kind in types.items() if name not in inputs and kind.dims is not None}
        model = inferred(typed, ranked)
        for node in model.node if model is not None else ():
            types |= _of_bodies(node, lambda name: name)
    return types


def _by_length(source: Source) -> dict[str, ValueType]:
    """Return the ranks of values of unknown rank whose shape is a vector of known length."""
    graph = source.graph
    ranks: dict[str, ValueType] = {}
    for node in graph.nodes:
        place = SHAPED.get(node.key)
        if place is None or place >= len(node.inputs) or graph.types[node.outputs[0]].dims is not None:
            continue
        weight = graph.weights.get(node.inputs[place])
        length = weight.shape if weight else graph.types.get(node.inputs[place], ValueType()).dims
        if length is not None and len(length) == 1 and isinstance(length[0], int) and length[0] <= MOST:
            dtype = graph.types[node.outputs[0]].dtype
            ranks[node.outputs[0]] = ValueType(dtype, (None,) * length[0])
    return ranks


def _has_bodies(node: Node) -> bool:
    return any(isinstance(value, GraphProto) for value in node.attrs.values())


def _undeclared(node: Node) -> Node:
    """Return the node, its bodies without the shapes that they declare."""
    if not _has_bodies(node):
        return node
    attrs = {k: _shapeless(v) if isinstance(v, GraphProto) else v for k, v in node.attrs.items()}
    return replace(node, attrs=attrs)


def _shapeless(body: GraphProto) -> GraphProto:
    copy = GraphProto()
    copy.CopyFrom(body)
    _clear(copy)
    return copy


def _clear(body: GraphProto) -> None:
    del body.value_info[:]
    for value in (*body.input, *body.output):
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    for node in body.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _clear(attribute.g)


def _of_bodies(node: NodeProto, outer: Names) -> dict[str, ValueType]:
    types: dict[str, ValueType] = {}
    owner = next((name for name in map(outer, node.output) if name), "")
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            types |= _of_body(attribute.g, prefix(owner, attribute.name), outer)
    return types


def _of_body(body: GraphProto, start: str, outer: Names) -> dict[str, ValueType]:
    local = set(_defined(body))

    def renamed(name: str) -> str:
        return start + name if name in local and name else outer(name)

    infos = (*body.input, *body.value_info, *body.output)
    types = {start + info.name: value_type(info.type) for info in infos if info.name in local}
    for node in body.node:
        types |= _of_bodies(node, renamed)
    return types


def _defined(body: GraphProto) -> Iterator[str]:
    yield from (value.name for value in body.input)
    for node in body.node:
        yield from node.output
