"""Pools that round up and gain nothing by it: in normal form they round down.

Before opset 22 onnx's inference counts the windows that start in the padding at the end (ceil_mode=1). ONNX
Runtime and PyTorch drop them. Where all that rounding up adds are such windows, ceil_mode=0 says the same,
and nobody miscounts. It needs sizes, so it happens after inference, which then runs again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from netfuse_onnx.ops.traits import POOLS
from netfuse_onnx.types import Dim, Graph, Node, ValueType

RIGHT = 22
"""The opset from which on onnx counts right."""


def floored(graph: Graph, types: Mapping[str, ValueType], opset: int) -> Graph:
    """The graph with such pools changed; itself where there are none."""
    if opset >= RIGHT or not any(node.op in POOLS for node in graph.nodes):
        return graph
    nodes = tuple(
        replace(node, attrs={**node.attrs, "ceil_mode": 0})
        if node.op in POOLS and _gains_nothing(node, _dims(node.inputs[0], graph, types))
        else node
        for node in graph.nodes
    )
    return graph if nodes == graph.nodes else replace(graph, nodes=nodes)


def _dims(name: str, graph: Graph, types: Mapping[str, ValueType]) -> Sequence[Dim]:
    if name in graph.weights:
        return graph.weights[name].shape
    return types.get(name, ValueType()).dims or ()


def _gains_nothing(node: Node, dims: Sequence[Dim]) -> bool:
    """True where some windows that rounding up adds are dropped, and none is kept. `dims`: what it pools."""
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
    """Whether rounding up adds a window that is dropped, and one that is kept."""
    room = size + before + after - ((kernel - 1) * dilation + 1)
    if room % stride == 0:
        return False, False
    dropped = (room // stride + 1) * stride >= size + before
    return dropped, not dropped
