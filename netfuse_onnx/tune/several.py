"""A cost for several settings of sizes: the sum of the times relative to the best plan of each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.layouts import Hop, Layout
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.plan.planner import candidates
from netfuse_onnx.plan.search import solved
from netfuse_onnx.plan.sized import resized, retyped
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Correspondence, Dim, Lowering, Plan, ValueType, Weight


class Several(Timed):
    """Prices a lowering by its times in all settings, each over the time of that setting's best plan.

    A plan that is the best in every setting costs as many units as there are settings. `best` are the
    microseconds of those plans.
    """

    def __init__(
        self,
        family: Correspondence,
        settings: Sequence[Timed],
        *,
        io: str = "separate",
        share: frozenset[str] = frozenset(),
    ) -> None:
        """Each of `settings` is the cost of one setting, of one family and provider."""
        super().__init__(settings[0].models, settings[0].given)
        self.settings = tuple(settings)
        self.provider, self.accounts = settings[0].provider, settings[0].accounts
        self.measures = all(cost.measures for cost in settings)
        self._family = family
        self._priced = tuple(cost.priced(family) for cost in settings)
        self._sites: dict[int, tuple[Site, tuple[Site, ...]]] = {}
        self.best: tuple[float, ...] = (1.0,) * len(settings)
        found = candidates(family, io=io, share=share, cost=self)
        self.best = tuple(
            solved(priced, _sized(found, priced), cost).cost
            for cost, priced in zip(settings, self._priced, strict=True)
        )

    def times(self, plan: Plan, found: Candidates) -> tuple[float, ...]:
        """The microseconds of a plan in each setting. `found`: the candidates that it was chosen from."""
        only = replace(found, options=[[lowering] for lowering in plan.lowerings])
        pairs = zip(self.settings, self._priced, strict=True)
        return tuple(solved(priced, _sized(only, priced), cost).cost for cost, priced in pairs)

    def priced(self, corr: Correspondence) -> Correspondence:
        return self._priced[0]

    def lowering(self, offer: Lowering, sized: Site) -> float:
        sites = zip(self.settings, self._resized(offer.site), strict=True)
        return self._sum([cost.lowering(offer, site) for cost, site in sites])

    def _resized(self, site: Site) -> tuple[Site, ...]:
        """A site with the sizes of each setting."""
        if id(site) not in self._sites:
            self._sites[id(site)] = site, tuple(resized(site, priced) for priced in self._priced)
        return self._sites[id(site)][1]

    def refusal(self, offer: Lowering) -> str:
        return next(filter(None, (cost.refusal(offer) for cost in self.settings)), "")

    def conversion(self, src: Layout, dst: Layout, value: ValueType, name: str = "") -> float:
        prices = []
        for cost, priced in zip(self.settings, self._priced, strict=True):
            of_setting = priced.graph.types.get(name, value) if name not in priced.weights else value
            prices.append(cost.conversion(src, dst, of_setting, name))
        return self._sum(prices)

    def repeated(self, weight: Weight) -> float:
        return self._sum([cost.repeated(weight) for cost in self.settings])

    def call(self, inputs: int, outputs: int) -> float:
        return self._sum([cost.call(inputs, outputs) for cost in self.settings])

    def emitted_dims(self, name: str, value: ValueType) -> tuple[Dim, ...] | None:
        return self.settings[0].emitted_dims(name, value)

    def hop(self, hop: Hop, dims: Sequence[Dim], dtype: int = 0) -> float:
        return self._sum([cost.hop(hop, dims, dtype) for cost in self.settings])

    def _sum(self, prices: Sequence[float]) -> float:
        return sum(price / max(best, 1e-9) for price, best in zip(prices, self.best, strict=True))

    def _step(self, step: Step, shapes: Shapes) -> float:
        return self._sum([cost._step(step, shapes) for cost in self.settings])


def _sized(found: Candidates, priced: Correspondence) -> Candidates:
    return replace(found, sites=retyped(found.sites, priced))
