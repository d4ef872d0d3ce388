"""Compares the merged outputs with those of the sources.

An output that differs is compared again with the rounding noise of its source allowed. Indices (ArgMax, TopK)
that differ pass as a tie where both select the same score: the scores are no outputs of the model, so the
source is run once more with them added to its outputs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from netfuse_onnx.load import folded
from netfuse_onnx.proofs import OutputProof
from netfuse_onnx.prove import combined
from netfuse_onnx.prove.compare import BY_PRECISION, EXACT, Gap, Magnitudes, Tolerance, compare
from netfuse_onnx.prove.lineage import Lineage, Scores, coarsened, family_lineages, source_lineages
from netfuse_onnx.prove.noise import Noise, measure
from netfuse_onnx.prove.trial import Options, Progress, Trial
from netfuse_onnx.run.runtime import Array, RunFailed, Runtime, Session, Value

BOUNDED_ERROR = {"float64": 4e-16, "float32": 2e-7, "float16": 2e-3}
"""Precision -> absolute error allowed for a bounded activation: two rounding steps of 1."""
NOISE_ALLOWED = 3.0
"""So many times the measured noise of a source is allowed: it is the maximum of a few runs only."""
NOISY = 1e-2
"""Noise of a source, relative to its largest element, above which a comparison tells nothing."""

Results = Sequence[Mapping[str, Value]]
"""The merged outputs of every case, by name."""


class Judge:
    """Compares all outputs of all models, with the tolerances that this takes."""

    def __init__(self, trial: Trial, tell: Progress) -> None:
        self.trial = trial
        self.tell = tell
        self.every = coarsened(family_lineages(trial.family), trial.options.precisions or {})
        """Output -> its lineage, those of combined outputs too."""
        once = trial.family.combined
        self.lines = {name: line for name, line in self.every.items() if name not in once}
        """The same of the outputs that each model has."""
        self.noise: dict[str, Magnitudes] = {}
        """Output -> the largest noise that was measured on any model, by channel."""
        self._scales: dict[tuple[int, int], dict[str, Magnitudes]] = {}
        self._floors: dict[tuple[int, int, str], tuple[float, Magnitudes | None]] = {}

    def rows(self, results: Results) -> tuple[OutputProof, ...]:
        """Return the worst case of every output of every model."""
        rows: list[OutputProof] = []
        for model in range(self.trial.family.models):
            one = _OneModel(self, model, results)
            rows += [max(same, key=_badness) for same in zip(*one.table(), strict=True)]
        return (*rows, *combined.rows(self, results))

    def measure_all(self, cases: set[int]) -> None:
        """Measure the rounding noise of all sources in some cases."""
        for model in range(self.trial.family.models):
            _OneModel(self, model, ()).measured(cases)

    def tolerance(self, name: str, value: Value, model: int) -> Tolerance:
        """Return the tolerance of an output, with the noise of all models as far as it was measured."""
        noise = self.noise[name].of(value) if name in self.noise and isinstance(value, np.ndarray) else None
        return tolerance(self.every[name], value, self.trial.options, noise, self.scales(model).get(name))

    def right(self, name: str, model: int, case: int, got: Value, want: Value) -> bool:
        """True where `got` is what a source gave, `want`, which are rows of its output in a case. As in the
        table, its rounding noise is allowed where they differ, unless it is so large that it hides all."""
        line, options, scales = self.lines[name], self.trial.options, self.scales(model).get(name)
        gap = compare(got, want, tolerance(line, want, options, scales=scales))
        if gap.ok or gap.problem:
            return gap.ok
        most, pooled = self._floor(name, model, case)
        by_channel = pooled.of(want) if pooled and isinstance(want, np.ndarray) else None
        floor = most if by_channel is None else by_channel
        noisy = most > NOISY * gap.scale
        return not noisy and compare(got, want, tolerance(line, want, options, floor, scales)).ok

    def _floor(self, name: str, model: int, case: int) -> tuple[float, Magnitudes | None]:
        """Return the noise of an output of a source in a case, and by channel in all cases of its scale."""
        if (model, case, name) not in self._floors:
            scale = self.trial.cases[case].scale
            alike = {k for k, other in enumerate(self.trial.cases) if other.scale == scale}
            noise, by_channel = _OneModel(self, model, ()).measured(alike)
            for k, changes in noise.changes.items():
                for output, change in changes.items():
                    self._floors[model, k, output] = float(change.max(initial=0.0)), by_channel.get(output)
        return self._floors[model, case, name]

    def scores(self, case: int, name: str, model: int) -> Array | None:
        """Return the scores `[.., C]` of a source whose output holds the place of the best one; None for
        other outputs, and where they can't be computed."""
        trial = self.trial
        line = source_lineages(trial.family, model)[trial.family.edge(model).outputs[name]]
        if line.scores is None or line.scores.top:
            return None
        feeds = trial.renamed(model, trial.feeds(trial.cases[case], model))
        path, how = trial.family.sources[model].path, line.scores
        scores = scores_of(path, how.value, feeds, trial.options.runtime)
        if scores is None:
            return None
        axis = how.axis % max(scores.ndim, 1)
        moved = np.moveaxis(scores, axis, -1)
        return np.expand_dims(moved, axis) if how.keepdims else moved

    def scales(self, model: int) -> Mapping[str, Magnitudes]:
        """Return the magnitudes by channel of every output of a source, over all cases of the usual scale."""
        key = (model, len(self.trial.cases))
        if key not in self._scales:
            trial, magnitudes = self.trial, self._scales.setdefault(key, {})
            for case, outputs in zip(trial.cases, trial.outputs[model], strict=True):
                for name, value in outputs.items():
                    if case.scale == 1.0 and isinstance(value, np.ndarray) and value.dtype.kind in "fV":
                        magnitudes.setdefault(name, trial.channels(name)).add(value)
        return self._scales[key]


@dataclass(frozen=True, slots=True)
class _OneModel:
    """The comparison of one model."""

    judge: Judge
    model: int
    results: Results

    @property
    def trial(self) -> Trial:
        return self.judge.trial

    @property
    def own(self) -> Mapping[str, str]:
        """The outputs of the model, with its own names of them."""
        return self.trial.family.edge(self.model).outputs

    def table(self) -> list[list[OutputProof]]:
        """Return a row of outputs for each case."""
        table = [
            [self._row(case, name) for name in self.judge.lines if name in self.own]
            for case in range(len(self.trial.cases))
        ]
        failed = {case for case, rows in enumerate(table) if not all(row.ok for row in rows)}
        return self._compared_again(table, failed) if failed else table

    def _compared_again(self, table: list[list[OutputProof]], failed: set[int]) -> list[list[OutputProof]]:
        """Compare the failed cases with the noise of the source allowed, and look up ties of indices."""
        noise, by_channel = self.measured(failed)
        for case in failed:
            for i, row in enumerate(table[case]):
                if not row.ok:
                    table[case][i] = self._with_noise(case, row.output, noise, by_channel)
                if table[case][i].differs and self.judge.lines[row.output].scores:
                    table[case][i] = self._tied(case, table[case][i])
        return table

    def measured(self, cases: set[int]) -> tuple[Noise, dict[str, Magnitudes]]:
        """Measure the noise of the source in some cases."""
        self.judge.tell("measuring the rounding noise of a source", self.model, self.trial.family.models)
        noise = measure(self.trial, self.model, cases)
        return noise, self._noise_by_channel(noise)

    def _noise_by_channel(self, noise: Noise) -> dict[str, Magnitudes]:
        """Collect the noise by channel over all cases in which it was measured."""
        magnitudes: dict[str, Magnitudes] = {}
        for case, changes in noise.changes.items():
            for name, change in changes.items():
                want = self.trial.outputs[self.model][case][name]
                if isinstance(want, np.ndarray):
                    change = np.broadcast_to(change, want.shape)
                    magnitudes.setdefault(name, self.trial.channels(name)).add(change)
                    self.judge.noise.setdefault(name, self.trial.channels(name)).add(change)
        return magnitudes

    def _with_noise(
        self, case: int, name: str, noise: Noise, pooled: Mapping[str, Magnitudes]
    ) -> OutputProof:
        """Compare with noise allowed. Where the source differs from itself by too much, the merged model
        counts as right only where it gives what the source gives without optimisations."""
        change = noise.changes[case][name]
        want = self.trial.outputs[self.model][case][name]
        by_channel = pooled[name].of(want) if name in pooled and isinstance(want, np.ndarray) else None
        most = float(change.max(initial=0.0))
        row = self._row(case, name, most if by_channel is None else by_channel, most)
        if most <= NOISY * row.scale:
            return row
        row = self._row(case, name, most, most)
        unoptimised = noise.unoptimised.get(case, {}).get(name)
        if unoptimised is not None:
            exact = self._row(case, name, 0.0, most, unoptimised)
            if exact.ok:
                return replace(exact, plain=True)
        return replace(row, unproven=True)

    def _row(
        self,
        case: int,
        name: str,
        floor: float | Array = 0.0,
        noise: float | None = None,
        other: Value = None,
    ) -> OutputProof:
        """Compare one output of one case with what the source gave, or with `other` in its place."""
        trial, line = self.trial, self.judge.lines[name]
        want = trial.outputs[self.model][case][name] if other is None else other
        got, missing = self.trial.pick(self.model, name, self.results[case])
        if missing:
            gap = Gap(problem=missing)
        elif line.random:
            gap = _compare_shapes(got, want)
        else:
            scales = self.judge.scales(self.model).get(name)
            gap = compare(got, want, tolerance(line, want, trial.options, floor, scales))
        return OutputProof(
            model=trial.family.names[self.model],
            output=name,
            precision=_precision(line, want),
            case=trial.cases[case].label,
            noise=noise,
            **asdict(gap),
        )

    def _tied(self, case: int, row: OutputProof) -> OutputProof:
        trial = self.trial
        source = trial.family.sources[self.model]
        output = trial.family.edge(self.model).outputs[row.output]
        line = source_lineages(trial.family, self.model)[output]
        if line.scores is None:
            return row
        feeds = trial.renamed(self.model, trial.feeds(trial.cases[case], self.model))
        with folded.opened(source) as path:
            scores = scores_of(path, line.scores.value, feeds, trial.options.runtime)
        got, _ = trial.pick(self.model, row.output, self.results[case])
        line = replace(line, precision=self.judge.lines[row.output].precision)
        return resolve_ties(row, got, trial.outputs[self.model][case][row.output], scores, line)


def tolerance(
    line: Lineage,
    want: Value,
    options: Options,
    noise: float | Array | None = None,
    scales: Magnitudes | None = None,
) -> Tolerance:
    """Return the tolerance of an output, from its precision, --rtol and --atol, its channels and its noise.

    Quantised values have one step for all channels, so their scale is that of the whole output.
    """
    numpy_kind = _sample(want).dtype.kind
    if numpy_kind not in "fVc":
        return Tolerance(0.0, 0.0, 1.0) if line.rounded and numpy_kind in "iu" else EXACT
    base = BY_PRECISION[line.precision]
    rtol = base.rtol if options.rtol is None else options.rtol
    floor = NOISE_ALLOWED * np.asarray(0.0 if noise is None else noise)
    if options.atol is not None:
        return Tolerance(rtol, 0.0, np.maximum(options.atol, floor))
    floor = floor + (BOUNDED_ERROR.get(line.precision, 0.0) if line.bounded else 0.0)
    by_channel = scales if line.precision != "8-bit" else None
    scale = by_channel.of(want) if by_channel and isinstance(want, np.ndarray) else None
    return Tolerance(rtol, base.atol, floor, scale)


def _badness(row: OutputProof) -> tuple[bool, bool, bool, float]:
    return bool(row.problem), row.differs, row.unproven, row.ratio


def _sample(value: Value) -> np.ndarray[Any, Any]:
    """Return an array that has the element type of a tensor, a sequence or a sequence of maps."""
    first: Any = value[0] if isinstance(value, list) and value else value
    return np.array(list(first.values())[:1]) if isinstance(first, dict) else np.asarray(first)


def _precision(line: Lineage, want: Value) -> str:
    if line.random:
        return "random, shape only"
    if _sample(want).dtype.kind in "fVc":
        return line.precision
    return "one step" if line.rounded else "exact"


def _compare_shapes(got: Value, want: Value) -> Gap:
    if isinstance(got, list) or isinstance(want, list) or got is None or want is None:
        return Gap()
    same = got.shape == want.shape and got.dtype == want.dtype
    return Gap() if same else Gap(problem=f"it is {got.dtype} {got.shape}, not {want.dtype} {want.shape}")


def resolve_ties(
    row: OutputProof, got: Value, want: Value, scores: Array | None, line: Lineage
) -> OutputProof:
    """Return the row; it passes, with the number of ties, where all indices that differ are ties."""
    if not isinstance(got, np.ndarray) or not isinstance(want, np.ndarray) or line.scores is None:
        return row
    if got.shape != want.shape or scores is None:
        return row
    try:
        mine, theirs = _select(scores, got, line.scores), _select(scores, want, line.scores)
    except (IndexError, ValueError):
        return row
    limit = BY_PRECISION[line.precision]
    scale = float(np.abs(scores[np.isfinite(scores)]).max(initial=0.0))
    close = np.abs(mine - theirs) <= limit.rtol * np.abs(theirs) + limit.atol * scale
    if not close.all():
        return row
    return replace(row, ratio=0.0, wrong=0, ties=int((got != want).sum()), precision="index, ties by score")


def scores_of(path: str, value: str, feeds: Mapping[str, Value], runtime: Runtime) -> Array | None:
    """Return an inner value of a source model as float64; None where it can't be computed.

    `feeds` has the names of that source.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    made = {out for node in model.graph.node for out in node.output}
    if value not in made or model.ByteSize() >= 2**31 - 2**20:
        return None
    if value not in {out.name for out in model.graph.output}:
        model.graph.output.append(onnx.ValueInfoProto(name=value))
    try:
        session = Session(model.SerializeToString(), runtime, folder=os.path.dirname(os.path.abspath(path)))
        scores = session.run(feeds)[value]
    except RunFailed:
        return None
    if scores is None or isinstance(scores, list):
        return None
    return np.asarray(scores).astype(np.float64)


def _select(scores: Array, indices: Array, how: Scores) -> Array:
    """Return the scores that an index output selects. Raises IndexError or ValueError when they don't fit."""
    where = indices.astype(np.int64)
    if not how.top and not how.keepdims:
        where = np.expand_dims(where, how.axis)
    if where.size and (where.min() < 0 or where.max() >= scores.shape[how.axis]):
        raise IndexError("an index is out of range")
    picked: Array = np.take_along_axis(scores, where, how.axis)
    return picked if how.top or how.keepdims else np.squeeze(picked, how.axis)
