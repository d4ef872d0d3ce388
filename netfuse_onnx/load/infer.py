"""Types and ranks of every value of a source.

onnx's own inference first, on a skeleton, with the shape functions of ONNX Runtime's operators
(shapes_contrib.py); what the file itself says of a value fills gaps and is inferred from again. `complete`
is the last resort for the ranks that are still missing: one run of the model with those values as outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import onnx
from onnx import GraphProto

from netfuse_onnx.load import rebuild
from netfuse_onnx.load.normal import value_type
from netfuse_onnx.load.pools import floored
from netfuse_onnx.ops.corrected import corrected
from netfuse_onnx.ops.shapes_contrib import known_to_onnx
from netfuse_onnx.types import Dim, Source, ValueType

Complete = Callable[[Source, tuple[str, ...]], Mapping[str, ValueType]]
"""Finds the types of the named values of a source, those that it can."""


def infer(source: Source, complete: Complete | None = None) -> Source:
    """The source with a type for every value; one whose rank stays unknown has `dims` None."""
    graph = source.graph
    hints = {name: graph.types[name] for name in graph.types if name not in graph.inputs}
    types = _run(source)
    while (graph := floored(source.graph, types, source.opsets.get("", 1))) is not source.graph:
        source = replace(source, graph=graph)
        types = _run(source)
    if missing := _missing(source, types):
        known = {name: hints[name] for name in missing if name in hints and _typed(hints[name])}
        types = _with(source, types, known)
    if complete is not None and (missing := _missing(source, types)):
        varying = _varying(source, types)
        if steady := tuple(name for name in missing if name not in varying):
            types = _with(source, types, complete(_typed_source(source, types), steady))
    return _typed_source(source, types)


def _varying(source: Source, types: Mapping[str, ValueType]) -> set[str]:
    """Values whose rank may be another in another run: a Squeeze without axes drops what happens to have
    size 1. No run tells their ranks, nor those of what depends on them."""
    found: set[str] = set()
    for node in source.graph.nodes:
        dims = types.get(node.inputs[0], ValueType()).dims if node.inputs else ()
        axes = len(node.inputs) > 1 or "axes" in node.attrs
        if node.op == "Squeeze" and not node.domain and not axes:
            static = dims is not None and all(isinstance(dim, int) for dim in dims)
            found.update(() if static or _typed(types[node.outputs[0]]) else node.outputs)
        if not found.isdisjoint(node.reads):
            found.update(filter(None, node.outputs))
    return found


def unknown(source: Source) -> tuple[str, ...]:
    """Values of unknown rank, in topological order."""
    return _missing(source, source.graph.types)


def _typed_source(source: Source, types: Mapping[str, ValueType]) -> Source:
    return replace(source, graph=replace(source.graph, types=types))


def _run(source: Source, known: Mapping[str, ValueType] | None = None) -> dict[str, ValueType]:
    """One pass of onnx's inference over declared inputs and `known`; outputs keep what the file declares."""
    graph = source.graph
    bare = {name: graph.types[name] for name in graph.inputs if name in graph.types}
    start = _typed_source(source, bare | dict(known or {}))
    declared = {name: graph.types[name] for name in graph.outputs if name in graph.types}
    told = inferred(start, known or {})
    if told is None:
        found = dict(known or {})
    else:
        found = {info.name: value_type(info.type) for info in (*told.value_info, *told.output)}
    values = [name for node in graph.nodes for name in node.outputs if name]
    types = {name: _meet(found.get(name, ValueType()), declared.get(name)) for name in values}
    return types | bare


def inferred(source: Source, known: Mapping[str, ValueType]) -> GraphProto | None:
    """What onnx makes of the source, bodies included, given its types and `known`; None where it gives up."""
    try:
        outputs = source.graph.outputs
        skeleton = rebuild.model(source, values=[name for name in known if name not in outputs])
        corrected(skeleton)
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
    return {name: _meet(_meet(types[name], again.get(name)), known.get(name)) for name in types}


def _meet(first: ValueType, second: ValueType | None) -> ValueType:
    """What two accounts of one value know together; the second where they contradict."""
    if second is None or first.proto is not None:
        return first
    if second.proto is not None:
        return first if first.dtype else second
    dtype = first.dtype or second.dtype
    if first.dims is None or second.dims is None or len(first.dims) != len(second.dims):
        return ValueType(dtype, second.dims if first.dims is None else first.dims)
    return ValueType(dtype, tuple(map(_narrower, first.dims, second.dims)))


def _narrower(a: Dim, b: Dim) -> Dim:
    """A size says more than a symbol. Otherwise the second counts: a symbol may be one that onnx made up,
    and onnx's inference has been seen to miscount (STFT, 1.23) where no runtime did."""
    if b is None or (isinstance(a, int) and not isinstance(b, int)):
        return a
    return b


def _typed(kind: ValueType) -> bool:
    return kind.dims is not None or kind.proto is not None


def _missing(source: Source, types: Mapping[str, ValueType]) -> tuple[str, ...]:
    values: Iterable[str] = (name for node in source.graph.nodes for name in node.outputs if name)
    return tuple(name for name in values if not _typed(types.get(name, ValueType())))
