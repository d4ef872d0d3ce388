"""Prints the answer of check on a terminal: one architecture, or the families and what differs."""

from __future__ import annotations

from rich.console import Console

from netfuse_onnx.families import brief
from netfuse_onnx.report import CheckReport

from .render import REASONS
from .render import _bytes as size
from .render import _console as console_of
from .render import _line as line
from .render import _some as some
from .render import _warnings as warn


def check(report: CheckReport, console: Console) -> None:
    if not report.equivalent:
        _families(report, console)
        return
    alike = f"{some(report.models)} are one architecture of {report.nodes} nodes"
    if report.differences:
        count = len(report.differences)
        line(console, f"Alike: {alike} but for {count} operator{'s' if count > 1 else ''} (--partial):")
        for difference in report.differences[:REASONS]:
            line(console, f"  {difference}")
        if count > REASONS:
            line(console, f"  and {count - REASONS} more, see --json.")
    else:
        line(console, f"Equivalent: {alike}.")
    line(
        console,
        f"Weights: {report.weights}, of which {report.shared_weights} are the same in all models; "
        f"{size(report.distinct_bytes)} merged, {size(report.bytes)} in separate files.",
    )
    line(console, f"Inputs: {some(report.inputs)}. Outputs: {some(report.outputs)}.")
    warn(report.warnings, console)


def readable(report: object) -> None:
    """Print the families of the models that can be read. The error names those that can't."""
    if not isinstance(report, CheckReport) or len(report.models) - len(report.unreadable) < 2:
        return
    console = console_of(data=False)
    line(console, f"Of those that can be read: {brief(report.families)}.")
    _differences(report, console)


def _families(report: CheckReport, console: Console) -> None:
    """Print the families with their differences. For two models, the difference comes first."""
    if len(report.models) > 2 and len(report.families) > 1:
        line(console, f"Not equivalent: {brief(report.families)}.")
        _differences(report, console)
        return
    if report.difference:
        line(console, f"Not equivalent: {report.difference.message}")
        line(console, f"  {report.difference.hint}")
    if any(row.producers for row in report.families):
        line(console, f"  {brief(report.families)}.")


def _differences(report: CheckReport, console: Console) -> None:
    for row in report.families:
        if row.difference:
            line(console, f"  {row.difference.message}")
            line(console, f"    {row.difference.hint}")
