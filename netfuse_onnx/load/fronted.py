"""Axes that count from the back in files of before opset 11, where the standard has none and exporters do.

ONNX Runtime takes them; onnx's inference gives up on some, and its converter then wraps what it can't tell
the rank of in reshapes. So they are counted from the front before a file is converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netfuse_onnx.load import within
from netfuse_onnx.ops.axes import ONE, ROWS, SETS, counted_in, from_front
from netfuse_onnx.types import Node, Source, ValueType

LEGAL = 11
"""The opset from which on axes may count from the back."""


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
    return {name: axes for name, axes in held.items() if min(axes if isinstance(axes, list) else [axes]) < 0}


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
