"""The names of inputs and outputs of the merged model: each model's own behind a prefix, or the first
model's.

separate: input x of model a is `a/x` and its output y is `a/y`, by the names that a's own file uses. stacked:
the first model's names. An input that is fed once has the first model's name, too, and so has an output that
is a combination of all models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx import edges as modes
from netfuse_onnx.routing import routing
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
    """The merged names, by model and by the first model's name. `edges` are those of `models`."""

    models: tuple[str, ...]
    edges: tuple[Edge, ...]
    io: str = "separate"
    share: frozenset[str] = frozenset()
    combined: frozenset[str] = frozenset()
    """The outputs that are given once, a combination of those of all models."""
    repeated: frozenset[str] = frozenset()
    """Inputs of a routed call that are fed once, as one row, which all rows use."""

    @staticmethod
    def of(family: Correspondence, io: str = "separate", share: frozenset[str] = frozenset()) -> Labels:
        """Return the labels of a family. A file without recorded names has those of the first model."""
        edges = tuple(family.edge(model if family.own_names else 0) for model in range(family.models))
        rows = share & routing(family).rows if modes.is_routed(io) else frozenset[str]()
        return Labels(family.names, edges, io, share, frozenset(family.combined), rows)

    def input(self, model: int, name: str) -> str:
        """Return the merged input of a model that stands for the first model's `name`."""
        return name if name in self.share else self._label(model, name, self.edges[model].inputs)

    def output(self, model: int, name: str) -> str:
        """Return the merged output of a model that stands for the first model's `name`."""
        return name if name in self.combined else self._label(model, name, self.edges[model].outputs)

    @property
    def ids(self) -> str:
        """Return the name of the merged input that names models; '' where a call runs them all."""
        if not (modes.is_selected(self.io) or modes.is_routed(self.io)):
            return ""
        taken = {name for edge in self.edges[:1] for name in (*edge.inputs, *edge.outputs)}
        usual = modes.ROUTE if modes.is_routed(self.io) else modes.IDS
        return next(name for name in (usual, f"netfuse/{usual}") if name not in taken)

    def rows(self) -> Iterator[NameRow]:
        """Yield all inputs, then all outputs: name by name, each for every model. No edges, no rows."""
        inputs, outputs = [edge.inputs for edge in self.edges], [edge.outputs for edge in self.edges]
        for what, label, sides in (("input", self.input, inputs), ("output", self.output, outputs)):
            for name in dict.fromkeys(name for side in sides for name in side):
                for m, (model, side) in enumerate(zip(self.models, sides, strict=False)):
                    if name in side:  # an output that not all models have
                        yield NameRow(model, what, side[name], label(m, name))

    def crossed(self, name: str) -> str:
        """Return a model that calls another of its inputs or outputs `name`, which is the first model's; ''
        if none. In that model, the `name` of the merged file would be mistaken for something else."""
        for model, edge in zip(self.models, self.edges, strict=True):
            for twins in (edge.inputs, edge.outputs):
                if name in twins and twins[name] != name and name in twins.values():
                    return model
        return ""

    def _label(self, model: int, name: str, own: Mapping[str, str]) -> str:
        return f"{self.models[model]}/{own[name]}" if modes.is_separate(self.io) else name


Line = tuple[str, str, str, Sequence[str]]
"""An input or output: which of the two, whose, its own name, and its names in the merged model."""


def grouped(rows: Sequence[NameRow]) -> list[Line]:
    """Return a line for each row, or one for `every` model where all use one name."""
    groups: dict[tuple[str, int], list[NameRow]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        groups.setdefault((row.what, seen[row.what, row.model]), []).append(row)
        seen[row.what, row.model] += 1
    lines: list[Line] = []
    models = {row.model for row in rows}
    for (what, _), group in groups.items():
        if len({row.own for row in group}) == 1 and len(group) == len(models):
            lines.append((what, "every", group[0].own, list(dict.fromkeys(row.merged for row in group))))
        else:
            lines += [(what, row.model, row.own, [row.merged]) for row in group]
    return lines
