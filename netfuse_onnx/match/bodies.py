"""Bodies of one operator that are the same for all models but for attributes of nodes inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto

from netfuse_onnx.load import rebuild
from netfuse_onnx.ops import walk
from netfuse_onnx.types import Node


def with_attributes(
    node: Node, changed: Mapping[int, Sequence[Mapping[str, Any]]], model: int
) -> dict[str, GraphProto]:
    """The bodies of a node as a model has them. `changed`: by the place of a node inside, in the order of
    match.flat, its plain attributes in each model."""
    bodies = walk.bodies_of(node.attrs)
    if not changed:
        return bodies
    copies = {name: walk.copied(body) for name, body in bodies.items()}
    for i, inner in enumerate(_inside(copies)):
        if i in changed:
            kept = [attribute for attribute in inner.attribute if attribute.type == AttributeProto.GRAPH]
            kinds = {attribute.name: attribute.type for attribute in inner.attribute}
            own = [rebuild.attribute(k, value, kinds.get(k)) for k, value in changed[i][model].items()]
            del inner.attribute[:]
            inner.attribute.extend([*own, *kept])
    return copies


def _inside(bodies: Mapping[str, GraphProto]) -> Iterator[NodeProto]:
    """All nodes in bodies, those of bodies further in first, as match.flat lists them."""
    for name in sorted(bodies):
        for node in bodies[name].node:
            yield from _inside(dict(walk.bodies(node)))
            yield node
