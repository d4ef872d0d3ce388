"""The table of operators that `rules` prints: a row for each way to run one."""

from __future__ import annotations

from netfuse_onnx.plan import control
from netfuse_onnx.rules._registry import DIFFERING, table
from netfuse_onnx.rules.fallback import REASONS
from netfuse_onnx.rules_report import RuleRow


def rows() -> tuple[RuleRow, ...]:
    """All rows, by operator."""
    found = [RuleRow(op, rule.name, rule.how) for op, entries in table().items() for rule in entries]
    found += [RuleRow(op, "merged_inside", control.HOW) for op in control.WAYS]
    found += [RuleRow(op, rule.name, rule.how) for op, entries in DIFFERING.items() for rule in entries]
    found += [RuleRow(op, "replicated", f"otherwise: {why}") for op, why in REASONS.items()]
    return tuple(sorted(found, key=lambda row: row.op))
