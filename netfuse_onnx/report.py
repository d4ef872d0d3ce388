"""What the verbs answer: plain dataclasses that turn into JSON and own the exit code.

How they look on a terminal is the business of cli/render.py.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netfuse_onnx.labels import NameRow
from netfuse_onnx.lowered import Lowered
from netfuse_onnx.proofs import BytesProof, GraphProof, ValuesProof, describe

NOT_PROVEN = 5
"""Exit code of a proof that could not tell."""


@dataclass(frozen=True, slots=True)
class Report(ABC):
    """Common to the answers of all verbs."""

    @property
    @abstractmethod
    def ok(self) -> bool:
        """Whether the answer is yes."""

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; numbers that JSON lacks become strings."""
        plain: dict[str, Any] = _plain(self)
        return plain


@dataclass(frozen=True, slots=True)
class VerifyReport(Report):
    """The proofs of one merged file. `blind`: what the values could not have shown, which `warnings` repeat
    and `strict` refuses."""

    merged: str
    models: tuple[str, ...]
    bytes: BytesProof
    values: ValuesProof
    warnings: tuple[str, ...] = ()
    graph: GraphProof = field(default_factory=lambda: GraphProof(note="The graph was not compared."))
    blind: tuple[str, ...] = ()
    strict: bool = False

    @property
    def ok(self) -> bool:
        """True where all proofs hold, and what `strict` asks for."""
        return self._right and self.values.ok and not (self.strict and self.blind)

    @property
    def _right(self) -> bool:
        return self.bytes.ok and self.graph.ok

    @property
    def exit_code(self) -> int:
        """5 where nothing is wrong, but the comparison can't tell, or not all that `strict` asks for."""
        if self.ok:
            return 0
        return NOT_PROVEN if self._right and (self.values.ok or self.values.unproven) else 1

    def warned(self, more: Sequence[str]) -> VerifyReport:
        """The same with further warnings, in front."""
        return dataclasses.replace(self, warnings=(*more, *self.warnings))

    @property
    def failure(self) -> str:
        """The first thing that is wrong, as a sentence; '' when nothing is."""
        isolation = self.values.isolation.problems if self.values.isolation else ()
        for problem in (*self.bytes.problems, *self.values.problems, *isolation):
            return problem
        worst = self.values.worst
        if worst is not None and not worst.ok:
            return describe(worst)
        for problem in self.graph.problems:
            return problem
        if self.values.ok and self.strict and self.blind:
            return self.blind[0]
        return "" if self.ok else "No output was compared."


@dataclass(frozen=True, slots=True)
class MergeReport(Report):
    out: str
    sources: tuple[str, ...]
    models: tuple[str, ...]
    io: str
    share: tuple[str, ...]
    target: str
    lowered: Lowered
    names: tuple[NameRow, ...] = ()
    symbols: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    size: int = 0
    proof: VerifyReport | None = None
    warnings: tuple[str, ...] = ()

    @property
    def copied(self) -> int | None:
        """Bytes that joining inputs and splitting outputs copies in the first case; None without a proof."""
        if self.proof is None:
            return None
        edges = {(c.before, c.value) for c in self.lowered.conversions if c.before == "PER_MODEL"}
        edges |= {(c.after, c.value) for c in self.lowered.conversions if c.after == "PER_MODEL"}
        return sum(self.proof.values.sizes.get(value, 0) for _, value in edges)

    def proved(self, proof: VerifyReport) -> MergeReport:
        """The same after the proofs."""
        return dataclasses.replace(self, proof=proof, warnings=(*self.warnings, *proof.warnings))

    def written(self, files: Sequence[str]) -> MergeReport:
        """The same after the files are in place. `size` is theirs together, in bytes."""
        return dataclasses.replace(self, files=tuple(files), size=sum(map(os.path.getsize, files)))

    @property
    def ok(self) -> bool:
        return self.proof is None or self.proof.ok


@dataclass(frozen=True, slots=True)
class CheckReport(Report):
    sources: tuple[str, ...]
    models: tuple[str, ...]
    equivalent: bool
    difference: str = ""
    hint: str = ""
    nodes: int = 0
    weights: int = 0
    shared_weights: int = 0
    bytes: int = 0
    distinct_bytes: int = 0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    opsets: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.equivalent


@dataclass(frozen=True, slots=True)
class InspectReport(Report):
    merged: str
    version: str
    models: tuple[str, ...]
    sha256: Mapping[str, str]
    io: str
    share: tuple[str, ...]
    target: str
    lowered: Lowered
    weights: int = 0
    names: tuple[NameRow, ...] = ()

    @property
    def ok(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One line of the table of supported operators."""

    op: str
    rule: str
    how: str


@dataclass(frozen=True, slots=True)
class RulesReport(Report):
    rules: tuple[RuleRow, ...]

    @property
    def ok(self) -> bool:
        return True


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"ok": value.ok, **own} if hasattr(value, "ok") else own
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
