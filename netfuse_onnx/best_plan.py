"""Chooses a plan by measuring: the plans that may be best are written, and run against each other and against
every way that needs no merge.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.dims import points
from netfuse_onnx.errors import NotProven, UsageFault, ValuesDiffer
from netfuse_onnx.measure import final
from netfuse_onnx.measure.contenders import Concurrent, InSequence
from netfuse_onnx.measure.entries import MergedFile, named
from netfuse_onnx.measure.final import Lap
from netfuse_onnx.measure.heavy import Pending
from netfuse_onnx.measure.sessions import snippet
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.plan.sized import assumed
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.plans import Plan, Plans, Request, Tuner
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.remembered import Memory
from netfuse_onnx.run import symbols
from netfuse_onnx.storage import weights
from netfuse_onnx.tune import tuner as tune
from netfuse_onnx.tuning import TunedCase, TunedRow, Tuning
from netfuse_onnx.types import Correspondence
from netfuse_onnx.wording import renamed
from netfuse_onnx.write import staging, writer

SESSIONS = (InSequence.kind, Concurrent.kind)
"""The ways with a session for each model in this process."""
MORE, LITTLE = 1.1, 20e6
"""A plan takes more where it takes 1.1 times as much, and 20 MB of memory on top."""
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
    works = [_workload(ask, point) for point in points(ask.dims)]
    sizes = tuple(_sizes(work, ask.plan.family) for work in works)
    plans = [replace(plan, measured=sizes) for plan in Plans(ask, tuner, sizes).all()]
    home = os.path.dirname(staging.real(ask.out))
    with TemporaryDirectory(prefix=".netfuse-onnx-tune-", dir=home) as folder:
        race = _Race(ask, plans, works, folder)
        laps = race.run(begin + ask.seconds)
    return race.chosen(laps, time.monotonic() - begin)


def _tuned(ask: Request, family: Correspondence, dims: Mapping[str, int], seconds: float) -> Timed:
    return tune.tuned(
        family, io=ask.io, share=ask.share, runtime=ask.options.runtime, dims=dims, seconds=seconds,
        tell=ask.tell, target=ask.target,
    )  # fmt: skip


def _workload(ask: Request, dims: Mapping[str, int]) -> Workload:
    """The calls that are measured: with the sizes for which a plan would be made, where the models take
    them."""
    family, graph = ask.plan.family, ask.plan.family.graph
    free = symbols.free(graph.types[name].dims for name in graph.inputs)
    sizes = {name: size for name, size in assumed(graph, dims).items() if name in free}
    if not ask.options.file:
        with suppress(NotProven, UsageFault):
            return Workload(family, _at(ask.options, {**sizes, **dims}), ask.tell, rough=True)
    return Workload(family, _at(ask.options, dims), ask.tell, rough=True)


def _at(options: Options, dims: Mapping[str, int]) -> Options:
    return replace(options, dims=dims, further=())


def _sizes(work: Workload, family: Correspondence) -> dict[str, int]:
    """The sizes of the symbols of the inputs in a call."""
    sizes = dict[str, int]()
    for name in family.graph.inputs:
        dims, given = family.graph.types[name].dims or (), np.shape(np.asarray(work.given[0][name]))
        sizes |= {dim: size for dim, size in zip(dims, given, strict=False) if isinstance(dim, str)}
    free = symbols.free(family.graph.types[name].dims for name in family.graph.inputs)
    return {name: sizes[name] for name in free if name in sizes}


class _Race:
    """The plans of one merge as files, in a folder that is removed at the end."""

    def __init__(self, ask: Request, plans: Sequence[Plan], works: Sequence[Workload], folder: str) -> None:
        self.ask, self.works, self.folder = ask, works, folder
        self.plans, self.same = _distinct(plans)
        self.left_out: dict[str, str] = {}
        self.names: dict[str, str] = {folder + os.sep: ""}
        """Names for messages, by paths that do not last."""

    def run(self, until: float) -> list[Lap]:
        with ExitStack() as stack:
            plans = [self._pending(k, plan, stack) for k, plan in self._promising()]
            return final.laps(self.works, plans, until=until, folder=self.folder, tell=self.ask.tell)

    def _promising(self) -> Iterator[tuple[int, Plan]]:
        """The plans that are measured, with their numbers. Writing a large family takes long: its plans come
        in the order of their predicted times, without the hopeless ones."""
        plans = [*enumerate(self.plans)]
        known = [plan.predicted for plan in self.plans if plan.predicted is not None]
        if not known or not final.is_heavy(self.works[0]):
            yield from plans
            return
        best = min(known)
        for k, plan in sorted(
            plans, key=lambda pair: best if pair[1].predicted is None else pair[1].predicted
        ):
            if plan.predicted is not None and plan.predicted > HOPELESS * best:
                self.left_out[plan.name] = f"predicted to take {plan.predicted / best:.1f} times as long"
            else:
                yield k, plan

    def _pending(self, k: int, plan: Plan, stack: ExitStack) -> Pending:
        """A plan that is written beside the target when it is needed, and removed at the end."""
        ask, written = self.ask, list[MergedFile]()
        stem = os.path.basename(staging.real(ask.out)).removesuffix(".onnx")
        path = os.path.join(os.path.dirname(self.folder), f"{stem}.plan-{k}.onnx")

        def write() -> MergedFile:
            if not written:
                staged = writer.stage(
                    plan.merged, path, ask.sources, mode=ask.mode, metadata={}, progress=ask.tell,
                    digests=ask.digests.lent(),
                )  # fmt: skip
                stack.enter_context(staged)
                self.names |= staged.names(plan.name)
                share = tuple(sorted(ask.share))
                written.append(MergedFile(plan.name, staged.model_path, ask.io, share, staged.size))
            return written[0]

        return Pending(plan.name, weights.stored(plan.merged.model), write)

    def chosen(self, laps: Sequence[Lap], spent: float) -> tuple[Plan, Tuning]:
        names = [plan.name for plan in self.plans]
        name = final.choose(laps, names)
        notes = []
        if name is None:
            right = [plan for plan in self.plans if not _wrong(plan, laps)]
            if not right:
                raise ValuesDiffer(
                    f"Every plan gives other values than the models alone: {_wrong(self.plans[0], laps)}.",
                    "Please report it; without --tune, the proof says more.",
                )
            name = min(right, key=lambda p: p.predicted if p.predicted is not None else float("inf")).name
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
            notes=(*notes, *_dearer(laps, plan.name)),
            sizes=plan.measured,
        )
        tuning = replace(tuning, advice="" if tuning.beats else _advice(tuning, ask))
        return renamed(tuning, self.names)

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
            yield TunedRow(name, laps[0].case, True, predicted=price, problem=f"not measured: {reason}")


def _dearer(laps: Sequence[Lap], name: str) -> Iterator[str]:
    """Yield sentences on a plan that loads slower, or holds more, than a session for each model."""
    for lap in laps[:1]:
        row = lap.row(name)
        others = [other for other in lap.rows if other.kind in SESSIONS and other.ran and other.load]
        if row is None or not row.ran or not others:
            continue
        load, held = (min(getattr(other, what) for other in others) for what in ("load", "resident"))
        if row.load > MORE * load:
            yield f"The merged file loads in {row.load:.2f} s, the sessions of all models in {load:.2f} s."
        if row.resident > MORE * held + LITTLE:
            yield (
                f"The merged file holds {row.resident / 1e6:,.0f} MB of memory, the sessions of all models "
                f"{held / 1e6:,.0f} MB."
            )


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


def _wrong(plan: Plan, laps: Sequence[Lap]) -> str:
    """Return the reason why a plan is wrong, where it ran and gave other values, or ''."""
    rows = [lap.row(plan.name) for lap in laps]
    return next((row.problem for row in rows if row is not None and row.broke), "")


def _advice(tuning: Tuning, ask: Request) -> str:
    """One sentence that says what to do where no plan beats the best alternative."""
    best = next((case for case in tuning.cases if case.ratio is not None), None)
    if best is None:
        return "No other way could be measured, so nothing is known of the gain."
    ways = ["serve the sources by a pool of sessions"]
    if ask.provider == "cpu":
        ways.append("merge for a GPU with --target cuda")
    if edges.is_separate(ask.io):
        ways.append("try --io stacked, which copies no inputs and outputs")
    return (
        f"No plan is faster here than the best alternative ({best.best}; the merged file has "
        f"{best.ratio:.2f} times its speed): {', or '.join(ways)}."
    )
