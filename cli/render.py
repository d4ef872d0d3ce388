"""Prints reports: tables and sentences for people, JSON for programs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netfuse_onnx import edges
from netfuse_onnx.bundle_report import BundleReport
from netfuse_onnx.digests_report import DigestsReport
from netfuse_onnx.fleet.report import FleetReport
from netfuse_onnx.labels import Labels, NameRow, grouped
from netfuse_onnx.lifecycle.split_report import SplitReport
from netfuse_onnx.lowered import Lowered, NodeRow
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.page_report import PageReport
from netfuse_onnx.report import (
    CheckReport,
    InspectReport,
    MergeReport,
    Report,
    VerifyReport,
)
from netfuse_onnx.rules_report import RulesReport
from netfuse_onnx.types import Became, Edge

from .render_adapters import adapters
from .render_apart import apart
from .render_bench import bench
from .render_bundle import bundle, views
from .render_changed import changed
from .render_changes import changes
from .render_check import check
from .render_digests import digests
from .render_fleet import fleet
from .render_hints import hints
from .render_low_rank import low_rank
from .render_page import page
from .render_proofs import proofs
from .render_routed import routing
from .render_sharing import sharing
from .render_spelling import spelling
from .render_split import split
from .render_tuning import assumed, sizes, tuning
from .render_verdict import verdict
from .screen import REASONS, Screen, size, some
from .text import write_json

NAMES = 40
"""At most so many lines of names are printed; --json has them all."""


def answer(report: Report, as_json: bool) -> int:
    """Print a report and return its exit code. A report that is what was asked for goes to stdout; others are
    for people and go to stderr. JSON is always on stdout, with nothing else."""
    if as_json:
        write_json(report.to_json())
    else:
        SHOWN_BY[type(report)](report, Screen(data=isinstance(report, DATA)))
    return report.exit_code


# --------------------------------------------------------------------------- verbs


def merge(report: MergeReport, console: Screen) -> None:
    console.say(
        f"{report.out}: {len(report.models)} models ({some(report.models)}) in one, {size(report.size)}"
    )
    changes(report.changes, console)
    if report.opset > report.source_opset:
        console.say(
            f"Opset {report.source_opset} -> {report.opset}: a runtime that stops below "
            f"{report.opset} runs the sources and not this file. --portable keeps the opset."
        )
    low_rank(report.low_rank, console)
    adapters(report.adapters, console)
    spelling(report.spelling, console)
    _lowered(report.lowered, console)
    routing(report.routing, console)
    sizes(report.lowered, report.dims, console)
    if report.tuning:
        tuning(report.tuning, console)
        if report.tuning.sizes:
            assumed(report.tuning.sizes[0], report.dims, console)
    apart(report.apart, console)
    sharing(report.sharing, console)
    views(report.views, console)
    _names(report.names, console)
    _ids(report, console)
    if report.copied and report.proof:
        case = report.proof.values.cases[0]
        console.say(f"Joining inputs and splitting outputs copies {size(report.copied)} a call ({case}).")
    if report.proof:
        proofs(report.proof, console)
    else:
        console.say("Not verified (--no-verify).")
    if report.io == "separate" and report.symbols:
        console.say(f"{some(report.symbols)}: one size for all models in a call; pad where they differ.")
    console.warn(report.warnings)
    verdict(report.verdict, console)
    hints(report.hints, console)


def verify(report: VerifyReport, console: Screen) -> None:
    console.say(f"{report.merged}: {len(report.models)} models ({some(report.models)})")
    proofs(report, console)
    console.warn(report.warnings)
    changed(report.changed, report.bytes.note, console)
    if not report.ok:
        console.say(f"netfuse-onnx: error: {report.failure}")


def inspect(report: InspectReport, console: Screen) -> None:
    console.say(f"{report.merged}: {len(report.models)} models, by netfuse-onnx {report.version}")
    sources = [(name, report.sha256.get(name, "")) for name in report.models]
    console.table(("model", "SHA-256 of the source"), sources)
    changed(report.changed, "", console)
    if report.recorded:
        console.say("The plan was chosen by measuring, and is recorded node by node.")
    shared = f", shared inputs: {', '.join(report.share)}" if report.share else ""
    shared += f", combined: {', '.join(f'{n} ({how})' for n, how in report.combined.items())}" * bool(
        report.combined
    )
    console.say(f"I/O {report.io}{shared}; target {report.target}; {report.weights} merged weights")
    low_rank(report.low_rank, console)
    spelling(report.spelling, console)
    apart(report.apart, console)
    _lowered(report.lowered, console)
    _names(report.names, console)
    _ids(report, console)
    nodes = [(row.name, row.op, row.became, _how(row)) for row in report.lowered.nodes]
    console.table(("node", "operator", "became", "how"), nodes)
    steps = [(step.value, step.before, step.after, str(step.nodes)) for step in report.lowered.conversions]
    if steps:
        console.table(("conversion of", "from", "to", "nodes"), steps)


def rules(report: RulesReport, console: Screen) -> None:
    repeated = [False, *(row.op == above.op for above, row in itertools.pairwise(report.rules))]
    rows = [
        ("" if same else row.op, row.rule, row.how) for row, same in zip(report.rules, repeated, strict=False)
    ]
    console.table(("operator", "rule", "how"), rows)


# --------------------------------------------------------------------------- parts


def _lowered(lowered: Lowered, console: Screen) -> None:
    columns = ("total", *Became)
    rows = [(row.op, *(str(getattr(row, name) or "") for name in columns)) for row in lowered.operators()]
    console.table(("operator", "nodes", *Became), rows)
    steps = sum(c.nodes for c in lowered.conversions if not c.boundary)
    ratio = f" ({lowered.merged_nodes / lowered.source_nodes:.2f} x)" if lowered.source_nodes else ""
    console.say(
        f"Nodes: {lowered.source_nodes} in each source, {lowered.merged_nodes} merged{ratio}, "
        f"{steps} of these change layouts; {lowered.boundary_nodes} more join inputs and split outputs."
    )
    _predicted(lowered, console)
    _reasons(lowered.replicated, console)
    for note in lowered.notes:
        console.say(f"Note: {note}")


def _names(rows: Sequence[NameRow], console: Screen) -> None:
    """Print the merged names with their models: a line each, or one line where all models use one name."""
    lines = grouped(rows)
    if lines:
        shown = [(*line[:3], some(line[3])) for line in lines[:NAMES]]
        console.table(("", "model", "its name", "in the merged model"), shown)
    if len(lines) > NAMES:
        console.say(f"and {len(lines) - NAMES} more names, see --json")


def _ids(report: MergeReport | InspectReport, console: Screen) -> None:
    """Print the input by which a call names models, and their numbers."""
    own = dict.fromkeys((row.own for row in report.names if row.model == report.models[0]), "")
    name = Labels(report.models, (Edge(own, {}),), report.io).ids
    if name:
        each = "row" if edges.is_routed(report.io) else "of the models that the call wants"
        numbers = some([f"{number} is {model}" for number, model in enumerate(report.models)])
        console.say(f"Input {name}: int64, one number for each {each}: {numbers}.")


def _predicted(lowered: Lowered, console: Screen) -> None:
    """Print the predicted cost of the plan, and of the plans that lost."""
    if lowered.predicted:
        parts = ", ".join(f"{part} {cost:,.0f}" for part, cost in lowered.predicted.items())
        total = sum(lowered.predicted.values())
        console.say(f"Predicted for the target: {total:,.0f} us a call ({parts}).")
    if lowered.alternatives:
        others = ", ".join(f"{name} {cost:,.0f} us" for name, cost in lowered.alternatives.items())
        console.say(f"Rejected plans: {others}.")


def _reasons(rows: Sequence[NodeRow], console: Screen) -> None:
    """Print the number of replicated nodes by reason, with the operators of each."""
    reasons: dict[str, Counter[str]] = {}
    for row in rows:
        reasons.setdefault(row.reason, Counter())[row.op] += 1
    for reason, ops in list(reasons.items())[:REASONS]:
        counts = some([f"{count} x {op}" for op, count in ops.most_common()])
        total = f"{ops.total()} nodes ({counts})" if len(ops) > 1 else counts
        console.say(f"Replicated: {total}: {reason}")
    if len(reasons) > REASONS:
        console.say(f"Replicated: {len(reasons) - REASONS} more reasons, see inspect")


def _how(row: NodeRow) -> str:
    return f"{_why(row)} ({row.cost})" if row.cost else _why(row)


def _why(row: NodeRow) -> str:
    if row.reason:
        return row.reason
    layouts = f"{', '.join(row.takes)} -> {', '.join(row.gives)}" if row.takes or row.gives else ""
    return f"{row.rule}: {layouts}" if row.rule and layouts else row.rule or layouts


SHOWN_BY: Mapping[type[Report], Callable[[Any, Screen], None]] = {
    BenchReport: bench,
    BundleReport: bundle,
    SplitReport: split,
    CheckReport: check,
    DigestsReport: digests,
    FleetReport: fleet,
    InspectReport: inspect,
    MergeReport: merge,
    PageReport: page,
    RulesReport: rules,
    VerifyReport: verify,
}
DATA = (BenchReport, BundleReport, DigestsReport, InspectReport, RulesReport)
"""The reports that are what was asked for."""
