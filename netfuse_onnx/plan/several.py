"""The cost of a plan that is to be good for several sizes of its inputs.

It is the sum of the costs at each size, relative to the best plan for that size alone. The sum is scaled so
that its unit stays a microsecond: it is the mean over the sizes where they all cost the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.layouts import Layout
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.nested import NestedPlan
from netfuse_onnx.plan.sized import retyped
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Correspondence, Lowering, ValueType, Weight


class Several(Cost):
    """Prices by one cost for each combination of sizes, in `costs`."""

    tuned = True

    def __init__(self, costs: Sequence[Timed]) -> None:
        self.provider = costs[0].provider
        super().__init__(costs[0].models, costs[0].accounts)
        self.costs = tuple(costs)
        for cost in self.costs:
            cost.accounts = self.accounts
        self._shares = [1.0 / len(costs)] * len(costs)
        self._corr: Correspondence | None = None
        self._priced: list[Correspondence] = []
        self._nodes = frozenset[int]()
        self._sites: dict[int, tuple[Site, list[Site]]] = {}

    def weigh(self, bests: Sequence[float]) -> None:
        """Make costs relative to those of the best plan at each size."""
        mean = sum(bests) / len(bests)
        self._shares = [mean / best / len(bests) if best else 1.0 / len(bests) for best in bests]

    def priced(self, corr: Correspondence) -> Correspondence:
        """The family as it is: each size has types of its own."""
        self._corr, self._priced = corr, [cost.priced(corr) for cost in self.costs]
        self._nodes, self._sites = frozenset(map(id, corr.graph.nodes)), {}
        return corr

    def lowering(self, offer: Lowering, sized: Site) -> float:
        if isinstance(offer.option, NestedPlan):
            return offer.option.nodes
        sites = zip(self.costs, self._sized(sized), strict=True)
        return self._sum([cost.lowering(offer, site) for cost, site in sites])

    def _sized(self, site: Site) -> list[Site]:
        """The site at each size. That of a node in a body has no other types than its own."""
        if id(site.node) not in self._nodes:
            return [site] * len(self.costs)
        if id(site) not in self._sites:
            each = [retyped([site], priced)[0] for priced in self._priced]
            self._sites[id(site)] = site, each
        return self._sites[id(site)][1]

    def refusal(self, offer: Lowering) -> str:
        """The first reason of any of the costs."""
        return next(filter(None, (cost.refusal(offer) for cost in self.costs)), "")

    def repeated(self, weight: Weight) -> float:
        return self._sum([cost.repeated(weight) for cost in self.costs])

    def conversion(self, src: Layout, dst: Layout, value: ValueType, name: str = "") -> float:
        kinds = [value] * len(self.costs)
        if self._corr is not None and self._corr.graph.types.get(name) is value:
            kinds = [priced.graph.types[name] for priced in self._priced]
        pairs = zip(self.costs, kinds, strict=True)
        return self._sum([cost.conversion(src, dst, kind, name) for cost, kind in pairs])

    def _sum(self, prices: Sequence[float]) -> float:
        return sum(share * price for share, price in zip(self._shares, prices, strict=True))
