"""Prints reports: tables and sentences for people, JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from netfuse_onnx.labels import NameRow, grouped
from netfuse_onnx.lowered import Lowered, NodeRow
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.proofs import BytesProof, Isolation, ValuesProof, describe
from netfuse_onnx.report import CheckReport, InspectReport, MergeReport, RulesReport, VerifyReport

from .text import printable, write_json

Report = TypeVar("Report", MergeReport, CheckReport, VerifyReport, InspectReport, RulesReport, BenchReport)

WIDTH = 1000
"""The columns where the output is no terminal: grep would miss a line that is folded."""

NAMES = 40
"""At most so many lines of names are printed; --json has them all."""

REASONS = 10
"""At most so many reasons for replication are printed; --json and inspect have them all."""


def answer(report: Report, show: Callable[[Report, Console], None], as_json: bool, *, data: bool) -> int:
    """Print a report and return its exit code. With `data` the report is what was asked for and goes to
    stdout; else it is for people and goes to stderr. JSON is always on stdout, with nothing else."""
    if as_json:
        write_json(report.to_json())
    else:
        show(report, _console(data))
    return report.exit_code


# --------------------------------------------------------------------------- verbs


def merge(report: MergeReport, console: Console) -> None:
    _line(
        console,
        f"{report.out}: {len(report.models)} models ({_some(report.models)}) in one, {_bytes(report.size)}",
    )
    _lowered(report.lowered, console)
    _names(report.names, console)
    if report.copied and report.proof:
        case = report.proof.values.cases[0]
        _line(
            console, f"Joining inputs and splitting outputs copies {_bytes(report.copied)} a call ({case})."
        )
    if report.proof:
        _proofs(report.proof, console)
    else:
        _line(console, "Not verified (--no-verify).")
    if report.io == "separate" and report.symbols:
        _line(console, f"{_some(report.symbols)}: one size for all models in a call; pad where they differ.")
    _warnings(report.warnings, console)


def verify(report: VerifyReport, console: Console) -> None:
    _line(console, f"{report.merged}: {len(report.models)} models ({_some(report.models)})")
    _proofs(report, console)
    _warnings(report.warnings, console)
    if not report.ok:
        _line(console, f"netfuse-onnx: error: {report.failure}")


def inspect(report: InspectReport, console: Console) -> None:
    _line(console, f"{report.merged}: {len(report.models)} models, by netfuse-onnx {report.version}")
    models = _table(console, "model", "SHA-256 of the source")
    for name in report.models:
        models.add_row(_text(name), _text(report.sha256.get(name, "")))
    console.print(models)
    shared = f", shared inputs: {', '.join(report.share)}" if report.share else ""
    _line(console, f"I/O {report.io}{shared}; target {report.target}; {report.weights} merged weights")
    _lowered(report.lowered, console)
    _names(report.names, console)
    nodes = _table(console, "node", "operator", "became", "how")
    for row in report.lowered.nodes:
        nodes.add_row(_text(row.name), _text(row.op), _text(row.became), _text(_how(row)))
    console.print(nodes)
    if report.lowered.conversions:
        conversions = _table(console, "conversion of", "from", "to", "nodes")
        for step in report.lowered.conversions:
            conversions.add_row(_text(step.value), _text(step.before), _text(step.after), str(step.nodes))
        console.print(conversions)


def rules(report: RulesReport, console: Console) -> None:
    table = _table(console, "operator", "rule", "how")
    before = ""
    for row in report.rules:
        table.add_row(_text(row.op if row.op != before else ""), _text(row.rule), _text(row.how))
        before = row.op
    console.print(table)


# --------------------------------------------------------------------------- parts


def _lowered(lowered: Lowered, console: Console) -> None:
    table = _table(console, "operator", "nodes", "batched", "grouped", "shared", "replicated")
    for row in lowered.operators():
        counts = (row.total, row.batched, row.grouped, row.shared, row.replicated)
        table.add_row(_text(row.op), *(str(n) if n else "" for n in counts))
    console.print(table)
    steps = sum(c.nodes for c in lowered.conversions if not c.boundary)
    ratio = f" ({lowered.merged_nodes / lowered.source_nodes:.2f} x)" if lowered.source_nodes else ""
    _line(
        console,
        f"Nodes: {lowered.source_nodes} in each source, {lowered.merged_nodes} merged{ratio}, "
        f"{steps} of these change layouts; {lowered.boundary_nodes} more join inputs and split outputs.",
    )
    _predicted(lowered, console)
    _reasons(lowered.replicated, console)
    for note in lowered.notes:
        _line(console, f"Note: {note}")


def _names(rows: Sequence[NameRow], console: Console) -> None:
    """Print the merged names with their models: a line each, or one line where all models use one name."""
    lines = grouped(rows)
    if lines:
        table = _table(console, "", "model", "its name", "in the merged model")
        for what, model, own, merged in lines[:NAMES]:
            table.add_row(_text(what), _text(model), _text(own), _text(_some(merged)))
        console.print(table)
    if len(lines) > NAMES:
        _line(console, f"and {len(lines) - NAMES} more names, see --json")


def _predicted(lowered: Lowered, console: Console) -> None:
    """Print the predicted cost of the plan, and of the plans that lost."""
    if lowered.predicted:
        parts = ", ".join(f"{part} {cost:,.0f}" for part, cost in lowered.predicted.items())
        total = sum(lowered.predicted.values())
        _line(console, f"Predicted for the target: {total:,.0f} us a call ({parts}).")
    for name, cost in lowered.alternatives.items():
        _line(console, f"Instead: {name} {cost:,.0f} us.")


def _reasons(rows: Sequence[NodeRow], console: Console) -> None:
    """Print the number of replicated nodes by operator and reason."""
    reasons: dict[tuple[str, str], int] = {}
    for row in rows:
        reasons[row.op, row.reason] = reasons.get((row.op, row.reason), 0) + 1
    for (op, reason), count in list(reasons.items())[:REASONS]:
        _line(console, f"Replicated: {count} x {op}: {reason}")
    if len(reasons) > REASONS:
        _line(console, f"Replicated: {len(reasons) - REASONS} more reasons, see inspect")


def _proofs(report: VerifyReport, console: Console) -> None:
    if report.bytes.ok:
        _line(console, f"Bytes: {_compared(report.bytes, report.graph.made)}.")
    for problem in report.bytes.problems[:REASONS]:
        _line(console, f"Bytes: {problem}")
    graph = report.graph
    if graph.ok and graph.made:
        _line(console, f"Graph: {graph.nodes} nodes are what merging these sources gives.")
    for problem in graph.problems[:REASONS]:
        _line(console, f"Graph: {problem}")
    values = report.values
    for problem in values.problems:
        _line(console, f"Values: {problem}")
    if values.outputs:
        _values(values, len(report.models), console)


def _compared(proof: BytesProof, graph: bool) -> str:
    """Say how much was compared bit for bit, and how much could not be."""
    others = "by values and by the graph" if graph else "by values"
    parts = [f"{proof.weights} weights ({_bytes(proof.bytes)})"] if proof.weights else []
    if proof.attributes:
        parts.append(f"{proof.attributes} attributes ({_bytes(proof.attribute_bytes)})")
    if not parts:
        return f"no weights to compare by bytes; proven {others}"
    rest = f"; {proof.elsewhere} more are computed into constants, proven {others}" if proof.elsewhere else ""
    return f"{' and '.join(parts)} equal the sources', bit for bit{rest}"


def _values(values: ValuesProof, models: int, console: Console) -> None:
    wrong = [row for row in values.outputs if not row.ok]
    for row in wrong[:REASONS]:
        _line(console, f"Values: {describe(row).rstrip('.')}{_noise(row.noise)}.")
    where = values.provider.upper()
    if values.placed:
        where += " (" + ", ".join(f"{n} nodes on {p}" for p, n in sorted(values.placed.items())) + ")"
    verdict = "equal the sources'" if not wrong else f"differ in {len(wrong)} outputs"
    _line(
        console,
        f"Values: {len(values.outputs)} outputs of {models} models {verdict} on {where}; "
        f"cases: {'; '.join(values.cases)}.",
    )
    worst = values.worst
    if worst is not None and not wrong:
        _line(
            console,
            f"Worst: output {worst.output} of {worst.model} at {list(worst.at)}, {worst.got} for "
            f"{worst.want}; error {worst.error:.3g} of {worst.allowed:.3g} allowed "
            f"({worst.precision}){_noise(worst.noise)}.",
        )
    if values.spread and values.spread.telling:
        one, two = values.spread.models
        _line(
            console,
            f"A mix-up of models would show: the two most alike, {one} and {two}, differ by "
            f"{values.spread.ratio:.3g} times the tolerance.",
        )
    if values.isolation:
        _isolation(values.isolation, models, console)
    if values.unreached:
        _line(
            console,
            f"Not reached by any inputs that were tried: {_some(values.unreached, 3)}.",
        )
    if values.tf32 is not None:
        _line(
            console,
            f"TF32, CUDA's default, changes the merged outputs by up to {values.tf32:.2g} of their scale.",
        )


def _isolation(isolation: Isolation, models: int, console: Console) -> None:
    for problem in isolation.problems[:REASONS]:
        _line(console, f"Isolation: {problem}")
    if not isolation.ok:
        return
    count = isolation.refused
    calls = "1 call with unequal sizes" if count == 1 else f"{count} calls with unequal sizes"
    sizes = f"; {calls} failed, as it should" if count else ""
    _line(
        console,
        f"Isolation: odd values in the inputs of {isolation.models} of {models} models left all outputs of "
        f"the others as they were, bit for bit ({isolation.calls} calls){sizes}.",
    )


def _noise(noise: float | None) -> str:
    return "" if noise is None else f"; the source's own rounding noise is {noise:.3g}"


def _warnings(warnings: Sequence[str], console: Console) -> None:
    for warning in warnings:
        _line(console, f"netfuse-onnx: warning: {warning}")


def _how(row: NodeRow) -> str:
    return f"{_why(row)} ({row.cost})" if row.cost else _why(row)


def _why(row: NodeRow) -> str:
    if row.reason:
        return row.reason
    layouts = f"{', '.join(row.takes)} -> {', '.join(row.gives)}" if row.takes or row.gives else ""
    return f"{row.rule}: {layouts}" if row.rule and layouts else row.rule or layouts


def _table(console: Console, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for i, column in enumerate(columns):
        number = column in ("nodes", "batched", "grouped", "shared", "replicated")
        table.add_column(
            column, justify="right" if number else "left", overflow="fold", no_wrap=i == 0 and number
        )
    return table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which means "no" here


def _console(data: bool) -> Console:
    console = _Console(stderr=not data, highlight=False)
    return console if console.is_terminal else _Console(stderr=not data, highlight=False, width=WIDTH)


def _line(console: Console, text: str) -> None:
    """Print one sentence. A terminal may wrap it, a pipe gets one line. Brackets in names are no markup."""
    console.print(_text(text), soft_wrap=not console.is_terminal)


def _text(text: str) -> Text:
    return Text(printable(text))


def _some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _bytes(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    power = min(4, int(math.log10(size) / 3))
    return f"{size / 1000**power:.3g} {('', 'kB', 'MB', 'GB', 'TB')[power]}"
