"""The types of all values of a source, those inside of bodies too, as inference alone tells them.

What a file declares of its outputs and of values in between does not count here: ONNX Runtime does not hold a
model to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx import GraphProto, NodeProto

from netfuse_onnx.load.claims import Complete, settle
from netfuse_onnx.load.infer import infer, inferred, unknown
from netfuse_onnx.ops import traits, walk
from netfuse_onnx.ops.kinds import clear_shape, of_proto
from netfuse_onnx.types import Source, ValueType

Names = Callable[[str], str]
MOST = 64
"""The highest rank that is believed. No runtime has tensors of more axes."""
PASSES = 4
"""Rounds of inference, each of which starts from what the one before could tell by the lengths of shapes."""


def prefix(owner: str, attribute: str) -> str:
    """The start of the names inside of a body. `owner` is the first output of the node that it belongs to."""
    return f"{owner}\0{attribute}\0"


def kinds(source: Source, complete: Complete | None = None) -> dict[str, ValueType]:
    """Value -> type. Values of bodies are named as match does it. `complete` is for claims.settle."""
    graph = source.graph
    bare = {name: kind for name, kind in graph.types.items() if name in graph.inputs}
    nodes = tuple([walk.with_bodies(node, _undeclared) for node in graph.nodes])
    plain = replace(source, graph=replace(graph, types=bare, nodes=nodes))
    typed = infer(plain)
    for _ in range(PASSES):
        told = _by_length(typed)
        if not told:
            break
        plain = replace(plain, graph=replace(plain.graph, types={**plain.graph.types, **told}))
        typed = infer(plain)
    if complete is not None and unknown(typed):
        typed, _ = settle(plain, complete)
    types = dict(typed.graph.types)
    if any(walk.bodies_of(node.attrs) for node in nodes):
        known = {name: kind for name, kind in types.items() if name not in bare}
        model = inferred(typed, {name: kind for name, kind in known.items() if kind.dims is not None})
        for node in model.node if model is not None else ():
            types |= _of_bodies(node, lambda name: name)
    return types


def _by_length(source: Source) -> dict[str, ValueType]:
    """The ranks of values of unknown rank whose shape is a vector of a known length."""
    graph = source.graph
    found: dict[str, ValueType] = {}
    for node in graph.nodes:
        place = traits.of(node.key).shape_input  # whose values onnx's inference wants to know
        if place is None or place >= len(node.inputs) or graph.types[node.outputs[0]].dims is not None:
            continue
        held = graph.weights.get(node.inputs[place])
        length = held.shape if held else graph.types.get(node.inputs[place], ValueType()).dims
        if length is not None and len(length) == 1 and isinstance(length[0], int) and length[0] <= MOST:
            dtype = graph.types[node.outputs[0]].dtype
            found[node.outputs[0]] = ValueType(dtype, (None,) * length[0])
    return found


def _undeclared(body: GraphProto) -> None:
    """Take away the shapes that a body declares, and those inside of it."""
    for graph in walk.graphs(body):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            clear_shape(value)


def _of_bodies(node: NodeProto, outer: Names) -> dict[str, ValueType]:
    found: dict[str, ValueType] = {}
    owner = next((name for name in map(outer, node.output) if name), "")
    for name, body in walk.bodies(node):
        found |= _of_body(body, prefix(owner, name), outer)
    return found


def _of_body(body: GraphProto, start: str, outer: Names) -> dict[str, ValueType]:
    local = {value.name for value in body.input} | {name for node in body.node for name in node.output}

    def renamed(name: str) -> str:
        return start + name if name in local and name else outer(name)

    infos = (*body.input, *body.value_info, *body.output)
    found = {start + info.name: of_proto(info.type) for info in infos if info.name in local}
    for node in body.node:
        found |= _of_bodies(node, renamed)
    return found
