"""Packs the inputs and outputs of single models into those of the merged model, and takes them out again.

In: one mapping per model, by the first source's names. Out: the arrays of one call, by the merged names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.labels import Labels
from netfuse_onnx.run.runtime import Array, Value

Values = Sequence[Mapping[str, Value]]
"""The inputs or outputs of every model, by the first source's names."""


@dataclass(frozen=True, slots=True)
class Packing:
    """One call of the merged model, whose inputs and outputs have these labels."""

    labels: Labels
    asked: tuple[int, ...] = ()
    """The models that the call chooses, or of which it has rows, where it may; none stands for all of them,
    the last one chosen first, so that a file which does not look at the ids gives wrong answers."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The models of the rows of the call, by their places in the order of the merge."""
        every = range(len(self.labels.models))
        return (self.asked or tuple(every)[::-1]) if edges.is_selected(self.labels.io) else tuple(every)

    @property
    def count(self) -> int:
        """The number of rows, each with the values of one model."""
        return len(self.ids)

    def inputs(self, values: Values) -> dict[str, Value]:
        """Pack the inputs of the models into those that the merged model takes."""
        if edges.is_routed(self.labels.io):
            wants = self.asked or range(len(values))
            counts = [rows * (m in wants) for m, rows in enumerate(self._counts(values))]
            return self.rows(values, self.mixed(counts))
        ids = {self.labels.ids: np.array(self.ids, np.int64)} if self.labels.ids else {}
        return {**self._joined(values, self.labels.input, self.labels.share), **ids}

    def outputs(self, values: Values) -> dict[str, Value]:
        """Pack the outputs of the models into those that the merged model gives. A combined one is that of
        the first model."""
        if edges.is_routed(self.labels.io):
            order = self.mixed([len(_array(next(iter(own.values())))) for own in values])
            return {name: _mixed([own[name] for own in values], order) for name in values[0]}
        once = self.labels.combined
        merged = {name: value for name, value in values[0].items() if name in once}
        each = [{name: v for name, v in own.items() if name not in once} for own in values]
        return merged | self._joined(each, self.labels.output, frozenset())

    def pick(self, model: int, name: str, result: Mapping[str, Value]) -> tuple[Value, str]:
        """Return one model's part of a merged output, and '' or the reason why there is none."""
        key = self.labels.output(model, name)
        if key not in result:
            return None, f"the merged model has no output {key!r}"
        value = result[key]
        if edges.is_separate(self.labels.io):
            return value, ""
        if edges.is_routed(self.labels.io):
            order = self._equal_shares(value)
            where = f"output {key!r} has no leading axis with a row for each request"
            return (None, where) if order is None else (_array(value)[order == model], "")
        if not isinstance(value, np.ndarray) or not value.ndim or len(value) != self.count:
            return None, f"output {key!r} has no leading axis of size {self.count}"
        return np.asarray(value[self.ids.index(model)]), ""

    def split(self, result: Mapping[str, Value], names: Iterable[str]) -> list[dict[str, Value]]:
        """Take the outputs `names` of every model out of those of the merged model. The first one has those
        that are combined."""
        label, names = self.labels.output, list(names)
        every = [name for name in names if name not in self.labels.combined]
        if edges.is_routed(self.labels.io):
            return [{n: self.pick(m, n, result)[0] for n in every} for m in range(self.count)]
        if edges.is_separate(self.labels.io):
            own = [edge.outputs for edge in self.labels.edges]
            parts = [{n: result[label(m, n)] for n in every if n in own[m]} for m in range(self.count)]
        else:
            places = [self.ids.index(m) for m in range(len(self.labels.models))]
            parts = [{n: np.asarray(result[label(m, n)])[k] for n in every} for m, k in enumerate(places)]
        parts[0] |= {n: result[label(0, n)] for n in names if n in self.labels.combined}
        return parts

    # ------------------------------------------------------------------ rows

    def mixed(self, counts: Sequence[int], seed: int = 0) -> Array:
        """Return the model of each row of a call with so many rows of each model, in a random order."""
        ids = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        return np.asarray(np.random.default_rng([seed, len(ids)]).permutation(ids))

    def rows(self, values: Values, order: Array) -> dict[str, Value]:
        """Pack the first rows of the models into a routed call. `order` is the model of each row."""
        once = self.labels.share
        merged = {
            name: _array(values[0][name])[:1] if name in self.labels.repeated else values[0][name]
            if name in once else _mixed([own[name] for own in values], order)
            for name in values[0]
        }  # fmt: skip
        return {**merged, self.labels.ids: order}

    def _counts(self, values: Values) -> list[int]:
        name = next(name for name in values[0] if name not in self.labels.share)
        return [len(_array(own[name])) for own in values]

    def _equal_shares(self, value: Value) -> Array | None:
        """The model of each row of an output of a call in which all models have as many rows."""
        if not isinstance(value, np.ndarray) or not value.ndim or len(value) % self.count:
            return None
        return self.mixed([len(value) // self.count] * self.count)

    def _joined(
        self, values: Values, label: Callable[[int, str], str], once: frozenset[str]
    ) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        for name in dict.fromkeys(name for own in values for name in own):
            if edges.is_separate(self.labels.io) or name in once:
                for model, own in enumerate(values):
                    if name in own:  # not every model has each output
                        merged.setdefault(label(model, name), own[name])
            else:
                merged[label(0, name)] = np.stack([np.asarray(values[m][name]) for m in self.ids])
        return merged


def _array(value: Value) -> Array:
    return np.asarray(value)


def _mixed(values: Sequence[Value], order: Array) -> Array:
    """Row r is the next row of model order[r]: its first, its second, .."""
    first = _array(values[0])
    mixed = np.empty((len(order), *first.shape[1:]), first.dtype)
    for model, value in enumerate(values):
        mixed[order == model] = _array(value)[: int((order == model).sum())]
    return mixed
