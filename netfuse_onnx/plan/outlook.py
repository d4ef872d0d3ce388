"""A cheap outlook on a target: the nodes of a plan that was made without one, priced one by one.

Planning for a target takes longer than planning without one. This looks at the nodes alone: at the lowering
that each has, and at running it once per model. Conversions and the options that only a target has on offer
are left out, so that a plan for the target is expected to be as good or better.
"""

from __future__ import annotations

from dataclasses import dataclass

from netfuse_onnx.layouts import PER_MODEL
from netfuse_onnx.ops.schemas import OWN
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.sized import retyped
from netfuse_onnx.rules import Option
from netfuse_onnx.types import Became, Correspondence, Lowering, Plan


@dataclass(frozen=True, slots=True)
class Outlook:
    """Microseconds a call: `batched` of the nodes that run once for all models, and `best` of the same nodes,
    each as it is or once per model. `apart` of `nodes` would be cheaper once per model."""

    batched: float
    best: float
    apart: int
    nodes: int


def outlook(family: Correspondence, plan: Plan, cost: Cost) -> Outlook:
    """Price the nodes of a plan by the costs of a target."""
    sites = retyped([lowering.site for lowering in plan.lowerings], cost.priced(family))
    batched = best = 0.0
    apart = nodes = 0
    for lowering, sized in zip(plan.lowerings, sites, strict=True):
        if not isinstance(lowering.option, Option) or lowering.site.node.domain == OWN:
            continue  # a combination of all models can't run once per model
        once, each = cost.lowering(lowering, sized), cost.lowering(once_per_model(lowering), sized)
        batched, best = batched + once, best + min(once, each)
        apart, nodes = apart + (each < once), nodes + 1
    return Outlook(batched, best, apart, nodes)


def once_per_model(lowering: Lowering) -> Lowering:
    """The lowering that runs a node once for each model."""
    gives = (PER_MODEL,) * len(lowering.gives)
    return Lowering(Became.REPLICATED, lowering.takes, gives, lowering.site)
