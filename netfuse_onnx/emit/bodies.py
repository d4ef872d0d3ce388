"""Bodies of If, Loop, Scan: GraphProtos that read outer values by name.

Every copy of a body gets names of its own, because ONNX wants each name once across nested graphs. The
outer values keep their source names until export, when the names of the merged values are final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter


def bind(attrs: Mapping[str, Any], emit: Emitter) -> dict[str, Any]:
    """Attributes whose bodies define no name that another body or the merged graph defines."""
    out = dict(attrs)
    for key, value in attrs.items():
        if isinstance(value, onnx.GraphProto):
            fresh = {name: emit.fresh(f"{emit.scope}/{name}") for name in defined(value)}
            out[key] = renamed(value, lambda name, fresh=fresh: fresh.get(name, name))  # type: ignore[misc]
    return out


def defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a body defines, nested bodies included."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from filter(None, node.output)
        for body in inside(node):
            yield from defined(body)


def inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a node."""
    return (attr.g for attr in node.attribute if attr.HasField("g"))


def renamed(graph: onnx.GraphProto, name: Callable[[str], str]) -> onnx.GraphProto:
    """A copy in which every value is renamed, nested bodies included."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    rename(copy, name)
    return copy


def rename(graph: onnx.GraphProto, name: Callable[[str], str]) -> None:
    """Rename every value of a body in place."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = name(value.name)
    for node in graph.node:
        node.input[:] = [name(v) if v else "" for v in node.input]
        node.output[:] = [name(v) if v else "" for v in node.output]
        for body in inside(node):
            rename(body, name)
