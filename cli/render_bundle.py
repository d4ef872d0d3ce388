"""Prints what a bundle holds, and what the check of it found."""

from __future__ import annotations

from netfuse_onnx.bundle_report import BundleReport
from netfuse_onnx.proofs import ViewsProof
from netfuse_onnx.viewed import Views

from .screen import REASONS, Screen, size, some

VIEWS = 40
"""At most so many views are listed; --json has them all."""


def bundle(report: BundleReport, console: Screen) -> None:
    """Print the files and views of a bundle, and the outcome of the check."""
    models = f"{len(report.models)} models ({some(report.models)})"
    total = size(sum(report.views.files.values()))
    console.say(f"{report.folder}: a bundle of {models}, by netfuse-onnx {report.version}, {total}")
    console.table(("file", "bytes"), [(name, f"{count:,}") for name, count in _files(report.views)])
    rows = [
        (row.model, row.file, size(row.shared), size(row.again), "bit for bit" if row.exact else "rounded")
        for row in report.views.views[:VIEWS]
    ]
    console.table(("model", "view", "of the merged data", "stored again", "outputs"), rows)
    if len(report.views.views) > VIEWS:
        console.say(f"and {len(report.views.views) - VIEWS} more views, see --json")
    shared = f", shared inputs: {', '.join(report.share)}" if report.share else ""
    console.say(f"I/O {report.io}{shared}")
    views(report.views, console)
    if not report.problems:
        console.say(
            f"Files: {len(report.views.files)} are what was written. Ranges: {report.ranges} that the views "
            "read, each of its own model."
        )
    for problem in report.problems[:REASONS]:
        console.say(f"Bundle: {problem}")
    proof(report.proof, console)
    console.warn(report.warnings)
    if report.fault:
        console.say(f"netfuse-onnx: error: {report.fault.message}")


def _files(report: Views) -> list[tuple[str, int]]:
    viewed = {row.file for row in report.views}
    return [(name, count) for name, count in report.files.items() if name not in viewed]


def views(report: Views | None, console: Screen) -> None:
    """Print how much the views share with the merged file, and what is stored again, and why."""
    if report is None:
        return
    part = report.stored / report.merged if report.merged else 0.0
    console.say(
        f"Views: {len(report.views)}, {report.share:.1%} of whose weights ({size(report.shared)}) are in the "
        f"merged file's data. They take {size(report.stored)} more, {part:.1%} of the merged file."
    )
    for row in report.weights[:REASONS]:
        where = "in each view" if row.kept == "graph" else f"{row.copies} for {row.views} views"
        console.say(f"Stored again: {row.weight!r}, {size(row.bytes)} ({where}): {row.why}.")
    if len(report.weights) > REASONS:
        console.say(f"Stored again: {len(report.weights) - REASONS} more weights, see --json")
    for note in dict.fromkeys(row.note for row in report.views if row.note):
        console.say(f"Views: {note}")
    if report.rows_apart:
        console.say("Batch: each row is computed by itself, so that requests can share one.")
    else:
        console.say(f"Batch: requests can't share one. {report.mixes}")


def proof(found: ViewsProof | None, console: Screen) -> None:
    """Print the proof of the views."""
    if found is None:
        return
    for problem in found.problems[:REASONS]:
        console.say(f"Views: {problem}")
    if found.ok:
        console.say(f"Views: {found.outputs} outputs of {found.views} views are those of their sources.")
    if found.unsteady:
        console.say(f"Views: a source gives another {some(found.unsteady)} in each run.")
