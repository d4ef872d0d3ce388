"""Compares the merged results with what the sources gave, and looks closer where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx.match.pairing import pair
from netfuse_onnx.prove import ties
from netfuse_onnx.prove.compare import BY_PRECISION, EXACT, Gap, Tolerance, compare
from netfuse_onnx.prove.lineage import Lineage, lineages
from netfuse_onnx.prove.noise import measure
from netfuse_onnx.prove.trial import Options, Progress, Trial
from netfuse_onnx.report import OutputProof, Spread
from netfuse_onnx.run.runtime import Value

UNIT = 0.1
"""Least scale of the output of a bounded activation."""

Results = Sequence[Mapping[str, Value]]
"""The merged outputs of every case, by name."""


class Judge:
    """Compares all outputs; what fails is compared again with the source's own noise, and with ties."""

    def __init__(self, trial: Trial, tell: Progress) -> None:
        self.trial = trial
        self.tell = tell
        self.lines = lineages(trial.family.graph)

    def rows(self, results: Results) -> tuple[OutputProof, ...]:
        """The worst case of every output of every model."""
        found: list[OutputProof] = []
        for model in range(self.trial.family.models):
            cases = range(len(self.trial.cases))
            table = [[self._row(model, case, name, results[case]) for name in self.lines] for case in cases]
            if not all(row.ok for rows in table for row in rows):
                table = self._closer(model, table, results)
            found += [max(same, key=_badness) for same in zip(*table, strict=True)]
        return tuple(found)

    def _closer(
        self, model: int, table: list[list[OutputProof]], results: Results
    ) -> list[list[OutputProof]]:
        """Again, with the source's own noise allowed, then with ties of index outputs looked up."""
        self.tell("measuring the rounding noise of a source", model, self.trial.family.models)
        noise = measure(self.trial, model, {i for i, rows in enumerate(table) if not all(r.ok for r in rows)})
        for case, rows in enumerate(table):
            for i, row in enumerate(rows):
                if not row.ok:
                    rows[i] = self._row(model, case, row.output, results[case], noise[case][row.output])
                if not rows[i].ok and self.lines[row.output].scores:
                    rows[i] = self._tied(model, case, rows[i], results[case])
        return table

    def _row(
        self, model: int, case: int, name: str, result: Mapping[str, Value], noise: float | None = None
    ) -> OutputProof:
        trial, line = self.trial, self.lines[name]
        want = trial.outputs[model][case][name]
        got, missing = self._pick(model, name, result)
        if missing:
            gap = Gap(problem=missing)
        elif line.random:
            gap = _shapes_only(got, want)
        else:
            gap = compare(got, want, tolerance(line, want, trial.options, noise))
        return OutputProof(
            model=trial.family.names[model],
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

    def _pick(self, model: int, name: str, result: Mapping[str, Value]) -> tuple[Value, str]:
        """One model's share of the merged outputs, or what is wrong with them."""
        family, stacked = self.trial.family, self.trial.options.io == "stacked"
        key = name if stacked else f"{family.names[model]}/{name}"
        if key not in result:
            return None, f"the merged model has no output {key!r}"
        value = result[key]
        if not stacked:
            return value, ""
        if not isinstance(value, np.ndarray) or not value.ndim or len(value) != family.models:
            return None, f"output {key!r} has no leading axis of size {family.models}"
        return np.asarray(value[model]), ""

    def _tied(self, model: int, case: int, row: OutputProof, result: Mapping[str, Value]) -> OutputProof:
        trial = self.trial
        source = trial.family.sources[model]
        output = pair(trial.family.sources[0].graph.outputs, source.graph.outputs)[row.output]
        line = lineages(source.graph)[output]
        if line.scores is None:
            return row
        feeds = trial.renamed(model, trial.feeds(trial.cases[case], model))
        scores = ties.scores_of(source.path, line.scores.value, feeds, trial.options.runtime)
        got, _ = self._pick(model, row.output, result)
        return ties.resolve(row, got, trial.outputs[model][case][row.output], scores, line)


def tolerance(line: Lineage, want: Value, options: Options, noise: float | None = None) -> Tolerance:
    """What is allowed for an output: by precision, --rtol and --atol, or noise."""
    kind = _sample(want).dtype.kind
    if kind not in "fVc":
        return Tolerance(0.0, 0.0, 1.0) if line.rounded and kind in "iu" else EXACT
    base = BY_PRECISION[line.precision]
    rtol = base.rtol if options.rtol is None else options.rtol
    floor = 2.0 * (noise or 0.0)
    if options.atol is not None:
        return Tolerance(rtol, 0.0, max(options.atol, floor))
    return Tolerance(rtol, base.atol, floor, UNIT if line.bounded else 0.0)


def spread(trial: Trial, rows: Sequence[OutputProof]) -> Spread | None:
    """The two most alike models, and how far apart the output that tells them apart best is.

    None for a single model, or when the models could not all be run on the same input.
    """
    family = trial.family
    if family.models < 2 or len(trial.alike) < family.models:
        return None
    lines = {name: line for name, line in lineages(family.graph).items() if not line.random}
    noise = dict.fromkeys(lines, 0.0)
    for row in rows:
        noise[row.output] = max(noise.get(row.output, 0.0), row.noise or 0.0)
    closest: Spread | None = None
    for i in range(family.models):
        for j in range(i):
            one, two = trial.alike[j], trial.alike[i]
            ratio = 0.0
            for name, line in lines.items():
                gap = compare(one[name], two[name], tolerance(line, two[name], trial.options, noise[name]))
                ratio = max(ratio, float("inf") if gap.problem else gap.ratio)
            if closest is None or ratio < closest.ratio:
                closest = Spread(ratio, (family.names[j], family.names[i]))
    return closest


def _badness(row: OutputProof) -> tuple[bool, float]:
    return bool(row.problem), row.ratio


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
