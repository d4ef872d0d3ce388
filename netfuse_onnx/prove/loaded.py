"""Sessions of sources. An adapted source has no file of its own: it is written, loaded and removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from netfuse_onnx.load import folded
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session, Value
from netfuse_onnx.types import Adapted, Change, Correspondence, Source


def session_of(source: Source, runtime: Runtime, *, optimise: bool = True, moved: int = 0) -> Session:
    """Return a session of one source. Raises RunFailed when ONNX Runtime does not load it. `moved` is for
    adapted sources: with a seed, their changed weights are moved by rounding."""
    with folded.opened(source, moved=moved) as path:
        return Session(path, runtime, optimise=optimise)


class Runner(Protocol):
    """A loaded model, which gives its outputs by name and raises RunFailed."""

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]: ...


class CheckedRunner:
    """A source on CUDA that refuses the inputs that it refuses without optimisations: fused operators read
    inputs of wrong sizes beyond their ends (gaps.FUSED_UNCHECKED). A source that does not load without
    optimisations is not checked.
    """

    def __init__(self, session: Session, source: Source, runtime: Runtime) -> None:
        self._session = session
        try:
            self._unoptimised = session_of(source, runtime, optimise=False)
        except RunFailed:
            self._unoptimised = session

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        if self._unoptimised is not self._session:
            self._unoptimised.run(feeds)
        return self._session.run(feeds)


def movable(family: Correspondence, model: int) -> Source | None:
    """Return a source as an adapted one, whose changed weights are those that the merged model computes from
    several: the changes of an adapter, or none of weights that are low-rank differences. None where there are
    no such weights, or the file holds them in other forms."""
    source = family.sources[model]
    if source.adapted or family.low_rank is None:
        return source if source.adapted else None
    wanted = {each.wholes[model].own for each in family.low_rank.factored}
    names = {name for name, weight in source.graph.weights.items() if weight.own in wanted}
    changes = [Change("", name, False, "", "") for name in sorted(names & folded.tensors(source.path))]
    return replace(source, adapted=Adapted(source.path, (), tuple(changes))) if changes else None
