"""Chooses how the rows of a routed call find their models: by slots or by index.

Slots cost the models times the most rows of one model; by index costs the rows, and the weights that are
gathered for them. Both are priced by the costs of a target, for rows of random models.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from netfuse_onnx import edges
from netfuse_onnx.dims import Sizes
from netfuse_onnx.emit.counting import CountingEmitter
from netfuse_onnx.errors import NotRoutable, NotStackable
from netfuse_onnx.lower.routed import Routed
from netfuse_onnx.merge_rows import RoutingRow
from netfuse_onnx.plan import planner, targets
from netfuse_onnx.plan.account import Account
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.rows_apart import require_rows_apart
from netfuse_onnx.plans import Plan
from netfuse_onnx.rewrite.per_row import per_row
from netfuse_onnx.routing import most_rows, routing, rows_of, shared, without_rows
from netfuse_onnx.types import Correspondence

__all__ = ["matched", "plan", "shared"]

PRICED_BY = "cpu"
"""The target by whose costs the lowering is chosen where no target is named."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A lowering on offer, and its microseconds a call."""

    io: str
    family: Correspondence
    price: float


def plan(
    family: Correspondence, io: str, asked: str, *, share: frozenset[str], target: str, dims: Sizes
) -> tuple[Plan, tuple[RoutingRow, ...]]:
    """Plan and lower a family; of a routed one by the lowering that is asked for, or costs less. Returns the
    plan, and a row for each lowering of a routed one. Raises NotRoutable."""
    if io in (edges.SLOTS, edges.INDEX):
        asked = io
    if not edges.is_routed(io):
        return Plan.of(family, io=io, share=share, target=target, dims=dims), ()
    require_routable(family, share)
    ways, reasons = list[_Way](), dict[str, NotStackable]()
    for name in (edges.SLOTS, edges.INDEX):
        if asked in ("auto", name):
            try:
                ways.append(_priced(family, name, share, target, dims))
            except NotStackable as reason:
                reasons[name] = reason
    if not ways:
        raise _refused(family, list(reasons.values()))
    best = min(ways, key=lambda way: way.price)
    made = Plan.of(best.family, io=best.io, share=share, target=target, dims=dims)
    count = rows_of(dims)
    rows = [RoutingRow(way.io, way is best, count, round(way.price, 1)) for way in ways]
    rows += [RoutingRow(name, False, count, reason=reason.message) for name, reason in reasons.items()]
    return made, tuple(rows)


def _refused(family: Correspondence, reasons: Sequence[NotStackable]) -> NotStackable:
    """The one error for all lowerings that were asked for. Where there are several, the hint of each would
    name another one that is refused."""
    if len(reasons) == 1:
        return reasons[0]
    hint = "Use --io stacked."
    if not routing(family).batch:
        hint = "Export the models with a batch of any size, or use --io stacked."
    return NotRoutable(" ".join(reason.message for reason in reasons), hint)


def matched(family: Correspondence, io: str, provider: str) -> Correspondence:
    """The family as a file with these inputs and outputs was made from it."""
    return per_row(family, provider) if edges.is_by_index(io) else family


def require_routable(family: Correspondence, share: frozenset[str]) -> None:
    """Raise NotRoutable where rows may not be computed by themselves. A batch that is fixed at 1 is a row."""
    if routing(family).batch:
        require_rows_apart(family, share)
    else:
        refuse_outputs(family)


def refuse_outputs(family: Correspondence) -> None:
    """Raise NotRoutable for an output that is not one row."""
    for name in family.graph.outputs:
        kind = family.type_of(name)
        if kind.proto is not None or not kind.dims or kind.dims[0] != 1:
            raise NotRoutable(
                f"Output {name!r} of {family.sources[0].path} has no leading batch axis of 1.",
                "Use --io stacked, or export the models without this output.",
            )


def _priced(family: Correspondence, io: str, share: frozenset[str], target: str, dims: Sizes) -> _Way:
    """A lowering with its price, for rows of random models. Raises NotStackable where it is not on offer."""
    by = PRICED_BY if target == "generic" else target
    given = without_rows(dims)
    first = {name: size if isinstance(size, int) else size[0] for name, size in given.items()}
    if io == edges.SLOTS:
        found = routing(family)
        if not found.batch:
            raise NotRoutable(
                f"The batch of {family.sources[0].path} is fixed at 1, and a slot holds several rows.",
                "Use --routing index, or export the models with a batch of any size.",
            )
        first = dict.fromkeys(found.batch, most_rows(family.models, rows_of(dims))) | first
        model, priced = family, family
    else:
        model = per_row(family, targets.provider(target))
        priced = _of_rows(model, rows_of(dims))
    price = cost(by, priced, first)
    made = planner.plan(priced, io=io, share=share, cost=price)
    return _Way(io, model, made.cost + price.small(_edge(model, io, share, price.provider)))


def _edge(family: Correspondence, io: str, share: frozenset[str], provider: str) -> Account:
    """The nodes that find the model of each row and put the rows in their places."""
    edge = Routed(family, io, share)
    emit = CountingEmitter(family.models, family.opsets.get("", 1), provider)
    edge.feed(emit, lambda *_: None)
    if not edges.is_by_index(io):  # by index, the rows are there already
        edge.drain(emit, lambda name, _: emit.value(family.edge_type(name)), {})
    return Account(tuple(emit.steps))


def _of_rows(family: Correspondence, rows: int) -> Correspondence:
    """A family of as many models as a call has rows, by which it is priced."""
    places = list(itertools.islice(itertools.cycle(range(family.models)), rows))
    weights = {n: tuple(p[i] for i in places) if len(p) > 1 else p for n, p in family.weights.items()}
    return replace(
        family,
        sources=tuple(family.sources[i] for i in places),
        names=tuple(f"{family.names[i]}-{k}" for k, i in enumerate(places)),
        weights=weights,
        attrs={node: tuple(each[i] for i in places) for node, each in family.attrs.items()},
        edges=tuple(family.edges[i] for i in places) if family.edges else (),
    )
