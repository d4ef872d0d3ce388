"""Prints the answer of check on a terminal: one architecture, or the families and what differs."""

from __future__ import annotations

from netfuse_onnx.families import brief
from netfuse_onnx.report import CheckReport

from .render_adapters import adapters
from .render_apart import apart, partial
from .render_hints import hints
from .render_sharing import sharing
from .render_spelling import spelling
from .render_verdict import verdict
from .screen import REASONS, Screen, size, some


def check(report: CheckReport, console: Screen) -> None:
    if not report.equivalent:
        _families(report, console)
        partial(report.partial, console)
        return
    alike = f"{some(report.models)} are one architecture of {report.nodes} nodes"
    if report.differences:
        count = len(report.differences)
        console.say(f"Alike: {alike} but for {count} operator{'s' if count > 1 else ''} (--partial):")
        for difference in report.differences[:REASONS]:
            console.say(f"  {difference}")
        if count > REASONS:
            console.say(f"  and {count - REASONS} more, see --json.")
    else:
        console.say(f"Equivalent: {alike}.")
    adapters(report.adapters, console)
    spelling(report.spelling, console)
    _weights(report, console)
    _nodes(report, console)
    apart(report.apart, console)
    sharing(report.sharing, console)
    console.say(f"Inputs: {some(report.inputs)}. Outputs: {some(report.outputs)}.")
    console.warn(report.warnings)
    verdict(report.verdict, console)
    hints(report.hints, console)


def _weights(report: CheckReport, console: Screen) -> None:
    """Say what merging stores. Trees and the like hold what they learned in attributes, not in weights."""
    if not report.weights:
        console.say("Weights: none in tensors (trees and coefficients are attributes of operators).")
        return
    console.say(
        f"Weights: {report.weights}, of which {report.shared_weights} are the same in all models; "
        f"{size(report.distinct_bytes)} merged, {size(report.bytes)} in separate files."
    )


def _nodes(report: CheckReport, console: Screen) -> None:
    """Say how large the merged graph would be, and what would become of a model's nodes."""
    became = ", ".join(f"{count} {what}" for what, count in sorted(report.became.items()) if count)
    console.say(f"Nodes: {report.nodes} in each model, {report.merged_nodes} merged ({became}).")


def readable(report: object) -> None:
    """Print the families of the models that can be read. The error names those that can't."""
    if not isinstance(report, CheckReport) or len(report.models) - len(report.unreadable) < 2:
        return
    console = Screen(data=False)
    console.say(f"Of those that can be read: {brief(report.families)}.")
    _differences(report, console)


def _families(report: CheckReport, console: Screen) -> None:
    """Print the families with their differences. For two models, the difference comes first."""
    if len(report.models) > 2 and len(report.families) > 1:
        console.say(f"Not equivalent: {brief(report.families)}.")
        _differences(report, console)
        return
    if report.difference:
        console.say(f"Not equivalent: {report.difference.message}")
        console.say(f"  {report.difference.hint}")
    if any(row.producers for row in report.families):
        console.say(f"  {brief(report.families)}.")


def _differences(report: CheckReport, console: Screen) -> None:
    for row in report.families:
        if row.difference:
            console.say(f"  {row.difference.message}")
            console.say(f"    {row.difference.hint}")
