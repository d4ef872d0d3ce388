"""plan: Correspondence + rules -> Plan, a lowering for every node.

Nodes that nothing mapped reaches run once. The others get the combination of options (offers.py) with the
least total cost over the whole graph (cost.py), conversions paid once per (value, layout). The minimum is
exact (elimination.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from netfuse_onnx.errors import NotStackable
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED, Layout
from netfuse_onnx.plan import control
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.offers import Candidates, propagate, untuned
from netfuse_onnx.plan.prediction import predicted
from netfuse_onnx.plan.search import Search, solved
from netfuse_onnx.plan.sized import retyped
from netfuse_onnx.types import Became, Correspondence, Plan

__all__ = ["Candidates", "Search", "candidates", "plan"]


def plan(
    corr: Correspondence,
    *,
    io: str = "separate",
    share: frozenset[str] = frozenset(),
    cost: Cost | None = None,
) -> Plan:
    """Choose a lowering per node. `io`: separate or stacked; `share`: graph inputs fed once; `cost`: by what
    the choice is made, that of no target by default."""
    cost = cost or Cost(corr.models)
    found = candidates(corr, io=io, share=share, cost=cost)
    priced = cost.priced(corr)
    sized = found if priced is corr else replace(found, sites=retyped(found.sites, priced))
    best = solved(priced, sized, cost)
    expected = None
    if cost.tuned:
        generic = solved(corr, untuned(found), Cost(corr.models, cost.accounts))
        expected = predicted(priced, sized, best, generic, cost)
    notes = (*best.notes, *_advice(corr, found, share, cost))
    ragged = found.ragged.intersection(corr.graph.outputs)
    return replace(best, notes=notes, prediction=expected, ragged=frozenset(ragged))


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
    fed = STACKED(0) if io == "stacked" else PER_MODEL
    tensors = {name for name in graph.inputs if graph.types[name].proto is None}
    inputs: dict[str, Layout] = {
        name: SHARED if name in share else fed if name in tensors else PER_MODEL for name in graph.inputs
    }
    found = propagate(corr, inputs, control.offers(cost), cost)
    for name in graph.outputs:
        if io == "stacked" and name in found.ragged and not _said_to_be_alike(corr, name):
            raise NotStackable(
                f"Output {name!r} cannot be stacked: its shape may differ between the models.",
                "Use --io separate.",
            )
        found.ends[name] = fed if name in found.mapped else SHARED
    return found


def _said_to_be_alike(corr: Correspondence, name: str) -> bool:
    """True for an output that declares sizes which are the same for all models. The join at the edge compares
    them, whatever the file says."""
    sizes = {dim for fed in corr.graph.inputs for dim in corr.graph.types[fed].dims or ()}
    dims = corr.edge_type(name).dims
    return dims is not None and all(isinstance(dim, int) or (dim and dim in sizes) for dim in dims)
