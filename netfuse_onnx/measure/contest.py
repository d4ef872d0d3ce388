"""Compares all ways to run the models: on CUDA one after the other (once.py), on the CPU in turns (turns.py).
The report has the times, the comparison of each merged model with the best alternative, and the verdict.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from netfuse_onnx.measure import machine, profile
from netfuse_onnx.measure.choice import Way
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contenders import OneGraph
from netfuse_onnx.measure.entries import Entry, MergedFile, entries, named
from netfuse_onnx.measure.once import Keep, cut, one_by_one
from netfuse_onnx.measure.report import TIME_UP, BenchReport, KindRow, Row, Waiting
from netfuse_onnx.measure.rounds import Effort
from netfuse_onnx.measure.serving import serving
from netfuse_onnx.measure.sessions import Settings, snippet
from netfuse_onnx.measure.speedups import speedups
from netfuse_onnx.measure.turns import in_turns
from netfuse_onnx.measure.waiting import compared as some_models
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import RunFailed
from netfuse_onnx.verdict import of_bench
from netfuse_onnx.wording import renamed

BUSY = 0.5
"""The load per core before the start above which the times can't be trusted."""


def contest(
    work: Workload,
    merged: Sequence[MergedFile],
    *,
    effort: Effort | None = None,
    more: Sequence[Entry] = (),
    only: Callable[[Entry], bool] = lambda entry: True,
    with_profile: bool = False,
    folder: str | None = None,
    tell: Progress = lambda what, done, total: None,
    until: float = math.inf,
    checked: bool = True,
    keep: Callable[[BenchReport], None] | None = None,
    clock: Clock | None = None,
) -> BenchReport:
    """Compare the merged models with every other way. `more` adds ways, `only` leaves some out. A way that
    does not run is a row with its reason. Temporary files go into `folder`. `clock` bounds the whole; without
    it, only the rounds are bounded, by `effort`.

    On CUDA nothing starts after `until` (of time.monotonic()), `keep` gets the report so far after each way,
    and outputs are compared where `checked`.
    """
    effort, clock = effort or Effort(), clock or Clock()
    about = _About(work, merged, clock)
    with tempfile.TemporaryDirectory(prefix="netfuse-bench-", dir=folder) as temporary:
        chosen = [entry for entry in (*entries(work, merged, temporary), *more) if only(entry)]
        if work.runtime.provider == "cuda":
            so_far: Keep = (lambda ways: keep(about.report(ways, False))) if keep else (lambda ways: None)
            ways, together = (
                one_by_one(
                    work, chosen, temporary, effort, until=until, checked=checked, keep=so_far, tell=tell,
                    soon=clock.end,
                ),
                False,
            )  # fmt: skip
            some = None
        else:
            ways, together, some = in_turns(work, chosen, temporary, effort, clock, tell)
        profiled, notes = _profile(work, ways) if with_profile else ((), [])
    return renamed(about.report(ways, together, profiled, notes, some), {temporary + os.sep: ""})


class _About:
    """The facts about a comparison as it begins."""

    def __init__(self, work: Workload, merged: Sequence[MergedFile], clock: Clock) -> None:
        self.work, self.merged, self.clock = work, merged, clock
        self.start, self.load = time.monotonic(), machine.load()
        self.machine, self.versions = machine.machine(work.runtime.provider), machine.versions()

    def report(
        self,
        ways: Sequence[Way],
        together: bool,
        profiled: tuple[KindRow, ...] = (),
        notes: Sequence[str] = (),
        waiting: Sequence[Waiting] | None = None,
    ) -> BenchReport:
        """Return the report on these ways. `waiting` is taken from them where it is not given."""
        work, rows = self.work, tuple(way.row for way in ways)
        compared = tuple(speedups(rows, paired=work.runtime.provider == "cpu"))
        some = some_models(ways, compared, paired=False) if waiting is None else tuple(waiting)
        report = BenchReport(
            models=work.names,
            case=work.case,
            provider=work.runtime.provider,
            rows=rows,
            speedups=compared,
            waiting=some,
            combined=work.combined,
            together=together,
            tf32=work.tf32,
            profile=profiled,
            machine=self.machine,
            versions=self.versions,
            load=self.load,
            seconds=time.monotonic() - self.start,
            warnings=(*notes, *_warnings(work, self.load, rows), *_left_out(self.clock)),
            cut=cut(ways) or bool(self.clock.left_out),
            snippet=self._snippet(rows),
        )
        verdict = of_bench(report)
        served = serving(len(work.names), verdict.label, rows, some) if verdict else None
        return replace(report, verdict=verdict, serving=served)

    def _snippet(self, rows: Sequence[Row]) -> str:
        """Return Python that opens the first of the merged files as it was fastest; '' where none ran."""
        own = [row for row in rows if row.ran and self.merged and row.label == self.merged[0].label]
        best = min(own, key=lambda row: row.median, default=None)
        settings = named(self.work, best.settings) if best else None
        where = self.work.runtime.provider
        return snippet(settings, self.merged[0].path, where, tf32=self.work.tf32) if settings else ""


# --------------------------------------------------------------------------- the profile, the warnings


def _profile(work: Workload, ways: Sequence[Way]) -> tuple[tuple[KindRow, ...], list[str]]:
    """Profile the fastest merged model and the sequence, with the settings that were best for each."""
    ran = [w for w in ways if w.row.ran and isinstance(w.contender, OneGraph) and w.entry.merged]
    separate = next(
        (w.contender.settings for w in ways if w.entry.kind == "sequence" and w.contender), Settings()
    )
    if not ran:
        return (), ["There is no profile: no merged model ran."]
    best = min(ran, key=lambda way: way.row.median)
    assert isinstance(best.contender, OneGraph)
    try:
        return profile.compare(work, best.contender, separate), []
    except RunFailed as error:
        return (), [f"There is no profile: {error}."]


def _warnings(work: Workload, load: float, rows: Sequence[Row]) -> Iterator[str]:
    if load > BUSY * work.cores:
        yield f"The machine was busy before the start (load {load:.1f}): these times say little."
    if work.runtime.note:
        yield f"Measured on the CPU: {work.runtime.note}."
    if work.tf32:
        yield "TF32 was on, as it is by default: outputs were compared with the tolerances of float16."
    for row in rows:
        if row.problem and row.problem != TIME_UP:
            how = f" ({row.settings})" if work.runtime.provider == "cuda" and row.settings else ""
            yield f"{row.label}{how}: {row.problem}."
    late = dict.fromkeys(row.label for row in rows if row.problem == TIME_UP)
    if late:
        yield f"The time was up before all was measured: {', '.join(late)}."


def _left_out(clock: Clock) -> Iterator[str]:
    if clock.left_out:
        parts = [f"{what} ({', '.join(ways)})" if ways else what for what, ways in clock.left_out.items()]
        yield (
            f"Cut short by --seconds {clock.seconds:g}; left out: {', '.join(parts)}. "
            "Allow more for figures to rely on."
        )
