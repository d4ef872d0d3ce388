"""The plans among which merge chooses by measuring, each lowered: that of no target, that of the target, the
one that measured times choose, and every node once per model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from netfuse_onnx import apart, edges
from netfuse_onnx.dims import Sizes
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.lowered import Merged
from netfuse_onnx.plan import planner, recorded, targets
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.several import Several
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.prove import remake
from netfuse_onnx.prove.trial import Options, Progress
from netfuse_onnx.rewrite.combine import with_combinations
from netfuse_onnx.types import Became, Choice, Correspondence, Source
from netfuse_onnx.write import metadata, writer
from netfuse_onnx.write.digests import Digests

TUNED, GENERIC, ONCE = "tuned", "generic", "once per model"
"""The names of plans; that of the target is `target cpu`."""
FOR_NODES = 0.4
"""The part of the budget that goes into measuring single nodes."""
Tuner = Callable[[Correspondence, Mapping[str, int], float], Timed]
"""Measures the nodes of a family at some sizes, for at most so many seconds, and gives a cost."""


@dataclass(frozen=True)
class Plan:
    """One plan of a family, lowered. `rows` are the plan where it is recorded, else None: then `target` says
    how it is made again."""

    name: str
    family: Correspondence
    merged: Merged
    target: str
    rows: tuple[Choice, ...] | None = None
    predicted: float | None = None
    """Microseconds."""
    measured: tuple[Mapping[str, int], ...] = ()
    """The sizes of symbolic dims at which it was measured."""
    io: str = edges.SEPARATE
    """The form of its inputs and outputs."""

    @classmethod
    def of(cls, family: Correspondence, *, io: str, share: frozenset[str], target: str, dims: Sizes) -> Plan:
        """The plan of a target."""
        merged = remake.merge(family, io=io, share=share, target=target, dims=dims)
        name = target if target == GENERIC else f"target {target}"
        return cls(name, family, merged, target, io=io)

    @property
    def made_for(self) -> str:
        """The provider that the plan's target names, or ''."""
        return targets.provider(self.target)

    def metadata(
        self, *, io: str, share: frozenset[str], partial: bool, dims: Sizes, data: str = "auto"
    ) -> Callable[[tuple[str, ...]], Mapping[str, str]]:
        """A function that gives the metadata of the file from the digests of the sources."""
        build: Callable[[tuple[str, ...]], Mapping[str, str]] = functools.partial(
            metadata.build, self.family, self.merged, io=io, share=sorted(share), target=self.target,
            partial=partial, tools=remake.tools(self.family), constants=remake.constants(self.target),
            provider=self.made_for, dims=dims, recorded=self.rows is not None,
            measured=self.measured, apart=apart.of(self.family, self.merged, dims), data=data,
        )  # fmt: skip
        return build


@dataclass(frozen=True)
class Request:
    """The arguments of merge that matter here. `plan` is that of the target of the provider where plans are
    measured; `families` gives the family as it is rewritten for a provider."""

    plan: Plan
    families: Callable[[str], Correspondence]
    sources: Sequence[Source]
    out: str
    io: str
    share: frozenset[str]
    dims: Sizes
    options: Options
    seconds: float
    mode: writer.Mode
    digests: Digests
    tell: Progress

    @property
    def target(self) -> str:
        return self.plan.target

    @property
    def provider(self) -> str:
        return self.options.runtime.provider


class Plans:
    """Makes the plans that may be best."""

    def __init__(
        self, ask: Request, tuner: Tuner | None = None, sizes: Sequence[Mapping[str, int]] = ()
    ) -> None:
        self.ask, self.tuner, self.sizes = ask, tuner, sizes
        self.family = with_combinations(ask.plan.family, ask.share)
        self.base = cost(ask.target, self.family, ask.dims)
        self.base.measures = True
        self.found = planner.candidates(self.family, io=ask.io, share=ask.share, cost=self.base)

    def all(self) -> list[Plan]:
        """The plans, the simplest to make again first."""
        ask = self.ask
        assert self.tuner is not None, "plans are made by measuring"
        tuned, plain = (
            self._tuned(self.tuner),
            ask.families("") if ask.provider == "cuda" else ask.plan.family,
        )
        plans = [
            Plan.of(plain, io=ask.io, share=ask.share, target=GENERIC, dims=ask.dims),
            ask.plan,
            self.recorded(TUNED, self._best(tuned)),
            self.recorded(ONCE, self._once()),
        ]
        return [replace(plan, predicted=self._price(plan, tuned)) for plan in plans]

    def _best(self, tuned: Cost) -> list[Choice]:
        """The plan that the measured times choose. Lowerings that they do not cover take no part. Bodies of
        control flow are planned by the target, as they will be when the plan is made again."""
        allowed = [
            [offer for offer in offers if not tuned.refusal(offer)] or offers for offers in self.found.options
        ]
        found = replace(self.found, options=allowed)
        plan = planner.chosen(self.family, found, share=self.ask.share, cost=tuned)
        return [*recorded.choices(plan.lowerings)]

    def _tuned(self, tuner: Tuner) -> Cost:
        """The cost by what nodes take on this machine, at each choice of sizes."""
        seconds = self.ask.seconds * FOR_NODES / len(self.sizes)
        costs = [tuner(self.family, point, seconds) for point in self.sizes]
        return costs[0] if len(costs) == 1 else Several(costs)

    def recorded(self, name: str, rows: Sequence[Choice]) -> Plan:
        """The plan as its rows give it back, priced by the target: no time that was measured goes into the
        file."""
        ask = self.ask
        plan = planner.chosen(self.family, self.found, share=ask.share, cost=self.base, rows=rows)
        merged = lower(self.family, plan, io=ask.io, share=ask.share)
        return Plan(name, ask.plan.family, merged, ask.target, tuple(rows), io=ask.io)

    def _once(self) -> list[Choice]:
        """The plan that runs every node once per model, where that is on offer."""
        few = [
            [o for o in offers if o.became is Became.REPLICATED] or offers for offers in self.found.options
        ]
        found = replace(self.found, options=few)
        plan = planner.chosen(self.family, found, share=self.ask.share, cost=self.base)
        return [*recorded.choices(plan.lowerings)]

    def _price(self, plan: Plan, tuned: Cost) -> float | None:
        """The microseconds that nodes and conversions are expected to take; None where it can't be told."""
        if plan.family is not self.ask.plan.family:
            return None
        try:
            return planner.price(self.family, self.found, remake.choices(plan.merged.report.nodes), tuned)
        except recorded.NotOnOffer:
            return None
