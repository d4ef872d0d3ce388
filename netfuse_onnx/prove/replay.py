"""Runs each file of a proof on CUDA again, and as a CUDA graph, to find values that stay from a former run.

A kernel or an option of the provider may keep what the first run left behind; a CUDA graph replays the copies
and sizes of its capture. Both give right values in the first run only. So each file runs on the inputs of the
first case, then on others of the same shapes, then on the first again, and must give what it gave before. The
graph is captured on the other inputs and replayed on the first ones.

A file that ONNX Runtime does not take as a CUDA graph is no failure: the report has the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from netfuse_onnx.load import folded
from netfuse_onnx.proofs import Replays
from netfuse_onnx.prove.compare import Gap, compare
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.trial import Trial
from netfuse_onnx.run.bound import CUDA_GRAPH, Bound, fix, fixed_dims
from netfuse_onnx.run.runtime import RunFailed, Session, Value, open_session, providers, session_options
from netfuse_onnx.tailed import having

Values = Mapping[str, Value]

MERGED = "the merged model"
OTHER = 1 << 16
"""The salt of inputs with other values, which no case of a proof has."""


class Replayer:
    """Collects what the repeated runs of all files show. It works on the CPU as well, without graphs."""

    def __init__(self, trial: Trial, judge: Judge) -> None:
        self.trial = trial
        self.judge = judge
        self.runtime = trial.options.runtime
        self._again = self._graphs = 0
        self._refused: dict[str, str] = {}
        self.problems: list[str] = []

    def source(self, session: Session, model: int) -> None:
        """Check a source that is loaded and has run on all cases."""
        trial, own = self.trial, self.trial.family.edge(model).outputs
        feeds, other = trial.feeds(trial.cases[0], model), other_feeds(trial, model)
        want = {own[name]: value for name, value in trial.outputs[model][0].items()}
        feeds, other = trial.renamed(model, feeds), trial.renamed(model, other)

        def compared(got: Values) -> Iterator[tuple[str, Gap]]:
            for name, key in own.items():
                yield f"output {name}", self._gap(name, got[key], want[key], model)

        what = f"model {trial.family.names[model]}"
        self._run_again(what, session, (other, feeds), compared)
        with folded.opened(trial.family.sources[model]) as path:
            self._run_graph(what, path, fixed_dims(session.shapes, feeds), (other, feeds), want, compared)

    def merged(self, session: Session, results: Values) -> Callable[[str], None]:
        """Check the merged model, which gave `results` in the first case. Returns the check of its CUDA
        graph, which loads the file again, to be called when `session` is freed."""
        trial = self.trial
        feeds = trial.merged_feeds(trial.cases[0])
        other = trial.joined([other_feeds(trial, model) for model in range(trial.family.models)])

        def compared(got: Values) -> Iterator[tuple[str, Gap]]:
            for model, name in ((m, n) for n in self.judge.lines for m in having(trial.family, n)):
                value, problem = trial.pick(model, name, got)
                want, _ = trial.pick(model, name, results)
                gap = Gap(problem=problem) if problem else self._gap(name, value, want, model)
                yield f"output {name} of {trial.family.names[model]}", gap
            for name in trial.family.combined:
                key = trial.labels.output(0, name)
                yield f"output {key}", self._gap(name, got[key], results[key], 0)

        self._run_again(MERGED, session, (other, feeds), compared)
        dims = fixed_dims(session.shapes, feeds)
        return lambda path: self._run_graph(MERGED, path, dims, (other, feeds), results, compared)

    def answer(self) -> Replays:
        return Replays(self._again, self._graphs, dict(self._refused), tuple(self.problems))

    # ------------------------------------------------------------------ running

    def _run_again(
        self,
        what: str,
        session: Session,
        inputs: tuple[Values, Values],
        compared: Callable[[Values], Iterator[tuple[str, Gap]]],
    ) -> None:
        self._again += 1
        with suppress(RunFailed):  # other values may be such that the model does not take
            session.run(inputs[0])
        try:
            got = session.run(inputs[1])
        except RunFailed as error:
            self.problems.append(f"{_upper(what)} ran once and failed when it ran again: {error}.")
            return
        self._note(what, "when it runs again, after other inputs", compared(got))

    def _run_graph(
        self,
        what: str,
        path: str,
        dims: Mapping[str, int],
        inputs: tuple[Values, Values],
        like: Values,
        compared: Callable[[Values], Iterator[tuple[str, Gap]]],
    ) -> None:
        try:
            graph = self._captured(path, dims, inputs[0], like)
            got = graph.call(inputs[1])
        except RunFailed as error:
            self._refused[what] = str(error)
            return
        self._graphs += 1
        self._note(what, "as a CUDA graph", compared(got))

    def _captured(self, path: str, dims: Mapping[str, int], feeds: Values, like: Values) -> Bound:
        options = session_options()
        fix(options, dims)
        where = providers(self.runtime.provider, CUDA_GRAPH, tf32=False)
        graph = Bound(open_session(path, options, self.runtime, where), feeds, like, self.runtime)
        graph.run()
        return graph

    def _note(self, what: str, when: str, gaps: Iterator[tuple[str, Gap]]) -> None:
        wrong = [(name, gap) for name, gap in gaps if not gap.ok]
        if wrong:
            name, gap = max(wrong, key=lambda pair: pair[1].ratio)
            how = gap.problem or f"error {gap.error:.3g}, allowed {gap.allowed:.3g}"
            self.problems.append(f"{_upper(what)} gives other values {when}: {name}: {how}.")

    # ------------------------------------------------------------------ outputs

    def _gap(self, name: str, got: Value, want: Value, model: int) -> Gap:
        """Compare an output with what the same file gave before. Random ones are compared by type and
        shape."""
        if self.judge.every[name].random:
            same = np.shape(got) == np.shape(want)  # type: ignore[arg-type]
            return Gap() if same else Gap(problem="it has another shape")
        return compare(got, want, self.judge.tolerance(name, want, model))


def other_feeds(trial: Trial, model: int) -> dict[str, Value]:
    """Draw inputs of one model with the shapes of the first case and other values. Given inputs can't be
    drawn, so each model gets those of the next."""
    return trial.feeds(replace(trial.cases[0], salt=OTHER), (model + 1) % trial.family.models)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
