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

from netfuse_onnx.lowered import Lowered


@dataclass(frozen=True, slots=True)
class BytesProof:
    """Proof (a): every merged weight, undone, is the sources' weights bit for bit."""

    weights: int = 0
    bytes: int = 0
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class OutputProof:
    """One output of one model at its worst element over all cases. `ratio` is error / allowed."""

    model: str
    output: str
    precision: str
    case: str
    ratio: float
    error: float
    allowed: float
    scale: float = 0.0
    at: tuple[int, ...] = ()
    got: str = ""
    want: str = ""
    wrong: int = 0
    size: int = 0
    noise: float | None = None
    ties: int = 0
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem and self.ratio <= 1.0


@dataclass(frozen=True, slots=True)
class Spread:
    """How far apart the two most alike models are on the same input, in units of what is allowed."""

    ratio: float
    models: tuple[str, str]

    @property
    def telling(self) -> bool:
        """Whether two swapped models would have been seen."""
        return self.ratio >= 10.0


@dataclass(frozen=True, slots=True)
class ValuesProof:
    """Proof (b): the merged model gives what the sources give. `sizes`: bytes of every input and output,
    all models together, in the first case; an input fed once counts once. `shapes`: of every input of one
    model, by case."""

    provider: str
    cases: tuple[str, ...]
    outputs: tuple[OutputProof, ...] = ()
    skipped: tuple[str, ...] = ()
    placed: Mapping[str, int] = field(default_factory=dict)
    spread: Spread | None = None
    tf32: float | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems and bool(self.cases) and all(out.ok for out in self.outputs)

    @property
    def worst(self) -> OutputProof | None:
        return max(self.outputs, key=lambda out: (bool(out.problem), out.ratio), default=None)


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
    merged: str
    models: tuple[str, ...]
    bytes: BytesProof
    values: ValuesProof
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.bytes.ok and self.values.ok

    def warned(self, more: Sequence[str]) -> VerifyReport:
        """The same with further warnings, in front."""
        return dataclasses.replace(self, warnings=(*more, *self.warnings))

    @property
    def failure(self) -> str:
        """The first thing that is wrong, as a sentence; '' when nothing is."""
        for problem in (*self.bytes.problems, *self.values.problems):
            return problem
        worst = self.values.worst
        if worst is None or worst.ok:
            return "" if self.ok else "No output was compared."
        return describe(worst)


@dataclass(frozen=True, slots=True)
class MergeReport(Report):
    out: str
    sources: tuple[str, ...]
    models: tuple[str, ...]
    io: str
    share: tuple[str, ...]
    target: str
    lowered: Lowered
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


def describe(out: OutputProof) -> str:
    """One sentence on the worst element of an output."""
    head = f"Output {out.output} of model {out.model} differs ({out.case})"
    if out.problem:
        return f"{head}: {out.problem}."
    return (
        f"{head} at {list(out.at)}: {out.got}, not {out.want}; error {out.error:.3g}, "
        f"allowed {out.allowed:.3g}; {out.wrong} of {out.size} elements are wrong."
    )


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
