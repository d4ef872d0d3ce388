"""The answer of the verb rules."""

from __future__ import annotations

from dataclasses import dataclass

from netfuse_onnx.report import Report


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One line of the table of supported operators."""

    op: str
    rule: str
    how: str


@dataclass(frozen=True, slots=True)
class RulesReport(Report):
    """The table of supported operators."""

    rules: tuple[RuleRow, ...]
