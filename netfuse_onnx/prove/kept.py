"""Proves that a change of a merged file left the other models as they were: the file before and the file
after run on the same inputs, and give the same outputs for each model that stayed.

This proof takes nothing from the way in which the models were read out of the old file: that file itself says
what they compute. An output that combines all models is left out, because it may change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from netfuse_onnx.labels import Labels
from netfuse_onnx.proofs import KeptProof
from netfuse_onnx.prove.compare import compare
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.trial import Trial
from netfuse_onnx.prove.views import same_bits
from netfuse_onnx.run.packing import Packing
from netfuse_onnx.run.runtime import RunFailed, Session, Value
from netfuse_onnx.types import Edge
from netfuse_onnx.write.metadata import Metadata

Values = Mapping[str, Value]


@dataclass
class KeptProver:
    """Compares the merged file at `path`, with the metadata `about`, with the one that is to replace it.
    `places` has the place of each model that stays -> its place in the file at `path`."""

    path: str
    about: Metadata
    places: Mapping[int, int]
    _outputs: int = 0
    _exact: int = 0
    _problems: list[str] = field(default_factory=list)

    def check(self, judge: Judge, results: Sequence[Values]) -> None:
        """Run the old file on the cases of the proof, and compare with the new file's results."""
        trial = judge.trial
        names = inputs_before(trial, self.about, self.places)
        packing = Packing(labels_before(trial, self.about, names, next(iter(self.places))))
        judge.tell("running the merged model as it was", 0, 1)
        try:
            session = Session(self.path, trial.options.runtime)
            for case in range(len(trial.cases)):
                before = session.run(packing.inputs(self._feeds(trial, case, names)))
                self._compare(judge, case, packing, before, results[case])
        except RunFailed as error:
            self._problems.append(f"The merged file as it was does not run in ONNX Runtime: {error}.")

    def answer(self) -> KeptProof:
        """Return the outcome."""
        problems = tuple(dict.fromkeys(self._problems))
        return KeptProof(len(self.places), self._outputs, self._exact, problems)

    def _feeds(self, trial: Trial, case: int, names: Mapping[str, str]) -> list[dict[str, Value]]:
        """Return the inputs of each model of the old file, by the names there. A model that stays gets those
        that it gets in the new file; another one those of the new model at its place, or of the first."""
        after = {before: now for now, before in self.places.items()}
        feeds = []
        for before in range(len(self.about.models)):
            now = after.get(before, before if before < trial.family.models else 0)
            drawn = trial.feeds(trial.cases[case], now)
            feeds.append({names[name]: value for name, value in drawn.items()})
        return feeds

    def _compare(self, judge: Judge, case: int, packing: Packing, before: Values, after: Values) -> None:
        trial = judge.trial
        for now, then in self.places.items():
            for name, old in outputs_before(trial, self.about, now, then).items():
                if name in trial.family.combined:
                    continue
                want, lacking = packing.pick(then, old, before)
                got, missing = trial.pick(now, name, after)
                self._outputs += 1
                if lacking or missing:
                    self._problems.append(f"Nothing can be compared: {lacking or missing}.")
                elif same_bits(got, want):
                    self._exact += 1
                elif not _close(judge, name, now, case, got, want):
                    self._problems.append(
                        f"Output {name!r} of model {trial.family.names[now]} is not what the merged file "
                        f"gave before the change, with {trial.cases[case].label}."
                    )


def _close(judge: Judge, name: str, model: int, case: int, got: Value, want: Value) -> bool:
    """Return True where two values of an output differ by rounding alone; of a random one, in the values."""
    if judge.every[name].random:
        return getattr(got, "shape", None) == getattr(want, "shape", None)
    if name in judge.lines:
        return judge.right(name, model, case, got, want)
    return compare(got, want, judge.tolerance(name, want, model)).ok


def inputs_before(trial: Trial, about: Metadata, places: Mapping[int, int]) -> Mapping[str, str]:
    """Return the names that inputs have in the old file's own terms, which are its first model's, by those of
    the new file's first model."""
    now, then = next(iter(places.items()))
    return _terms(trial.family.edge(now).inputs, about.names[then].inputs if about.names else None)


def outputs_before(trial: Trial, about: Metadata, now: int, then: int) -> Mapping[str, str]:
    """Return the same of the outputs of one model that stays: with --partial, each may have its own."""
    return _terms(trial.family.edge(now).outputs, about.names[then].outputs if about.names else None)


def _terms(after: Mapping[str, str], before: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the old file's terms by those of the new one, each given with a model's own names. A file that
    records no names has models with the same ones, which are its terms."""
    if before is None:
        return after
    terms = {own: term for term, own in before.items()}
    return {term: terms[own] for term, own in after.items()}


def labels_before(trial: Trial, about: Metadata, inputs: Mapping[str, str], model: int) -> Labels:
    """Return the names of the inputs and outputs of the old file. `model` is one that stays, of the new
    file."""
    own = trial.family.edge(model).outputs.values()
    same = Edge({name: name for name in inputs.values()}, {name: name for name in own})
    edges = about.names or (same,) * len(about.models)
    repeated = frozenset(inputs[name] for name in trial.repeated)
    return Labels(about.models, edges, about.io, frozenset(about.share), frozenset(about.combined), repeated)
