"""The answer of the verb split: the models that came out of a merged file, and how exactly."""

from __future__ import annotations

from dataclasses import dataclass

from netfuse_onnx.errors import FileFault, NetfuseError
from netfuse_onnx.report import Report


@dataclass(frozen=True, slots=True)
class SplitRow:
    """A model that came out. `exact`: its files are, byte for byte, those that were merged, by their SHA-256.
    Else `note` says in what they differ, or, where there are no `files`, why it can't be given back.
    `sha256` is the digest of the files as written, `recorded` that of the files that were merged; `weights`
    and `weight_bytes` count what came from merged weights."""

    model: str
    files: tuple[str, ...]
    bytes: int
    exact: bool
    note: str
    sha256: str
    recorded: str
    weights: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class SplitReport(Report):
    """The models of a merged file that were written to a folder."""

    merged: str
    folder: str
    version: str
    models: tuple[SplitRow, ...]

    @property
    def ok(self) -> bool:
        """True where every model that was asked for came out."""
        return all(row.files for row in self.models)

    @property
    def exit_code(self) -> int:
        return self.fault.exit_code if self.fault else 0

    @property
    def fault(self) -> NetfuseError | None:
        """The first model that did not come out."""
        for row in self.models:
            if not row.files:
                return FileFault(f"{self.merged} can't give back {row.model}: {row.note}.", KEEP)
        return None


KEEP = "Keep the file of that model."
"""The hint where a merged file does not hold a model."""
