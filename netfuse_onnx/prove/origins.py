"""The record of the sources in a merged file, compared with one that is made anew from the sources.

What `split` and `update` take out of a merged file rests on that record. It is part of proof (c).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from netfuse_onnx import __version__
from netfuse_onnx.proofs import GraphProof
from netfuse_onnx.storage import wire
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Correspondence, Source
from netfuse_onnx.write import digests, metadata, origins
from netfuse_onnx.write.packing import Packed, unpacked


def with_origins(
    graph: GraphProof, path: str, recipes: Mapping[str, Recipe], family: Correspondence
) -> GraphProof:
    """Add to the proof of the graph what is wrong with the record in the merged file at `path`. `recipes` are
    those of its weights, whose bytes proof (a) compares."""
    return replace(graph, problems=(*graph.problems, *_problems(path, recipes, family)))


def _problems(path: str, recipes: Mapping[str, Recipe], family: Correspondence) -> Iterator[str]:
    props = {entry.key: entry.value for entry in wire.scan(path).model.metadata_props}
    about = metadata.read(path)
    if origins.KEY not in props or about.version != __version__:
        return  # an older file, or one of a version that may write other references
    try:
        have = unpacked(props[origins.KEY])
    except ValueError as error:
        yield f"The record of the sources in the file is damaged: {error}."
        return
    want, sources = origins.recorded(family, recipes), family.loaded or family.sources
    if len(have.models) != len(want.models):
        yield f"The file records {len(have.models)} sources, and there are {len(want.models)}."
        return
    for model, (name, source) in enumerate(zip(family.names, sources, strict=True)):
        if _spelled(have, model) != _spelled(want, model) and not _another(source, about.sha256[model]):
            yield f"The file records another source as {name}: split would give back something else."


def _spelled(record: Packed, model: int) -> list[object]:
    """Return the record of one model without numbers that depend on the others."""

    def piece(number: int) -> object:
        if number >= 0:
            return record.runs[number]
        weight = record.weights[-1 - number]
        pairs = range(0, min(len(weight), 6), 2)
        return [(record.held[weight[k]], weight[k + 1]) for k in pairs], weight[6:]

    row = record.models[model]
    return [row.note, [(file.location, list(map(piece, file.pieces))) for file in row.files]]


def _another(source: Source, recorded: str) -> bool:
    """Return True for a source that is not the file that was merged, of which verify warns."""
    if source.original or source.adapted:
        return False
    return digests.of_files(source.files) != recorded
