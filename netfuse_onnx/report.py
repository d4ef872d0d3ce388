"""The answers of the verbs: dataclasses that turn into JSON and know the exit code. cli/ prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netfuse_onnx.adapter_rows import Adapters
from netfuse_onnx.changed import Changed
from netfuse_onnx.changes import Changes
from netfuse_onnx.errors import FileFault, NetfuseError, NotEquivalent, NotProven, ValuesDiffer
from netfuse_onnx.factored import LowRankReport
from netfuse_onnx.json_value import json_value
from netfuse_onnx.labels import NameRow
from netfuse_onnx.lowered import Lowered
from netfuse_onnx.merge_rows import Apart, PartialRow, RoutingRow, Sharing
from netfuse_onnx.proofs import (
    BytesProof,
    GraphProof,
    KeptProof,
    Reconstruction,
    ValuesProof,
    ViewsProof,
    describe,
)
from netfuse_onnx.spelling_rows import Spelling
from netfuse_onnx.tuning import Tuning
from netfuse_onnx.types import Producer
from netfuse_onnx.verdict import Verdict
from netfuse_onnx.viewed import Views

NOT_PROVEN = NotProven.exit_code
"""Exit code of a proof that could not tell."""

SCHEMA_VERSION = 1
"""Version of the JSON that all commands print. It is raised when a field is removed or changes its meaning;
new fields do not raise it."""


@dataclass(frozen=True, slots=True)
class Report:
    """The base of the answers of all verbs."""

    @property
    def ok(self) -> bool:
        """True where the answer is yes."""
        return True

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 1

    @property
    def fault(self) -> NetfuseError | None:
        """The error that a no amounts to; None where the answer is yes."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values. Numbers that JSON lacks (NaN, infinities) become strings."""
        return _document(self, self.fault, self.exit_code)


def failure_to_json(error: NetfuseError) -> dict[str, Any]:
    """Return an error as JSON values, with the report as far as it got."""
    return _document(error.report if isinstance(error.report, Report) else None, error, error.exit_code)


def _document(report: Report | None, error: NetfuseError | None, exit_code: int) -> dict[str, Any]:
    fault: dict[str, Any] | None = None
    if error:
        fault = {"kind": error.kind, "message": error.message, "hint": error.hint, "exit_code": exit_code}
    head = {"schema_version": SCHEMA_VERSION, "ok": error is None, "exit_code": exit_code, "error": fault}
    return {**head, **{key: value for key, value in (json_value(report) or {}).items() if key not in head}}


@dataclass(frozen=True, slots=True)
class VerifyReport(Report):
    """The proofs of one merged file. `blind` says what the values could not have shown; `warnings` repeat it,
    and `strict` refuses it."""

    merged: str
    models: tuple[str, ...]
    bytes: BytesProof
    values: ValuesProof
    warnings: tuple[str, ...] = ()
    graph: GraphProof = field(default_factory=lambda: GraphProof(note="The graph was not compared."))
    blind: tuple[str, ...] = ()
    strict: bool = False
    reconstruction: Reconstruction | None = None
    """The proof of weights that are low-rank differences; None where there are none."""
    views: ViewsProof | None = None
    """The proof of the views of a bundle; None for a merged file alone."""
    changed: Changed | None = None
    """The change of the file since the merge; None where there is none."""
    kept: KeptProof | None = None
    """The proof of the models that a change left as they were; None where the file was merged."""
    fingerprint: str = ""
    """The fingerprint of the merged file (write/fingerprint.py), by which the report is known to be about
    it."""

    @property
    def ok(self) -> bool:
        """True where all proofs hold, and with `strict` nothing is `blind`."""
        return self._right and self.values.ok and not (self.strict and self.blind)

    @property
    def _right(self) -> bool:
        others = (self.reconstruction, self.views, self.kept)
        return self.bytes.ok and self.graph.ok and all(proof.ok for proof in others if proof)

    @property
    def exit_code(self) -> int:
        """0; or 5 where nothing is wrong, but the comparison can't tell all that is asked for; or 1."""
        if self.ok:
            return 0
        return NOT_PROVEN if self._right and (self.values.ok or self.values.unproven) else 1

    @property
    def fault(self) -> NetfuseError | None:
        if self.ok:
            return None
        if self.exit_code == NOT_PROVEN:
            return NotProven(
                self.failure, "Give real inputs with --inputs, or a tolerance with --rtol or --atol."
            )
        hint = "If the difference is rounding, allow it with --rtol or --atol; else merge again."
        return ValuesDiffer(self.failure, hint)

    @property
    def failure(self) -> str:
        """The first problem, as a sentence; '' where there is none."""
        own = (
            self.reconstruction,
            self.views,
            self.kept,
            self.values.isolation,
            self.values.selection,
            self.values.mixes,
        )
        others = [problem for part in own if part for problem in part.problems]
        for problem in (*self.bytes.problems, *self.values.problems, *others):
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
    """The result of a merge. `size` is that of the files in bytes, `distinct_bytes` that of the weights in
    them, which `check` gives beforehand. `hints` name options that are expected to make the file faster."""

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
    distinct_bytes: int = 0
    proof: VerifyReport | None = None
    warnings: tuple[str, ...] = ()
    dims: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The sizes of symbolic dimensions that were given; `lowered.sizes` has all for which a plan for a target
    was made."""
    tuning: Tuning | None = None
    low_rank: LowRankReport | None = None
    verdict: Verdict | None = None
    hints: tuple[str, ...] = ()
    combined: Mapping[str, str] = field(default_factory=dict)
    """The outputs that are given once, and how they are combined: mean, sum or vote."""
    routing: tuple[RoutingRow, ...] = ()
    """The lowerings by which rows find their models, with --io routed."""
    sharing: Sharing | None = None
    adapters: Adapters | None = None
    """The weights that adapters change in their base; None where the models are no adapters."""
    views: Views | None = None
    """The views of the bundle that was written; None for a merged file alone."""
    spelling: Spelling | None = None
    """The ways in which the files were written, where they differ, and what was brought together."""
    portable: bool = False
    source_opset: int = 0
    """The highest opset of the sources."""
    opset: int = 0
    """The opset of the merged file: rules that need a later one than the sources' raise it."""
    changes: Changes | None = None
    """The models that update, add or remove changed; None for a merge."""
    fingerprint: str = ""
    """As in VerifyReport."""
    apart: Apart | None = None
    """The part that --partial merged; None where the models are one architecture."""

    @property
    def copied(self) -> int | None:
        """Bytes that a call copies to join inputs and split outputs, in the first case; None if not
        proven."""
        if self.proof is None:
            return None
        edges = {(c.before, c.value) for c in self.lowered.conversions if c.before == "PER_MODEL"}
        edges |= {(c.after, c.value) for c in self.lowered.conversions if c.after == "PER_MODEL"}
        return sum(self.proof.values.sizes.get(value, 0) for _, value in edges)

    @property
    def ok(self) -> bool:
        return self.proof is None or self.proof.ok


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """The first difference of two families: a sentence with a remedy, and the parts of errors.Mismatch."""

    kind: str
    message: str
    hint: str
    files: tuple[str, str]
    nodes: tuple[str, str]
    operators: tuple[str, str]
    attribute: str
    value: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """Models of one architecture. `operators` (a number) and `opset` are those of the first model,
    `producers` those of all. `difference` is the first difference from the largest family; None in that
    family."""

    models: tuple[str, ...]
    files: tuple[str, ...]
    operators: int
    opset: int
    producers: tuple[Producer, ...]
    difference: DifferenceRow | None = None


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A file that can't be read, with the message and the hint of the error."""

    model: str
    file: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class CheckReport(Report):
    """The answer to the question if models are one architecture. `families` has all models that can be read,
    the largest family first; `difference` is the first one between two families. `bytes` is the size of the
    weights of all models. Of a merge without options, `distinct_bytes` is the size of the weights that it
    would store, `merged_nodes` the nodes of its graph, and `became` counts a model's nodes by what would
    become of them."""

    sources: tuple[str, ...]
    models: tuple[str, ...]
    equivalent: bool
    families: tuple[FamilyRow, ...] = ()
    unreadable: tuple[UnreadableRow, ...] = ()
    difference: DifferenceRow | None = None
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
    merged_nodes: int = 0
    became: Mapping[str, int] = field(default_factory=dict)
    verdict: Verdict | None = None
    hints: tuple[str, ...] = ()
    sharing: Sharing | None = None
    adapters: Adapters | None = None
    spelling: Spelling | None = None
    apart: Apart | None = None
    """As in MergeReport."""
    partial: tuple[PartialRow, ...] = ()
    """The outcome of --partial for models that are not one architecture."""

    @property
    def ok(self) -> bool:
        return self.equivalent

    @property
    def exit_code(self) -> int:
        return self.fault.exit_code if self.fault else 0

    @property
    def fault(self) -> NetfuseError | None:
        """The files that can't be read, as one error; else the first difference."""
        if self.unreadable:
            return self._unread()
        return NotEquivalent(self.difference.message, self.difference.hint) if self.difference else None

    def _unread(self) -> FileFault:
        rows = self.unreadable
        if len(rows) == 1:
            return FileFault(rows[0].message, rows[0].hint)
        messages = "; ".join(row.message.rstrip(".") for row in rows)
        hint = " ".join(dict.fromkeys(row.hint for row in rows if row.hint))
        return FileFault(f"{len(rows)} of {len(self.sources)} files can't be read: {messages}.", hint)


@dataclass(frozen=True, slots=True)
class InspectReport(Report):
    """The contents of a merged file, from its metadata."""

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
    low_rank: LowRankReport | None = None
    recorded: bool = False
    """True where measuring chose the plan, so that the file records it."""
    combined: Mapping[str, str] = field(default_factory=dict)
    """The outputs that are given once, and how they are combined."""
    spelling: Spelling | None = None
    changed: Changed | None = None
    """The change of the file since the merge; None where there is none."""
    apart: Apart | None = None
    """As in MergeReport."""
