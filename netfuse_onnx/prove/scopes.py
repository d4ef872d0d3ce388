"""A ModelProto opened for a walk from its outputs: where each value of each graph comes from."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto, TensorProto

from netfuse_onnx.ops.walk import key


class Made(enum.StrEnum):
    """The origin of a value, in the words of messages."""

    INPUT = "an input"
    STORED = "a stored tensor"
    NODE = "what a node gives"
    NOWHERE = "a name that nothing defines"
    ABSENT = "absent"


@dataclass(eq=False)
class Scope:
    """One graph: the main graph, or a body, which reads values of `parent` too."""

    graph: GraphProto
    parent: Scope | None = None
    inputs: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, TensorProto] = field(default_factory=dict)
    producers: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.graph
        self.inputs = {value.name: place for place, value in enumerate(graph.input)}
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {
            name: (index, place)
            for index, node in enumerate(graph.node)
            for place, name in enumerate(node.output)
            if name
        }

    def origin(self, name: str) -> Origin:
        """The definition of a name as this graph sees it, the innermost one."""
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
    """The definition of a value. `index` is a node of the scope's graph, `place` one of its outputs, or the
    position of an input."""

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
    """A node as messages name it: by its name, or by the first value that it gives."""
    name = node.name or f"-> {next(filter(None, node.output), '')}"
    return f"{name!r} ({key(node)})"


def names(values: Iterable[str]) -> list[str]:
    """Inputs or outputs of a node without the absent ones at the end."""
    kept = list(values)
    while kept and not kept[-1]:
        kept.pop()
    return kept
