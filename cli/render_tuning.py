"""Prints the choice of a plan by measuring: a table of all ways, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping

from netfuse_onnx.lowered import Lowered
from netfuse_onnx.tuning import TunedRow, Tuning

from .screen import Screen, size

COLUMNS = ("plan or way", "settings", "ms", "quartiles", "speed", "predicted ms", "load s", "memory", "file")


def tuning(report: Tuning, console: Screen) -> None:
    """Print all ways at each choice of sizes, then the plan that was chosen."""
    for case in report.cases:
        console.say(f"Measured on {report.provider.upper()}, {case.case}:")
        rows = [row for row in report.rows if row.case == case.case]
        console.table(COLUMNS, map(_cells, sorted(rows, key=_seconds)))
        for row in rows:
            if row.problem:
                console.say(f"{row.way}: {row.problem}.")
        if case.ratio is not None:
            console.say(
                f"Chosen: {report.chosen}, {case.ratio:.2f} times as fast as the best alternative, "
                f"{case.best} (quartiles {case.low:.2f} and {case.high:.2f})."
            )
    _more(report, console)


def _more(report: Tuning, console: Screen) -> None:
    for name, other in report.same.items():
        console.say(f"The plan {name} is the same as {other}.")
    if report.predicted is not None and report.measured is not None:
        console.say(
            f"Predicted {report.predicted * 1e3:.4g} ms a call, measured {report.measured * 1e3:.4g} ms."
        )
    for note in (report.advice, *report.notes):
        if note:
            console.say(note)
    when = f"on {report.cached}, and not again now" if report.cached else f"in {report.spent:.0f} s"
    console.say(f"All this was measured {when}; the budget was {report.budget:.0f} s.")
    if report.snippet:
        console.say(f"It ran fastest with {report.settings}:")
        for line in report.snippet.splitlines():
            console.say(f"    {line}" if line else "")


def sizes(lowered: Lowered, given: Mapping[str, object], console: Screen) -> None:
    """Print the sizes for which a plan for a target was made, and which of them nobody gave."""
    for row in lowered.sizes:
        text = ", ".join(f"{name}={value}" for name, value in row.dims.items()) or "static shapes"
        more = (
            f", by the best plan for these sizes alone {row.best:,.0f} us" if len(lowered.sizes) > 1 else ""
        )
        console.say(f"Planned for {text}: {row.microseconds:,.0f} us{more}.")
    assumed(lowered.sizes[0].dims if lowered.sizes else {}, given, console)


def assumed(dims: Mapping[str, int], given: Mapping[str, object], console: Screen) -> None:
    names = [f"{name}={value}" for name, value in dims.items() if name not in given]
    if names:
        console.say(f"Assumed: {', '.join(names)}. Give the real sizes with --dim NAME=VALUE.")


def _seconds(row: TunedRow) -> float:
    return float("inf") if row.seconds is None else row.seconds


def _cells(row: TunedRow) -> tuple[str, ...]:
    times = ("", "")
    if row.seconds is not None and row.low is not None and row.high is not None:
        times = f"{row.seconds * 1e3:.4g}", f"{row.low * 1e3:.4g} - {row.high * 1e3:.4g}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    predicted = "" if row.predicted is None else f"{row.predicted * 1e3:.4g}"
    load = f"{row.load:.2f}" if row.load else ""
    memory = size(row.resident) if row.resident else ""
    return (row.way, row.settings, *times, ratio, predicted, load, memory, size(row.file) if row.file else "")
