"""A plan that the metadata of a merged file record, node by node.

A plan that was chosen by measuring can't be made again: another run measures other times. So the merged file
says that its plan is recorded, and the rows of its nodes (what became of each, by which rule, in which
layouts) are the choice. They restrict what the rules offer, and never add to it: a row that names a lowering
that is not on offer is refused. The bodies of control flow are not restricted; they are planned by the costs
of the target as in any other plan, and their rows must say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from netfuse_onnx.plan.nested import NestedPlan
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.types import Choice, Lowering, Plan


class NotOnOffer(Exception):
    """The rows are not a plan of this family. The text says which row, as a clause."""


def choices(lowerings: Sequence[Lowering]) -> Iterator[Choice]:
    """The rows of a plan: one for each node; those of merged bodies come behind the node that owns them."""
    for lowering in lowerings:
        yield lowering.choice
        yield from _inside(lowering)


def restricted(found: Candidates, rows: Sequence[Choice]) -> Candidates:
    """The candidates of which each node has only those that its row names. Raises NotOnOffer."""
    left, options = list(reversed(rows)), list[list[Lowering]]()
    for site, offers in zip(found.sites, found.options, strict=True):
        what = f"node {site.node.name or site.node.outputs[0]!r}"
        if not left:
            raise NotOnOffer(f"they have no row for {what}")
        row = left.pop()
        same = [offer for offer in offers if offer.choice == row]
        if not same:
            raise NotOnOffer(f"they say that {what} is {row}, which no rule offers")
        for inner in _inside(same[0]):
            if not left or left.pop() != inner:
                raise NotOnOffer(f"they have other rows for the bodies of {what}")
        options.append(same[:1])
    if left:
        raise NotOnOffer(f"they have {len(left)} rows more than there are nodes")
    return replace(found, options=options)


def as_recorded(plan: Plan, found: Candidates) -> Plan:
    """The plan as it is read back from its rows: of two lowerings with one row, the first on offer."""
    kept = restricted(found, [*choices(plan.lowerings)])
    return replace(plan, lowerings=tuple(offers[0] for offers in kept.options))


def _inside(lowering: Lowering) -> Iterator[Choice]:
    if isinstance(lowering.option, NestedPlan):
        for body in lowering.option.bodies.values():
            yield from choices(body.plan.lowerings)
