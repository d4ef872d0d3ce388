"""Types and ranks of every value of a source.

onnx's own inference comes first, on a skeleton, with the shape functions of ONNX Runtime's operators
(shapes_contrib.py); what else is known of a value fills gaps, and inference runs again from there. What a
file says of values that are not its inputs is not known to be true: see claims.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import onnx
from onnx import GraphProto, ModelProto

from netfuse_onnx.load import rebuild
from netfuse_onnx.ops import kinds, walk
from netfuse_onnx.ops.corrected import corrected
from netfuse_onnx.ops.shapes_contrib import known_to_onnx
from netfuse_onnx.ops.traits import POOLS
from netfuse_onnx.types import Dim, Graph, Node, Source, ValueType

COUNTS_WINDOWS = 22
"""The opset from which on onnx counts the windows of pools that round up correctly."""


def infer(source: Source) -> Source:
    """Return the source with a type for every value; `dims` is None where the rank stays unknown. The types
    that the source has already must be true of every run."""
    graph = source.graph
    hints = {name: graph.types[name] for name in graph.types if name not in graph.inputs}
    types = _run(source)
    while (graph := _floored(source, types)) is not source.graph:
        source = replace(source, graph=graph)
        types = _run(source)
    if missing := _missing(source, types):
        given = {name: hints[name] for name in missing if name in hints and kinds.has_rank(hints[name])}
        second = _run(source, given) if given else {}  # nothing that was known gets lost
        types = {n: kinds.both(kinds.both(types[n], second.get(n)), given.get(n)) for n in types}
    return source.with_graph(types=types)


def varying(source: Source) -> set[str]:
    """Return the values whose rank may differ from run to run: a Squeeze without axes drops what happens to
    have size 1, and the branches of an If may give any rank. What depends on them varies too."""
    types, names = source.graph.types, set[str]()
    for node in source.graph.nodes:
        if node.op == "If" and not node.domain:
            names.update(name for name in node.outputs if name and not kinds.has_rank(types[name]))
        dims = types.get(node.inputs[0], ValueType()).dims if node.inputs else ()
        axes = len(node.inputs) > 1 or "axes" in node.attrs
        if node.op == "Squeeze" and not node.domain and not axes:
            static = dims is not None and all(isinstance(dim, int) for dim in dims)
            names.update(() if static or kinds.has_rank(types[node.outputs[0]]) else node.outputs)
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
        by_onnx = {info.name: kinds.of_proto(info.type) for info in infos}
    values = [name for node in graph.nodes for name in node.outputs if name]
    types = {name: kinds.both(by_onnx.get(name, ValueType()), declared.get(name)) for name in values}
    return types | bare


def _unclaimed(skeleton: ModelProto) -> None:
    """Remove the sizes that bodies declare: ONNX Runtime does not enforce them."""
    for body in itertools.islice(walk.graphs(skeleton.graph), 1, None):
        for value in body.output:
            kinds.clear_shape(value)
        for value in body.input:
            kinds.clear_sizes(value)


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


def _missing(source: Source, types: Mapping[str, ValueType]) -> tuple[str, ...]:
    values: Iterable[str] = (name for node in source.graph.nodes for name in node.outputs if name)
    return tuple(name for name in values if not kinds.has_rank(types.get(name, ValueType())))


# --------------------------------------------------------------------------- pools that round up


def _floored(source: Source, types: Mapping[str, ValueType]) -> Graph:
    """Return the graph, its pools that round up without effect rounding down; the same object without any.

    Before opset 22 onnx's inference counts the windows that start in the padding at the end (ceil_mode=1).
    ONNX Runtime and PyTorch drop them. Where rounding up adds nothing but such windows, ceil_mode=0 computes
    the same. This needs sizes, so inference runs again after it.
    """
    graph, typed = source.graph, replace(source.graph, types=types)
    if source.opsets.get("", 1) >= COUNTS_WINDOWS:
        return graph
    nodes = tuple(
        replace(node, attrs={**node.attrs, "ceil_mode": 0})
        if node.op in POOLS and _adds_only_dropped(node, typed.type_of(node.inputs[0]).dims or ())
        else node
        for node in graph.nodes
    )
    return graph if nodes == graph.nodes else replace(graph, nodes=nodes)


def _adds_only_dropped(node: Node, dims: Sequence[Dim]) -> bool:
    """Return True where rounding up adds windows that are dropped and none that is kept."""
    attrs, sizes = node.attrs, dims[2:]
    if not attrs.get("ceil_mode", 0) or attrs.get("auto_pad", b"NOTSET") != b"NOTSET" or node.domain:
        return False
    kernel = attrs["kernel_shape"]
    count = len(kernel)
    if len(sizes) != count or not all(isinstance(size, int) for size in sizes):
        return False
    pads = attrs.get("pads") or [0] * (2 * count)
    strides, dilations = (attrs.get(name) or [1] * count for name in ("strides", "dilations"))
    if (
        not len(strides) == len(dilations) == len(pads) // 2 == count
        or min((*strides, *kernel), default=1) < 1
    ):
        return False  # onnx and the runtimes refuse it
    rows = zip(sizes, kernel, strides, dilations, pads[:count], pads[count:], strict=True)
    added = [_added(*map(int, row)) for row in rows]
    return any(dropped for dropped, _ in added) and not any(kept for _, kept in added)


def _added(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> tuple[bool, bool]:
    """Return whether rounding up along one axis adds a window that is dropped, and one that is kept."""
    room = size + before + after - ((kernel - 1) * dilation + 1)
    if room % stride == 0:
        return False, False
    dropped = (room // stride + 1) * stride >= size + before
    return dropped, not dropped
