"""The answer of the verb bundle: what a bundle holds, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from netfuse_onnx.errors import NetfuseError, ValuesDiffer
from netfuse_onnx.proofs import ViewsProof
from netfuse_onnx.report import Report
from netfuse_onnx.viewed import Views


@dataclass(frozen=True, slots=True)
class BundleReport(Report):
    """A bundle as it was checked. `problems` are sentences on files that are not those that were written, and
    on views that read what is not their model's. `proof` is that of the views against the sources, None where
    these were not given."""

    folder: str
    version: str
    models: tuple[str, ...]
    io: str
    share: tuple[str, ...]
    views: Views
    ranges: int = 0
    """The ranges of the data files that views read, all of which were checked."""
    problems: tuple[str, ...] = ()
    proof: ViewsProof | None = None
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True for a bundle without problems, whose views give what the sources give."""
        return not self.problems and (self.proof is None or self.proof.ok)

    @property
    def fault(self) -> NetfuseError | None:
        """The first problem."""
        if self.ok:
            return None
        first = [*self.problems, *(self.proof.problems if self.proof else ())][0]
        return ValuesDiffer(first, "Merge again with --views.")
