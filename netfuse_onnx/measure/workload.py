"""One call of all N models: its inputs, the outputs that must come out, and their comparison.

Inputs are made as `verify` makes them, with a batch of 1 where --dim does not say otherwise. On the CPU the
right outputs are those of the proof. On CUDA, where loading a session takes a second, only the first source
is run to choose the inputs: the sessions that are measured first, one per model without CUDA graphs, tell the
right outputs for all others (`learn`). There are two turns of inputs, so that values which stay from a former
run show.
"""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from netfuse_onnx.combining import combined
from netfuse_onnx.labels import Labels
from netfuse_onnx.load import folded
from netfuse_onnx.prove.compare import BY_PRECISION, Gap, Tolerance, compare
from netfuse_onnx.prove.judge import Judge, tolerance
from netfuse_onnx.prove.lineage import Lineage, family_lineages
from netfuse_onnx.prove.replay import other_feeds
from netfuse_onnx.prove.trial import Options, Progress, Trial
from netfuse_onnx.run import hardware
from netfuse_onnx.run.packing import Packing
from netfuse_onnx.run.runtime import RunFailed, Session, Value
from netfuse_onnx.types import Correspondence

Results = Sequence[Mapping[str, Value]]
"""The outputs of every model, by the first source's names."""

SPATIAL = 3
"""The rung of the ladder on which heights and widths begin: 64 and more, as in real images."""
TF32 = "float16"
"""The precision whose tolerance applies where TF32 is on: both have mantissas of as many bits."""


TURNS = 2
"""The sets of inputs of a workload on CUDA."""


class Workload:
    """The models of a family with inputs for one call. The constructor raises NotProven where the models take
    no inputs that were tried, UsageFault on --dim or --inputs that do not fit."""

    def __init__(
        self,
        family: Correspondence,
        options: Options,
        tell: Progress,
        *,
        tf32: bool = True,
        exact: bool = False,
        rough: bool = False,
    ) -> None:
        repeated = Labels.of(family, options.io, options.share).repeated
        self.rough = rough
        """True where a proof follows: outputs within the tolerances of float16 are right."""
        options = dataclasses.replace(
            options, io="separate", single=True, search=False, wide=SPATIAL, further=()
        )
        cuda = options.runtime.provider == "cuda"
        self.trial = Trial(family, options)
        self.trial.repeated = repeated
        self._ragged = frozenset[str]()
        self.trial.run_sources(tell, *((self._compare_shapes, 1) if cuda else ()))
        self.names = family.names
        self.paths = tuple(map(folded.written, family.sources))
        weakref.finalize(self, folded.remove, self.paths)
        self.runtime = options.runtime
        self.tf32 = tf32 and options.runtime.provider == "cuda"
        self.exact = exact and self.tf32
        """True where each way is measured with TF32 off as well."""
        self.cores = hardware.cores()
        self.sizes = tuple(sum(map(os.path.getsize, source.files)) for source in family.sources)
        case = self.trial.cases[0]
        self.case = case.label
        models = range(family.models)
        self.given = [self.trial.feeds(case, model) for model in models]
        """The inputs of each model in the first turn, by the first source's names."""
        self._other = [other_feeds(self.trial, model) for model in models] if cuda else []
        first = self.trial.outputs[0][0]
        self.wanted: Results = [first if cuda else self.trial.outputs[model][0] for model in models]
        """Right outputs in the first turn; on CUDA, before `learn`, only their shapes and types are right."""
        self._learned: dict[bool, Sequence[Results]] = {}
        self.outputs = [family.edge(model).outputs for model in range(family.models)]
        self._lines = family_lineages(family)

    @property
    def models(self) -> int:
        return len(self.paths)

    # ------------------------------------------------------------------ one model's own names

    def inputs(self, turn: int = 0) -> Sequence[Mapping[str, Value]]:
        """Return the inputs of each model in a turn, by the first source's names."""
        return self._other if turn else self.given

    def feeds(self, model: int, turn: int = 0) -> dict[str, Value]:
        """Return the inputs of one model, by the names in its file."""
        return self.trial.renamed(model, self.inputs(turn)[model])

    def wants(self, model: int) -> dict[str, Value]:
        """Return the right outputs of one model, by the names in its file. On CUDA they tell the places of
        outputs, so there are none whose shape depends on the data."""
        return {own: self._placed(model)[name] for name, own in self.outputs[model].items()}

    def _placed(self, model: int) -> Mapping[str, Value]:
        return {n: None if n in self._ragged else value for n, value in self.wanted[model].items()}

    def _compare_shapes(self, session: Session, model: int) -> None:
        """Find the outputs whose shape depends on the data: in the two turns it is not the same."""
        first = self.trial.outputs[model][0]
        try:
            other = self.trial.run(session, model, other_feeds(self.trial, model))
        except RunFailed:
            other = {}
        self._ragged = frozenset(n for n, v in first.items() if _shape(v) != _shape(other.get(n)))

    def first_names(self, model: int, result: Mapping[str, Value]) -> dict[str, Value]:
        """Rename the outputs of one model to the first source's names."""
        return {name: result[own] for name, own in self.outputs[model].items()}

    # ------------------------------------------------------------------ the merged model's names

    def merged_feeds(self, io: str, share: Sequence[str], turn: int = 0) -> dict[str, Value]:
        return self._packing(io, share).inputs(self.inputs(turn))

    def chosen_feeds(self, io: str, share: Sequence[str], count: int) -> dict[str, Value]:
        """Return the inputs of a call that chooses the first `count` models, or has rows of these alone."""
        packing = dataclasses.replace(self._packing(io, share), asked=tuple(range(count)))
        return packing.inputs(self.inputs())

    def merged_wants(self, io: str) -> dict[str, Value]:
        return self._packing(io).outputs(self.combine([self._placed(m) for m in range(self.models)]))

    def split_models(self, result: Mapping[str, Value], io: str) -> Results:
        """Return the merged model's outputs per model."""
        return self._packing(io).split(result, self.trial.family.outputs)

    def _packing(self, io: str, share: Sequence[str] = ()) -> Packing:
        return Packing(Labels.of(self.trial.family, io, frozenset(share)))

    @property
    def combined(self) -> Mapping[str, str]:
        """The outputs that the merged model gives once, and how."""
        return self.trial.family.combined

    def combine(self, results: Results) -> Results:
        """Combine the outputs of the models as a user would, in numpy. The first model then has those that
        are combined, as it has those of the merged model, which are left as they are."""
        found = [dict(own) for own in results]
        for name, how in self.combined.items():
            values = [own.pop(name) for own in found if name in own]
            whole = len(values) == self.models and all(value is not None for value in values)
            found[0][name] = combined(how, [*map(np.asarray, values)]) if whole else values[0]
        return found

    # ------------------------------------------------------------------ right or wrong

    def learn(self, turns: Sequence[Results], *, exact: bool = False) -> None:
        """Take what the sources' own sessions give in each turn for right, with TF32 off where `exact`."""
        self._learned[exact] = turns
        if not exact:
            self.wanted = turns[0]

    def learned(self, *, exact: bool = False) -> bool:
        """True where the right outputs of these settings are known."""
        return exact in self._learned

    def error(self, results: Results, turn: int = 0, *, exact: bool = False) -> tuple[float, str]:
        """Return the worst output as error / allowed, with the tolerances of the proof (those of float16
        where TF32 is on), and what is wrong: '' when all outputs are right."""
        results = self.combine(results)
        if self.runtime.provider == "cuda":
            return self._error(results, self._learned[exact][turn], loose=self.tf32 and not exact)
        # One case says little about the magnitude of one channel: a number may be near zero by chance there.
        # So errors that are small beside the whole output are right, and the rest is judged as in a proof.
        ratio, problem = self._error(results, self.wanted, loose=self.rough)
        if not problem:
            return ratio, ""
        label = self.trial.labels.output
        flat = {label(m, n): v for m, own in enumerate(results) for n, v in own.items()}
        rows = Judge(self.trial, lambda *_: None).rows([flat])
        worst = max(rows, key=lambda row: (bool(row.problem), row.ratio))
        if worst.ok:
            return worst.ratio, ""
        what = worst.problem or f"error {worst.error:.3g}, allowed {worst.allowed:.3g}"
        return worst.ratio, f"output {worst.output} of {worst.model}: {what}"

    def _error(self, results: Results, wanted: Results, *, loose: bool) -> tuple[float, str]:
        worst, problem = Gap(), ""
        for model, got, want in zip(self.names, results, self.combine(wanted), strict=True):
            for name, line in self._lines.items():
                if name not in want or (loose and self.combined.get(name) == "vote"):
                    continue  # a vote is exact, and the other models have no combined output
                allowed = self._allowed(line, want[name], loose)
                gap = Gap() if line.random else compare(got[name], want[name], allowed)
                if (bool(gap.problem), gap.ratio) > (bool(worst.problem), worst.ratio):
                    what = gap.problem or f"error {gap.error:.3g}, allowed {gap.allowed:.3g}"
                    worst, problem = gap, f"output {name} of {model}: {what}"
        return worst.ratio, "" if worst.ok else problem

    def _allowed(self, line: Lineage, want: Value, loose: bool) -> Tolerance:
        exact = tolerance(line, want, self.trial.options)
        if (
            not loose
            or line.precision != "float32"
            or exact.rtol == 0.0
            or self.trial.options.rtol is not None
        ):
            return exact
        base = BY_PRECISION[TF32]
        return Tolerance(base.rtol, base.atol, exact.floor)


def _shape(value: Value) -> tuple[int, ...] | None:
    return np.shape(value) if isinstance(value, np.ndarray) else None
