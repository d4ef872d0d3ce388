"""Prints if a merged file was made of the given sources, by their digests."""

from __future__ import annotations

from netfuse_onnx.digests_report import DigestsReport, SourceRow

from .screen import Screen, size

SHORT = 16
"""The hexadecimal digits of a digest that are shown; --json has them all."""


def digests(report: DigestsReport, console: Screen) -> None:
    """Print a row for each source, then the answer."""
    console.say(f"{report.merged}: {len(report.models)} models, by netfuse-onnx {report.version}")
    rows = [
        (row.model, row.file, _short(row.sha256), _short(row.recorded), _state(row)) for row in report.sources
    ]
    console.table(("model", "source", "SHA-256", "when merged", ""), rows)
    if report.ok:
        console.say(f"All {len(rows)} sources ({size(report.size)}) are those that were merged.")
    for note in report.notes:
        console.say(note)
    fault = report.fault
    if fault:
        console.say(f"netfuse-onnx: error: {fault.message}")
        console.say(f"  {fault.hint}")


def _short(digest: str) -> str:
    return "+".join(part[:SHORT] for part in digest.split("+"))


def _state(row: SourceRow) -> str:
    if row.ok:
        return "the same"
    return f"the source of {row.is_model}" if row.is_model else "another file"
