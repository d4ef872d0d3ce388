"""A parsed file in the normal form of types.Graph.

Mere spelling disappears here, so that the later stages never see it: Constant nodes and initializers inside
of bodies become weights of the main graph, Identity nodes are bypassed, dead nodes dropped, nodes sorted. A
body keeps nodes only, its names do not shadow outer ones, and the node that owns it lists the outer values
that it reads.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from onnx import GraphProto, NodeProto, ValueInfoProto

from netfuse_onnx.load.scope import Op, Scope
from netfuse_onnx.ops import kinds, walk
from netfuse_onnx.types import Graph, Node, ValueType, Weight

Names = Callable[[str], str | None]
"""A name of the file -> its name in the normal form; None where no scope around has it."""


def normalise(graph: GraphProto, path: str, opsets: Mapping[str, int]) -> Graph:
    """Return the main graph in normal form. Raises FileFault where it is invalid."""
    return _Normaliser(graph, path, opsets).run()


class _Normaliser:
    """The way from one file to its normal form."""

    def __init__(self, graph: GraphProto, path: str, opsets: Mapping[str, int]) -> None:
        self.graph, self.path, self.opsets = graph, path, opsets
        self.scope = Scope(graph, path, opsets, lambda name: False)
        self.weights: dict[str, Weight] = {}
        self.renamed: dict[str, str] = {}
        self._definitions: Counter[str] | None = None

    def run(self) -> Graph:
        scope = self.scope
        for name, count in Counter(scope.outputs).items():
            if count > 1:
                raise scope.fault(f"the graph output '{name}' is listed twice")
        tail = list(self._outputs())
        nodes = [self._main_node(op) for op in scope.ops] + tail
        used = {name for node in nodes for name in node.reads}
        for name, weight in scope.constants.items():
            if (final := self.renamed.get(name, name)) in used:
                self.weights[final] = weight
        return Graph(
            name=self.graph.name,
            inputs=tuple(value.name for value in scope.inputs),
            outputs=tuple(scope.outputs),
            nodes=tuple(nodes),
            weights={name: self.weights[name] for name in self.weights if name in used},
            types=self._types(nodes),
        )

    def _outputs(self) -> Iterator[Node]:
        """Let each graph output keep its name. The node that produces it takes the name; every other output
        gets an Identity, which is yielded."""
        scope = self.scope
        for name in scope.outputs:
            root = scope.root(name)
            if root in scope.produced and root not in self.renamed:
                self.renamed[root] = name
                continue
            if name == root and name in scope.constants:
                self.renamed[name] = self._fresh(name)
            elif name == root and root not in scope.produced:
                continue  # the output is an input, under one name
            source = self.renamed.get(root, root)
            yield Node("Identity", "", scope.alias_nodes.get(name, ""), (source,), (name,), {})

    def _name(self, name: str) -> str | None:
        """Return the final name of a value of the main graph."""
        root = self.scope.root(name)
        return self.renamed.get(root, root) if root in self.scope.defined else None

    def _main_node(self, op: Op) -> Node:
        """Return an operator of the main graph as a Node, its bodies in normal form."""
        renamed, alias = self.renamed, self.scope.alias
        if alias or renamed:
            inputs = tuple([renamed.get(r := self.scope.root(n), r) for n in op.inputs])
            outputs = tuple([renamed.get(n, n) for n in op.outputs])
        else:
            inputs, outputs = tuple(op.inputs), tuple(op.outputs)
        captured: dict[str, None] = {}
        for attribute in op.bodies:
            body, reads = self._body(op.attrs[attribute], self._name, frozenset(self.scope.defined))
            op.attrs[attribute] = body
            captured.update(dict.fromkeys(reads))
        proto = op.proto
        return Node(proto.op_type, op.domain, proto.name, inputs, outputs, op.attrs, tuple(captured))

    def _body(self, graph: GraphProto, outer: Names, taken: frozenset[str]) -> tuple[GraphProto, list[str]]:
        """Return a body in normal form and the outer values that it reads. `taken` are names around it."""
        scope = Scope(graph, self.path, self.opsets, lambda name: outer(name) is not None)
        local: dict[str, str] = {}
        for name in [v.name for v in scope.inputs] + [n for op in scope.ops for n in op.outputs if n]:
            local[name] = self._fresh(name) if name in taken else name
        hoisted = {name: self._hoisted(name, weight) for name, weight in scope.constants.items()}
        own, captured = set(local.values()), dict[str, None]()

        def final(name: str) -> str | None:
            root = scope.root(name)
            return local.get(root) or hoisted.get(root) or outer(root)

        def reads(name: str) -> str:
            name_there = final(name) if name else ""
            if name_there and name_there not in own:
                captured[name_there] = None
            return name_there or ""

        body = GraphProto(name=graph.name)
        for op in scope.ops:
            node = body.node.add()
            node.CopyFrom(op.proto)
            _rewire(node, [reads(n) for n in op.inputs], [local.get(n, "") for n in op.outputs])
            for _, nested in walk.bodies(node):
                inner, names = self._body(nested, final, taken | scope.defined)
                nested.CopyFrom(inner)
                captured.update(dict.fromkeys(n for n in names if n not in own))
        body.input.extend(_named(v, local[v.name]) for v in scope.inputs)
        self._body_outputs(body, graph, reads)
        return body, list(captured)

    def _body_outputs(self, body: GraphProto, graph: GraphProto, reads: Callable[[str], str]) -> None:
        """Declare the outputs. Each must be the result of a node of the body, and of no other output."""
        results = {name for node in body.node for name in node.output}
        for value in graph.output:
            name = reads(value.name)
            if name not in results:
                fresh = self._fresh(value.name)
                body.node.add(op_type="Identity", input=[name], output=[fresh])
                name = fresh
            results.discard(name)
            body.output.append(_named(value, name))

    def _hoisted(self, name: str, weight: Weight) -> str:
        """Move a constant of a body to the main graph and return its name there."""
        final = name if self._counts()[name] == 1 else self._fresh(name)
        self.weights[final] = weight
        return final

    def _fresh(self, name: str) -> str:
        """Return a name that is new in the file."""
        counts = self._counts()
        i = 2
        while counts[f"{name}__{i}"]:
            i += 1
        counts[f"{name}__{i}"] = 1
        return f"{name}__{i}"

    def _counts(self) -> Counter[str]:
        """Count how often each name is defined anywhere in the file. Only files with bodies need it."""
        if self._definitions is None:
            self._definitions = Counter(walk.defined(self.graph))
        return self._definitions

    def _types(self, nodes: list[Node]) -> dict[str, ValueType]:
        """Return the declared types of inputs and outputs, and what else the file says of values that are
        left. For an input that is also an output, the type of the input counts."""
        graph = self.graph
        kept = {name for node in nodes for name in node.outputs}
        types: dict[str, ValueType] = {}
        for value in graph.value_info:
            name = self.renamed.get(value.name, value.name)
            if name in kept:
                types[name] = kinds.of_proto(value.type)
        for value in (*graph.output, *self.scope.inputs):
            types[value.name] = kinds.of_proto(value.type)
        return types


def _rewire(node: NodeProto, inputs: list[str], outputs: list[str]) -> None:
    """Replace the inputs and outputs of a node."""
    node.input[:], node.output[:] = inputs, outputs
    if node.domain == "ai.onnx":
        node.domain = ""


def _named(value: ValueInfoProto, name: str) -> ValueInfoProto:
    """Return a copy of a typed name with another name."""
    result = copy.deepcopy(value)
    result.name = name
    return result
