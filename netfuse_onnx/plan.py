"""plan: Correspondence + rules -> Plan, a lowering for every node.

What differs between the models is known before any choice is made: a value is mapped when a per-model
input or weight reaches it. Nodes that nothing mapped reaches run once. The others get the combination of
options with the least total cost over the whole graph, conversions paid once per (value, layout).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx import steering
from netfuse_onnx.cost import Cost
from netfuse_onnx.elimination import Problem, Solution
from netfuse_onnx.errors import NotStackable
from netfuse_onnx.layouts import volume
from netfuse_onnx.rules import Site, options
from netfuse_onnx.rules.fallback import BODY, RANDOM, UNJOINABLE, UNSHAREABLE
from netfuse_onnx.types import (
    PER_MODEL,
    SHARED,
    STACKED,
    Became,
    Correspondence,
    Graph,
    Layout,
    Lowering,
    Node,
    Plan,
    ValueType,
    Weight,
)
from netfuse_onnx.weights import array


@dataclass
class Candidates:
    """Everything the search works on. `options[i]` are the lowerings on offer for node i: exactly one
    for a node that runs once or is replicated."""

    options: list[list[Lowering]] = field(default_factory=list)
    mapped: set[str] = field(default_factory=set)
    ragged: set[str] = field(default_factory=set)
    inputs: dict[str, Layout] = field(default_factory=dict)
    ends: dict[str, Layout] = field(default_factory=dict)


def plan(
    corr: Correspondence,
    *,
    io: str = "separate",
    share: frozenset[str] = frozenset(),
    target: str = "generic",
) -> Plan:
    """Choose a lowering per node. `io`: separate or stacked; `share`: graph inputs fed once."""
    found = candidates(corr, io=io, share=share)
    problem = Search(corr.graph, corr.weights, found, Cost(corr.models))
    solution = problem.solve()
    chosen = problem.chosen(solution)
    notes = (
        () if solution.exact else ("the plan's search was cut: its cost is an upper bound, not the minimum",)
    )
    return Plan(chosen, solution.cost, solution.exact, notes)


# --------------------------------------------------------------------------- what is on offer


def candidates(corr: Correspondence, *, io: str, share: frozenset[str]) -> Candidates:
    """Propagate what is mapped and what is ragged, and collect every option."""
    graph = corr.graph
    fed = STACKED(0) if io == "stacked" else PER_MODEL
    found = Candidates(ragged=set(corr.ragged))
    for name in graph.inputs:
        tensor = graph.types[name].proto is None
        found.inputs[name] = SHARED if name in share else fed if tensor else PER_MODEL
    found.mapped = {name for name, layout in found.inputs.items() if layout != SHARED}
    found.mapped |= {name for name, parts in corr.weights.items() if len(parts) > 1}
    opset = corr.opsets.get("", 1)
    for index, node in enumerate(graph.nodes):
        found.options.append(_offers(corr, found, index, node, opset))
        _mark(found, graph, node, found.options[-1])
    for name in graph.outputs:
        if io == "stacked" and name in found.ragged:
            raise NotStackable(
                f"Output {name!r} cannot be stacked: its shape may differ between the models.",
                "Use --io separate.",
            )
        found.ends[name] = fed if name in found.mapped else SHARED
    return found


def _offers(corr: Correspondence, found: Candidates, index: int, node: Node, opset: int) -> list[Lowering]:
    mapped = any(v in found.mapped for v in node.reads)
    alone = index in corr.attrs or steering.random(node) or _unshareable(corr.graph, node)
    if not mapped and not alone:
        return [Lowering(Became.SHARED, (SHARED,) * len(node.reads), (SHARED,) * len(node.outputs))]
    reason = _cannot(corr, found, index, node)
    if not reason:
        offers, reason = options(site(corr, found.mapped, node, opset))
        if offers:
            batched = [Lowering(o.became, o.takes, o.gives, o.rule, o) for o in offers]
            stuck = any(_type(corr, v).dtype in steering.UNJOINABLE for v in (*node.inputs, *node.outputs))
            apart = stuck and batched[0].gives[0] != SHARED
            return [*batched, replicated(node, found.mapped, UNJOINABLE)] if apart else batched
    return [replicated(node, found.mapped, reason)]


def _unshareable(graph: Graph, node: Node) -> bool:
    """A graph output that is not a tensor is made for each model: no Identity could give it N names."""
    return any(v in graph.outputs and graph.types[v].proto is not None for v in node.outputs)


def _cannot(corr: Correspondence, found: Candidates, index: int, node: Node) -> str:
    """Why a node is replicated whatever its rules say, or ""."""
    if index in corr.attrs:
        return "its attributes differ between the models"
    if steering.random(node):
        return RANDOM
    if steering.bodies(node):
        return BODY
    if _unshareable(corr.graph, node):
        return UNSHAREABLE
    for name in node.inputs:
        if name in found.ragged:
            return f"the shape of its input {name!r} may differ between the models"
    return ""


def site(corr: Correspondence, mapped: set[str], node: Node, opset: int) -> Site:
    """A node as its rules see it."""
    return Site(
        node,
        corr.models,
        opset,
        tuple(_type(corr, v) for v in node.inputs),
        tuple(_type(corr, v) for v in node.outputs),
        tuple(v in mapped for v in node.inputs),
        tuple(v in corr.weights for v in node.inputs),
        tuple(_known(corr.weights.get(v, ())) for v in node.inputs),
    )


def _type(corr: Correspondence, name: str) -> ValueType:
    parts = corr.weights.get(name)
    return ValueType(parts[0].dtype, parts[0].shape) if parts else corr.graph.types.get(name, ValueType())


def _known(parts: tuple[Weight, ...]) -> NDArray[Any] | None:
    small = len(parts) == 1 and isinstance(parts[0].data, bytes)
    return array(parts[0]) if small else None


def replicated(node: Node, mapped: set[str], reason: str) -> Lowering:
    """Once per model: mapped inputs apart, the others shared."""
    takes = tuple(PER_MODEL if v in mapped else SHARED for v in node.reads)
    return Lowering(Became.REPLICATED, takes, (PER_MODEL,) * len(node.outputs), "", None, reason)


def _mark(found: Candidates, graph: Graph, node: Node, offers: Sequence[Lowering]) -> None:
    """Mapped and ragged outputs of a node. All options of a node give SHARED, or none does."""
    first = offers[0]
    for name, gives in zip(node.outputs, first.gives, strict=True):
        if gives != SHARED:
            found.mapped.add(name)
    if first.became is Became.REPLICATED and steering.ragged(node, found.mapped, found.ragged):
        for name in node.outputs:
            dims = graph.types.get(name, ValueType()).dims
            if dims is None or not all(isinstance(d, int) for d in dims):
                found.ragged.add(name)


# --------------------------------------------------------------------------- the search


class Search:
    """The choice of one option per node as a sum of tables.

    A run-time value with one consumer is one table over the two choices. A value with several gets, per
    layout that anyone may want, a variable that says whether it is made: consumers that want a layout
    rule out its absence, and making it costs one conversion, however many read it.
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, tuple[Weight, ...]], found: Candidates, cost: Cost
    ) -> None:
        self.found = found
        self.cost = cost
        self.graph = graph
        self.weights = weights
        self.problem = Problem()
        self.nodes = [self.problem.variable(len(offers)) for offers in found.options]
        self.producer = {v: (i, k) for i, n in enumerate(graph.nodes) for k, v in enumerate(n.outputs) if v}
        self._price_nodes()
        self._price_values()

    def solve(self) -> Solution:
        return self.problem.solve()

    def chosen(self, solution: Solution) -> tuple[Lowering, ...]:
        return tuple(
            offers[solution.values[v]] for v, offers in zip(self.nodes, self.found.options, strict=True)
        )

    def _price_nodes(self) -> None:
        for i, (v, offers) in enumerate(zip(self.nodes, self.found.options, strict=True)):
            prices = np.array([self._lowering(offer) for offer in offers], np.float64)
            for k, name in enumerate(self.graph.nodes[i].inputs):
                if name in self.weights:
                    prices += [self._tiled(name, offer.takes[k]) for offer in offers]
            self.problem.add([v], prices)

    def _lowering(self, offer: Lowering) -> float:
        if offer.became is Became.REPLICATED:
            return self.cost.replicated()
        return self.cost.lowering(offer.option.nodes if offer.option else 1.0)

    def _tiled(self, name: str, layout: Layout | None) -> float:
        """A weight is laid out by the writer, for nothing, unless it is one that would be repeated."""
        parts = self.weights[name]
        if len(parts) > 1 or layout in (None, SHARED, PER_MODEL):
            return 0.0
        return self.cost.tiled_weight(volume(parts[0].shape, 1))

    def _price_values(self) -> None:
        uses: dict[str, list[int]] = {}
        for i, node in enumerate(self.graph.nodes):
            for name in dict.fromkeys(node.reads):
                if name and name not in self.weights:
                    uses.setdefault(name, []).append(i)
        for name in dict.fromkeys([*uses, *self.found.ends]):
            if name not in self.weights:
                self._price_value(name, uses.get(name, []))

    def _made(self, name: str) -> tuple[list[int], list[Layout]]:
        """The variable that decides how a value is made, and the layout for each of its values."""
        if name in self.producer:
            i, k = self.producer[name]
            return [self.nodes[i]], [offer.gives[k] for offer in self.found.options[i]]
        return [], [self.found.inputs[name]]

    def _wanted(self, name: str, i: int) -> list[set[Layout]]:
        """For each option of node i: the layouts in which it wants the value."""
        reads = self.graph.nodes[i].reads
        places = [k for k, v in enumerate(reads) if v == name]
        return [{take for k in places if (take := offer.takes[k])} for offer in self.found.options[i]]

    def _price_value(self, name: str, users: list[int]) -> None:
        scope, made = self._made(name)
        end = {self.found.ends[name]} - {SHARED} if name in self.found.ends else set()
        wants = {i: self._wanted(name, i) for i in users}
        if len(users) == 1 and not end:
            (user,) = users
            table = np.array([[self._convert(name, src, w) for w in wants[user]] for src in made])
            self.problem.add([*scope, self.nodes[user]], table if scope else table[0])
            return
        for layout in sorted(set().union(end, *(w for per_option in wants.values() for w in per_option))):
            self._price_layout(name, layout, (scope, made), wants, forced=layout in end)

    def _price_layout(
        self,
        name: str,
        layout: Layout,
        made: tuple[list[int], list[Layout]],
        wants: Mapping[int, list[set[Layout]]],
        *,
        forced: bool,
    ) -> None:
        scope, sources = made
        price = [self._convert(name, src, {layout}) for src in sources]
        if not any(price):
            return
        there = self.problem.variable(2)
        table = np.array([[np.inf if forced else 0.0, p] for p in price])
        self.problem.add([*scope, there], table if scope else table[0])
        for i, per_option in wants.items():
            needs = [layout in w for w in per_option]
            if any(needs):
                self.problem.add(
                    [there, self.nodes[i]],
                    np.array([[np.inf if n else 0.0 for n in needs], [0.0] * len(needs)]),
                )

    def _convert(self, name: str, src: Layout, wanted: set[Layout]) -> float:
        value = self.graph.types.get(name, ValueType())
        return sum(self.cost.conversion(src, dst, value) for dst in sorted(wanted))
