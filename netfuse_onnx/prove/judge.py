"""Compares the merged results with what the sources gave, and looks closer where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from netfuse_onnx.proofs import OutputProof
from netfuse_onnx.prove import ties
from netfuse_onnx.prove.channels import Magnitudes
from netfuse_onnx.prove.compare import BY_PRECISION, EXACT, Gap, Tolerance, compare
from netfuse_onnx.prove.lineage import Lineage, family_lineages, source_lineages
from netfuse_onnx.prove.noise import Array, Noise, measure
from netfuse_onnx.prove.trial import Options, Progress, Trial
from netfuse_onnx.run.runtime import Value

BOUNDED_ERROR = {"float64": 4e-16, "float32": 2e-7, "float16": 2e-3}
"""By precision: absolute error of a bounded activation, two rounding steps of 1."""
NOISE_ALLOWED = 3.0
"""The source's own noise is allowed this many times: it is the largest of a few runs, not of all."""
NOISY = 1e-2
"""Noise of a source, relative to the largest element, from which a comparison tells nothing."""

Results = Sequence[Mapping[str, Value]]
"""The merged outputs of every case, by name."""


class Judge:
    """Compares all outputs; what fails is compared again with the source's own noise, and with ties."""

    def __init__(self, trial: Trial, tell: Progress) -> None:
        self.trial = trial
        self.tell = tell
        self.lines = family_lineages(trial.family)
        self.noise: dict[str, Magnitudes] = {}
        """By output: the largest noise that was measured on any model, by channel."""
        self._scales: dict[tuple[int, int], dict[str, Magnitudes]] = {}

    def rows(self, results: Results) -> tuple[OutputProof, ...]:
        """The worst case of every output of every model."""
        found: list[OutputProof] = []
        for model in range(self.trial.family.models):
            one = _OneModel(self, model, results)
            found += [max(same, key=_badness) for same in zip(*one.table(), strict=True)]
        return tuple(found)

    def tolerance(self, name: str, value: Value, model: int) -> Tolerance:
        """The tolerance of an output, with the noise of all models, as far as it was measured."""
        noise = self.noise[name].of(value) if name in self.noise and isinstance(value, np.ndarray) else None
        return tolerance(self.lines[name], value, self.trial.options, noise, self.scales(model).get(name))

    def scales(self, model: int) -> Mapping[str, Magnitudes]:
        """The magnitudes by channel of every output of a source."""
        key = (model, len(self.trial.cases))
        if key not in self._scales:
            self._scales[key] = _magnitudes(self.trial, model)
        return self._scales[key]


def _magnitudes(trial: Trial, model: int) -> dict[str, Magnitudes]:
    """Cases of another scale do not count."""
    found: dict[str, Magnitudes] = {}
    for case, outputs in zip(trial.cases, trial.outputs[model], strict=True):
        for name, value in outputs.items():
            if case.scale == 1.0 and isinstance(value, np.ndarray) and value.dtype.kind in "fV":
                found.setdefault(name, trial.channels(name)).add(value)
    return found


@dataclass(frozen=True, slots=True)
class _OneModel:
    """One model, as the judge looks at it."""

    judge: Judge
    model: int
    results: Results

    @property
    def trial(self) -> Trial:
        return self.judge.trial

    def table(self) -> list[list[OutputProof]]:
        """A row of outputs for each case."""
        table = [
            [self._row(case, name) for name in self.judge.lines] for case in range(len(self.trial.cases))
        ]
        failed = {case for case, rows in enumerate(table) if not all(row.ok for row in rows)}
        return self._closer(table, failed) if failed else table

    def _closer(self, table: list[list[OutputProof]], failed: set[int]) -> list[list[OutputProof]]:
        """Again, with the source's own noise allowed, then with ties of index outputs looked up."""
        trial, names = self.trial, self.trial.family.names
        self.judge.tell("measuring the rounding noise of a source", self.model, len(names))
        noise = measure(trial, self.model, failed)
        by_channel = self._pool(noise)
        for case in failed:
            for i, row in enumerate(table[case]):
                if not row.ok:
                    table[case][i] = self._again(case, row.output, noise, by_channel)
                if table[case][i].differs and self.judge.lines[row.output].scores:
                    table[case][i] = self._tied(case, table[case][i])
        return table

    def _pool(self, noise: Noise) -> dict[str, Magnitudes]:
        """The noise by channel, over all cases in which it was measured."""
        found: dict[str, Magnitudes] = {}
        for case, changes in noise.changes.items():
            for name, change in changes.items():
                want = self.trial.outputs[self.model][case][name]
                if isinstance(want, np.ndarray):
                    change = np.broadcast_to(change, want.shape)
                    found.setdefault(name, self.trial.channels(name)).add(change)
                    self.judge.noise.setdefault(name, self.trial.channels(name)).add(change)
        return found

    def _again(self, case: int, name: str, noise: Noise, pooled: Mapping[str, Magnitudes]) -> OutputProof:
        """The row with noise allowed. Where the source differs from itself by too much, the merged model is
        right only where it is what the source gives without optimisations."""
        change = noise.changes[case][name]
        want = self.trial.outputs[self.model][case][name]
        by_channel = pooled[name].of(want) if name in pooled and isinstance(want, np.ndarray) else None
        most = float(change.max(initial=0.0))
        row = self._row(case, name, most if by_channel is None else by_channel, most)
        if most <= NOISY * row.scale:
            return row
        row = self._row(case, name, most, most)
        plain = noise.plain.get(case, {}).get(name)
        beside = self._row(case, name, 0.0, most, plain) if plain is not None else row
        return replace(beside, plain=True) if beside.ok and plain is not None else replace(row, unproven=True)

    def _row(
        self,
        case: int,
        name: str,
        floor: float | Array = 0.0,
        noise: float | None = None,
        plain: Value = None,
    ) -> OutputProof:
        """One output of one case. `plain` is compared with in place of what the source gave."""
        trial, line = self.trial, self.judge.lines[name]
        want = trial.outputs[self.model][case][name] if plain is None else plain
        got, missing = self.trial.pick(self.model, name, self.results[case])
        if missing:
            gap = Gap(problem=missing)
        elif line.random:
            gap = _shapes_only(got, want)
        else:
            scales = self.judge.scales(self.model).get(name)
            gap = compare(got, want, tolerance(line, want, trial.options, floor, scales))
        return OutputProof(
            model=trial.family.names[self.model],
            output=name,
            precision=_precision(line, want),
            case=trial.cases[case].label,
            ratio=gap.ratio,
            error=gap.error,
            allowed=gap.allowed,
            scale=gap.scale,
            at=gap.at,
            got=gap.got,
            want=gap.want,
            wrong=gap.wrong,
            size=gap.size,
            noise=noise,
            problem=gap.problem,
        )

    def _tied(self, case: int, row: OutputProof) -> OutputProof:
        trial = self.trial
        source = trial.family.sources[self.model]
        output = trial.family.edge(self.model).outputs[row.output]
        line = source_lineages(trial.family, self.model)[output]
        if line.scores is None:
            return row
        feeds = trial.renamed(self.model, trial.feeds(trial.cases[case], self.model))
        scores = ties.scores_of(source.path, line.scores.value, feeds, trial.options.runtime)
        got, _ = trial.pick(self.model, row.output, self.results[case])
        return ties.resolve(row, got, trial.outputs[self.model][case][row.output], scores, line)


def tolerance(
    line: Lineage,
    want: Value,
    options: Options,
    noise: float | Array | None = None,
    scales: Magnitudes | None = None,
) -> Tolerance:
    """The tolerance of an output: by precision, --rtol and --atol, channel, or noise.

    Quantised values have one step for all channels, so their scale is that of the whole output.
    """
    kind = _sample(want).dtype.kind
    if kind not in "fVc":
        return Tolerance(0.0, 0.0, 1.0) if line.rounded and kind in "iu" else EXACT
    base = BY_PRECISION[line.precision]
    rtol = base.rtol if options.rtol is None else options.rtol
    floor = NOISE_ALLOWED * np.asarray(0.0 if noise is None else noise)
    if options.atol is not None:
        return Tolerance(rtol, 0.0, np.maximum(options.atol, floor))
    floor = floor + (BOUNDED_ERROR.get(line.precision, 0.0) if line.bounded else 0.0)
    by_channel = isinstance(want, np.ndarray) and scales is not None and line.precision != "8-bit"
    scale = scales.of(want) if by_channel and scales is not None and isinstance(want, np.ndarray) else None
    return Tolerance(rtol, base.atol, floor, scale)


def _badness(row: OutputProof) -> tuple[bool, bool, bool, float]:
    return bool(row.problem), row.differs, row.unproven, row.ratio


def _sample(value: Value) -> np.ndarray[Any, Any]:
    """An array of the element type of a tensor, a sequence or a sequence of maps."""
    first: Any = value[0] if isinstance(value, list) and value else value
    return np.array(list(first.values())[:1]) if isinstance(first, dict) else np.asarray(first)


def _precision(line: Lineage, want: Value) -> str:
    if line.random:
        return "random, shape only"
    if _sample(want).dtype.kind in "fVc":
        return line.precision
    return "one step" if line.rounded else "exact"


def _shapes_only(got: Value, want: Value) -> Gap:
    if isinstance(got, list) or isinstance(want, list) or got is None or want is None:
        return Gap()
    same = got.shape == want.shape and got.dtype == want.dtype
    return Gap() if same else Gap(problem=f"it is {got.dtype} {got.shape}, not {want.dtype} {want.shape}")
