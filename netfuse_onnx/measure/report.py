"""The answer of `bench`. cli/render_bench.py prints it on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from netfuse_onnx.errors import NetfuseError, ValuesDiffer
from netfuse_onnx.measure.rounds import Quartiles
from netfuse_onnx.report import Report
from netfuse_onnx.verdict import Verdict

TIME_UP = "the time was up"
"""The problem of a way that was not measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to run the models once. Times are in seconds for a call of all models, sizes in bytes.

    `load` is the shortest time to load it and run it once; the first try may have to read the files from
    disk. `resident` and `gpu` are the memory that this added, in all processes. `tried` has the seconds of
    each setting that was tried. `error` is the worst output as error / allowed, None where it was not
    compared. `problem` is the reason why the way can't be compared: it does not run, or its outputs are not
    equal. `device` is the time of a call whose inputs and outputs stay on the GPU.
    """

    kind: str
    label: str
    merged: bool = False
    settings: str = ""
    seconds: Quartiles | None = None
    load: float = 0.0
    resident: int = 0
    gpu: int = 0
    file: int = 0
    error: float | None = None
    tried: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[float, ...] = ()
    problem: str = ""
    device: Quartiles | None = None

    @property
    def ran(self) -> bool:
        return self.seconds is not None and not self.problem

    @property
    def median(self) -> float:
        """The median of a call in seconds; infinity where nothing was measured."""
        return self.seconds.median if self.seconds else math.inf

    @property
    def broke(self) -> bool:
        """True where it ran, and then gave other values or failed."""
        return bool(self.problem) and self.error is not None


@dataclass(frozen=True, slots=True)
class Speedup:
    """The speed of a merged model relative to the best alternative: 2 is twice as fast. `times.median` is the
    ratio of the two medians in `rows`; `low` and `high` are, where all ways take turns, the quartiles of the
    ratios of the rounds, else the ratios of the far quartiles of both. `device` compares calls whose inputs
    and outputs stay on the GPU, with the best alternative there."""

    merged: str
    best: str
    times: Quartiles
    device_best: str = ""
    device: Quartiles | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call that wants only `models` of all models: `seconds` of the best way to run their sessions, `best`,
    beside a call of the merged file `label`, which runs all or, merged with --select, these. `times` is the
    speed of the merged call relative to it."""

    label: str
    models: int
    best: str
    seconds: Quartiles
    merged: Quartiles
    times: Quartiles
    chosen: bool = False
    """True where the merged call ran these models alone."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The calls between which a MergedSession chooses, in seconds: `alone` is one of one model's session,
    `merged` one of the merged file `label`, for all models, each under the settings that were fastest.
    `each` is what a request takes on own sessions where all are busy: several may run at the same time.
    `merges_from` is the smallest number of models with a waiting request for which it takes the merged call;
    null where it never does. It does so where own sessions would need more than `gain` times as long."""

    label: str
    alone: float
    each: float
    merged: float
    merges_from: int | None
    gain: float


@dataclass(frozen=True, slots=True)
class KindRow:
    """The seconds and kernels of a call in one kind of operator, in all separate models and in the merged
    one."""

    kind: str
    separate: float
    separate_kernels: int
    merged: float
    merged_kernels: int

    @property
    def loss(self) -> float:
        """The seconds that merging added; a negative number is a gain."""
        return self.merged - self.separate


@dataclass(frozen=True, slots=True)
class BenchReport(Report):
    """The times of all ways. The comparison took `seconds`; before it, other work kept `load` cores busy. On
    CUDA, a way has a row for each of its settings. `cut` says that the time was up before all was measured;
    a warning says what was left out."""

    models: tuple[str, ...]
    case: str
    provider: str
    rows: tuple[Row, ...]
    speedups: tuple[Speedup, ...] = ()
    together: bool = True
    """True where all ways were loaded at once; else each was loaded for its turn, on CUDA a single one."""
    tf32: bool = False
    profile: tuple[KindRow, ...] = ()
    machine: Mapping[str, str | int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    load: float = 0.0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    cut: bool = False
    waiting: tuple[Waiting, ...] = ()
    """Calls that want some of the models, the fewest first."""
    combined: Mapping[str, str] = field(default_factory=dict)
    """The outputs that the merged file gives once, and how. The other ways combine them in numpy, which is
    part of their time; no call wants only some of the models."""
    verdict: Verdict | None = None
    serving: Serving | None = None
    """The choices of a MergedSession with the merged file; null where no call of one model was measured."""
    snippet: str = ""
    """Python that opens the merged file under the settings that were fastest for it."""
    fingerprint: str = ""
    """The fingerprint of the merged file, as in VerifyReport."""

    @property
    def ok(self) -> bool:
        """True where every merged model ran, and all that ran gave equal outputs."""
        return self._wrong is None

    @property
    def _wrong(self) -> Row | None:
        """The first way whose outputs differ, or the first merged model that ran with no settings, unless the
        time was up before some of its settings."""
        ran = {row.label for row in self.rows if row.ran or row.problem == TIME_UP}
        idle = (row for row in self.rows if row.merged and row.label not in ran)
        return next((row for row in self.rows if row.broke), None) or next(iter(idle), None)

    @property
    def fault(self) -> NetfuseError | None:
        """The first way whose outputs differ, or the merged model that does not run."""
        wrong = self._wrong
        if wrong is None:
            return None
        return ValuesDiffer(f"{wrong.label}: {wrong.problem or 'it does not run'}.", "Prove it with verify.")
