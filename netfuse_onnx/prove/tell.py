"""Measures whether the comparison of values could have seen two models exchanged.

On the same input, two models must differ by far more than what is allowed, in every output. Where weights
that differ between the models take no part in an output, the models are one function there, and an exchange
shows by their own inputs instead.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from netfuse_onnx.proofs import ALIKE, APART, RANDOM, Spread, Telling
from netfuse_onnx.prove import combined
from netfuse_onnx.prove.compare import Tolerance, compare, finite, ratios
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.trial import Trial
from netfuse_onnx.run.runtime import Array, Value
from netfuse_onnx.tailed import having

Block = Array | Sequence[Value]
"""The results of some models: an array with a row for each where they have one shape and type."""
BLOCK = 1 << 16
"""The elements of a block, about."""
_NO_CHANNELS = np.zeros(0)
UNKNOWN = -1.0
"""The distance of two models in an output that not both have."""


@dataclass(frozen=True, slots=True)
class Distances:
    """The distances of all pairs of models in one output, in units of the tolerance. `best[i, j]`, for i < j,
    is that of the element that separates them best, infinity for i >= j; `channels` has the smallest one of
    each channel."""

    best: Array
    channels: Array

    def pairs(self, below: float) -> list[tuple[int, int]]:
        """Return the pairs with a smaller distance."""
        return [(one, two) for one, two in np.argwhere(self.best < below).tolist()]


def nearest(best: Array) -> tuple[int, int]:
    """Return the first of the pairs with the smallest distance."""
    ones, twos = np.triu_indices(len(best), 1)
    first = int(best[ones, twos].argmin())
    return int(ones[first]), int(twos[first])


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
        best = functools.reduce(np.maximum, map(self._between, names))
        best[best == UNKNOWN] = np.inf  # models without a common output
        one, two = nearest(best)
        if np.isinf(best[one, two]) and self.trial.family.tails:
            return None
        return Spread(float(best[one, two]), (self.names[one], self.names[two]))

    def telling(self) -> tuple[Telling, ...]:
        """A row for every output of a family of two or more."""
        if self.models < 2 or not self.labels:
            return ()
        return (*(self._telling(name) for name in self.judge.lines), *combined.telling(self.judge))

    # ------------------------------------------------------------------ one output

    def _telling(self, name: str) -> Telling:
        line, names = self.judge.lines[name], [self.names[m] for m in having(self.trial.family, name)]
        anyone = (self.names[0], self.names[1])
        if line.random:
            return Telling(name, 0.0, anyone, RANDOM)
        if len(names) < 2:
            return Telling(name, float("inf"), anyone)  # the output of one model alone
        if not line.own and line.inputs <= self.trial.options.share:
            return Telling(name, float("inf"), anyone)  # one value for all: there is nothing to exchange
        table = self._same_input(name) if line.own else self._own_inputs(name)
        one, two = nearest(table.best)
        alike = tuple((names[i], names[j]) for i, j in table.pairs(below=APART))
        return Telling(
            name,
            float(table.best[one, two]),
            (names[one], names[two]),
            self._reason(name, table.best) if alike else "",
            alike,
            self._axis(name),
            table.channels.size,
            int((table.channels < APART).sum()),
        )

    def _reason(self, name: str, best: Array) -> str:
        """Return the reason why an output can't separate all models."""
        if self._empty(name):
            return "empty, NaN or infinite"
        values = [np.asarray(v).reshape(-1) for v in self._values(name) if isinstance(v, np.ndarray)]
        every = np.concatenate(values) if values else np.zeros(0)
        if every.size and (every == every[0]).all():
            return f"{every[0]} everywhere"
        return "the same in all models" if not np.triu(best, 1).any() else ALIKE

    def _between(self, name: str) -> Array:
        """Return the distance of each pair of models in one output; UNKNOWN where one of them lacks it."""
        models = having(self.trial.family, name)
        best: Array = np.full((self.models, self.models), UNKNOWN)
        best[np.ix_(models, models)] = self._same_input(name).best
        best[np.tril_indices(self.models)] = np.inf
        return best

    def _same_input(self, name: str) -> Distances:
        """Return the distances of the models on the inputs of the first one."""
        some = [self.trial.same_input[m] for m in having(self.trial.family, name)]
        return self._table(name, [[each[k][name] for each in some] for k in self.labels])

    def _own_inputs(self, name: str) -> Distances:
        """Return the distances of the models on inputs of their own."""
        cases = range(len(self.trial.cases))
        some = [self.trial.outputs[m] for m in having(self.trial.family, name)]
        return self._table(name, [[each[case][name] for each in some] for case in cases])

    def _table(self, name: str, cases: Sequence[Sequence[Value]]) -> Distances:
        """Compare all pairs of models. `cases` holds the values of all models, case by case.

        A model is compared with as many others at once as keep the numbers in the cache, so that a thousand
        models take a thousand steps, and the memory does not depend on the number of pairs.
        """
        places = having(self.trial.family, name)
        axis, best, channels = self._axis(name), np.full((len(places), len(places)), np.inf), _NO_CHANNELS
        size = max(v.size if isinstance(v, np.ndarray) else 1 for values in cases for v in values)
        step = max(1, BLOCK // max(size, 1))
        for first in range(0, len(places), step):
            blocks = [_block(values[first : first + step]) for values in cases]
            for two in range(first + 1, len(places)):
                before = min(step, two - first)
                found = [
                    self._distances(name, block[:before], values[two], places[two], axis)
                    for block, values in zip(blocks, cases, strict=True)
                ]
                most = functools.reduce(np.maximum, found)
                best[first : first + before, two] = most.reshape(before, -1).max(axis=1, initial=0.0)
                if axis:
                    channels = _least(channels, most.min(axis=0))
        return Distances(best, channels)

    def _distances(self, name: str, ones: Block, two: Value, model: int, axis: int) -> Array:
        """Return the distance of each of `ones` from `two`, the result of `model`; or its distances by
        channel along `axis`."""
        allowed = self.judge.tolerance(name, two, model)
        if not _alike(ones, two):
            form = two.shape[axis : axis + 1] if axis and isinstance(two, np.ndarray) else ()
            each = [self._distance(one, two, allowed, axis) for one in ones]
            return np.stack([np.broadcast_to(distance, form) for distance in each])
        return _by_channel(_elements(np.asarray(ones), np.asarray(two), allowed), axis)

    def _distance(self, one: Value, two: Value, allowed: Tolerance, axis: int) -> Array:
        """Return the distance of two results, or one for each channel."""
        if not isinstance(one, np.ndarray) or not isinstance(two, np.ndarray) or one.shape != two.shape:
            gap = compare(one, two, allowed)
            return np.asarray(float("inf") if gap.problem else gap.ratio)
        distance: Array = _by_channel(_elements(one[None], two, allowed), axis)[0]
        return distance

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
            yield from (outputs[name] for outputs in some if name in outputs)

    def _empty(self, name: str) -> bool:
        return not any(finite(value) for value in self._values(name))


def _block(values: Sequence[Value]) -> Block:
    """Return results of one shape and type as one array, others as they are."""
    arrays = [v for v in values if isinstance(v, np.ndarray)]
    one_form = len({(v.shape, v.dtype) for v in arrays}) == 1 and len(arrays) == len(values)
    return np.stack(arrays) if one_form else values


def _alike(ones: Block, two: Value) -> bool:
    """True where `two` has the shape of each of `ones`."""
    return isinstance(ones, np.ndarray) and isinstance(two, np.ndarray) and ones.shape[1:] == two.shape


def _elements(ones: Array, two: Array, allowed: Tolerance) -> Array:
    """Return the distance of each element of each of `ones` from `two`."""
    if two.dtype.kind in "fV":
        return ratios(ones, two, allowed)
    return np.where(ones == two, 0.0, np.inf)


def _by_channel(distances: Array, axis: int) -> Array:
    """Return the largest distance of each row, or of each channel of each row. `axis` is that of one row."""
    others = tuple(i for i in range(1, distances.ndim) if not axis or i != axis + 1)
    most: Array = np.asarray(distances.max(axis=others, initial=0.0))
    return most


def _least(channels: Array, more: Array) -> Array:
    least: Array = np.minimum(channels, more) if channels.size else more
    return least
