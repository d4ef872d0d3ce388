"""Rewriting of a graph by forms: functions that replace a node, and what it reads, by an equal node.

The forms are in fused.py. Spellings of axes, bounds and defaults are not among them: the comparison itself
ignores these (match/spelling.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from netfuse_onnx.load.claims import unclaimed
from netfuse_onnx.load.infer import infer
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Dim, Graph, Node, Source, Weight

SMALL = 64
"""The largest number of elements of a constant whose values a form reads."""

Values = np.ndarray[Any, Any]
Form = Callable[["Forms", Node], Node | None]
FORMS: dict[str, list[Form]] = {}
"""Operator -> the forms that end in a node of this operator."""


def form(*ops: str) -> Callable[[Form], Form]:
    """Register a form for nodes of these operators."""

    def register(function: Form) -> Form:
        for op in ops:
            FORMS.setdefault(op, []).append(function)
        return function

    return register


class Forms:
    """One pass over the nodes of a graph."""

    def __init__(self, source: Source, graph: Graph) -> None:
        self.graph, self.opset = graph, source.opsets.get("", 1)
        self.source = source
        self.producers = {name: node for node in graph.nodes for name in node.outputs if name}
        self.fresh: dict[str, Weight] = {}

    def run(self) -> Graph:
        nodes, changed = [], False
        for node in self.graph.nodes:
            new = None
            for each in FORMS.get(node.op, ()) if not node.domain else ():
                new = new or self._changed(each, node)
            nodes.append(new or node)
            changed |= new is not None
        if not changed:
            return self.graph
        return _live(replace(self.graph, nodes=tuple(nodes), weights={**self.graph.weights, **self.fresh}))

    def _changed(self, each: Form, node: Node) -> Node | None:
        """Return the node in its form; None for a node with axes or bounds that no runtime accepts."""
        try:
            return each(self, node)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return None

    @functools.cached_property
    def typed(self) -> Graph:
        """The graph with the types of all values. They are inferred on demand: most families need none."""
        return infer(unclaimed(replace(self.source, graph=self.graph))).graph

    def producer(self, name: str, op: str) -> Node | None:
        """Return the node that produces a value, if it is of this operator."""
        node = self.producers.get(name)
        return node if node is not None and node.op == op and not node.domain else None

    def constant(self, name: str) -> Values | None:
        """Return the values of a small constant."""
        weight = self.graph.weights.get(name)
        if weight is None or isinstance(weight.data, tuple) or np.prod(weight.shape) > SMALL:
            return None
        return weights.array(weight)

    def scalar(self, name: str) -> float | None:
        values = self.constant(name)
        return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None

    def dims(self, name: str) -> tuple[Dim, ...] | None:
        return self.typed.type_of(name).dims

    def dtype(self, name: str) -> int:
        return self.typed.type_of(name).dtype

    def axes(self, node: Node) -> list[int] | None:
        """Return the axes of a reduction or a Squeeze; None where they are not constant."""
        if "axes" in node.attrs:
            return list(node.attrs["axes"])
        values = self.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return None if values is None else [int(value) for value in values.reshape(-1)]

    def new_constant(self, values: Values) -> str:
        """Add a constant and return its name."""
        count = len(self.fresh)
        taken = (self.graph.weights, self.fresh, self.producers, self.graph.inputs)
        while any(f"constant__{count}" in names for names in taken):
            count += 1
        dtype = {np.dtype(np.int64): 7, np.dtype(np.float32): 1}[values.dtype]
        self.fresh[f"constant__{count}"] = Weight(dtype, values.shape, values.tobytes())
        return f"constant__{count}"

    def operands_by(self, node: Node | None, op: str) -> list[tuple[Node, str]]:
        """Return each operand of a binary operator that a node of type `op` produces, with the other
        operand."""
        if node is None or len(node.inputs) != 2:
            return []
        both = ((self.producer(one, op), other) for one, other in (node.inputs, node.inputs[::-1]))
        return [(maker, other) for maker, other in both if maker is not None]

    def operand_by(self, node: Node | None, op: str) -> tuple[Node, str] | None:
        """Return the first entry of `operands_by`."""
        return next(iter(self.operands_by(node, op)), None)

    def with_scalar(self, node: Node) -> tuple[str, float] | None:
        """Return the computed operand and the constant one, a number."""
        for one, other in (node.inputs, node.inputs[::-1]):
            if (value := self.scalar(other)) is not None and one not in self.graph.weights:
                return one, value
        return None


def _live(graph: Graph) -> Graph:
    """Remove the nodes and weights that no output depends on."""
    needed, live = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            live.append(node)
            needed.update(node.reads)
    weights = {name: weight for name, weight in graph.weights.items() if name in needed}
    return replace(graph, nodes=tuple(live[::-1]), weights=weights)
