"""Checks isolation: whatever one model is fed, no other model's outputs change by a bit.

One model at a time gets NaN, infinities, the largest numbers, or other values of the usual kind, in all
inputs that are its own; the others get what they got before. A call that fails reaches nobody. Unequal sizes
must fail, or be right for every model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.ops import traits
from netfuse_onnx.proofs import Isolation
from netfuse_onnx.prove.compare import compare, difference
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.trial import Progress, Trial
from netfuse_onnx.run import inputs, symbols
from netfuse_onnx.run.inputs import Case
from netfuse_onnx.run.runtime import RunFailed, Session, Value
from netfuse_onnx.tailed import having

Results = Mapping[str, Value]

POISONS: Mapping[str, tuple[float, ...]] = {
    "NaN, infinities and the largest numbers": (np.nan, np.inf, -np.inf, 1.0, -1.0),
    "NaN": (np.nan,),
    "infinities": (np.inf, -np.inf),
    "the largest numbers": (1.0, -1.0),
}
"""Name -> the values that replace floats, in turns; 1.0 stands for the largest number of the type."""
LARGE = 1 << 20
"""Only the first model is fed odd values where its inputs have more elements, unless all were asked for."""


def isolate(
    session: Session, judge: Judge, before: Results, *, thorough: bool, tell: Progress
) -> Isolation | None:
    """Check a merged model in the first case, whose results are `before`. Returns None for a single model,
    and where all outputs are combined: every model is meant to change those.

    Without `thorough`, the first and the last model get one poison of everything, then other values.
    """
    lab = _Lab(session, judge, before)
    if lab.models < 2 or not judge.lines:
        return None
    cheap = thorough or lab.elements <= LARGE
    models = list(range(lab.models)) if thorough else [0, lab.models - 1] if cheap else [0]
    names = [] if steered(lab.trial) else list(POISONS) if thorough else list(POISONS)[:1]
    problems: list[str] = []
    if not lab.trial.options.file and (cheap or not names):
        names.append("")
    for model in models:
        tell("feeding odd values to one model", model, lab.models)
        for poison in names:
            problems += lab.poisoned(model, poison)
    refused = 0
    for model in models[-1:] if not thorough else models:
        for case in lab.unequal():
            wrong = lab.with_other_sizes(model, case)
            refused += wrong is None
            problems += wrong or ()
    return Isolation(len(models), lab.calls, refused, tuple(dict.fromkeys(problems)))


class _Lab:
    """A merged model, with inputs of the usual kind and what it gives on them."""

    def __init__(self, session: Session, judge: Judge, before: Results) -> None:
        self.session = session
        self.judge = judge
        self.trial: Trial = judge.trial
        self.before = before
        self.case = self.trial.cases[0]
        self.models = self.trial.family.models
        self.names = self.trial.family.names
        self.drawn = [self.trial.feeds(self.case, m) for m in range(self.models)]
        self.elements = sum(v.size for v in self.drawn[0].values() if isinstance(v, np.ndarray))
        self.calls = 0
        self._rerun: Results | None = None

    # ------------------------------------------------------------------ odd values

    def poisoned(self, model: int, poison: str) -> Iterator[str]:
        """Yield problems with every model but the one that is fed odd values (for '', other usual values)."""
        drawn = [dict(feeds) for feeds in self.drawn]
        other = self.trial.feeds(replace(self.case, salt=self.case.salt + 101), model) if not poison else {}
        for spec in self.trial.specs:
            if spec.name not in self.trial.options.share:
                value = drawn[model][spec.name]
                drawn[model][spec.name] = odd(value, POISONS[poison]) if poison else other[spec.name]
        after = self._run(self.trial.joined(drawn))
        if after is None:
            return
        what = poison or "other values"
        for name, line in self.judge.lines.items():
            for m in having(self.trial.family, name):
                compared = m != model and not line.random
                if compared and not self._same(m, name, after) and self._steady(m, name):
                    one, two = self.names[model], self.names[m]
                    by = self._moved(m, name, after) if not poison else ""
                    yield f"Output {name} of model {two} changes{by} when model {one} is fed {what}."

    def _steady(self, model: int, name: str) -> bool:
        """True where the same inputs give the same bits. Some kernels add up in the order of threads."""
        if self._rerun is None:
            self._rerun = self._run(self.trial.joined(self.drawn)) or {}
        return bool(self._rerun) and self._same(model, name, self._rerun)

    def _moved(self, model: int, name: str, after: Results) -> str:
        """Return by how much an output changed, relative to its largest element, or ''."""
        now, before = (self.trial.pick(model, name, results)[0] for results in (after, self.before))
        gap, scale = difference(now, before)
        return f" by {100 * gap / scale:.2g} % of its largest value" if scale and np.isfinite(gap) else ""

    def _same(self, model: int, name: str, after: Results) -> bool:
        mine, _ = self.trial.pick(model, name, self.before)
        now, _ = self.trial.pick(model, name, after)
        return bool(bits(mine) == bits(now))

    # ------------------------------------------------------------------ unequal sizes

    def unequal(self) -> Iterator[Case]:
        """Yield cases that differ from the first in sizes; only separate inputs can. One symbolic dim is
        larger by the number of models, so that the sum of all sizes divides evenly; or two dims are
        exchanged, so that the number of elements is the same."""
        options = self.trial.options
        own = [spec.dims for spec in self.trial.specs if spec.name not in options.share]
        if not edges.is_separate(options.io) or self.case.given:
            return
        sizes = self.case.sizes
        bound = [symbol for symbol in symbols.free(own) if symbol in sizes]
        for symbol in bound:
            yield replace(self.case, sizes={**sizes, symbol: sizes[symbol] + self.models})
        for one, two in itertools.combinations(bound, 2):
            if sizes[one] != sizes[two] and any(dims and {one, two} <= set(dims) for dims in own):
                yield replace(self.case, sizes={**sizes, one: sizes[two], two: sizes[one]})

    def with_other_sizes(self, model: int, case: Case) -> list[str] | None:
        """Return problems if one model's inputs have other sizes; None where the call fails, as it should."""
        mine = inputs.draw(self.trial.specs, case, model, self.trial.options.share, self.trial.options.seed)
        drawn = [dict(feeds) for feeds in self.drawn]
        shared = {name: drawn[model][name] for name in self.trial.options.share}
        drawn[model] = {**mine, **shared}
        after = self._run(self.trial.joined(drawn))
        if after is None:
            return None
        alike = [{**mine, **shared} if m == model else self.trial.feeds(case, m) for m in range(self.models)]
        want = self._run(self.trial.joined(alike))
        told = ", ".join(f"{name}={size}" for name, size in case.sizes.items())
        problems = []
        for name, line in self.judge.lines.items():
            for m in having(self.trial.family, name):
                if line.random:
                    continue
                right = self._same(m, name, after) if m != model else self._close(m, name, after, want)
                if not right:
                    problems.append(
                        f"Output {name} of model {self.names[m]} is wrong, without an error, when model "
                        f"{self.names[model]} is fed other sizes than the rest ({told})."
                    )
        return problems

    def _close(self, model: int, name: str, after: Results, want: Results | None) -> bool:
        """True where a model gives what it gives in a call in which all models have its sizes."""
        if want is None:
            return True  # these sizes never run, so there is nothing to compare with
        got, _ = self.trial.pick(model, name, after)
        right, _ = self.trial.pick(model, name, want)
        return compare(got, right, self.judge.tolerance(name, right, model)).ok

    def _run(self, feeds: Mapping[str, Value]) -> Results | None:
        self.calls += 1
        try:
            return self.session.run(feeds)
        except RunFailed:
            return None


def steered(trial: Trial) -> bool:
    """True where floats that are fed decide a size or a loop: an infinite one would take all memory."""
    fed = {spec.name for spec in trial.specs if spec.dtype and spec.numpy.kind in "fV"}
    for node in itertools.chain(trial.family.graph.nodes, *(tail.nodes for tail in trial.family.tails)):
        if traits.of(node.op).shape_only or fed.isdisjoint(node.reads):
            continue
        fed.update(node.outputs)
        if traits.ragged(node, fed, frozenset()) or traits.has_bodies(node):
            return True
    return False


def odd(value: Value, poison: tuple[float, ...]) -> Value:
    """Return the value with its floats replaced in turns; integers, masks and strings stay as they are."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fV" or not value.size:
        return value
    largest = float(np.finfo(np.float16).max) if value.dtype.itemsize < 4 else 3e38
    turns = [p * largest if np.isfinite(p) else p for p in poison]
    flat = np.resize(np.array(turns, np.float64), value.size).reshape(value.shape)
    with np.errstate(all="ignore"):
        return np.asarray(flat.astype(value.dtype))


def bits(value: Value) -> Any:
    """Return a key that is equal for two values only where all bits are."""
    if isinstance(value, np.ndarray):
        values = value.tolist() if value.dtype.kind == "O" else value.tobytes()
        return value.dtype.str, value.shape, values
    return [bits(part) for part in value] if isinstance(value, list) else value
