"""The answer of `report`: the page that was written, and the proof that was made for it."""

from __future__ import annotations

from dataclasses import dataclass

from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.report import Report, VerifyReport


@dataclass(frozen=True, slots=True)
class PageReport(Report):
    """The page of a merged file. `size` is in bytes, and `boxes` the number of boxes in the graph. `proof` is
    the one that was made now, from the sources; null where none were given. `shown` names the reports that
    the page shows: merge, proof, bench."""

    out: str
    merged: str
    models: tuple[str, ...]
    size: int
    boxes: int
    shown: tuple[str, ...] = ()
    proof: VerifyReport | None = None

    @property
    def ok(self) -> bool:
        return self.proof is None or self.proof.ok

    @property
    def exit_code(self) -> int:
        return self.proof.exit_code if self.proof else 0

    @property
    def fault(self) -> NetfuseError | None:
        return self.proof.fault if self.proof else None
