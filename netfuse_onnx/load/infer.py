"""Types and ranks of every value of a source.

onnx's own inference comes first, on a skeleton, with the shape functions of ONNX Runtime's operators
(shapes_contrib.py); what else is known of a value fills gaps, and inference runs again from there. What a
file says of values that are not its inputs is not known to be true: see claims.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx
from onnx import GraphProto, ModelProto

from netfuse_onnx.load import rebuild
from netfuse_onnx.load.normal import value_type
from netfuse_onnx.load.pools import floored
from netfuse_onnx.ops.corrected import corrected
from netfuse_onnx.ops.shapes import every_node
from netfuse_onnx.ops.shapes_contrib import known_to_onnx
from netfuse_onnx.types import Dim, Source, ValueType


def infer(source: Source) -> Source:
    """Return the source with a type for every value; `dims` is None where the rank stays unknown. The types
    that the source has already must be true of every run."""
    graph = source.graph
    hints = {name: graph.types[name] for name in graph.types if name not in graph.inputs}
    types = _run(source)
    while (graph := floored(source.graph, types, source.opsets.get("", 1))) is not source.graph:
        source = replace(source, graph=graph)
        types = _run(source)
    if missing := _missing(source, types):
        given = {name: hints[name] for name in missing if name in hints and _typed(hints[name])}
        types = _with(source, types, given)
    return source.with_graph(types=types)


def varying(source: Source) -> set[str]:
    """Return the values whose rank may differ from run to run: a Squeeze without axes drops what happens to
    have size 1, and the branches of an If may give any rank. What depends on them varies too."""
    types, names = source.graph.types, set[str]()
    for node in source.graph.nodes:
        if node.op == "If" and not node.domain:
            names.update(name for name in node.outputs if name and not _typed(types[name]))
        dims = types.get(node.inputs[0], ValueType()).dims if node.inputs else ()
        axes = len(node.inputs) > 1 or "axes" in node.attrs
        if node.op == "Squeeze" and not node.domain and not axes:
            static = dims is not None and all(isinstance(dim, int) for dim in dims)
            names.update(() if static or _typed(types[node.outputs[0]]) else node.outputs)
        if not names.isdisjoint(node.reads):
            names.update(filter(None, node.outputs))
    return names


def unknown(source: Source) -> tuple[str, ...]:
    """Return the values of unknown rank, in topological order."""
    return _missing(source, source.graph.types)


def _run(source: Source, given: Mapping[str, ValueType] | None = None) -> dict[str, ValueType]:
    """Run onnx's inference once from the types of inputs and those given; outputs keep what the source
    knows."""
    graph = source.graph
    bare = {name: graph.types[name] for name in graph.inputs if name in graph.types}
    start = source.with_graph(types=bare | dict(given or {}))
    declared = {name: graph.types[name] for name in graph.outputs if name in graph.types}
    skeleton = inferred(start, given or {})
    if skeleton is None:
        by_onnx = dict(given or {})
    else:
        infos = (*skeleton.value_info, *skeleton.output)
        by_onnx = {info.name: value_type(info.type) for info in infos}
    values = [name for node in graph.nodes for name in node.outputs if name]
    types = {name: _meet(by_onnx.get(name, ValueType()), declared.get(name)) for name in values}
    return types | bare


def _unclaimed(skeleton: ModelProto) -> None:
    """Remove the sizes that bodies declare: ONNX Runtime does not enforce them."""
    for body in (a.g for node in every_node(skeleton.graph) for a in node.attribute if a.HasField("g")):
        for value in body.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        for dim in (dim for value in body.input for dim in value.type.tensor_type.shape.dim):
            dim.Clear()


def inferred(source: Source, more: Mapping[str, ValueType]) -> GraphProto | None:
    """Return the graph with what onnx infers from the source's types and `more`; None where it fails."""
    try:
        outputs = source.graph.outputs
        skeleton = rebuild.model(source, values=[name for name in more if name not in outputs])
        corrected(skeleton)
        _unclaimed(skeleton)
        with known_to_onnx(skeleton.graph):
            return onnx.shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=True).graph
    except Exception:  # onnx raises many kinds; what it can't infer is unknown, that is all
        return None


def _with(source: Source, types: dict[str, ValueType], more: Mapping[str, ValueType]) -> dict[str, ValueType]:
    """Infer again from more types. Nothing that was known gets lost."""
    if not more:
        return types
    second = _run(source, more)
    return {name: _meet(_meet(types[name], second.get(name)), more.get(name)) for name in types}


def _meet(first: ValueType, second: ValueType | None) -> ValueType:
    """Combine two accounts of one value; the second counts where they contradict."""
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
