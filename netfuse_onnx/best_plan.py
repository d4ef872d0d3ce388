"""Chooses a plan by measuring: the plans that may be best are written, and run against each other and against
every way that needs no merge.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from tempfile import TemporaryDirectory

from netfuse_onnx.dims import points
from netfuse_onnx.errors import FileFault
from netfuse_onnx.measure import final
from netfuse_onnx.measure.entries import MergedFile, named
from netfuse_onnx.measure.final import Lap
from netfuse_onnx.measure.sessions import snippet
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.plans import Plan, Plans, Request, Tuner
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.remembered import Memory
from netfuse_onnx.tune import tuner as tune
from netfuse_onnx.tuning import TunedCase, TunedRow, Tuning
from netfuse_onnx.types import Correspondence
from netfuse_onnx.write import staging, writer

HOPELESS = 1.6
"""A plan of a large family that is expected to take so many times as long as the best is not measured."""


def choose(ask: Request, tuner: Tuner | None = None) -> tuple[Plan, Tuning]:
    """Return the fastest plan, measured now or remembered. Raises NotStackable, and NotProven where the
    sources take no inputs."""
    memory = Memory(ask)
    known = memory.read()
    if known is None:
        known = _measured(ask, tuner or functools.partial(_tuned, ask))
        memory.write(*known)
    return known


def _measured(ask: Request, tuner: Tuner) -> tuple[Plan, Tuning]:
    begin = time.monotonic()
    plans = Plans(ask, tuner).all()
    works = [Workload(plans[0].family, _at(ask.options, point), ask.tell) for point in points(ask.dims)]
    with TemporaryDirectory(
        prefix=".netfuse-onnx-tune-", dir=os.path.dirname(staging.real(ask.out))
    ) as folder:
        race = _Race(ask, plans, works, folder)
        laps = race.run(begin + ask.seconds)
    return race.chosen(laps, time.monotonic() - begin)


def _tuned(ask: Request, family: Correspondence, dims: Mapping[str, int], seconds: float) -> Timed:
    return tune.tuned(
        family, io=ask.io, share=ask.share, runtime=ask.options.runtime, dims=dims, seconds=seconds,
        tell=ask.tell, target=ask.target,
    )  # fmt: skip


def _at(options: Options, dims: Mapping[str, int]) -> Options:
    return replace(options, dims=dims, further=())


class _Race:
    """The plans of one merge as files, in a folder that is removed at the end."""

    def __init__(self, ask: Request, plans: Sequence[Plan], works: Sequence[Workload], folder: str) -> None:
        self.ask, self.works, self.folder = ask, works, folder
        self.plans, self.same = _distinct(plans)
        self.left_out: dict[str, str] = {}

    def run(self, until: float) -> list[Lap]:
        works = self.works
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

    def chosen(self, laps: Sequence[Lap], spent: float) -> tuple[Plan, Tuning]:
        names = [plan.name for plan in self.plans]
        name = final.choose(laps, names)
        notes = []
        if name is None:
            name = min(
                self.plans, key=lambda p: p.predicted if p.predicted is not None else float("inf")
            ).name
            notes = [f"No plan could be measured; {name} is taken by its predicted time."]
        plan = next(plan for plan in self.plans if plan.name == name)
        return plan, self._tuning(plan, laps, spent, notes)

    def _tuning(self, plan: Plan, laps: Sequence[Lap], spent: float, notes: Sequence[str]) -> Tuning:
        ask, own = self.ask, [lap.row(plan.name) for lap in laps]
        ran = [row for row in own if row is not None and row.ran]
        settings = named(self.works[0], ran[0].settings) if ran else None
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
