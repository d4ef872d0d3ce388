"""The verb behind `verify --digests`: is a merged file still that of these sources?

It reads the metadata and hashes the sources, several files at a time. It loads no ONNX Runtime and runs
nothing, so it takes the time that reading the sources takes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from netfuse_onnx import sources
from netfuse_onnx.digests_report import SCOPE, DigestsReport, SourceRow
from netfuse_onnx.load import lora
from netfuse_onnx.storage import wire
from netfuse_onnx.storage.steady import steady
from netfuse_onnx.write import metadata
from netfuse_onnx.write.digests import of_each


def digests(merged: str, paths: Sequence[str], *, names: Sequence[str] | None = None) -> DigestsReport:
    """Tell if a merged file was made of these sources, by the SHA-256 that its metadata have.

    `paths` and `names` are as in `verify`. A source that has changed, or stands in the place of another, is a
    report that is not ok. The bytes of the merged file are not compared: `verify` does that.

    Raises UsageFault for another number of models, FileFault for files that can't be read.
    """
    given = sources.in_order(merged, paths, names)
    return steady([merged, *sources.files(given)], lambda: _answer(merged, given))


def _answer(merged: str, paths: Sequence[str]) -> DigestsReport:
    about = metadata.read(merged)
    sources.refuse_other_kind(about, merged, paths)
    sources.refuse_other_number(about, merged, paths)
    files = _files(paths)
    found = of_each(files, min(os.cpu_count() or 1, 8))
    rows = [_row(about, *each) for each in zip(about.models, paths, found, about.sha256, strict=True)]
    size = sum(os.path.getsize(path) for path in {path for parts in files for part in parts for path in part})
    notes = (SCOPE, *_not_covered(about))
    return DigestsReport(merged, about.version, about.models, tuple(rows), size, notes)


def _files(paths: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """Return the files of each source, in the parts that have digests of their own."""
    base = sources.base_of(paths)
    if base:
        under = wire.scan(base).files
        return [[under, lora.read(path).files] for path in paths]
    return [[wire.scan(path).files] for path in paths]


def _row(about: metadata.Metadata, model: str, path: str, digest: str, recorded: str) -> SourceRow:
    if digest == recorded:
        return SourceRow(model, path, digest, recorded)
    if digest in about.sha256:
        other = about.models[about.sha256.index(digest)]
        message = f"{path} is the file that was merged as {other}, and is given as {model}."
        return SourceRow(model, path, digest, recorded, other, message)
    return SourceRow(model, path, digest, recorded, message=metadata.stranger(path, model, digest, recorded))


def _not_covered(about: metadata.Metadata) -> list[str]:
    if about.low_rank and about.low_rank.get("sha256"):
        return ["The base of the low-rank differences is no source, and was not compared."]
    return []
