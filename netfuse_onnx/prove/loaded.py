"""Sessions of sources. An adapted source has no file of its own: it is written, loaded and removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Protocol

import numpy as np

from netfuse_onnx.load import folded
from netfuse_onnx.run import observe
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session, Value
from netfuse_onnx.types import Adapted, Change, Correspondence, Graph, Source, ValueType, Weight

SCALING = ("batch-normalization-folded", "channel-scale-folded")
"""Forms that multiply the weights before them by a scale, and round the products."""


def session_of(source: Source, runtime: Runtime, *, optimise: bool = True, moved: int = 0) -> Session:
    """Return a session of one source. Raises RunFailed when ONNX Runtime does not load it. `moved` is for
    adapted sources: with a seed, their changed weights are moved by rounding."""
    with folded.opened(source, moved=moved) as path:
        return Session(path, runtime, optimise=optimise)


class Runner(Protocol):
    """A loaded model, which gives its outputs by name and raises RunFailed."""

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]: ...


class CheckedRunner:
    """A source on CUDA that refuses the inputs that it refuses without optimisations, and those whose sizes a
    fused operator takes for others: it reads its bias beyond the end (gaps.FUSED_UNCHECKED). A source that
    does not load without optimisations is not checked.
    """

    def __init__(self, session: Session, source: Source, runtime: Runtime) -> None:
        self._session = session
        self._biased = biased(source.graph)
        self._known = {name: weight.shape for name, weight in source.graph.weights.items()}
        self._unoptimised = self._loaded(source, runtime)

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        if self._unoptimised is not None:
            found = self._unoptimised.run(feeds)
            known = self._known | {name: np.shape(v) for name, v in {**feeds, **found}.items()}  # type: ignore[arg-type]
            for each in self._biased:
                each.refuse(known)
        return self._session.run(feeds)

    def _loaded(self, source: Source, runtime: Runtime) -> Session | None:
        """Return a session without optimisations, which gives the operands of the sums too."""
        own = {*source.graph.inputs, *source.graph.weights}
        names = dict.fromkeys(name for each in self._biased for name in each.operands if name not in own)
        try:
            if names:
                model, folder = observe.with_outputs(source, [*names]), observe.home(source)
                return Session(model, runtime, optimise=False, folder=folder)
            return session_of(source, runtime, optimise=False)
        except RunFailed:
            return None


@dataclass(frozen=True, slots=True)
class Biased:
    """A sum that only a Softmax reads, which ONNX Runtime may compute together on CUDA. `declared` are the
    dims of the operands, as far as they are known."""

    name: str
    operands: tuple[str, str]
    declared: tuple[ValueType, ValueType]

    def refuse(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise RunFailed where an operand is broadcast along an axis that no declared size of 1 tells of:
        the fusion takes it for as long as the other's."""
        sizes = [reversed(shapes[name]) for name in self.operands]
        dims = [reversed(one.dims or ()) for one in self.declared]
        axes = zip(zip(*sizes, strict=False), zip_longest(*dims), strict=False)
        for (a, b), declared in axes:
            if a != b and 1 not in declared:
                raise RunFailed(f"{self.name} broadcasts {min(a, b)} to {max(a, b)}, which CUDA does not")


def biased(graph: Graph) -> list[Biased]:
    """Return the sums that a Softmax alone reads."""
    reads = Counter(name for node in graph.nodes for name in node.reads) + Counter(graph.outputs)
    behind = {node.inputs[0] for node in graph.nodes if node.op == "Softmax"}
    return [
        Biased(node.name or node.outputs[0], (a, b), (graph.type_of(a), graph.type_of(b)))
        for node in graph.nodes
        if node.key == "Add" and node.outputs[0] in behind and reads[node.outputs[0]] == 1
        for a, b in [node.inputs]
    ]


def movable(family: Correspondence, model: int) -> Source | None:
    """Return a source as an adapted one, whose changed weights are those that the merged model computes from
    several: the changes of an adapter, none of weights that are low-rank differences, and none of those that
    are multiplied by the scale of a folded BatchNormalization. None where there are no such weights, or the
    file holds them in other forms."""
    source = family.sources[model]
    if source.adapted:
        return source
    changes = [Change("", name, False, "", "") for name in _factored(family, model)]
    changes += [Change("", name, False, "", "", replaced=weight) for name, weight in _scaled(family, model)]
    held = folded.tensors(source.path) if changes else set[str]()
    kept = {
        change.weight: change for change in sorted(changes, key=lambda c: c.weight) if change.weight in held
    }
    return replace(source, adapted=Adapted(source.path, (), tuple(kept.values()))) if kept else None


def _factored(family: Correspondence, model: int) -> list[str]:
    """Return the names of the weights of a model that are low-rank differences."""
    if family.low_rank is None:
        return []
    wanted = {each.wholes[model].own for each in family.low_rank.factored}
    return [name for name, weight in family.sources[model].graph.weights.items() if weight.own in wanted]


def _scaled(family: Correspondence, model: int) -> list[tuple[str, Weight]]:
    """Return the weights of a model that were multiplied by a scale and rounded when it was respelled: those
    that are gone since. One-dimensional ones are the scales."""
    rows = family.respelled.rows if family.respelled and family.loaded else ()
    if not any(row.form in SCALING and row.model == family.names[model] for row in rows):
        return []
    left = {weight.own for weight in family.sources[model].graph.weights.values()}
    loaded = family.loaded[model].graph.weights.items()
    return [(name, weight.own) for name, weight in loaded if len(weight.shape) > 1 and weight.own not in left]
