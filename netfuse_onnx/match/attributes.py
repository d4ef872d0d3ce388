"""The attributes of operators that differ between the models, those of nodes inside of bodies included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto

from netfuse_onnx.load import rebuild
from netfuse_onnx.match.flat import BEGIN, Flat, Step
from netfuse_onnx.match.operands import WITH_OPERANDS
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.match.sameness import essential, identical_attributes
from netfuse_onnx.ops import tables, walk
from netfuse_onnx.types import Node, Source

Matched = tuple[Source, Flat, Pairing]
"""A source that is not the first, its steps, and their correspondence with those of the first."""


def differing(ours: Flat, others: Sequence[Matched]) -> dict[int, tuple[Mapping[str, Any], ...]]:
    """For each node of the main graph whose attributes differ, also those of nodes in its bodies, return the
    attributes of each model. Bodies are those of the first source, which read values by its names."""
    attributes: dict[int, tuple[Mapping[str, Any], ...]] = {}
    inside: dict[int, dict[int, list[Mapping[str, Any]]]] = {}
    count: Counter[int] = Counter()
    for i, step in enumerate(ours.steps):
        twins = [(flat, flat.steps[pairing.steps[i]]) for _, flat, pairing in others]
        differs = any(not identical_attributes(step, twin, ours, flat) for flat, twin in twins)
        own = [walk.without_bodies(_respelled(ours, step, flat, twin)) for flat, twin in twins]
        models: list[Mapping[str, Any]] = [walk.without_bodies(step.node.attrs), *own]
        if step.scope and step.op != BEGIN:
            if differs:
                inside.setdefault(step.main, {})[count[step.main]] = models
            count[step.main] += 1
        elif not step.scope and (differs or step.main in inside):
            bodies = (with_attributes(step.node, inside.get(step.main, {}), m) for m in range(len(models)))
            attributes[step.main] = tuple(
                {**its, **own_bodies} for its, own_bodies in zip(models, bodies, strict=True)
            )
    return attributes


def _respelled(ours: Flat, step: Step, flat: Flat, twin: Step) -> Mapping[str, Any]:
    """Return the attributes of another source's step. Those that belong to an operand, and mean what the
    first's mean, are the first's: the operand is too."""
    mine, its = essential(step, ours), essential(twin, flat)
    first, own = step.node.attrs, dict(twin.node.attrs)
    for name in () if tables.learned(step.op, step.domain) else WITH_OPERANDS:
        if mine.get(name) == its.get(name):
            own.pop(name, None)
            own |= {name: first[name]} if name in first else {}
    return own


def with_attributes(
    node: Node, changed: Mapping[int, Sequence[Mapping[str, Any]]], model: int
) -> dict[str, GraphProto]:
    """Return the bodies of a node as one model has them. `changed` maps the place of a node inside, in the
    order of match.flat, to its attributes in each model."""
    bodies = walk.bodies_of(node.attrs)
    if not changed:
        return bodies
    copies = {name: walk.copied(body) for name, body in bodies.items()}
    for i, inner in enumerate(_inside(copies)):
        if i in changed:
            inner_bodies = [entry for entry in inner.attribute if entry.type == AttributeProto.GRAPH]
            types = {entry.name: entry.type for entry in inner.attribute}
            own = [rebuild.attribute(k, value, types.get(k)) for k, value in changed[i][model].items()]
            del inner.attribute[:]
            inner.attribute.extend([*own, *inner_bodies])
    return copies


def _inside(bodies: Mapping[str, GraphProto]) -> Iterator[NodeProto]:
    """Yield all nodes in bodies, those of nested bodies first, as match.flat lists them."""
    for name in sorted(bodies):
        for node in bodies[name].node:
            yield from _inside(dict(walk.bodies(node)))
            yield node
