"""Chooses a plan by measuring: the plans that may be best are lowered, written, and run against each other and
against every way that needs no merge.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

from netfuse_onnx.dims import Sizes, points
from netfuse_onnx.errors import FileFault
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.lowered import Merged
from netfuse_onnx.measure import final
from netfuse_onnx.measure.entries import MergedFile
from netfuse_onnx.measure.final import Lap
from netfuse_onnx.measure.sessions import snippet
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.plan import planner, recorded
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.plan.several import Several
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.prove import remake
from netfuse_onnx.prove.trial import Options, Progress
from netfuse_onnx.tuning import TunedCase, TunedRow, Tuning
from netfuse_onnx.types import Became, Choice, Correspondence, Source
from netfuse_onnx.write import staging, writer
from netfuse_onnx.write.digests import Digests

TUNED, GENERIC, ONCE = "tuned", "generic", "once per model"
"""The names of plans; that of the target is `target cpu`."""
FOR_NODES = 0.4
"""The part of the budget that goes into measuring single nodes."""
HOPELESS = 1.6
"""A plan of a large family that is expected to take so many times as long as the best is not measured."""

Tuner = Callable[[Correspondence, Mapping[str, int], float], Timed]
"""Measures the nodes of a family at some sizes, for at most so many seconds, and gives a cost."""


@dataclass(frozen=True)
class Request:
    """The arguments of merge that matter here. `families` gives the family as it is rewritten for a provider;
    `target` is that of the provider where it is measured."""

    families: Callable[[str], Correspondence]
    sources: Sequence[Source]
    out: str
    io: str
    share: frozenset[str]
    target: str
    dims: Sizes
    options: Options
    seconds: float
    mode: writer.Mode
    digests: Digests
    tell: Progress

    @property
    def provider(self) -> str:
        return self.options.runtime.provider


@dataclass(frozen=True)
class Plan:
    """One plan that takes part. `rows` are the plan where it is recorded, else None: then `target` says how
    it is made again."""

    name: str
    family: Correspondence
    merged: Merged
    target: str
    rows: tuple[Choice, ...] | None = None
    predicted: float | None = None
    """Microseconds."""


@dataclass(frozen=True)
class Chosen:
    """The plan that is written, and what is said of it."""

    plan: Plan
    tuning: Tuning


def choose(ask: Request, tuner: Tuner) -> Chosen:
    """Return the fastest plan. Raises NotStackable, and NotProven where the sources take no inputs."""
    begin = time.monotonic()
    plans = Plans(ask, tuner).all()
    until = begin + ask.seconds
    works = [Workload(plans[0].family, _at(ask.options, point), ask.tell) for point in points(ask.dims)]
    with TemporaryDirectory(
        prefix=".netfuse-onnx-tune-", dir=os.path.dirname(staging.real(ask.out))
    ) as folder:
        race = _Race(ask, plans, folder)
        laps = race.run(works, until)
    return race.chosen(laps, time.monotonic() - begin)


def _at(options: Options, dims: Mapping[str, int]) -> Options:
    return replace(options, dims=dims, further=())


class Plans:
    """Makes the plans that may be best."""

    def __init__(self, ask: Request, tuner: Tuner) -> None:
        self.ask, self.tuner = ask, tuner
        self.family = ask.families(ask.provider)
        self.base = cost(ask.target, self.family, ask.dims)
        self.base.measures = True
        self.found = planner.candidates(self.family, io=ask.io, share=ask.share, cost=self.base)

    def all(self) -> list[Plan]:
        """The plans, the simplest to make again first."""
        ask = self.ask
        tuned = self._tuned()
        rows = [
            *recorded.choices(planner.chosen(self.family, self.found, share=ask.share, cost=tuned).lowerings)
        ]
        plans = [
            self._made(GENERIC, "generic", ask.families("") if ask.provider == "cuda" else self.family),
            self._made(f"target {ask.target}", ask.target, self.family),
            self._recorded(TUNED, rows),
            self._recorded(ONCE, self._once()),
        ]
        return [replace(plan, predicted=self._price(plan, tuned)) for plan in plans]

    def _tuned(self) -> Cost:
        """The cost by what nodes take on this machine, at each choice of sizes."""
        every = points(self.ask.dims)
        seconds = self.ask.seconds * FOR_NODES / len(every)
        costs = [self.tuner(self.family, point, seconds) for point in every]
        return costs[0] if len(costs) == 1 else Several(costs)

    def _made(self, name: str, target: str, family: Correspondence) -> Plan:
        ask = self.ask
        merged = remake.merge(family, io=ask.io, share=ask.share, target=target, dims=ask.dims)
        return Plan(name, family, merged, target)

    def _recorded(self, name: str, rows: Sequence[Choice]) -> Plan:
        """The plan as its rows give it back, priced by the target: no time that was measured goes into the
        file."""
        ask = self.ask
        plan = planner.chosen(self.family, self.found, share=ask.share, cost=self.base, rows=rows)
        merged = lower(self.family, plan, io=ask.io, share=ask.share)
        return Plan(name, self.family, merged, ask.target, tuple(rows))

    def _once(self) -> list[Choice]:
        """The plan that runs every node once per model, where that is on offer."""
        few = [
            [o for o in offers if o.became is Became.REPLICATED] or offers for offers in self.found.options
        ]
        found: Candidates = replace(self.found, options=few)
        plan = planner.chosen(self.family, found, share=self.ask.share, cost=self.base)
        return [*recorded.choices(plan.lowerings)]

    def _price(self, plan: Plan, tuned: Cost) -> float | None:
        """The microseconds that nodes and conversions are expected to take; None where it can't be told."""
        if plan.family is not self.family:
            return None
        try:
            return planner.price(self.family, self.found, remake.choices(plan.merged.report.nodes), tuned)
        except recorded.NotOnOffer:
            return None


class _Race:
    """The plans of one merge as files, in a folder that is removed at the end."""

    def __init__(self, ask: Request, plans: Sequence[Plan], folder: str) -> None:
        self.ask, self.folder = ask, folder
        self.plans, self.same = _distinct(plans)
        self.left_out: dict[str, str] = {}

    def run(self, works: Sequence[Workload], until: float) -> list[Lap]:
        heavy = sum(works[0].sizes) > final.HEAVY
        with ExitStack() as stack:
            files = list(self._files(stack, heavy))
            return final.laps(works, files, until=until, folder=self.folder, tell=self.ask.tell)

    def _files(self, stack: ExitStack, heavy: bool) -> Iterator[MergedFile]:
        ask = self.ask
        known = [plan.predicted for plan in self.plans if plan.predicted is not None]
        for k, plan in enumerate(self.plans):
            if heavy and known and (plan.predicted or 0.0) > HOPELESS * min(known):
                times = (plan.predicted or 0.0) / min(known)
                self.left_out[plan.name] = f"not measured: predicted to take {times:.1f} times as long"
                continue
            stem = f"{os.path.basename(staging.real(ask.out)).removesuffix('.onnx')}.plan-{k}"
            path = os.path.join(os.path.dirname(self.folder), f"{stem}.onnx")
            try:
                staged = stack.enter_context(
                    writer.stage(
                        plan.merged, path, ask.sources, mode=ask.mode, metadata={}, progress=ask.tell,
                        digests=ask.digests.lent(),
                    )
                )  # fmt: skip
            except FileFault as error:
                self.left_out[plan.name] = f"not measured: {error.message.rstrip('.')}"
                continue
            yield MergedFile(plan.name, staged.model_path, ask.io, tuple(sorted(ask.share)), staged.size)

    def chosen(self, laps: Sequence[Lap], spent: float) -> Chosen:
        names = [plan.name for plan in self.plans]
        name = final.choose(laps, names)
        notes = []
        if name is None:
            name = min(
                self.plans, key=lambda p: p.predicted if p.predicted is not None else float("inf")
            ).name
            notes = [f"No plan could be measured; {name} is taken by its predicted time."]
        plan = next(plan for plan in self.plans if plan.name == name)
        return Chosen(plan, self._tuning(plan, laps, spent, notes))

    def _tuning(self, plan: Plan, laps: Sequence[Lap], spent: float, notes: Sequence[str]) -> Tuning:
        ask, own = self.ask, [lap.row(plan.name) for lap in laps]
        ran = [row for row in own if row is not None and row.ran]
        settings = final.settings(ran[0]) if ran else None
        tuning = Tuning(
            provider=ask.provider,
            chosen=plan.name,
            cases=tuple(_case(lap, plan.name) for lap in laps),
            rows=(*self._rows(laps), *self._unmeasured(laps)),
            same=self.same,
            settings=str(settings or ""),
            snippet=snippet(settings, ask.out, ask.provider) if settings else "",
            predicted=None if plan.predicted is None else plan.predicted * 1e-6,
            measured=sum(row.median for row in ran) / len(ran) if ran else None,
            load=max((row.load for row in ran), default=0.0),
            resident=max((row.resident for row in ran), default=0),
            budget=ask.seconds,
            spent=spent,
            notes=tuple(notes),
        )
        return replace(tuning, advice="" if tuning.beats else _advice(tuning, ask))

    def _rows(self, laps: Sequence[Lap]) -> Iterator[TunedRow]:
        predicted = {plan.name: plan.predicted for plan in self.plans}
        for lap in laps:
            for row in lap.rows:
                times, price = row.seconds, predicted.get(row.label) if row.merged else None
                relative = lap.ratio(row)
                yield TunedRow(
                    row.label, lap.case, row.merged, row.settings,
                    times.median if times else None, times.low if times else None,
                    times.high if times else None, relative.median if relative else None, row.load,
                    row.resident or row.gpu, row.file, None if price is None else price * 1e-6, row.problem,
                )  # fmt: skip

    def _unmeasured(self, laps: Sequence[Lap]) -> Iterator[TunedRow]:
        for name, reason in self.left_out.items():
            plan = next(plan for plan in self.plans if plan.name == name)
            price = None if plan.predicted is None else plan.predicted * 1e-6
            yield TunedRow(name, laps[0].case, True, predicted=price, problem=reason)


def _case(lap: Lap, name: str) -> TunedCase:
    row, best = lap.row(name), lap.best
    times = lap.ratio(row) if row is not None else None
    if best is None or times is None:
        return TunedCase(lap.case, best.label if best else "")
    return TunedCase(lap.case, best.label, times.median, times.low, times.high)


def _distinct(plans: Sequence[Plan]) -> tuple[list[Plan], dict[str, str]]:
    """The plans that differ, and for each other one the name of the plan that it is equal to."""
    kept, same = dict[bytes, Plan](), dict[str, str]()
    for plan in plans:
        graph = plan.merged.model.SerializeToString(deterministic=True)
        first = kept.setdefault(graph, plan)
        if first is not plan:
            same[plan.name] = first.name
    return list(kept.values()), same


def _advice(tuning: Tuning, ask: Request) -> str:
    """What to do where no plan beats the best alternative, in one sentence."""
    best = next((case for case in tuning.cases if case.ratio is not None), None)
    if best is None:
        return "No other way could be measured, so nothing is known of the gain."
    ways = ["serve the sources by a pool of sessions"]
    if ask.provider == "cpu":
        ways.append("merge for a GPU with --target cuda")
    if ask.io != "stacked":
        ways.append("try --io stacked, which copies no inputs and outputs")
    return (
        f"No plan is faster here than the best alternative ({best.best}; the merged file has "
        f"{best.ratio:.2f} times its speed): {', or '.join(ways)}."
    )
