"""plan: Correspondence + rules -> Plan, a lowering for every node.

Nodes that nothing mapped reaches run once. The others get the combination of options (offers.py) with the
least total cost over the whole graph (cost.py), conversions paid once per (value, layout). The minimum is
exact (elimination.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from netfuse_onnx import edges
from netfuse_onnx.errors import NotRoutable, NotStackable, UsageFault
from netfuse_onnx.layouts import FOLDED, PER_MODEL, SHARED, STACKED, Layout
from netfuse_onnx.plan import control, recorded
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.offers import Candidates, propagate, untuned
from netfuse_onnx.plan.prediction import predicted
from netfuse_onnx.plan.search import Search, solved
from netfuse_onnx.plan.several import Several
from netfuse_onnx.plan.sized import retyped
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.predicted import SizeRow
from netfuse_onnx.run import symbols
from netfuse_onnx.types import Became, Choice, Correspondence, Node, Plan

__all__ = ["Candidates", "Search", "candidates", "chosen", "plan", "price"]

SHOWN = 3
"""The nodes that an error names, at most."""


def plan(
    corr: Correspondence,
    *,
    io: str = "separate",
    share: frozenset[str] = frozenset(),
    cost: Cost | None = None,
) -> Plan:
    """Choose a lowering per node. `io`: a word of edges.py; `share`: graph inputs fed once; `cost`: by what
    the choice is made, that of no target by default."""
    cost = cost or Cost(corr.models)
    return chosen(corr, candidates(corr, io=io, share=share, cost=cost), share=share, cost=cost)


def chosen(
    corr: Correspondence,
    found: Candidates,
    *,
    share: frozenset[str],
    cost: Cost,
    rows: Sequence[Choice] | None = None,
) -> Plan:
    """Choose among candidates. With `rows` the plan is the one that they record, and nothing is predicted of
    it. Raises recorded.NotOnOffer."""
    bests = _weighed(corr, found, cost)
    priced, sized = _priced(corr, found, cost)
    best = solved(priced, sized if rows is None else recorded.restricted(sized, rows), cost)
    expected = None
    if cost.tuned and rows is None:
        generic = solved(corr, untuned(found), Cost(corr.models, cost.accounts))
        expected = predicted(priced, sized, best, generic, cost)
        expected = replace(expected, sizes=_sizes(corr, found, best, cost, bests))
    notes = (*best.notes, *_advice(corr, found, share, cost))
    ragged = found.ragged.intersection(corr.graph.outputs)
    return replace(best, notes=notes, prediction=expected, ragged=frozenset(ragged))


def price(corr: Correspondence, found: Candidates, rows: Sequence[Choice], cost: Cost) -> float:
    """The total of a recorded plan by another cost than that by which it was chosen, conversions included.
    The plan must be one of these candidates: raises recorded.NotOnOffer."""
    priced, sized = _priced(corr, found, cost)
    return solved(priced, recorded.restricted(sized, rows), cost).cost


def _weighed(corr: Correspondence, found: Candidates, cost: Cost) -> list[float]:
    """The costs of the best plan for each size alone, where there are several. They weigh the sizes."""
    if not isinstance(cost, Several):
        return []
    bests = []
    for one in cost.costs:
        priced, sized = _priced(corr, found, one)
        bests.append(solved(priced, sized, one).cost)
    cost.weigh(bests)
    return bests


def _sizes(
    corr: Correspondence, found: Candidates, plan: Plan, cost: Cost, bests: Sequence[float]
) -> tuple[SizeRow, ...]:
    """The sizes for which a plan was made, with its cost at each, and that of the best plan for it alone."""
    costs = cost.costs if isinstance(cost, Several) else (cost,)
    free = symbols.free(corr.graph.types[name].dims for name in corr.graph.inputs)
    rows, plan_rows = [], [*recorded.choices(plan.lowerings)]
    for one, best in zip(costs, bests or [plan.cost], strict=True):
        given = one.given if isinstance(one, Timed) else {}
        own = price(corr, found, plan_rows, one) if bests else plan.cost
        rows.append(SizeRow({n: given[n] for n in free if n in given}, round(own, 2), round(best, 2)))
    return tuple(rows)


def _priced(corr: Correspondence, found: Candidates, cost: Cost) -> tuple[Correspondence, Candidates]:
    """The family with the sizes by which it is priced, and the candidates with theirs."""
    priced = cost.priced(corr)
    return priced, found if priced is corr else replace(found, sites=retyped(found.sites, priced))


def _advice(corr: Correspondence, found: Candidates, share: frozenset[str], cost: Cost) -> Iterator[str]:
    """Inputs that configure the graph (a rate, a flag, a size) and would free nodes if they were shared."""
    apart = _replicated(found)
    if not apart:
        return
    for name, layout in found.inputs.items():
        rank = corr.graph.types[name].rank
        if layout == SHARED or rank is None or rank > 1:
            continue
        shared = {**found.inputs, name: SHARED}
        freed = apart - _replicated(propagate(corr, shared, control.offers(cost), cost))
        if freed:
            yield f"--share-input {name} would batch {len(freed)} of the {len(apart)} replicated operators."


def _replicated(found: Candidates) -> set[int]:
    return {i for i, offers in enumerate(found.options) if offers[0].became is Became.REPLICATED}


def candidates(corr: Correspondence, *, io: str, share: frozenset[str], cost: Cost) -> Candidates:
    """The candidates of the search, with the layouts that the edge of the merged graph asks for."""
    graph = corr.graph
    routed = edges.is_routed(io)
    if corr.combined and not (edges.is_separate(io) or edges.is_stacked(io)):
        raise UsageFault(
            f"--combine needs the outputs of all models, and with {edges.options(io)} a call runs only some.",
            "Leave out --combine, or use --io separate, or --io stacked without --select.",
        )
    fed = PER_MODEL if edges.is_separate(io) else FOLDED(0) if edges.is_by_index(io) else STACKED(0)
    tensors = {name for name in graph.inputs if graph.types[name].proto is None}
    inputs: dict[str, Layout] = {
        name: SHARED if name in share else fed if name in tensors else PER_MODEL for name in graph.inputs
    }
    found = propagate(corr, inputs, control.offers(cost), cost, chosen=edges.chooses(io))
    if found.chosen:
        _refuse_apart(corr, found, io)
    for name in graph.outputs:
        if not edges.is_separate(io) and name in found.ragged and not _said_to_be_alike(corr, name):
            raise NotStackable(
                f"Output {name!r} cannot be stacked: its shape may differ between the models.",
                "Use --io separate.",
            )
        found.ends[name] = FOLDED(0) if routed else fed if name in found.mapped else SHARED
    return found


def _refuse_apart(corr: Correspondence, found: Candidates, io: str) -> None:
    """Raises NotStackable where a node can't run for models that a call chooses."""
    apart = [offers[0] for offers in found.options if offers[0].became is Became.REPLICATED]
    if apart:
        first = apart[0]
        names = ", ".join(
            dict.fromkeys(f"{low.site.node.key} {_named(low.site.node)}" for low in apart[:SHOWN])
        )
        more = f" and {len(apart) - SHOWN} more" if len(apart) > SHOWN else ""
        if edges.is_routed(io):
            raise NotRoutable(
                f"{corr.sources[0].path} can't be routed by index, where each row takes the weights of its "
                f"model: {names}{more} would run once for each of all models ({first.reason}).",
                "Use --routing slots.",
            )
        raise NotStackable(
            f"A call can't choose among the models of {corr.sources[0].path} (--select): {names}{more} would "
            f"run once for each of all models ({first.reason}).",
            "Use --io routed --routing slots, or leave out --select.",
        )


def _named(node: Node) -> str:
    return repr(node.name or next(filter(None, node.outputs), ""))


def _said_to_be_alike(corr: Correspondence, name: str) -> bool:
    """True for an output that declares sizes which are the same for all models. The join at the edge compares
    them, whatever the file says."""
    sizes = {dim for fed in corr.graph.inputs for dim in corr.graph.types[fed].dims or ()}
    dims = corr.edge_type(name).dims
    return dims is not None and all(isinstance(dim, int) or (dim and dim in sizes) for dim in dims)
