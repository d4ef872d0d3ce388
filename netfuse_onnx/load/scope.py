"""One graph of a file (the main graph or a body) as it stands, checked and sorted: what normal.py rewrites.

Constant nodes are constants here and Identity nodes are other names of the same value; both are gone from
the list of operators. Everything is still in the names of the file.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.load import constants
from netfuse_onnx.load.constants import AGAIN
from netfuse_onnx.ops import schemas, walk
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.tensors import own_tensors
from netfuse_onnx.types import Weight

FETCH_LIMIT = 1 << 30
"""Bytes of large tensors in attributes that one graph may hold. They are held in memory."""

_REFUSED = {AttributeProto.UNDEFINED, AttributeProto.GRAPHS}  # no operator has lists of graphs
_KINDS = {int(v): k for k, v in AttributeProto.AttributeType.items()}


@dataclass(slots=True)
class Op:
    """One node of the file. `free` are the outer values that its bodies read."""

    proto: NodeProto
    domain: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any]
    bodies: list[str]  # the attributes that hold a GraphProto
    free: list[str]

    @property
    def where(self) -> str:
        return label(self.proto)


class Scope:
    """The operators, constants and aliases of one graph.

    `visible` tells whether an enclosing graph defines a name. Raises FileFault where the graph is invalid.
    """

    def __init__(
        self, graph: GraphProto, path: str, opsets: Mapping[str, int], visible: Callable[[str], bool]
    ) -> None:
        self.path, self.opsets, self.visible = path, opsets, visible
        self.constants: dict[str, Weight] = {}
        self.alias: dict[str, str] = {}
        self.alias_nodes: dict[str, str] = {}  # output of an Identity -> name of that node
        self.ops: list[Op] = []
        self.fetched = 0  # bytes of large tensors in attributes
        self.defined: set[str] = set()
        self._facts: dict[tuple[str, str], schemas.Facts | None] = {}
        for tensor in graph.initializer:
            self._constant(tensor.name, weights.weight_of(tensor))
        for sparse in graph.sparse_initializer:
            self._constant(sparse.values.name, constants.dense(sparse, path))
        self.inputs = [value for value in graph.input if value.name not in self.constants]
        for value in self.inputs:
            self._define(value.name)
        for node in graph.node:
            self._node(node)
        self.outputs = [value.name for value in graph.output]
        self.produced = {name for op in self.ops for name in op.outputs if name}
        self.ops = _live(self, _sorted(self))

    def root(self, name: str) -> str:
        """The value behind any chain of Identity nodes."""
        alias = self.alias
        if name not in alias:
            return name
        seen = {name: None}
        while name in alias:
            name = alias[name]
            if name in seen:
                raise self.fault(f"Identity '{name}' reads its own result")
            seen[name] = None
        alias.update((other, name) for other in seen if other != name)  # a long chain is walked once
        return name

    def fault(self, what: str) -> FileFault:
        return FileFault(f"{self.path}: {what}.", AGAIN)

    def _constant(self, name: str, weight: Weight) -> None:
        self._define(name)
        self.constants[name] = weight

    def _define(self, name: str) -> None:
        if name in self.defined:
            raise self.fault(f"the value '{name}' is defined twice")
        self.defined.add(name)

    def _node(self, node: NodeProto) -> None:
        domain = schemas.canonical(node.domain)
        kind, outputs = node.op_type, list(node.output)
        if not domain and kind == "Constant" and len(outputs) == 1:
            self._constant(outputs[0], constants.constant(node, self.path))
            return
        inputs = list(node.input)
        for name in outputs:
            if name:
                self._define(name)
        if not domain and kind == "Identity" and len(inputs) == 1 and len(outputs) == 1 and inputs[0]:
            self.alias[outputs[0]] = inputs[0]
            self.alias_nodes[outputs[0]] = node.name
            return
        self._operator(node, domain, inputs, outputs)

    def _operator(self, node: NodeProto, domain: str, inputs: list[str], outputs: list[str]) -> None:
        attrs: dict[str, Any] = {}
        bodies: list[str] = []
        free: list[str] = []
        facts = self._check(node, domain, len(inputs), len(outputs))
        if not domain and node.op_type == "STFT":
            _sided(node)
        for attribute in node.attribute:
            name = attribute.name
            if attribute.type in _REFUSED or attribute.ref_attr_name:
                raise self._unreadable(node, attribute)
            self._fetch(attribute)
            attrs[name] = schemas.value_of(attribute)
            if facts is not None and facts.kinds.get(name) != attribute.type:
                self._attribute(node, facts, attribute)
            if attribute.type == AttributeProto.GRAPH:
                bodies.append(name)
                free.extend(n for n in walk.outer_names(attribute.g) if n not in free)
        if facts is not None and not facts.required <= attrs.keys():
            missing = min(facts.required - attrs.keys())
            raise self.fault(f"{label(node)} lacks the attribute '{missing}'")
        least = facts.inputs[0] if facts is not None else 0  # an empty name counts: Loop wants two inputs
        while len(inputs) > least and not inputs[-1]:
            inputs.pop()
        while outputs and not outputs[-1] and facts is not None and not facts.variadic_outputs:
            outputs.pop()
        self.ops.append(Op(node, domain, inputs, outputs, attrs, bodies, free))

    def _fetch(self, attribute: AttributeProto) -> None:
        """Bring the tensors of an attribute inline: it is written with them, for no runtime reads the values
        of an attribute from another file."""
        for tensor in own_tensors(attribute):
            self.fetched += len(tensor.external_data) and weights.nbytes(weights.weight_of(tensor))
            if self.fetched > FETCH_LIMIT:
                raise FileFault(
                    f"{self.path}: the tensors in the attributes of its nodes take more than "
                    f"{FETCH_LIMIT >> 20} MiB, which no runtime loads.",
                    "Store them as initializers.",
                )
            weights.fetch(tensor)

    def _check(self, node: NodeProto, domain: str, inputs: int, outputs: int) -> schemas.Facts | None:
        key = (node.op_type, domain)
        if key not in self._facts:
            self._facts[key] = self._look_up(node, domain)
        facts = self._facts[key]
        if facts is None:
            return None
        counts = ((inputs, facts.inputs, "input"), (outputs, facts.outputs, "output"))
        for count, (least, most), what in counts:
            if not least <= count <= most:
                allowed = f"{least}" if least == most else f"{least} to {most}"
                raise self.fault(f"{label(node)} has {count} {what}s, the operator takes {allowed}")
        return facts

    def _look_up(self, node: NodeProto, domain: str) -> schemas.Facts | None:
        if domain not in schemas.STANDARD:
            return None
        if domain not in self.opsets:
            raise self.fault(f"{label(node)} needs an opset import of the domain '{domain or 'ai.onnx'}'")
        version = self.opsets[domain]
        facts = schemas.facts(node.op_type, domain, version)
        if facts is None and not domain and node.op_type in schemas.OF_THE_RUNTIME:
            return None
        if facts is None and not domain and version < schemas.EXPERIMENTAL.get(node.op_type, 0):
            return None
        if facts is None or facts.deprecated:
            said = "does not have" if facts is None else "no longer has"
            spelled = f"opset {version}" if not domain else f"version {version} of {domain}"
            raise self.fault(f"{label(node)} is an operator that {spelled} {said}")
        return facts

    def _unreadable(self, node: NodeProto, attribute: AttributeProto) -> FileFault:
        named = f"the attribute '{attribute.name}' of {label(node)}"
        if attribute.ref_attr_name:
            return self.fault(f"{named} refers to '{attribute.ref_attr_name}' of a function, and is in none")
        return self.fault(f"{named} is of kind {_KINDS[attribute.type]}")

    def _attribute(self, node: NodeProto, facts: schemas.Facts, attribute: AttributeProto) -> None:
        name = attribute.name
        if name not in facts.kinds:
            raise self.fault(f"{label(node)} has an attribute '{name}', which the operator does not know")
        found, wanted = _KINDS.get(attribute.type, "?"), _KINDS.get(facts.kinds[name], "?")
        raise self.fault(f"the attribute '{name}' of {label(node)} is {found} and should be {wanted}")


def _sided(node: NodeProto) -> None:
    """Write down an STFT's `onesided`: onnx's inference (1.23) takes it for 0 where it is absent."""
    if all(attribute.name != "onesided" for attribute in node.attribute):
        node.attribute.add(name="onesided", type=AttributeProto.INT, i=1)


def label(node: NodeProto) -> str:
    """`Conv 'conv1'`; the first output stands in where a node has no name."""
    named = node.name or next((name for name in node.output if name), "")
    return f"{node.op_type} '{named}'"


def _reads(scope: Scope, op: Op) -> list[str]:
    """Names that this graph defines among what the node depends on."""
    return [r for name in (*op.inputs, *op.free) if name and (r := scope.root(name)) in scope.defined]


def _sorted(scope: Scope) -> list[Op]:
    """The operators in an order in which each comes after what it reads: the file's own where that is one.

    Raises FileFault for a name that nothing defines, and for a cycle.
    """
    ready = scope.defined - scope.produced - scope.alias.keys()
    in_order = True
    for op in scope.ops:
        for name in (*op.inputs, *op.free):
            if not name or name in ready:
                continue
            root = scope.root(name)
            if root not in ready and not _outer(scope, root, op):
                in_order = False
        ready.update(op.outputs)
    for name in scope.outputs:
        if scope.root(name) not in scope.defined and not scope.visible(scope.root(name)):
            raise scope.fault(f"nothing defines the graph output '{name}'")
    return scope.ops if in_order else _by_dependence(scope)


def _outer(scope: Scope, root: str, op: Op) -> bool:
    """Whether an enclosing graph defines it; False where this graph does, later. Else FileFault."""
    if root in scope.defined:
        return False
    if not scope.visible(root):
        raise scope.fault(f"{op.where} reads '{root}', which nothing defines")
    return True


def _by_dependence(scope: Scope) -> list[Op]:
    """Kahn's algorithm; among the ready ones the first in the file comes first."""
    producer = {name: i for i, op in enumerate(scope.ops) for name in op.outputs if name}
    readers: list[list[int]] = [[] for _ in scope.ops]
    missing = [0] * len(scope.ops)
    for i, op in enumerate(scope.ops):
        for maker in {producer[name] for name in _reads(scope, op) if name in producer}:
            readers[maker].append(i)
            missing[i] += 1
    heap = [i for i, count in enumerate(missing) if not count]
    result = []
    while heap:
        i = heapq.heappop(heap)
        result.append(scope.ops[i])
        for reader in readers[i]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(heap, reader)
    if len(result) < len(scope.ops):
        stuck = next(op for op, count in zip(scope.ops, missing, strict=True) if count)
        raise scope.fault(f"{stuck.where} depends on its own result")
    return result


def _live(scope: Scope, ops: list[Op]) -> list[Op]:
    """The operators that some output of the graph depends on."""
    needed = {scope.root(name) for name in scope.outputs}
    result = []
    for op in reversed(ops):
        if not needed.isdisjoint(op.outputs):
            result.append(op)
            needed.update(op.inputs)
            needed.update(op.free)
            if scope.alias:
                needed.update([scope.root(name) for name in (*op.inputs, *op.free)])
    result.reverse()
    return result
