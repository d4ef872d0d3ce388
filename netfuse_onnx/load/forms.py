"""One spelling for what exporters write in several ways, from one opset to the next.

Only files that differ otherwise are respelled. Each form computes what the spelling of the file does: the
same numbers, but for layer normalisation and Gelu, which are one operator from opset 17 and 20 on and round
as ONNX Runtime rounds when it fuses them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from netfuse_onnx.load.claims import unclaimed
from netfuse_onnx.load.infer import infer
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Dim, Graph, Node, Source, ValueType, Weight

SMALL = 64
"""Most elements of a constant that a form asks for."""

Values = np.ndarray[Any, Any]
Form = Callable[["Forms", Node], Node | None]
FORMS: dict[str, list[Form]] = {}
"""Operator -> the forms that end in it."""


def respelled(source: Source) -> Source:
    """The source with each form in its one spelling; itself where there is nothing to change."""
    graph = source.graph
    while (changed := Forms(source, graph).run()) is not graph:
        graph = changed
    return source if graph is source.graph else replace(source, graph=graph)


def form(*ops: str) -> Callable[[Form], Form]:
    """Register a form that is looked for at these operators."""

    def register(function: Form) -> Form:
        for op in ops:
            FORMS.setdefault(op, []).append(function)
        return function

    return register


class Forms:
    """One pass over a graph."""

    def __init__(self, source: Source, graph: Graph) -> None:
        self.graph, self.opset = graph, source.opsets.get("", 1)
        self.source = source
        self.makers = {name: node for node in graph.nodes for name in node.outputs if name}
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
        """The node in its form. One with axes or bounds that no runtime takes has none."""
        try:
            return each(self, node)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return None

    @functools.cached_property
    def types(self) -> Mapping[str, ValueType]:
        """The types of all values; most files that differ ask for none."""
        return infer(unclaimed(replace(self.source, graph=self.graph))).graph.types

    def maker(self, name: str, op: str) -> Node | None:
        """The node that gives a value, where it is of this operator."""
        node = self.makers.get(name)
        return node if node is not None and node.op == op and not node.domain else None

    def const(self, name: str) -> Values | None:
        """A small constant."""
        weight = self.graph.weights.get(name)
        if weight is None or isinstance(weight.data, tuple) or np.prod(weight.shape) > SMALL:
            return None
        return weights.array(weight)

    def scalar(self, name: str) -> float | None:
        values = self.const(name)
        return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None

    def dims(self, name: str) -> tuple[Dim, ...] | None:
        if name in self.graph.weights:
            return self.graph.weights[name].shape
        return self.types.get(name, ValueType()).dims

    def dtype(self, name: str) -> int:
        if name in self.graph.weights:
            return self.graph.weights[name].dtype
        return self.types.get(name, ValueType()).dtype

    def axes(self, node: Node) -> list[int] | None:
        """The axes of a reduction or a Squeeze, an attribute or an input; None where they are not known."""
        if "axes" in node.attrs:
            return list(node.attrs["axes"])
        values = self.const(node.inputs[1]) if len(node.inputs) > 1 else None
        return None if values is None else [int(value) for value in values.reshape(-1)]

    def constant(self, values: Values) -> str:
        """A new constant."""
        count = len(self.fresh)
        taken = (self.graph.weights, self.fresh, self.makers, self.graph.inputs)
        while any(f"constant__{count}" in names for names in taken):
            count += 1
        dtype = {np.dtype(np.int64): 7, np.dtype(np.float32): 1}[values.dtype]
        self.fresh[f"constant__{count}"] = Weight(dtype, values.shape, values.tobytes())
        return f"constant__{count}"

    def pairs(self, node: Node | None, op: str) -> list[tuple[Node, str]]:
        """The operands of a binary operator that `op` gives, each with the other one."""
        if node is None or len(node.inputs) != 2:
            return []
        both = ((self.maker(one, op), other) for one, other in (node.inputs, node.inputs[::-1]))
        return [(maker, other) for maker, other in both if maker is not None]

    def pair(self, node: Node | None, op: str) -> tuple[Node, str] | None:
        """The first of `pairs`."""
        return next(iter(self.pairs(node, op)), None)

    def with_scalar(self, node: Node) -> tuple[str, float] | None:
        """An operand that is computed, and the other one, a constant number."""
        for one, other in (node.inputs, node.inputs[::-1]):
            if (value := self.scalar(other)) is not None and one not in self.graph.weights:
                return one, value
        return None


def _live(graph: Graph) -> Graph:
    """Without the nodes and weights that nothing reads any more."""
    needed, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node.reads)
    held = {name: weight for name, weight in graph.weights.items() if name in needed}
    return replace(graph, nodes=tuple(kept[::-1]), weights=held)


# ------------------------------------------------------------------ what says nothing


@form("Slice")
def _steps_of_one(forms: Forms, node: Node) -> Node | None:
    if len(node.inputs) < 5:
        return None
    steps = forms.const(node.inputs[4])
    return replace(node, inputs=node.inputs[:4]) if steps is not None and (steps == 1).all() else None


@form("Slice")
def _all_axes(forms: Forms, node: Node) -> Node | None:
    """Axes from the first one on, in order, are the default."""
    if len(node.inputs) != 4:
        return None
    axes = forms.const(node.inputs[3])
    plain = axes is not None and axes.tolist() == list(range(axes.size))
    return replace(node, inputs=node.inputs[:3]) if plain else None


@form("Pad")
def _padded_with_nothing(forms: Forms, node: Node) -> Node | None:
    if len(node.inputs) != 3 or not node.inputs[2] or forms.dtype(node.inputs[2]) == 8:
        return None
    return replace(node, inputs=node.inputs[:2]) if forms.scalar(node.inputs[2]) == 0 else None


@form("Dropout")
def _ratio_of_nothing(forms: Forms, node: Node) -> Node | None:
    """Outside of training the ratio says nothing."""
    if len(node.inputs) == 3 and forms.const(node.inputs[2]) is not None and not forms.scalar(node.inputs[2]):
        return replace(node, inputs=node.inputs[:2])
    return replace(node, inputs=node.inputs[:1]) if len(node.inputs) == 2 else None


@form("Resize")
def _no_region(forms: Forms, node: Node) -> Node | None:
    """Empty regions, and empty scales beside sizes."""

    def empty(k: int, name: str) -> bool:
        return k > 0 and forms.dims(name) == (0,) and name in forms.graph.weights

    inputs = tuple("" if empty(k, name) else name for k, name in enumerate(node.inputs))
    return replace(node, inputs=inputs) if inputs != node.inputs and forms.opset >= 13 else None
