"""Measures whether the comparison of values could have seen two models exchanged.

On the same input, two models must differ by far more than what is allowed, in every output. Where weights
that differ between the models take no part in an output, the models are one function there, and an exchange
shows by their own inputs instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from netfuse_onnx.proofs import ALIKE, APART, RANDOM, Spread, Telling
from netfuse_onnx.prove import combined
from netfuse_onnx.prove.compare import compare, finite, ratios
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.trial import Trial
from netfuse_onnx.run.runtime import Array, Value

Ratios = dict[tuple[int, int], Array]
"""Pair of models -> the distance of an output or of each of its channels, in units of the tolerance."""


class Teller:
    """Computes distances between the models' outputs, in units of the tolerance of the judge."""

    def __init__(self, trial: Trial, judge: Judge) -> None:
        self.trial = trial
        self.judge = judge
        self.models, self.names = trial.family.models, trial.family.names
        self.labels = [k for k in trial.same_input[0] if all(k in some for some in trial.same_input)]

    def spread(self) -> Spread | None:
        """Return the two models that are most alike, and their distance in the output that separates them
        best.

        None for a single model, where the models did not all run on the same input, and where no output can
        be compared.
        """
        names = [n for n, line in self.judge.lines.items() if not line.random and not self._empty(n)]
        if self.models < 2 or not self.labels or not names:
            return None
        tables = [self._same_input(name) for name in names]
        best = {pair: max(float(t[pair].max(initial=0.0)) for t in tables) for pair in tables[0]}
        one, two = min(best, key=lambda pair: best[pair])
        return Spread(best[one, two], (self.names[one], self.names[two]))

    def telling(self) -> tuple[Telling, ...]:
        """A row for every output of a family of two or more."""
        if self.models < 2 or not self.labels:
            return ()
        return (*(self._telling(name) for name in self.judge.lines), *combined.telling(self.judge))

    # ------------------------------------------------------------------ one output

    def _telling(self, name: str) -> Telling:
        line = self.judge.lines[name]
        anyone = (self.names[0], self.names[1])
        if line.random:
            return Telling(name, 0.0, anyone, RANDOM)
        if not line.own and line.inputs <= self.trial.options.share:
            return Telling(name, float("inf"), anyone)  # one value for all: there is nothing to exchange
        table = self._same_input(name) if line.own else self._own_inputs(name)
        best = {pair: float(distance.max(initial=0.0)) for pair, distance in table.items()}
        one, two = min(best, key=lambda pair: best[pair])
        alike = tuple((self.names[i], self.names[j]) for (i, j), ratio in best.items() if ratio < APART)
        axis = self._axis(name)
        per_channel = np.minimum.reduce(list(table.values())) if axis else np.zeros(0)
        return Telling(
            name,
            best[one, two],
            (self.names[one], self.names[two]),
            self._reason(name, best) if alike else "",
            alike,
            axis,
            per_channel.size,
            int((per_channel < APART).sum()),
        )

    def _reason(self, name: str, best: Mapping[tuple[int, int], float]) -> str:
        """Return the reason why an output can't separate all models."""
        if self._empty(name):
            return "empty, NaN or infinite"
        values = [np.asarray(v).reshape(-1) for v in self._values(name) if isinstance(v, np.ndarray)]
        every = np.concatenate(values) if values else np.zeros(0)
        if every.size and (every == every[0]).all():
            return f"{every[0]} everywhere"
        return "the same in all models" if not any(best.values()) else ALIKE

    def _same_input(self, name: str) -> Ratios:
        """Return the distances of the models on the inputs of the first one."""
        return self._table(name, [[some[k][name] for k in self.labels] for some in self.trial.same_input])

    def _own_inputs(self, name: str) -> Ratios:
        """Return the distances of the models on inputs of their own."""
        return self._table(name, [[outputs[name] for outputs in some] for some in self.trial.outputs])

    def _table(self, name: str, values: Sequence[Sequence[Value]]) -> Ratios:
        axis = self._axis(name)
        ratio_of: Ratios = {}
        for one, two in itertools.combinations(range(self.models), 2):
            cases = zip(values[one], values[two], strict=True)
            ratio_of[one, two] = np.maximum.reduce([self._distance(name, a, b, two, axis) for a, b in cases])
        return ratio_of

    def _distance(self, name: str, one: Value, two: Value, model: int, axis: int) -> Array:
        """Return one distance, or one per channel along `axis`. `two` is the result of `model`."""
        allowed = self.judge.tolerance(name, two, model)
        if not isinstance(one, np.ndarray) or not isinstance(two, np.ndarray) or one.shape != two.shape:
            gap = compare(one, two, allowed)
            return np.asarray(float("inf") if gap.problem else gap.ratio)
        if two.dtype.kind in "fV":
            distance = ratios(one, two, allowed)
        else:
            distance = np.where(one == two, 0.0, np.inf)
        others = tuple(i for i in range(distance.ndim) if i != axis) if axis else None
        most: Array = np.asarray(distance.max(axis=others, initial=0.0))
        return most

    # ------------------------------------------------------------------ parts

    def _axis(self, name: str) -> int:
        """Return the axis of channels: the shorter one of axis 1 and the last, if its size is fixed; 0 for
        none."""
        dims = self.trial.family.edge_type(name).dims or ()
        sizes = {i: dims[i] for i in (1, len(dims) - 1) if 0 < i < len(dims)}
        fixed = sorted((size, i) for i, size in sizes.items() if isinstance(size, int))
        shapes = {v.shape if isinstance(v, np.ndarray) else () for v in self._values(name)}
        if any(len(shape) != len(dims) for shape in shapes):
            return 0
        return next((i for _, i in fixed if len({shape[i] for shape in shapes}) == 1), 0)

    def _values(self, name: str) -> Iterator[Value]:
        """Yield the results of all sources in all cases for an output."""
        for some in self.trial.outputs:
            yield from (outputs[name] for outputs in some)

    def _empty(self, name: str) -> bool:
        return not any(finite(value) for value in self._values(name))
