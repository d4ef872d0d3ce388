"""Packs the inputs and outputs of single models into those of the merged model, and takes them out again.

In: one mapping per model, by the first source's names. Out: the arrays of one call, by the merged names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.labels import Labels
from netfuse_onnx.run.runtime import Value

Values = Sequence[Mapping[str, Value]]
"""The inputs or outputs of every model, by the first source's names."""


@dataclass(frozen=True, slots=True)
class Packing:
    """One call of the merged model, whose inputs and outputs have these labels."""

    labels: Labels
    asked: tuple[int, ...] = ()
    """The models that the call chooses, where it may; none stands for all of them, the last one first, so
    that a file which does not look at the ids gives wrong answers."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The models of the rows of the call, by their places in the order of the merge."""
        every = range(len(self.labels.models))
        return (self.asked or tuple(every)[::-1]) if self.labels.ids else tuple(every)

    @property
    def count(self) -> int:
        """The number of rows, each with the values of one model."""
        return len(self.ids)

    def inputs(self, values: Values) -> dict[str, Value]:
        """Pack the inputs of the models into those that the merged model takes."""
        ids = {self.labels.ids: np.array(self.ids, np.int64)} if self.labels.ids else {}
        return {**self._joined(values, self.labels.input, self.labels.share), **ids}

    def outputs(self, values: Values) -> dict[str, Value]:
        """Pack the outputs of the models into those that the merged model gives."""
        return self._joined(values, self.labels.output, frozenset())

    def pick(self, model: int, name: str, result: Mapping[str, Value]) -> tuple[Value, str]:
        """Return one model's part of a merged output, and '' or the reason why there is none."""
        key = self.labels.output(model, name)
        if key not in result:
            return None, f"the merged model has no output {key!r}"
        value = result[key]
        if edges.is_separate(self.labels.io):
            return value, ""
        if not isinstance(value, np.ndarray) or not value.ndim or len(value) != self.count:
            return None, f"output {key!r} has no leading axis of size {self.count}"
        return np.asarray(value[self.ids.index(model)]), ""

    def split(self, result: Mapping[str, Value], names: Iterable[str]) -> list[dict[str, Value]]:
        """Take the outputs `names` of every model out of those of the merged model."""
        label, every = self.labels.output, list(names)
        if edges.is_separate(self.labels.io):
            return [{n: result[label(m, n)] for n in every} for m in range(self.count)]
        models = range(len(self.labels.models))
        return [{n: np.asarray(result[label(m, n)])[self.ids.index(m)] for n in every} for m in models]

    def _joined(
        self, values: Values, label: Callable[[int, str], str], once: frozenset[str]
    ) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        for name in values[0]:
            if edges.is_separate(self.labels.io) or name in once:
                for model, own in enumerate(values):
                    merged.setdefault(label(model, name), own[name])
            else:
                merged[label(0, name)] = np.stack([np.asarray(values[m][name]) for m in self.ids])
        return merged
