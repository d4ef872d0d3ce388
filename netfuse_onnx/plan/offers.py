"""Collects the candidates: for every node of a graph, the lowerings among which the plan may choose.

The values that differ between the models are known before any choice is made: a value is mapped when a
per-model input or weight reaches it, and ragged when its shape may differ too. Both spread in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from netfuse_onnx.emit.chosen import NeedsCount
from netfuse_onnx.errors import NotCombinable
from netfuse_onnx.layouts import PER_MODEL, SHARED, Layout
from netfuse_onnx.ops import kinds, traits
from netfuse_onnx.ops.schemas import OWN
from netfuse_onnx.plan.blame import blamed
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.rules import Option, Refuse, Site, options
from netfuse_onnx.rules.fallback import CHEAPER, RANDOM, UNJOINABLE, UNLIKE_BODY, UNSHAREABLE
from netfuse_onnx.storage.weights import array
from netfuse_onnx.types import Became, Correspondence, Graph, Lowering, Node, Weight


@dataclass
class Candidates:
    """Everything the search works on. `sites[i]` is node i as it is priced; `options[i]` are the lowerings on
    offer for it: exactly one for a node that runs once or can only be replicated. Replication comes last
    where it is one of several."""

    sites: list[Site] = field(default_factory=list)
    options: list[list[Lowering]] = field(default_factory=list)
    mapped: set[str] = field(default_factory=set)
    ragged: set[str] = field(default_factory=set)
    inputs: dict[str, Layout] = field(default_factory=dict)
    ends: dict[str, Layout] = field(default_factory=dict)
    chosen: bool = False
    """True where a call chooses the models, so that no number of them is a constant."""


Bodies = Callable[[Correspondence, Candidates, Site], Lowering | str]
"""Offers a lowering for a node with bodies, or says why it is replicated (control.py)."""


def propagate(
    corr: Correspondence, inputs: Mapping[str, Layout], bodies: Bodies, cost: Cost, *, chosen: bool = False
) -> Candidates:
    """Spread what is mapped and what is ragged, and collect every option. `inputs` are the layouts of the
    graph inputs; `cost` says what is on offer: the options that only pay by measured costs, once per model
    among them, and those of one provider, without what that refuses to run. Where a call has `chosen` the
    models, no option needs their number."""
    candidates = Candidates(ragged=set(corr.ragged), inputs=dict(inputs), chosen=chosen)
    candidates.mapped = {name for name, layout in inputs.items() if layout != SHARED}
    candidates.mapped |= {name for name, parts in corr.weights.items() if len(parts) > 1}
    for index, node in enumerate(corr.graph.nodes):
        site = _site(corr, candidates, node, index)
        candidates.sites.append(site)
        candidates.options.append(_offers(corr, candidates, site, bodies, cost))
        _mark(candidates, corr, node, candidates.options[-1])
    return candidates


def untuned(candidates: Candidates) -> Candidates:
    """The candidates without the options that only pay by measured costs."""
    kept = [
        [
            o
            for o in offers
            if o.reason != CHEAPER and not (isinstance(o.option, Option) and o.option.for_targets)
        ]
        for offers in candidates.options
    ]
    options = [few or offers[-1:] for few, offers in zip(kept, candidates.options, strict=True)]
    return replace(candidates, options=options)


def _offers(
    corr: Correspondence, candidates: Candidates, site: Site, bodies: Bodies, cost: Cost
) -> list[Lowering]:
    node = site.node
    if node.domain == OWN:
        return _combinations(candidates, site, cost)
    mapped = any(v in candidates.mapped for v in node.reads)
    if not (mapped or site.attrs or traits.random(node) or _unshareable(corr.graph, node)):
        return [Lowering(Became.SHARED, (SHARED,) * len(node.reads), (SHARED,) * len(node.outputs), site)]
    reason = _cannot(corr, candidates, site)
    if not reason and traits.has_bodies(node):
        answer = bodies(corr, candidates, site)
        if isinstance(answer, Lowering):
            return [answer]
        reason = answer
    if not reason:
        with blamed(corr, site):
            batched, reason = _batched(site, cost)
        if batched:
            unjoinable = any(kind.dtype in kinds.UNJOINABLE for kind in (*site.inputs, *site.outputs))
            if site.chosen or not (unjoinable or cost.tuned) or batched[0].gives[0] == SHARED:
                return batched
            why = UNJOINABLE if unjoinable else CHEAPER
            return [*batched, replicated(site, candidates.mapped, why, batched[0].gives)]
    return [replicated(site, candidates.mapped, reason)]


def _combinations(candidates: Candidates, site: Site, cost: Cost) -> list[Lowering]:
    """The ways to combine the values of all models, none of which is once per model."""
    batched, reason = _batched(site, cost)
    if site.node.inputs[0] in candidates.ragged:
        batched, reason = [], "its shape may differ between the models"
    if not batched:
        raise NotCombinable(
            f"Output {site.node.name!r} cannot be combined: {reason}.", "Leave it out of --combine."
        )
    return batched


def _batched(site: Site, cost: Cost) -> tuple[list[Lowering], str]:
    """The lowerings that rules offer and the provider runs, or none and the reason."""
    offers, reason = options(site, tuned=cost.tuned, provider=cost.provider, measures=cost.measures)
    lowerings = [Lowering(o.became, o.takes, o.gives, site, o.rule, o) for o in offers]
    refusals = [_needs_count(lowering, cost) or cost.refusal(lowering) for lowering in lowerings]
    kept = [lowering for lowering, refusal in zip(lowerings, refusals, strict=True) if not refusal]
    return kept, reason or "; ".join(dict.fromkeys(filter(None, refusals)))


def _needs_count(lowering: Lowering, cost: Cost) -> str:
    """The reason why a lowering is not on offer where a call chooses the models, or ''."""
    if lowering.site.chosen:
        try:
            cost.accounts.of(lowering)
        except (NeedsCount, Refuse) as refusal:
            return str(refusal)
    return ""


def _unshareable(graph: Graph, node: Node) -> bool:
    """A graph output that is not a tensor is made for each model: no Identity could give it N names."""
    return any(v in graph.outputs and graph.types[v].proto is not None for v in node.outputs)


def _cannot(corr: Correspondence, candidates: Candidates, site: Site) -> str:
    """The reason why a node is replicated whatever its rules say, or ""."""
    node = site.node
    if traits.random(node):
        return RANDOM
    if _unshareable(corr.graph, node):
        return UNSHAREABLE
    if site.attrs and traits.has_bodies(node):
        return UNLIKE_BODY
    for name in node.inputs:
        if name in candidates.ragged:
            return f"the shape of its input {name!r} may differ between the models"
    return ""


def _site(corr: Correspondence, found: Candidates, node: Node, index: int) -> Site:
    """The node as its rules see it."""
    mapped = found.mapped
    return Site(
        node,
        corr.models,
        corr.opsets,
        tuple(map(corr.type_of, node.inputs)),
        tuple(map(corr.type_of, node.outputs)),
        tuple(v in mapped for v in node.inputs),
        tuple(v in corr.weights and not (found.chosen and v in mapped) for v in node.inputs),
        tuple(_constant(corr.weights.get(v, ())) for v in node.inputs),
        corr.attrs.get(index, ()),
        tuple(corr.weights.get(v, ()) for v in node.inputs),
        found.chosen,
    )


def _constant(parts: tuple[Weight, ...]) -> NDArray[Any] | None:
    """The array of a small weight that is equal in all models."""
    small = len(parts) == 1 and isinstance(parts[0].data, bytes)
    return array(parts[0]) if small else None


def replicated(site: Site, mapped: Set[str], reason: str, others: Sequence[Layout] = ()) -> Lowering:
    """The node once per model: mapped inputs per model, the others shared. `others` are the layouts that the
    other options give: an output that they give once for all models, such as a mean that no weight of a model
    reaches, is once for all models here, too."""
    node = site.node
    takes = tuple(PER_MODEL if v in mapped else SHARED for v in node.reads)
    gives = [SHARED if layout == SHARED else PER_MODEL for layout in others] or [PER_MODEL] * len(
        node.outputs
    )
    return Lowering(Became.REPLICATED, takes, tuple(gives), site, reason=reason)


def _mark(candidates: Candidates, corr: Correspondence, node: Node, options: Sequence[Lowering]) -> None:
    """Mark the mapped and ragged outputs of a node. All options of a node give SHARED, or none does."""
    first = options[0]
    for name, gives in zip(node.outputs, first.gives, strict=True):
        if gives != SHARED:
            candidates.mapped.add(name)
    if first.became is not Became.REPLICATED:
        return
    open_ = candidates.ragged - corr.ragged  # of the others, match has told what follows from their shapes
    if traits.ragged(node, candidates.mapped, open_):
        sizes = {dim for name in corr.graph.inputs for dim in corr.type_of(name).dims or ()}
        for name in node.outputs:
            dims = corr.type_of(name).dims
            # A symbol of the graph's inputs is one size for all models; a join would notice if it lied.
            if dims is None or not all(isinstance(d, int) or (d and d in sizes) for d in dims):
                candidates.ragged.add(name)
