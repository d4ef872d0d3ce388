"""The search: one option per node, so that nodes and conversions together cost least."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from netfuse_onnx.emit.chosen import home
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED, Layout
from netfuse_onnx.plan.blame import blamed
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.elimination import Problem, Solution
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.types import Correspondence, Lowering, Plan, ValueType


def solved(corr: Correspondence, found: Candidates, cost: Cost) -> Plan:
    """The cheapest plan among what is on offer."""
    problem = Search(corr, found, cost)
    solution = problem.solve()
    notes = (
        () if solution.exact else ("the plan's search was cut: its cost is an upper bound, not the minimum",)
    )
    return Plan(problem.chosen(solution), solution.cost, solution.exact, notes, provider=cost.provider)


class Search:
    """The choice of one option per node as a sum of tables.

    A run-time value with one consumer is one table over the two choices. A value with several gets, per
    layout that anyone may want, a variable that says whether it is made: consumers that want a layout
    rule out its absence, and making it costs one conversion, however many read it.
    """

    def __init__(self, corr: Correspondence, found: Candidates, cost: Cost) -> None:
        self.corr, self.found, self.cost = corr, found, cost
        self.graph, self.weights = corr.graph, corr.weights
        self.problem = Problem()
        self.nodes = [self.problem.variable(len(offers)) for offers in found.options]
        self.producer = {
            v: (i, k) for i, n in enumerate(self.graph.nodes) for k, v in enumerate(n.outputs) if v
        }
        self._price_nodes()
        self._price_values()

    def solve(self) -> Solution:
        return self.problem.solve()

    def chosen(self, solution: Solution) -> tuple[Lowering, ...]:
        return tuple(
            offers[solution.values[v]] for v, offers in zip(self.nodes, self.found.options, strict=True)
        )

    def _price_nodes(self) -> None:
        for v, site, offers in zip(self.nodes, self.found.sites, self.found.options, strict=True):
            with blamed(self.corr, site):
                prices = np.array([self.cost.lowering(offer, site) for offer in offers], np.float64)
            self.problem.add([v], prices)

    def _laid_out(self, name: str, layout: Layout) -> float:
        """A weight is laid out by the writer, for nothing, unless it is repeated, or the layout is one that
        nodes make."""
        parts = self.weights[name]
        if self.found.chosen:
            value = ValueType(parts[0].dtype, parts[0].shape)
            return self.cost.conversion(home(parts), layout, value, name)
        price = 0.0
        if len(parts) == 1 and layout not in (SHARED, PER_MODEL):
            price = self.cost.repeated(parts[0])
        if layout.runs(parts[0].shape) is None:
            value = ValueType(parts[0].dtype, parts[0].shape)
            price += self.cost.conversion(STACKED(0), layout, value, name)
        return price

    def _price_values(self) -> None:
        uses: dict[str, list[int]] = {}
        for i, node in enumerate(self.graph.nodes):
            for name in dict.fromkeys(node.reads):
                if name:
                    uses.setdefault(name, []).append(i)
        for name in dict.fromkeys([*uses, *self.found.ends]):
            self._price_value(name, uses.get(name, []))

    def _made(self, name: str) -> tuple[list[int], list[Layout]]:
        """The variable that decides how a value is made, and the layout for each of its values."""
        if name in self.producer:
            i, k = self.producer[name]
            return [self.nodes[i]], [offer.gives[k] for offer in self.found.options[i]]
        if name in self.weights:
            return [], [SHARED]
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
        ordered = sorted(wanted) if len(wanted) > 1 else wanted  # sums must not depend on the order of a set
        if name in self.weights:
            return sum(self._laid_out(name, dst) for dst in ordered)
        value = self.graph.types.get(name, ValueType())
        return sum(self.cost.conversion(src, dst, value, name) for dst in ordered if dst != src)
