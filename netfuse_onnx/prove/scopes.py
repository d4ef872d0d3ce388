"""Finds the origin of each value in each graph of a ModelProto, for a walk from its outputs."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto

from netfuse_onnx.ops.walk import key


class Made(enum.StrEnum):
    """The kinds of origin of a value, in the words of messages."""

    INPUT = "an input"
    STORED = "a stored tensor"
    NODE = "what a node gives"
    NOWHERE = "a name that nothing defines"
    ABSENT = "absent"


class Scope:
    """One graph: the main graph, or a body, which also reads values of `parent`."""

    def __init__(self, graph: GraphProto, parent: Scope | None = None) -> None:
        self.graph, self.parent = graph, parent
        self.inputs = {value.name: place for place, value in enumerate(graph.input)}
        self.stored: Mapping[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {
            name: (index, place)
            for index, node in enumerate(graph.node)
            for place, name in enumerate(node.output)
            if name
        }

    def origin(self, name: str) -> Origin:
        """Return the innermost definition of a name that this graph sees."""
        scope: Scope | None = self
        while name and scope is not None:
            if name in scope.producers:
                return Origin(Made.NODE, scope, name, *scope.producers[name])
            if name in scope.stored:
                return Origin(Made.STORED, scope, name)
            if name in scope.inputs:
                return Origin(Made.INPUT, scope, name, place=scope.inputs[name])
            scope = scope.parent
        return Origin(Made.NOWHERE if name else Made.ABSENT, self, name)


@dataclass(frozen=True)
class Origin:
    """The definition of a value. `index` is the position of a node in the scope's graph, `place` the position
    of one of its outputs, or of a graph input."""

    made: Made
    scope: Scope
    name: str
    index: int = -1
    place: int = -1

    @property
    def node(self) -> NodeProto:
        node: NodeProto = self.scope.graph.node[self.index]
        return node

    def __str__(self) -> str:
        if self.made is Made.NODE:
            return f"output {self.place} of {title(self.node)}"
        if self.made in (Made.INPUT, Made.STORED):
            return f"{self.made} ({self.name!r})"
        return str(self.made)


def title(node: NodeProto) -> str:
    """Return the node as messages call it: by its name, or by its first output."""
    name = node.name or f"-> {next(filter(None, node.output), '')}"
    return f"{name!r} ({key(node)})"


def names(values: Iterable[str]) -> list[str]:
    """Return inputs or outputs of a node without the absent ones at the end."""
    kept = list(values)
    while kept and not kept[-1]:
        kept.pop()
    return kept
