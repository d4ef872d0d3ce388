"""The cost of a plan by times that were measured for the very nodes of a family.

What was not measured costs what the target's constants predict, times the factor by which measured times of
the same kind differ from their predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.layouts import Hop, Layout
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.nested import NestedPlan
from netfuse_onnx.plan.sized import resized
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.rules import Option, Site
from netfuse_onnx.rules._registry import is_measured
from netfuse_onnx.tune import frame
from netfuse_onnx.tune.cases import Case, ConversionCase, Member, NodeCase
from netfuse_onnx.tune.keys import Keys
from netfuse_onnx.types import Correspondence, Dim, Lowering, ValueType, Weight

UNTIMED = "its time was not measured on this machine"


@dataclass(frozen=True, slots=True)
class Summary:
    """The times by which a plan is chosen: measured now, found in the cache, and predicted only, each a
    number of distinct lowerings and conversions; and the seconds that measuring took."""

    measured: int
    cached: int
    predicted: int
    seconds: float


@dataclass(frozen=True)
class Scales:
    """Factors between measured and predicted times, by the kind of a case."""

    factors: Mapping[tuple[str, ...], float]

    @classmethod
    def of(cls, seen: Iterable[tuple[Case, float, float]]) -> Scales:
        """From cases with their measured and predicted times: the geometric means."""
        logs: dict[tuple[str, ...], list[float]] = {}
        for case, measured, predicted in seen:
            if measured > 0.0 and 0.0 < predicted < math.inf:
                for about in _kinds(case):
                    logs.setdefault(about, []).append(math.log(measured / predicted))
        return cls({about: math.exp(math.fsum(some) / len(some)) for about, some in logs.items()})

    def factor(self, case: Case) -> float:
        """The factor of the same operator and lowering; else of the operator; else of all."""
        return next((self.factors[about] for about in _kinds(case) if about in self.factors), 1.0)


def _kinds(case: Case) -> tuple[tuple[str, ...], ...]:
    """The kinds of a case, the narrowest first."""
    op, way = case.kind
    return (op, way), (op,), ()


Place = tuple[str, str, tuple[Layout | None, ...], tuple[Layout, ...]]
"""A lowering of one node of a family: its first output, the rule and the layouts."""


def place(offer: Lowering) -> Place:
    name = next(filter(None, offer.site.node.outputs), "")
    return name, offer.rule, offer.takes, offer.gives


class Tuned(Timed):
    """Prices by times in microseconds, by their keys; beside these, by `base`, the cost of the target.

    `shares` are the times of nodes that were measured in a chain. `open`: all that is right is on offer, so
    that it can be measured; else an option whose speed the target's constants do not cover is on offer only
    where it was measured. `hope`: what was not measured is taken to be so many times as long as expected.
    """

    measures = True

    def __init__(
        self,
        base: Timed,
        family: Correspondence,
        times: Mapping[str, float],
        *,
        scales: Scales | None = None,
        keys: Keys | None = None,
        summary: Summary | None = None,
        shares: Mapping[Place, float] | None = None,
        open: bool = False,
        hope: float = 1.0,
    ) -> None:
        super().__init__(base.models, base.given)
        self.base, self.times, self.open, self.hope = base, times, open, hope
        self.shares = shares or {}
        self.provider, self.accounts = base.provider, base.accounts
        self.scales, self.summary = scales or Scales({}), summary or Summary(0, 0, 0, 0.0)
        self.keys = keys or Keys(base.accounts)
        self.noted: Callable[[ConversionCase, str, float, str], None] | None = None
        """Called with each conversion that is priced, its key, its predicted time and its value's name."""
        self._family = family
        self._priced = base.priced(family)

    def priced(self, corr: Correspondence) -> Correspondence:
        if corr is not self._family:
            self._family, self._priced = corr, self.base.priced(corr)
        return self._priced

    # ------------------------------------------------------------------ nodes

    def lowering(self, offer: Lowering, sized: Site) -> float:
        known = self._lowerings.get((id(offer), id(sized)))
        if known is None:
            known = offer, sized, self._node(offer, sized)
            self._lowerings[id(offer), id(sized)] = known
        return known[2]

    def _node(self, offer: Lowering, sized: Site) -> float:
        where = place(offer)
        if where in self.shares:
            return self.shares[where]
        predicted = self.base.lowering(offer, sized)
        case = self.case(offer, sized)
        return predicted if case is None else self._time(case, self.keys.of(case), predicted)

    def case(self, offer: Lowering, sized: Site) -> NodeCase | None:
        """The case of one node; None where there is nothing to measure."""
        if isinstance(offer.option, NestedPlan) or self.accounts.of(offer).launches == 0:
            return None
        return NodeCase((Member(offer, sized),))

    def is_timed(self, offer: Lowering, sized: Site) -> bool:
        """True where the time of a lowering was measured, or there is nothing to measure."""
        case = self.case(offer, sized)
        key = self.keys.of(case) if case else ""
        return key == "" or key in self.times or place(offer) in self.shares

    def _time(self, case: Case, key: str, predicted: float) -> float:
        return self.times[key] if key in self.times else predicted * self.hope * self.scales.factor(case)

    def refusal(self, offer: Lowering) -> str:
        reason = self.base.refusal(offer)
        if reason or self.open or self.provider != "cpu" or not isinstance(offer.option, Option):
            return reason
        if is_measured(offer.option, offer.site):
            return ""
        return "" if self.is_timed(offer, resized(offer.site, self._priced)) else UNTIMED

    # ------------------------------------------------------------------ values

    def conversion(self, src: Layout, dst: Layout, value: ValueType, name: str = "") -> float:
        predicted = self.base.conversion(src, dst, value, name)
        if name in self._family.weights or not 0.0 < predicted < math.inf:
            return predicted
        case = self._conversion_case(src, dst, value, name)
        if case is None:
            return predicted
        key = self.keys.of(case)
        if self.noted and key:
            self.noted(case, key, predicted, name)
        return self._time(case, key, predicted)

    def _conversion_case(
        self, src: Layout, dst: Layout, value: ValueType, name: str
    ) -> ConversionCase | None:
        """The case of a conversion; None for one that copies nothing."""
        own = self._family.type_of(name) if name in self._family.graph.types else value
        declared = own if own.rank == value.rank else value
        case = ConversionCase(
            src, dst, declared, value, self.models, self._family.opsets, self.provider,
            compare=name in self._family.graph.inputs,
        )  # fmt: skip
        return case if case.copies_something else None

    def call(self, inputs: int, outputs: int) -> float:
        if not all(name in self.times for name in frame.NAMES):
            return self.base.call(inputs, outputs)
        return self.times[frame.CALL] + (inputs + outputs) * self.times[frame.INPUT]

    def emitted_dims(self, name: str, value: ValueType) -> tuple[Dim, ...] | None:
        return self.base.emitted_dims(name, value)

    def repeated(self, weight: Weight) -> float:
        return self.base.repeated(weight)

    def hop(self, hop: Hop, dims: Sequence[Dim], dtype: int = 0) -> float:
        return self.base.hop(hop, dims, dtype)

    def _step(self, step: Step, shapes: Shapes) -> float:
        return self.base._step(step, shapes)
