"""Prints what --partial merged of models that differ, and what each of them keeps for itself."""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.merge_rows import Apart, ApartRow, PartialRow

from .screen import REASONS, Screen, some


def apart(report: Apart | None, console: Screen) -> None:
    """Print the shares that are merged, and a line for each part that is not."""
    if report is None:
        return
    work = "" if report.arithmetic is None else f", {report.arithmetic:.1%} of the arithmetic"
    console.say(f"Merged: {report.bytes:.1%} of the bytes of weights{work}.")
    for row in report.rows[:REASONS]:
        console.say(f"  per model: {_line(row)}")
    if len(report.rows) > REASONS:
        console.say(f"  and {len(report.rows) - REASONS} more, see --json.")


def partial(rows: Sequence[PartialRow], console: Screen) -> None:
    """Say what --partial would make of models that are not one architecture."""
    for row in rows:
        if row.reason:
            console.say(f"--partial would refuse {some(row.models)}: {row.reason}")
            continue
        if row.apart is None:
            console.say(f"--partial would merge {some(row.models)}, which are one architecture.")
            continue
        work = "" if row.apart.arithmetic is None else f" and {row.apart.arithmetic:.1%} of the arithmetic"
        console.say(
            f"--partial would merge {some(row.models)}: {row.apart.bytes:.1%} of the bytes of weights{work}."
        )
        for sentence in row.differences[:REASONS]:
            console.say(f"  {sentence}")
        if len(row.differences) > REASONS:
            console.say(f"  and {len(row.differences) - REASONS} more, see --json.")


def _line(row: ApartRow) -> str:
    name = f" {row.name!r}" if row.name else ""
    sizes = f" ({row.sizes})" if row.sizes else ""
    return f"{row.operators}{name}{sizes}, of {some(row.models)}"
