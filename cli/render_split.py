"""Prints which models came out of a merged file."""

from __future__ import annotations

from netfuse_onnx.lifecycle.split_report import SplitReport, SplitRow

from .screen import Screen, size

ROWS = 40
"""At most so many models are listed; --json has them all."""


def split(report: SplitReport, console: Screen) -> None:
    """Print a row for each model, and in what some differ from those that were merged."""
    written = [row for row in report.models if row.files]
    total = size(sum(row.bytes for row in written))
    console.say(f"{report.folder}: {len(written)} of the models of {report.merged}, {total}")
    rows = [(row.model, row.files[0], size(row.bytes), _exactly(row)) for row in written[:ROWS]]
    console.table(("model", "file", "size", "as merged"), rows)
    if len(written) > ROWS:
        console.say(f"and {len(written) - ROWS} more, see --json")
    for note in dict.fromkeys(row.note for row in written if row.note):
        names = [row.model for row in written if row.note == note]
        console.say(f"{', '.join(names[:4])}{' and others' if names[4:] else ''}: {note}")
    if report.fault:
        console.say(f"netfuse-onnx: error: {report.fault}")


def _exactly(row: SplitRow) -> str:
    return f"byte for byte, SHA-256 {row.sha256[:12]}..." if row.exact else "not byte for byte"
