"""Types and ranks of every value of a source.

onnx's own inference first, on a skeleton, with the shape functions of ONNX Runtime's operators
(shapes_contrib.py); what else is known of a value fills gaps and is inferred from again. What a file says of
values that are not its inputs is not known: claims.py tells what of it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx
from onnx import GraphProto, ModelProto

from netfuse_onnx.load import rebuild
from netfuse_onnx.load.pools import floored
from netfuse_onnx.ops import kinds, walk
from netfuse_onnx.ops.corrected import corrected
from netfuse_onnx.ops.shapes_contrib import known_to_onnx
from netfuse_onnx.types import Source, ValueType


def infer(source: Source) -> Source:
    """The source with a type for every value; one whose rank stays unknown has `dims` None. The types that it
    has already must be true of every run."""
    graph = source.graph
    hints = {name: graph.types[name] for name in graph.types if name not in graph.inputs}
    types = _run(source)
    while (graph := floored(source.graph, types, source.opsets.get("", 1))) is not source.graph:
        source = replace(source, graph=graph)
        types = _run(source)
    if missing := _missing(source, types):
        known = {name: hints[name] for name in missing if name in hints and kinds.has_rank(hints[name])}
        types = _with(source, types, known)
    return _typed_source(source, types)


def varying(source: Source) -> set[str]:
    """Values whose rank may be another in another run: a Squeeze without axes drops what happens to have
    size 1, and the branches of an If may give what they like. No run tells their ranks, nor those of what
    depends on them."""
    types, found = source.graph.types, set[str]()
    for node in source.graph.nodes:
        if node.op == "If" and not node.domain:
            found.update(name for name in node.outputs if name and not kinds.has_rank(types[name]))
        dims = types.get(node.inputs[0], ValueType()).dims if node.inputs else ()
        axes = len(node.inputs) > 1 or "axes" in node.attrs
        if node.op == "Squeeze" and not node.domain and not axes:
            static = dims is not None and all(isinstance(dim, int) for dim in dims)
            found.update(() if static or kinds.has_rank(types[node.outputs[0]]) else node.outputs)
        if not found.isdisjoint(node.reads):
            found.update(filter(None, node.outputs))
    return found


def unknown(source: Source) -> tuple[str, ...]:
    """Values of unknown rank, in topological order."""
    return _missing(source, source.graph.types)


def _typed_source(source: Source, types: Mapping[str, ValueType]) -> Source:
    return replace(source, graph=replace(source.graph, types=types))


def _run(source: Source, known: Mapping[str, ValueType] | None = None) -> dict[str, ValueType]:
    """One pass of onnx's inference over declared inputs and `known`; outputs keep what is known of them."""
    graph = source.graph
    bare = {name: graph.types[name] for name in graph.inputs if name in graph.types}
    start = _typed_source(source, bare | dict(known or {}))
    declared = {name: graph.types[name] for name in graph.outputs if name in graph.types}
    told = inferred(start, known or {})
    if told is None:
        found = dict(known or {})
    else:
        found = {info.name: kinds.of_proto(info.type) for info in (*told.value_info, *told.output)}
    values = [name for node in graph.nodes for name in node.outputs if name]
    types = {name: kinds.both(found.get(name, ValueType()), declared.get(name)) for name in values}
    return types | bare


def _unclaimed(skeleton: ModelProto) -> None:
    """Takes away what bodies declare of their outputs, and of the sizes of their inputs: ONNX Runtime does
    not hold them to it."""
    for body in itertools.islice(walk.graphs(skeleton.graph), 1, None):
        for value in body.output:
            kinds.clear_shape(value)
        for value in body.input:
            kinds.clear_sizes(value)


def inferred(source: Source, known: Mapping[str, ValueType]) -> GraphProto | None:
    """What onnx makes of the source, bodies included, given its types and `known`; None where it gives up."""
    try:
        outputs = source.graph.outputs
        skeleton = rebuild.model(source, values=[name for name in known if name not in outputs])
        corrected(skeleton)
        _unclaimed(skeleton)
        with known_to_onnx(skeleton.graph):
            return onnx.shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=True).graph
    except Exception:  # onnx raises many kinds; what it can't infer is unknown, that is all
        return None


def _with(
    source: Source, types: dict[str, ValueType], known: Mapping[str, ValueType]
) -> dict[str, ValueType]:
    """Inference again, with more known than before; it never loses what was known."""
    if not known:
        return types
    again = _run(source, known)
    return {name: kinds.both(kinds.both(types[name], again.get(name)), known.get(name)) for name in types}


def _missing(source: Source, types: Mapping[str, ValueType]) -> tuple[str, ...]:
    values: Iterable[str] = (name for node in source.graph.nodes for name in node.outputs if name)
    return tuple(name for name in values if not kinds.has_rank(types.get(name, ValueType())))
