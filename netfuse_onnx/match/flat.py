"""The steps of a source: its nodes and those of all bodies in one list, in topological order, for comparing.

A body becomes ordinary steps before its owner. A BEGIN step gives the body's inputs and a token; the owner
reads the token and the body's outputs. So a comparison of two lists compares bodies too, and a captured value
is an operand like any other.
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
    """A node, in names that are unique across bodies. `main` is the index of the node of the main graph that
    it belongs to, `scope` the bodies around it."""

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
    """All steps of a source. `uses` lists every (step, operand) that is a weight, in order.

    In normal form (spelling.py), `changed` maps a step to the operands that are not those of the file, and
    `file_names` gives the file's name for each new operand, '' where the file has none.

    `open_inputs` (by the type that must agree) and `open_outputs` have no counterpart yet; the others
    correspond by position.
    """

    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: list[Step]
    weights: Mapping[str, Weight]
    opsets: Mapping[str, int]
    uses: list[tuple[int, int]]
    file_names: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[int, frozenset[int]] = field(default_factory=dict)
    open_inputs: Mapping[str, str] = field(default_factory=dict)
    open_outputs: frozenset[str] = frozenset()

    def file_name(self, name: str) -> str:
        """Return the file's name of an operand."""
        return self.file_names.get(name, name)


def flatten(source: Source, edge: Edge | None = None) -> Flat:
    """List the steps of a source. Inputs and outputs take the order of the first source's."""
    graph: Graph = source.graph
    inputs = graph.inputs if edge is None else tuple(edge.inputs.values())
    outputs = graph.outputs if edge is None else tuple(edge.outputs.values())
    steps: list[Step] = []
    for i, node in enumerate(graph.nodes):
        if walk.bodies_of(node.attrs):
            steps.extend(_opened(node, i, (), lambda name: name))
        else:
            steps.append(Step(node.op, node.domain, node.inputs, node.outputs, node.attrs, node, i))
    weights = graph.weights
    uses = [(i, k) for i, step in enumerate(steps) for k, name in enumerate(step.ins) if name in weights]
    return Flat(source.path, inputs, outputs, steps, weights, source.opsets, uses)


def _opened(node: Node, main: int, scope: tuple[str, ...], outer: Callable[[str], str]) -> Iterator[Step]:
    """Yield the steps of the node's bodies, then the node itself."""
    attrs = walk.without_bodies(node.attrs)
    of_bodies: list[str] = []
    owner = next((name for name in map(outer, node.outputs) if name), "")
    for name, body in sorted(walk.bodies_of(node.attrs).items()):
        token = within.prefix(owner, name)
        inner = (*scope, name)
        rename = within.renaming(token, body, outer)
        starts = (token, *(rename(v.name) for v in body.input))
        yield Step(BEGIN, "", (), starts, {"of": name, "op": node.op}, node, main, inner)
        for part in body.node:
            yield from _opened(walk.node_of(part), main, inner, rename)
        of_bodies += [token, *(rename(v.name) for v in body.output)]
    ins = (*map(outer, node.inputs), *of_bodies)
    outs = tuple(map(outer, node.outputs))
    yield Step(node.op, node.domain, ins, outs, attrs, node, main, scope)


# --------------------------------------------------------------------------- the place of a step, in words


def place(flat: Flat, i: int) -> str:
    """Return `Conv 'conv1' (operator 12 of 120, output 'h')`."""
    step = flat.steps[i]
    inside = f", inside of {'/'.join(step.scope)}" if step.scope else ""
    output = next((name.rsplit("\0", 1)[-1] for name in step.outs if name), "")
    where = f"operator {i + 1} of {len(flat.steps)}, output '{output}'{inside}"
    return f"{step_name(step)} ({where})"


def places(a: Flat, i: int, b: Flat, j: int) -> str:
    """Return both places; one where they read alike."""
    here, there = place(a, i), place(b, j)
    return here if here == there else f"{here} against {there}"


def step_name(step: Step) -> str:
    """Return `Conv 'conv1'`; the first output stands in for a missing name."""
    if step.op == BEGIN:
        return f"body '{step.attrs['of']}' of {step.attrs['op']} '{step.node.name or step.node.outputs[0]}'"
    return f"{step.node.key} '{node_name(step)}'"


def node_name(step: Step) -> str:
    """Return the node's name; the first output stands in for a missing one."""
    return step.node.name or next((name for name in step.node.outputs if name), "")
