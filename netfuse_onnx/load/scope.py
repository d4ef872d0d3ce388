"""One graph of a file (the main graph or a body) as it stands, checked and sorted; normal.py rewrites it.

Constant nodes are constants here, and Identity nodes are other names of one value; neither is in the list of
operators. All names are still those of the file. The checks are ours and not onnx.checker.check_node: that
refuses tensors without bytes and bodies that read outer values, takes longer than loading, and does not name
the node in all of its messages.
"""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.load import constants
from netfuse_onnx.ops import schemas, walk
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.tensors import own_tensors
from netfuse_onnx.types import Weight

FETCH_LIMIT = 1 << 30
"""The largest total of bytes of large tensors in attributes of one graph. They are held in memory."""

_REFUSED = {AttributeProto.UNDEFINED, AttributeProto.GRAPHS}  # no operator takes lists of graphs
_TYPES = {int(v): k for k, v in AttributeProto.AttributeType.items()}


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


class Scope:
    """The operators, constants and aliases of one graph.

    `visible` returns True for a name that an enclosing graph defines. Raises FileFault where the graph is
    invalid.
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
        """Return the value behind any chain of Identity nodes."""
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
        """Return the error for this file."""
        return constants.invalid(self.path, what)

    def _constant(self, name: str, weight: Weight) -> None:
        self._define(name)
        self.constants[name] = weight

    def _define(self, name: str) -> None:
        if name in self.defined:
            raise self.fault(f"the value '{name}' is defined twice")
        self.defined.add(name)

    def _node(self, node: NodeProto) -> None:
        domain = schemas.canonical(node.domain)
        op, outputs = node.op_type, list(node.output)
        if not domain and op == "Constant" and len(outputs) == 1:
            self._constant(outputs[0], constants.constant(node, self.path))
            return
        inputs = list(node.input)
        for name in outputs:
            if name:
                self._define(name)
        if not domain and op == "Identity" and len(inputs) == 1 and len(outputs) == 1 and inputs[0]:
            self.alias[outputs[0]] = inputs[0]
            self.alias_nodes[outputs[0]] = node.name
            return
        self._operator(node, domain, inputs, outputs)

    def _operator(self, node: NodeProto, domain: str, inputs: list[str], outputs: list[str]) -> None:
        """Check an operator and add it."""
        attrs: dict[str, Any] = {}
        bodies: list[str] = []
        free: list[str] = []
        facts = self._check(node, domain, len(inputs), len(outputs))
        if not domain and node.op_type == "STFT":
            _write_onesided(node)
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
        """Read the tensors of an attribute into memory. They are written inside of the node, for no runtime
        reads the values of an attribute from another file."""
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
        """Return the facts of the operator, after a check of its numbers of inputs and outputs."""
        key = (node.op_type, domain)
        if key not in self._facts:
            self._facts[key] = self._look_up(node, domain)
        facts = self._facts[key]
        if facts is None:
            return None
        counts = ((inputs, facts.inputs, "input"), (outputs, facts.outputs, "output"))
        for count, (least, most), noun in counts:
            if not least <= count <= most:
                allowed = f"{least}" if least == most else f"{least} to {most}"
                raise self.fault(f"{label(node)} has {count} {noun}s, the operator takes {allowed}")
        return facts

    def _look_up(self, node: NodeProto, domain: str) -> schemas.Facts | None:
        """Return the facts of an operator of the standard at the file's opset; None for other operators."""
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
            verb = "does not have" if facts is None else "no longer has"
            version_text = f"opset {version}" if not domain else f"version {version} of {domain}"
            raise self.fault(f"{label(node)} is an operator that {version_text} {verb}")
        return facts

    def _unreadable(self, node: NodeProto, attribute: AttributeProto) -> FileFault:
        """Return the error for an attribute of a type that no operator has."""
        named = f"the attribute '{attribute.name}' of {label(node)}"
        if attribute.ref_attr_name:
            return self.fault(f"{named} refers to '{attribute.ref_attr_name}' of a function, and is in none")
        return self.fault(f"{named} has the type {_TYPES[attribute.type]}, which no operator takes")

    def _attribute(self, node: NodeProto, facts: schemas.Facts, attribute: AttributeProto) -> None:
        """Raise the error for an attribute that the operator does not have, or not of this type."""
        name = attribute.name
        if name not in facts.kinds:
            raise self.fault(f"{label(node)} has an attribute '{name}', which the operator does not know")
        given, wanted = _TYPES.get(attribute.type, "?"), _TYPES.get(facts.kinds[name], "?")
        raise self.fault(f"the attribute '{name}' of {label(node)} is {given} and should be {wanted}")


def _write_onesided(node: NodeProto) -> None:
    """Write down an STFT's `onesided`: onnx's inference (1.23) takes it for 0 where it is absent."""
    if all(attribute.name != "onesided" for attribute in node.attribute):
        node.attribute.add(name="onesided", type=AttributeProto.INT, i=1)


def label(node: NodeProto) -> str:
    """Return `Conv 'conv1'`; the first output stands in where a node has no name."""
    named = node.name or next((name for name in node.output if name), "")
    return f"{node.op_type} '{named}'"


def _sorted(scope: Scope) -> list[Op]:
    """Return the operators in topological order: in the order of the file if that is one.

    Raises FileFault for a name that nothing defines, and for a cycle.
    """
    ready = scope.defined - scope.produced - scope.alias.keys()
    in_order = True
    for op in scope.ops:
        for name in (*op.inputs, *op.free):
            if not name or name in ready:
                continue
            root = scope.root(name)
            if root not in ready and not _is_outer(scope, root, op):
                in_order = False
        ready.update(op.outputs)
    for name in scope.outputs:
        if scope.root(name) not in scope.defined and not scope.visible(scope.root(name)):
            raise scope.fault(f"nothing defines the graph output '{name}'")
    return scope.ops if in_order else _by_dependence(scope)


def _is_outer(scope: Scope, root: str, op: Op) -> bool:
    """Return True where an enclosing graph defines the name, False where this graph does, later. Raises
    FileFault where none does."""
    if root in scope.defined:
        return False
    if not scope.visible(root):
        raise scope.fault(f"{label(op.proto)} reads '{root}', which nothing defines")
    return True


def _by_dependence(scope: Scope) -> list[Op]:
    """Sort the operators topologically. Among those that are ready, the first in the file comes first."""
    producer = {name: i for i, op in enumerate(scope.ops) for name in op.outputs if name}
    sorter = graphlib.TopologicalSorter[int]()
    for i, op in enumerate(scope.ops):
        roots = (scope.root(name) for name in (*op.inputs, *op.free))
        sorter.add(i, *(producer[root] for root in roots if root in producer))
    try:
        sorter.prepare()
    except graphlib.CycleError as fault:
        stuck = scope.ops[min(fault.args[1])]
        raise scope.fault(f"{label(stuck.proto)} depends on its own result") from fault
    heap, result = list(sorter.get_ready()), []
    heapq.heapify(heap)
    while heap:
        i = heapq.heappop(heap)
        result.append(scope.ops[i])
        sorter.done(i)
        for reader in sorter.get_ready():
            heapq.heappush(heap, reader)
    return result


def _live(scope: Scope, ops: list[Op]) -> list[Op]:
    """Return the operators that some output of the graph depends on."""
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
