"""Rewriting of a graph by forms: functions that replace a node, and what it reads, by equal nodes.

A form looks at one node and upstream of it, and says what computes the node's results in one spelling: new
nodes, or the name of a value that is the result already. It never removes what other nodes still read: the
nodes before it go when nothing reads them any more. Spellings of axes, bounds and defaults are not among the
forms: the comparison itself ignores these (match/spelling.py).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from netfuse_onnx.load.claims import unclaimed
from netfuse_onnx.load.infer import infer
from netfuse_onnx.load.spelled.constants import Constants
from netfuse_onnx.load.spelled.sizes import Sizes
from netfuse_onnx.types import Dim, Graph, Node, Source, ValueType

PASSES = 64
"""The most passes over a graph. Each form leads towards one spelling, so that far fewer are needed; what is
left after so many passes is an equal graph all the same."""

Result = Node | Sequence[Node] | str | None
"""The nodes that compute the results of a node, the name of the value that is its result, or None."""
Function = Callable[["Forms", Node], Result]


@dataclass(frozen=True)
class Form:
    """A form: its name, a sentence on what it brings together, the first opset that has what it writes, and
    operators of which a graph must have one. `exact`: no bit of a result changes."""

    name: str
    says: str
    function: Function
    opset: int
    exact: bool
    needs: frozenset[str]


FORMS: dict[str, list[Form]] = {}
"""Key of an operator -> the forms that end in a node of this operator."""


@dataclass
class Types:
    """The types of values, which all passes over a source share. They are inferred on demand: most families
    need none. Where a node became a constant, inference may tell more than before."""

    known: dict[str, ValueType] = field(default_factory=dict)
    stale: bool = False
    graph: Graph | None = None
    """The graph of the last inference."""

    def of(self, name: str, source: Source) -> ValueType:
        """Return the type of a value of the source; of one that is new in this pass, nothing is known."""
        wanted = name not in self.known or (self.stale and not _complete(self.known[name]))
        if wanted and self.graph is not source.graph:
            self.known.update(infer(unclaimed(source)).graph.types)
            self.graph, self.stale = source.graph, False
        return self.known.get(name, ValueType())


def _complete(value_type: ValueType) -> bool:
    dims = value_type.dims
    return dims is not None and all(isinstance(dim, int) for dim in dims)


def form(
    *ops: str, name: str, says: str, opset: int = 1, exact: bool = True, needs: Iterable[str] = ()
) -> Callable[[Function], Function]:
    """Register a form for nodes of these operators."""

    def register(function: Function) -> Function:
        one = Form(name, says, function, opset, exact, frozenset(needs))
        for op in ops:
            FORMS.setdefault(op, []).append(one)
        return function

    return register


def all_forms() -> list[Form]:
    """Return every form once."""
    return list({id(one): one for some in FORMS.values() for one in some}.values())


class Forms(Constants):
    """One pass over the nodes of a graph. `chosen` are the forms that apply."""

    def __init__(self, source: Source, types: Types, chosen: frozenset[str]) -> None:
        super().__init__(source.graph)
        self.source, self.types, self.chosen = source, types, chosen
        self.opset = source.opsets.get("", 1)
        self.producers = {name: node for node in self.graph.nodes for name in node.outputs if name}
        self.reads = Counter(name for node in self.graph.nodes for name in node.reads if name)
        self.reads.update(self.graph.outputs)
        self.captured = {name for node in self.graph.nodes for name in node.captured}
        self.counts: Counter[str] = Counter()
        self._same: dict[str, str] = {}
        self._renamed: dict[str, str] = {}

    def run(self) -> Graph:
        """Return the graph after one pass; the same object where no form applies."""
        nodes = [new for node in self.graph.nodes for new in self._pass(self._wired(node, self._same))]
        if not self.counts:
            return self.graph
        if self._renamed:
            nodes = [self._wired(node, self._renamed, outputs=True) for node in nodes]
        return live(replace(self.graph, nodes=tuple(nodes), weights=self.weights))

    def _wired(self, node: Node, names: Mapping[str, str], outputs: bool = False) -> Node:
        """Return a node that reads other values, and with `outputs` gives them, too."""
        if names.keys().isdisjoint(node.inputs) and not (outputs and names.keys() & {*node.outputs}):
            return node
        results = tuple([names.get(name, name) for name in node.outputs]) if outputs else node.outputs
        inputs = tuple([names.get(name, name) for name in node.inputs])
        return replace(node, inputs=inputs, outputs=results)

    def _pass(self, node: Node) -> Sequence[Node]:
        """Return the nodes in the place of a node: of the first form that applies."""
        for each in FORMS.get(node.key, ()):
            if each.name not in self.chosen or self.opset < each.opset:
                continue
            result = self._applied(each, node)
            made = self._aliased(node, result) if isinstance(result, str) else result
            if made is not None:
                self.counts[each.name] += 1
                nodes = (made,) if isinstance(made, Node) else made
                self.producers.update({name: new for new in nodes for name in new.outputs if name})
                return nodes
        self.producers.update({name: node for name in node.outputs if name})
        return (node,)

    def _applied(self, each: Form, node: Node) -> Result:
        """Return what a form says; None for a node with axes or bounds that no runtime accepts."""
        try:
            return each.function(self, node)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return None

    def _aliased(self, node: Node, name: str) -> Sequence[Node] | None:
        """Let all read the value `name` instead of the first output of a node, whose others nobody reads.
        Return no nodes then; an Identity for a graph output that can't be renamed; None where it is one."""
        result, *others = node.outputs
        if result in self.captured or any(self.reads[other] for other in others if other):
            return None
        self._same[result] = name
        self.types.stale |= name in self.weights
        if result not in self.graph.outputs:
            return ()
        maker = self.producers.get(name)
        fixed = name in self.captured or name in self.graph.outputs or name in self._renamed
        if maker is not None and not fixed:
            self._renamed[name] = result
            return ()
        del self._same[result]
        return None if node.key == "Identity" else (Node("Identity", "", node.name, (name,), (result,), {}),)

    # ------------------------------------------------------------------ what forms ask

    @functools.cached_property
    def sizes(self) -> Sizes:
        """The dims of all values before this pass as polynomials in the sizes of the inputs."""
        return Sizes(self.source, infer(unclaimed(self.source)).graph)

    def type_of(self, name: str) -> ValueType:
        """Return the type of a value or a constant."""
        if (weight := self.weights.get(name)) is not None:
            return ValueType(weight.dtype, weight.shape)
        return self.types.of(name, self.source)

    def dims(self, name: str) -> tuple[Dim, ...] | None:
        return self.type_of(name).dims

    def dtype(self, name: str) -> int:
        return self.type_of(name).dtype

    def producer(self, name: str, *keys: str) -> Node | None:
        """Return the node that produces a value, if it is of one of these operators."""
        node = self.producers.get(name)
        return node if node is not None and node.key in keys else None

    def only(self, name: str, *keys: str) -> Node | None:
        """Return the node that produces a value which is read once, if it is of one of these operators."""
        return self.producer(name, *keys) if self.reads[name] == 1 else None

    def axes(self, node: Node) -> list[int] | None:
        """Return the axes of a reduction or a Squeeze; None where they are not constant."""
        if "axes" in node.attrs:
            return list(node.attrs["axes"])
        values = self.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return None if values is None else [int(value) for value in values.reshape(-1)]

    def operands_by(self, node: Node | None, *keys: str) -> list[tuple[Node, str]]:
        """Return each operand of a binary operator that a node of one of these operators produces, with the
        other operand."""
        if node is None or len(node.inputs) != 2:
            return []
        both = ((self.producer(one, *keys), other) for one, other in (node.inputs, node.inputs[::-1]))
        return [(maker, other) for maker, other in both if maker is not None]

    def operand_by(self, node: Node | None, *keys: str) -> tuple[Node, str] | None:
        """Return the first entry of `operands_by`."""
        return next(iter(self.operands_by(node, *keys)), None)

    def with_scalar(self, node: Node) -> tuple[str, float] | None:
        """Return the computed operand and the constant one, a number that widens no rank."""
        for one, other in (node.inputs, node.inputs[::-1]):
            value = self.number(other)
            if value is not None and one not in self.weights and self.keeps_rank(one, other):
                return one, value
        return None

    def keeps_rank(self, value: str, scalar: str) -> bool:
        """Return True where broadcasting a constant of one element leaves the shape of a value."""
        rank, dims = len(self.weights[scalar].shape), self.dims(value) if self.weights[scalar].shape else ()
        return rank == 0 or (dims is not None and rank <= len(dims))


def live(graph: Graph) -> Graph:
    """Return the graph without nodes and weights that no output depends on."""
    needed, live = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            live.append(node)
            needed.update(node.reads)
    weights = {name: weight for name, weight in graph.weights.items() if name in needed}
    return replace(graph, nodes=tuple(live[::-1]), weights=weights)
