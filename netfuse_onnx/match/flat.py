"""A graph with its bodies laid open: one list of steps in topological order, for comparing.

A body becomes ordinary steps before its owner. A BEGIN step gives the body's inputs and a token; the
owner reads the token and the body's outputs. So a comparison of plain lists compares bodies too, and a
captured value is an operand like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from netfuse_onnx.load import within
from netfuse_onnx.ops import walk
from netfuse_onnx.types import Edge, Graph, Node, Source, Weight

BEGIN = "<body>"


@dataclass(slots=True, eq=False)
class Step:
    """A node, by the names of `ins` and `outs` that are unique across bodies. `main` is the index of the
    main graph's node that it belongs to, `scope` the bodies around it."""

    op: str
    domain: str
    ins: tuple[str, ...]
    outs: tuple[str, ...]
    attrs: Mapping[str, Any]
    node: Node
    main: int
    scope: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`Conv`, or `com.microsoft.FusedConv` outside the default domain."""
        return f"{self.domain}.{self.op}" if self.domain else self.op


@dataclass(slots=True, eq=False)
class Flat:
    """A source laid open. `uses` lists every (step, operand) that is a weight, in order.

    In normal form (spelling.py), `changed` are the operands that are not those of the file, by step, and
    `plain` gives the file's name for each that took their place, '' where it has none.

    `open_inputs`, by what of their types must agree, and `open_outputs` correspond to none yet; the rest do
    by position.
    """

    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: list[Step]
    weights: Mapping[str, Weight]
    opsets: Mapping[str, int]
    uses: list[tuple[int, int]]
    plain: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[int, frozenset[int]] = field(default_factory=dict)
    open_inputs: Mapping[str, str] = field(default_factory=dict)
    open_outputs: frozenset[str] = frozenset()

    def said(self, name: str) -> str:
        """The file's name for an operand."""
        return self.plain.get(name, name)


def flatten(source: Source, edge: Edge | None = None) -> Flat:
    """The source laid open, its inputs and outputs in the order of the first one's that they stand for."""
    graph: Graph = source.graph
    inputs = graph.inputs if edge is None else tuple(edge.inputs.values())
    outputs = graph.outputs if edge is None else tuple(edge.outputs.values())
    steps: list[Step] = []
    for i, node in enumerate(graph.nodes):
        if walk.bodies_of(node.attrs):
            steps.extend(_opened(node, i, (), lambda name: name))
        else:
            steps.append(Step(node.op, node.domain, node.inputs, node.outputs, node.attrs, node, i))
    held = graph.weights
    uses = [(i, k) for i, step in enumerate(steps) for k, name in enumerate(step.ins) if name in held]
    return Flat(source.path, inputs, outputs, steps, held, source.opsets, uses)


def _opened(node: Node, main: int, scope: tuple[str, ...], outer: Callable[[str], str]) -> Iterator[Step]:
    """The steps of the node's bodies, then the node itself."""
    plain = walk.without_bodies(node.attrs)
    extra: list[str] = []
    owner = next((name for name in map(outer, node.outputs) if name), "")
    for name, body in sorted(walk.bodies_of(node.attrs).items()):
        prefix = within.prefix(owner, name)
        inner = (*scope, name)
        local = {v.name for v in body.input} | {n for part in body.node for n in part.output}

        def rename(value: str, prefix: str = prefix, local: set[str] = local) -> str:
            return prefix + value if value in local and value else outer(value)

        token = prefix
        starts = (token, *(rename(v.name) for v in body.input))
        yield Step(BEGIN, "", (), starts, {"of": name, "op": node.op}, node, main, inner)
        for part in body.node:
            yield from _opened(walk.node_of(part), main, inner, rename)
        extra += [token, *(rename(v.name) for v in body.output)]
    ins = (*map(outer, node.inputs), *extra)
    outs = tuple(map(outer, node.outputs))
    yield Step(node.op, node.domain, ins, outs, plain, node, main, scope)
