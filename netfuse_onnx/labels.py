"""The names of the inputs and outputs of the merged model.

With separate I/O, input x of model a is `a/x` and its output y is `a/y`, where x and y are the names in a's
own file. With stacked I/O they have the first model's names, and so has an input that is fed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx.types import Correspondence, Edge


@dataclass(frozen=True, slots=True)
class NameRow:
    """One input or output of one model: its name in the model's own file, and in the merged file. Where the
    models share or stack it, several rows have one merged name."""

    model: str
    what: str
    own: str
    merged: str


@dataclass(frozen=True, slots=True)
class Labels:
    """The merged names by model and by the first model's name. Each of `models` has one of `edges`."""

    models: tuple[str, ...]
    edges: tuple[Edge, ...]
    io: str = "separate"
    share: frozenset[str] = frozenset()

    @staticmethod
    def of(family: Correspondence, io: str = "separate", share: frozenset[str] = frozenset()) -> Labels:
        """Return the labels of a family. Files of older versions have the first model's names for all."""
        edges = tuple(family.edge(model if family.own_names else 0) for model in range(family.models))
        return Labels(family.names, edges, io, share)

    def input(self, model: int, name: str) -> str:
        """Return the merged name of the input that the first model calls `name`."""
        return name if name in self.share else self._label(model, name, self.edges[model].inputs)

    def output(self, model: int, name: str) -> str:
        """Return the merged name of the output that the first model calls `name`."""
        return self._label(model, name, self.edges[model].outputs)

    def rows(self) -> Iterator[NameRow]:
        """Yield all inputs, then all outputs, each for every model. Yields none without edges."""
        own = list(enumerate(zip(self.models, self.edges, strict=False)))
        for name in own[0][1][1].inputs if own else ():
            for m, (model, edge) in own:
                yield NameRow(model, "input", edge.inputs[name], self.input(m, name))
        for name in own[0][1][1].outputs if own else ():
            for m, (model, edge) in own:
                yield NameRow(model, "output", edge.outputs[name], self.output(m, name))

    def crossed(self, name: str) -> str:
        """Return a model in which the first model's `name` is the name of another input or output; '' if
        none. A user of that model would take what the merged file calls `name` for something else."""
        for model, edge in zip(self.models, self.edges, strict=True):
            for twins in (edge.inputs, edge.outputs):
                if name in twins and twins[name] != name and name in twins.values():
                    return model
        return ""

    def _label(self, model: int, name: str, own: Mapping[str, str]) -> str:
        return name if self.io == "stacked" else f"{self.models[model]}/{own[name]}"


Line = tuple[str, str, str, Sequence[str]]
"""A line of the table of names: input or output, the model, its own name, the merged names."""


def grouped(rows: Sequence[NameRow]) -> list[Line]:
    """Return a line for each row, or one for `every` model where all use one name."""
    groups: dict[tuple[str, int], list[NameRow]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        groups.setdefault((row.what, seen[row.what, row.model]), []).append(row)
        seen[row.what, row.model] += 1
    lines: list[Line] = []
    for (what, _), group in groups.items():
        if len({row.own for row in group}) == 1:
            lines.append((what, "every", group[0].own, list(dict.fromkeys(row.merged for row in group))))
        else:
            lines += [(what, row.model, row.own, [row.merged]) for row in group]
    return lines
