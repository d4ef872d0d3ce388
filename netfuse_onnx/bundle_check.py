"""Checks a bundle: its files, the ranges of data that its views read, and what they compute."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from netfuse_onnx import opened, sources
from netfuse_onnx.bundle_report import BundleReport
from netfuse_onnx.errors import FileFault
from netfuse_onnx.options import Proof
from netfuse_onnx.proofs import ViewsProof
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.trial import Progress, Trial
from netfuse_onnx.prove.views import ViewProver
from netfuse_onnx.runtime import bundle as reader
from netfuse_onnx.storage import external, wire
from netfuse_onnx.storage.tensors import tensors
from netfuse_onnx.types import Extent
from netfuse_onnx.viewed import AgainRow, ViewRow, Views
from netfuse_onnx.write import metadata
from netfuse_onnx.write.regions import ALL, EACH

Owned = tuple[int, int, frozenset[int] | None]
"""A region: its first byte, the byte behind it, and the models that own it, None for all of them."""


def checked(
    folder: str, paths: Sequence[str], names: Sequence[str] | None, tell: Progress, proof: Proof
) -> BundleReport:
    """Check a bundle, and its views against the sources where paths are given. Raises FileFault for a folder
    that is none, and what opened.read_merged raises."""
    text = reader.manifest(folder)
    bundle, value = reader.parse(folder, text), reader.value(folder, text)
    problems = [*_files(bundle, tell)]
    if not problems:
        problems += _agreement(bundle)
    ranges = 0
    if not problems:
        ranges, found = _ranges(bundle, value)
        problems += found
    proved, warnings = None, list[str]()
    if paths and not problems:
        proved, warnings = _proved(bundle, paths, names, tell, proof)
    return BundleReport(
        folder, bundle.version, bundle.models, bundle.io, bundle.share, _views(bundle, value, len(text)),
        ranges, tuple(problems), proved, tuple(warnings),
    )  # fmt: skip


# --------------------------------------------------------------------------- files


def _files(bundle: reader.Bundle, tell: Progress) -> Iterator[str]:
    """Yield a sentence for each file that is not the one that was written."""
    for done, (name, file) in enumerate(bundle.files.items()):
        tell("hashing the files", done, len(bundle.files))
        path = bundle.path(name)
        if os.path.islink(path) or not os.path.isfile(path):
            yield f"{path} is missing, or is no file."
        elif (size := os.path.getsize(path)) != file.bytes:
            yield f"{path} has {size} bytes, and the manifest says {file.bytes}."
        elif reader.digest_of(path) != file.sha256:
            yield f"{path} is not the file that was written: its SHA-256 differs."


def _agreement(bundle: reader.Bundle) -> Iterator[str]:
    """Yield a sentence for each fact in which the manifest and the files differ."""
    about = metadata.read(bundle.merged_path)
    for what, said, fact in (
        ("models", bundle.models, about.models),
        ("inputs and outputs", bundle.io, about.io),
        ("shared inputs", bundle.share, about.share),
    ):
        if said != fact:
            yield f"The manifest and {bundle.merged} name other {what}."
    for k, view in enumerate(bundle.views):
        graph = wire.scan(bundle.path(view.file)).model.graph
        stored = {tensor.name for tensor in graph.initializer}
        inputs = {value.name for value in graph.input} - stored
        if inputs != set(view.inputs) or {value.name for value in graph.output} != set(view.outputs):
            yield f"The manifest and {view.file} name other inputs or outputs of {view.model}."
        if about.names is not None and about.names:
            own = about.names[k]
            if (*own.inputs.values(), *own.outputs.values()) != (*view.inputs, *view.outputs):
                yield f"The manifest and {bundle.merged} name other inputs or outputs of {view.model}."


# --------------------------------------------------------------------------- ranges


def _ranges(bundle: reader.Bundle, value: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return the number of ranges that the views read, and a sentence for each that is not their model's."""
    owned = {name: _regions(bundle, name, rows) for name, rows in _mapping(bundle, value).items()}
    problems = [text for name, rows in owned.items() for text in _overlaps(name, rows)]
    count = 0
    for model, view in enumerate(bundle.views):
        for tensor in tensors(wire.scan(bundle.path(view.file), threshold=0).model):
            if tensor.data_location == tensor.EXTERNAL:
                extent = external.extent_of(tensor)
                name = os.path.basename(extent.path)
                if name == view.file:  # the scanner's own reference to what the view holds
                    continue
                count += 1
                if not _may_read(owned.get(name, []), extent, model):
                    problems.append(
                        f"The view of {view.model} reads bytes {extent.offset} to "
                        f"{extent.offset + extent.length} of {name}, which are not that model's."
                    )
    return count, problems


def _mapping(bundle: reader.Bundle, value: Mapping[str, Any]) -> Mapping[str, Any]:
    regions = value.get("regions")
    if not isinstance(regions, dict) or not regions.keys() <= bundle.files.keys():
        raise _damaged(bundle, "has no 'regions' of its files")
    return regions


def _regions(bundle: reader.Bundle, name: str, rows: Any) -> list[Owned]:
    """Return the regions of one data file, in order."""
    found: list[Owned] = []
    models = len(bundle.views)
    for row in rows if isinstance(rows, list) else [None]:
        if not isinstance(row, list) or len(row) != 3 or not all(map(_is_count, row[:2])):
            raise _damaged(bundle, f"has a region of {name!r} that is no region")
        at, size, owners = row
        if owners == EACH:
            found += [(at + k * size, at + (k + 1) * size, frozenset({k})) for k in range(models)]
        elif owners == ALL:
            found.append((at, at + size, None))
        elif isinstance(owners, list) and all(_is_count(k) and k < models for k in owners):
            found.append((at, at + size, frozenset(owners)))
        else:
            raise _damaged(bundle, f"has a region of {name!r} without an owner")
    found.sort(key=lambda region: region[:2])
    if found and max(end for _, end, _ in found) > bundle.files[name].bytes:
        raise _damaged(bundle, f"has a region behind the end of {name!r}")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _overlaps(name: str, regions: Sequence[Owned]) -> Iterator[str]:
    """Yield a sentence where two regions hold the same bytes."""
    for (_, end, _), (start, _, _) in pairwise(regions):
        if start < end:
            yield f"Two regions of {name} hold byte {start}."
            return


def _may_read(regions: Sequence[Owned], extent: Extent, model: int) -> bool:
    """Return True for an extent that is one whole region, which belongs to the model."""
    place = bisect.bisect_left(regions, extent.offset, key=lambda region: region[0])
    for start, end, owners in regions[place : place + 1]:
        if (start, end) == (extent.offset, extent.offset + extent.length):
            return owners is None or model in owners
    return False


def _damaged(bundle: reader.Bundle, what: str) -> FileFault:
    return FileFault(f"{os.path.join(bundle.folder, reader.MANIFEST)} is damaged: it {what}.", reader.AGAIN)


# --------------------------------------------------------------------------- values


def _proved(
    bundle: reader.Bundle,
    paths: Sequence[str],
    names: Sequence[str] | None,
    tell: Progress,
    proof: Proof,
) -> tuple[ViewsProof, list[str]]:
    """Run each view against its source, on inputs that the sources take."""
    paths = sources.in_order(bundle.merged_path, paths, names)
    _, options, family, strangers = opened.read_merged(bundle.merged_path, paths, proof)
    trial = Trial(family, options)
    judge = Judge(trial, tell)
    prover = ViewProver(bundle.view_paths, [view.exact for view in bundle.views])
    trial.run_sources(tell, lambda _, model: prover.check(judge, model))
    return prover.answer(), [*strangers, *(f"Skipped: {reason}." for reason in trial.skipped)]


# --------------------------------------------------------------------------- the report


def _views(bundle: reader.Bundle, value: Mapping[str, Any], manifest: int) -> Views:
    """Return what the manifest says of the views."""
    files = {name: file.bytes for name, file in bundle.files.items()}
    rows = [ViewRow(v.model, v.file, files[v.file], v.shared, v.again, v.exact, v.note) for v in bundle.views]
    data = value.get("data")
    base = files[bundle.merged] + (files.get(data, 0) if isinstance(data, str) else 0)
    return Views(
        shared=sum(row.shared for row in rows),
        again=sum(row.again for row in rows),
        stored=sum(files.values()) + manifest - base,
        merged=base,
        views=tuple(rows),
        weights=tuple(_again(bundle, value)),
        files=files | {reader.MANIFEST: manifest},
        rows_apart=bundle.rows_apart,
        mixes=bundle.mixes,
        batch=bundle.batch,
        rows=bundle.rows,
    )


def _again(bundle: reader.Bundle, value: Mapping[str, Any]) -> Iterator[AgainRow]:
    kinds = {"weight": str, "bytes": int, "why": str, "kept": str, "views": int, "copies": int}
    rows = value.get("again", [])
    for row in rows if isinstance(rows, list) else [None]:
        if not isinstance(row, dict) or {key: type(entry) for key, entry in row.items()} != kinds:
            raise _damaged(bundle, "says nothing usable about weights that are stored again")
        yield AgainRow(**row)
