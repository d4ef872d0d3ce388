"""The answer of `verify --digests`."""

from __future__ import annotations

from dataclasses import dataclass

from netfuse_onnx.errors import NetfuseError, SourcesDiffer
from netfuse_onnx.report import Report

SCOPE = "The sources were compared by their SHA-256; the bytes of the merged file were not compared."
"""The claim of this answer, and its limit."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One source. `sha256` is the digest of the file as it is, `recorded` that of the file that was merged.
    `is_model` names the model whose source the file is, where that is another one. `message` is '' where the
    file is the one that was merged."""

    model: str
    file: str
    sha256: str
    recorded: str
    is_model: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.sha256 == self.recorded


@dataclass(frozen=True, slots=True)
class DigestsReport(Report):
    """The answer to the question if a merged file was made of these sources, by the digests in its metadata.
    `version` is that of the netfuse-onnx that wrote it, and `size` the bytes of the sources that were read.
    `notes` say what the answer does not cover."""

    merged: str
    version: str
    models: tuple[str, ...]
    sources: tuple[SourceRow, ...]
    size: int = 0
    notes: tuple[str, ...] = (SCOPE,)

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.sources)

    @property
    def fault(self) -> NetfuseError | None:
        wrong = [row for row in self.sources if not row.ok]
        if not wrong:
            return None
        first = wrong[0].message
        if len(wrong) > 1:
            first = f"{len(wrong)} of {len(self.sources)} sources are not those that were merged: {first}"
        return SourcesDiffer(first, self._hint(wrong))

    def _hint(self, wrong: list[SourceRow]) -> str:
        if all(row.is_model for row in wrong):
            place = {row.is_model: row.file for row in self.sources if row.is_model}
            place |= {row.model: row.file for row in self.sources if row.ok}
            order = [f"{model}={place[model]}" for model in self.models if model in place]
            if len(order) == len(self.models):
                return f"By their digests they are {', '.join(order)}."
        return "Merge again, or give the files that were merged."
