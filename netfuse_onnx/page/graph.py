"""The graph of a merged file as the page draws it: boxes, and the values that go from one to another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from netfuse_onnx import edges
from netfuse_onnx.errors import InternalError
from netfuse_onnx.labels import Labels
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED
from netfuse_onnx.lowered import NodeRow
from netfuse_onnx.ops import walk
from netfuse_onnx.page import groups
from netfuse_onnx.page.groups import Group
from netfuse_onnx.storage.tensors import BITS, dtype_name
from netfuse_onnx.types import Edge as Names
from netfuse_onnx.write.metadata import Metadata

LONGEST = 160
"""The longest text of an attribute that a page holds."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight that the merged file stores: its name in the source, type, merged shape and bytes."""

    value: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Box:
    """A group of nodes with the facts that the page shows of it. `became` is what became of the source's
    node, or the kind of a group that stands for none."""

    group: Group
    became: str
    op: str
    row: NodeRow | None
    counts: Mapping[str, int]
    weights: tuple[Stored, ...]
    attributes: Mapping[str, str]
    inside: tuple[NodeRow, ...] = ()
    """The rows of nodes in the bodies of this one."""

    @property
    def module(self) -> str:
        """The module of the network whose weight this applies, by the weight's name; '' if none tells."""
        named = (weight.value.rpartition(".")[0] for weight in self.weights)
        return next(filter(None, named), "")


@dataclass(frozen=True, slots=True)
class Arrow:
    """Values that go from one box to another, by their places. `layout` is that of the first value."""

    start: int
    end: int
    layout: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """The boxes in an order in which what is read comes first, the arrows, and the rows of nodes of which
    nothing is left in the graph: what they make is stored, or is another name of what they read."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    gone: tuple[NodeRow, ...]


def drawing(model: onnx.ModelProto, about: Metadata) -> Drawing:
    """Return the graph of a merged file, from its skeleton and its metadata."""
    lowered, graph = about.lowered, model.graph
    found = groups.grouped(
        graph, lowered, about.models, about.io, tuple(about.labels.rows()), ids(graph, about)
    )
    weights = dict(_stored(graph, about))
    inside = _inside(about)
    boxes = tuple(_box(group, about, weights, inside) for group in found)
    drawn = {group.row for group in found}
    hidden = {place for places in inside.values() for place in places}
    left = (place for place in range(len(lowered.nodes)) if place not in drawn and place not in hidden)
    return Drawing(boxes, tuple(_arrows(found, boxes, about)), tuple(lowered.nodes[place] for place in left))


def ids(graph: onnx.GraphProto, about: Metadata) -> str:
    """Return the name of the input that names models; '' where a call runs them all."""
    if about.names:
        return about.labels.ids
    taken = dict.fromkeys((info.name for info in graph.input), "")
    for name in (edges.IDS, edges.ROUTE):  # the sources' own names, without that of the input itself
        others = {key: "" for key in taken if key not in (name, f"netfuse/{name}")}
        label = Labels(about.models, (Names(others, {}),), about.io).ids
        if label in taken:
            return label
    return ""


# --------------------------------------------------------------------------- boxes


def _inside(about: Metadata) -> dict[int, list[int]]:
    """Return the places of the rows in bodies, by the place of the row that owns them."""
    found, owner = dict[int, list[int]](), -1
    for place, scope in enumerate(groups.scopes(about.lowered)):
        if scope:
            owner = place
        else:
            found.setdefault(owner, []).append(place)
    return found


def _box(
    group: Group, about: Metadata, weights: Mapping[str, Stored], inside: Mapping[int, Sequence[int]]
) -> Box:
    rows = about.lowered.nodes
    row = None if group.row is None else rows[group.row]
    read = dict.fromkeys(name for node in group.nodes for name in groups.reads(node) if name in weights)
    return Box(
        group,
        became=row.became if row else group.kind,
        op=row.op if row else group.after or group.kind,
        row=row,
        counts=Counter(walk.key(node) for node in group.nodes),
        weights=tuple(weights[name] for name in read),
        attributes=_attributes(_main(group, row)) if row else {},
        inside=tuple(rows[place] for place in inside.get(-1 if group.row is None else group.row, ())),
    )


def _main(group: Group, row: NodeRow) -> onnx.NodeProto | None:
    """Return the node that computes what the source's node does; None where that has other operators."""
    return next((node for node in group.nodes if walk.key(node) == row.op), None)


def _attributes(node: onnx.NodeProto | None) -> dict[str, str]:
    """Return the short attributes of a node as text."""
    found = {}
    for attribute in node.attribute if node is not None else ():
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            continue
        if attribute.type in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS):
            found[attribute.name] = "a tensor"
            continue
        text = _text(onnx.helper.get_attribute_value(attribute))
        found[attribute.name] = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return found


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_text, list(value)[:LONGEST]))}]"
    return str(value)


def kind(dtype: int) -> str:
    """Return an element type as numpy calls it."""
    name = dtype_name(dtype).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _stored(graph: onnx.GraphProto, about: Metadata) -> Iterator[tuple[str, Stored]]:
    """Yield the weights that the file stores, by their merged names. Constants of rules are none."""
    for tensor in graph.initializer:
        line = about.weights.get(tensor.name)
        if line is not None:
            shape = tuple(tensor.dims)
            size = -(-math.prod(shape) * BITS.get(tensor.data_type, 0) // 8)
            yield tensor.name, Stored(line["value"], kind(tensor.data_type), shape, size)


# --------------------------------------------------------------------------- arrows


def _arrows(found: Sequence[Group], boxes: Sequence[Box], about: Metadata) -> Iterator[Arrow]:
    makers: dict[str, tuple[int, str]] = {}
    for place, (group, box) in enumerate(zip(found, boxes, strict=True)):
        if group.kind == groups.INPUT:
            makers |= {name: (place, _fed(name, about)) for name in group.tensors}
        for node in group.nodes:
            makers |= {name: (place, _given(box, node, name)) for name in node.output if name}
    between: dict[tuple[int, int], dict[str, str]] = {}
    for place, group in enumerate(found):
        wanted = [name for node in group.nodes for name in groups.reads(node)]
        for name in wanted + (group.tensors if group.kind == groups.OUTPUT else []):
            start, layout = makers.get(name, (place, ""))
            if start != place:
                between.setdefault((start, place), {})[name] = layout
    for (start, end), values in between.items():
        if not 0 <= start < len(boxes):
            raise InternalError("an arrow of the page begins nowhere")
        yield Arrow(start, end, next(iter(values.values())), tuple(values))


def _fed(name: str, about: Metadata) -> str:
    """Return the layout of an input of the merged graph."""
    if name in about.share:
        return str(SHARED)
    if edges.is_separate(about.io):
        return str(PER_MODEL)
    return "" if edges.is_routed(about.io) else str(STACKED(0))


def _given(box: Box, node: onnx.NodeProto, name: str) -> str:
    """Return the layout of a value that a box gives; '' where nothing says it."""
    if box.row is None:
        return box.group.after
    gives = box.row.gives
    if len(set(gives)) == 1:
        return gives[0]
    place = list(node.output).index(name)
    return gives[place] if len(gives) == len(node.output) else ""
