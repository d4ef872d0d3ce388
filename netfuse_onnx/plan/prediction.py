"""The expected cost of a plan on its target, part by part, and those of other plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from netfuse_onnx.layouts import PER_MODEL
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.plan.search import solved
from netfuse_onnx.predicted import Prediction
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Became, Correspondence, Lowering, Plan

Pick = Callable[[int, list[Lowering]], list[Lowering]]
"""The lowerings of node i that an alternative allows, of those on offer; none is all."""


BATCHED, ONE_BY_ONE = "batched wherever possible", "once per model"
"""The names of the plans that a plan is compared with: that of no target, and every node once per model."""


def predicted(corr: Correspondence, found: Candidates, plan: Plan, generic: Plan, cost: Cost) -> Prediction:
    """Microseconds. `generic`: the plan of no target, as one of the alternatives; the other is every node
    once per model."""
    parts, nodes = dict[str, float](), list[str]()
    for i, (seen, chosen) in enumerate(zip(found.sites, plan.lowerings, strict=True)):
        price = cost.lowering(chosen, seen)
        parts[str(chosen.became)] = parts.get(str(chosen.became), 0.0) + price
        nodes.append(_beside(chosen, found.options[i], seen, price, cost))
    parts["conversions"] = max(0.0, plan.cost - sum(parts.values()))
    parts["call"] = call = cost.call(*_edge(corr, found))
    picks: Mapping[str, Pick] = {
        BATCHED: lambda i, offers: [o for o in offers if o.choice == generic.lowerings[i].choice],
        ONE_BY_ONE: lambda i, offers: [o for o in offers if o.became is Became.REPLICATED],
    }
    others = {name: _cost(corr, found, pick, cost) + call for name, pick in picks.items()}
    return Prediction({k: round(v, 2) for k, v in sorted(parts.items()) if v}, others, tuple(nodes))


def _edge(corr: Correspondence, found: Candidates) -> tuple[int, int]:
    """The numbers of inputs and outputs of the merged model."""
    apart = PER_MODEL in found.ends.values() or PER_MODEL in found.inputs.values()
    inputs = sum(corr.models if layout == PER_MODEL else 1 for layout in found.inputs.values())
    return inputs, len(found.ends) * (corr.models if apart else 1)


def _cost(corr: Correspondence, found: Candidates, pick: Pick, cost: Cost) -> float:
    options = [pick(i, offers) or offers for i, offers in enumerate(found.options)]
    return round(solved(corr, replace(found, options=options), cost).cost, 2)


def _beside(chosen: Lowering, offers: list[Lowering], seen: Site, price: float, cost: Cost) -> str:
    """`12.0 us; once per model 14.1 us`: the cheapest other way of a node, conversions not counted."""
    others = [(cost.lowering(o, seen), _way(o)) for o in offers if _way(o) != _way(chosen)]
    if not others:
        return ""
    least, way = min(others)
    return f"{price:.1f} us; {way} {least:.1f} us"


def _way(lowering: Lowering) -> str:
    return ONE_BY_ONE if lowering.became is Became.REPLICATED else lowering.rule
