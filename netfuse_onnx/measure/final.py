"""The last word on a plan: whole graphs, on the family's real sizes, in turns with the best alternatives.

Small families go through the contest of `bench`, with all ways loaded at once; large ones through heavy.py.
Outputs are checked in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx.errors import FileFault
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import MergedFile
from netfuse_onnx.measure.heavy import Pending, one_by_one
from netfuse_onnx.measure.report import Row
from netfuse_onnx.measure.rounds import Quartiles, apart, ratio
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Progress

HEAVY = 400 << 20
"""Sources that take so many bytes together are loaded one way after the other."""
MUST_BEAT = 0.98
"""A plan replaces a simpler one only where it takes less than 98 % of its time."""


@dataclass(frozen=True, slots=True)
class Lap:
    """The ways at one choice of sizes: a row for each, with its best settings. `together` is True where all
    took turns, so that their samples belong together."""

    case: str
    rows: tuple[Row, ...]
    together: bool

    @property
    def best(self) -> Row | None:
        """The fastest way that needs no merge."""
        others = (row for row in self.rows if row.ran and not row.merged)
        return min(others, key=lambda row: row.median, default=None)

    def row(self, label: str) -> Row | None:
        return next((row for row in self.rows if row.label == label and row.merged), None)

    def ratio(self, row: Row) -> Quartiles | None:
        """The speed of a way relative to the best alternative."""
        best = self.best
        if best is None or not row.ran:
            return None
        if self.together and len(best.samples) == len(row.samples):
            return ratio(best.samples, row.samples)
        return apart(best.seconds, row.seconds)


def laps(
    works: Sequence[Workload], plans: Sequence[Pending], *, until: float, folder: str, tell: Progress
) -> list[Lap]:
    """Measure the plans and the alternatives at each choice of sizes, up to about `until` (of
    time.monotonic()). Temporary files go into `folder`."""
    done = list[Lap]()
    for k, work in enumerate(works):
        now = time.monotonic()
        end = now + max(0.0, until - now) / (len(works) - k)
        measured = _heavy if is_heavy(work) else _light
        done.append(measured(work, plans, end, folder, tell))
    return done


def is_heavy(work: Workload) -> bool:
    """True where loading all ways at once would take long. On CUDA each is loaded for its turn anyway."""
    return work.runtime.provider == "cpu" and sum(work.sizes) > HEAVY


def choose(done: Sequence[Lap], labels: Sequence[str]) -> str | None:
    """Return the label of the plan with the least sum of times, each relative to the best plan at its sizes.
    The lower quartiles count: other work on the machine only adds to a time.
    `labels` are in order of preference: a later one must be faster by a margin. None where no plan ran at
    all sizes."""
    times = {label: [_low(lap, label) for lap in done] for label in labels}
    ran = {label: each for label, each in times.items() if None not in each}
    if not ran:
        return None
    least = [min(each[k] or 0.0 for each in ran.values()) for k in range(len(done))]
    totals = {
        label: sum((one or 0.0) / best for one, best in zip(each, least, strict=True))
        for label, each in ran.items()
    }
    best, *others = totals
    for label in others:
        if totals[label] < MUST_BEAT * totals[best]:
            best = label
    return best


def _low(lap: Lap, label: str) -> float | None:
    row = lap.row(label)
    return row.seconds.low if row is not None and row.ran and row.seconds else None


def _light(work: Workload, plans: Sequence[Pending], until: float, folder: str, tell: Progress) -> Lap:
    files, failed = list[MergedFile](), list[Row]()
    for plan in plans:
        try:
            files.append(plan.write())
        except FileFault as error:
            failed.append(Row("merged", plan.label, True, file=plan.size, problem=error.message.rstrip(".")))
    clock = Clock(max(0.0, until - time.monotonic()))
    report = contest(work, files, until=until, folder=folder, tell=tell, clock=clock)
    together = report.together and work.runtime.provider == "cpu"
    return Lap(report.case, (*_each_fastest(report.rows), *failed), together)


def _heavy(work: Workload, plans: Sequence[Pending], until: float, folder: str, tell: Progress) -> Lap:
    rows = one_by_one(work, plans, until=until, folder=folder, tell=tell)
    return Lap(work.case, tuple(_each_fastest(rows)), together=False)


def _each_fastest(rows: Sequence[Row]) -> list[Row]:
    """The fastest settings of each way, where there is a row for each of them."""
    labels = dict.fromkeys(row.label for row in rows)
    return [
        min((row for row in rows if row.label == label), key=lambda row: (not row.ran, row.median))
        for label in labels
    ]
