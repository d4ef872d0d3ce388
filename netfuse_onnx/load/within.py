"""The types of all values of a source, also of those inside of bodies, by inference alone (see claims.py)."""

from __future__ import annotations

from collections.abc import Callable

from onnx import GraphProto, NodeProto

from netfuse_onnx.load.claims import Complete, resolve_claims
from netfuse_onnx.load.infer import infer, inferred, unknown
from netfuse_onnx.ops import traits, walk
from netfuse_onnx.ops.kinds import clear_shape, of_proto
from netfuse_onnx.types import Source, ValueType

Names = Callable[[str], str]
MOST = 64
"""The highest rank that is believed. No runtime has tensors with more axes."""
PASSES = 4
"""Rounds of inference, each of which starts from the ranks that the one before told by lengths of shapes."""


def prefix(owner: str, attribute: str) -> str:
    """Return the start of the names inside of a body of the node whose first output is `owner`."""
    return f"{owner}\0{attribute}\0"


def renaming(start: str, body: GraphProto, outer: Names) -> Names:
    """Return the names of a body's values: its own begin with `start`, all others are as `outer` has them."""
    local = {value.name for value in body.input} | {name for node in body.node for name in node.output}
    return lambda name: start + name if name in local and name else outer(name)


def all_types(source: Source, complete: Complete | None = None) -> dict[str, ValueType]:
    """Return the types by value; values of bodies have the names that match gives them."""
    declared = source.graph.types
    inputs = {name: declared[name] for name in source.graph.inputs if name in declared}
    nodes = tuple([walk.with_bodies(node, _undeclared) for node in source.graph.nodes])
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
    if any(walk.bodies_of(node.attrs) for node in nodes):
        ranked = {name: each for name, each in types.items() if name not in inputs and each.dims is not None}
        model = inferred(typed, ranked)
        for node in model.node if model is not None else ():
            types |= _of_bodies(node, lambda name: name)
    return types


def _by_length(source: Source) -> dict[str, ValueType]:
    """Return the ranks of values of unknown rank whose shape is a vector of known length."""
    graph = source.graph
    ranks: dict[str, ValueType] = {}
    for node in graph.nodes:
        place = traits.of(node.key).shape_input  # whose values onnx's inference wants to know
        if place is None or place >= len(node.inputs) or graph.types[node.outputs[0]].dims is not None:
            continue
        length = graph.type_of(node.inputs[place]).dims
        if length is not None and len(length) == 1 and isinstance(length[0], int) and length[0] <= MOST:
            dtype = graph.types[node.outputs[0]].dtype
            ranks[node.outputs[0]] = ValueType(dtype, (None,) * length[0])
    return ranks


def _undeclared(body: GraphProto) -> None:
    """Remove the shapes that a body and its nested bodies declare."""
    for graph in walk.graphs(body):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            clear_shape(value)


def _of_bodies(node: NodeProto, outer: Names) -> dict[str, ValueType]:
    types: dict[str, ValueType] = {}
    owner = next((name for name in map(outer, node.output) if name), "")
    for attribute, body in walk.bodies(node):
        start = prefix(owner, attribute)
        renamed = renaming(start, body, outer)
        infos = ((renamed(info.name), info) for info in (*body.input, *body.value_info, *body.output))
        types |= {name: of_proto(info.type) for name, info in infos if name.startswith(start)}
        for inner in body.node:
            types |= _of_bodies(inner, renamed)
    return types
