"""Proves the views of a bundle: each gives what its source gives, on the inputs of the proof of the values.

A view has the nodes and the bytes of its source, so its outputs must be equal bit for bit. The views of
adapters and of low-rank differences compute the same sum in another order: they are allowed what the merged
file is allowed. A source that differs from itself when it runs again (random operators) proves nothing, and
only the types and shapes of its outputs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from netfuse_onnx.proofs import ViewsProof
from netfuse_onnx.prove.compare import compare
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.loaded import session_of
from netfuse_onnx.run.runtime import RunFailed, Session, Value

Values = Mapping[str, Value]


class ViewProver:
    """Checks each view while its source is loaded. `paths` are those of the views, in the order of the
    models, and `exact` says of each if it must be equal bit for bit."""

    def __init__(self, paths: Sequence[str], exact: Sequence[bool]) -> None:
        self.paths, self.exact = paths, exact
        self._checked = self._outputs = 0
        self._unsteady: list[str] = []
        self._problems: list[str] = []

    def check(self, judge: Judge, model: int) -> None:
        """Run one view on all cases that its source has run on, and compare."""
        trial, name = judge.trial, judge.trial.family.names[model]
        self._checked += 1
        try:
            session = Session(self.paths[model], trial.options.runtime)
            for case in range(len(trial.cases)):
                got = trial.run(session, model, trial.feeds(trial.cases[case], model))
                self._compare(judge, model, case, got)
        except RunFailed as error:
            self._problems.append(f"The view of {name} does not run in ONNX Runtime: {error}.")

    def answer(self) -> ViewsProof:
        """Return the outcome for all views that were checked."""
        unsteady, problems = (tuple(dict.fromkeys(each)) for each in (self._unsteady, self._problems))
        return ViewsProof(self._checked, self._outputs, unsteady, problems)

    def _compare(self, judge: Judge, model: int, case: int, got: Values) -> None:
        trial, own = judge.trial, judge.trial.family.edge(model).outputs
        want, again = trial.outputs[model][case], None
        for name, value in want.items():
            self._outputs += 1
            if same_bits(got[name], value):
                continue
            if not self.exact[model] and _close(judge, model, case, name, got[name]):
                continue
            again = again or self._again(judge, model, case)
            said = f"Output {own[name]!r} of the view of {trial.family.names[model]}"
            if not same_bits(again[name], value) and _alike(got[name], value):
                self._unsteady.append(f"{own[name]} of {trial.family.names[model]}")
            else:
                ends = "bit for bit" if self.exact[model] else "within the tolerance"
                where = f"with {trial.cases[case].label}"
                self._problems.append(f"{said} is not what its source gives {where}, {ends}.")

    def _again(self, judge: Judge, model: int, case: int) -> Values:
        """Run a source once more on a case, in a new session."""
        trial = judge.trial
        session = session_of(trial.family.sources[model], trial.options.runtime)
        return trial.run(session, model, trial.feeds(trial.cases[case], model))


def same_bits(one: Value, two: Value) -> bool:
    """Return True for two values that are equal in type, shape and every bit."""
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same_bits, one, two))
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray) and one.dtype != object:
        alike = (one.dtype, one.shape) == (two.dtype, two.shape)
        return alike and one.tobytes() == two.tobytes()
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return one.shape == two.shape and bool(one.tolist() == two.tolist())
    return bool(type(one) is type(two) and one == two)


def _alike(one: Value, two: Value) -> bool:
    """Return True for two values of one type and shape."""
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return (one.dtype, one.shape) == (two.dtype, two.shape)
    return type(one) is type(two)


def _close(judge: Judge, model: int, case: int, name: str, got: Value) -> bool:
    want = judge.trial.outputs[model][case][name]
    if name in judge.lines:
        return judge.right(name, model, case, got, want)
    return compare(got, want, judge.tolerance(name, want, model)).ok
