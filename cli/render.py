"""Prints reports: tables and sentences for people, JSON for programs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netfuse_onnx.labels import NameRow, grouped
from netfuse_onnx.lowered import Lowered, NodeRow
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.proofs import BytesProof, Isolation, Mixes, Replays, Selection, ValuesProof, describe
from netfuse_onnx.report import (
    CheckReport,
    InspectReport,
    MergeReport,
    Report,
    RoutingRow,
    RulesReport,
    VerifyReport,
)
from netfuse_onnx.types import Became

from .render_adapters import adapters
from .render_bench import bench
from .render_check import check
from .render_hints import hints
from .render_low_rank import low_rank, reconstruction
from .render_sharing import sharing
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
    low_rank(report.low_rank, console)
    adapters(report.adapters, console)
    _lowered(report.lowered, console)
    _routing(report.routing, console)
    sizes(report.lowered, report.dims, console)
    if report.tuning:
        tuning(report.tuning, console)
        if report.tuning.sizes:
            assumed(report.tuning.sizes[0], report.dims, console)
    sharing(report.sharing, console)
    _names(report.names, console)
    if report.copied and report.proof:
        case = report.proof.values.cases[0]
        console.say(f"Joining inputs and splitting outputs copies {size(report.copied)} a call ({case}).")
    if report.proof:
        _proofs(report.proof, console)
    else:
        console.say("Not verified (--no-verify).")
    if report.io == "separate" and report.symbols:
        console.say(f"{some(report.symbols)}: one size for all models in a call; pad where they differ.")
    console.warn(report.warnings)
    verdict(report.verdict, console)
    hints(report.hints, console)


def verify(report: VerifyReport, console: Screen) -> None:
    console.say(f"{report.merged}: {len(report.models)} models ({some(report.models)})")
    _proofs(report, console)
    console.warn(report.warnings)
    if not report.ok:
        console.say(f"netfuse-onnx: error: {report.failure}")


def inspect(report: InspectReport, console: Screen) -> None:
    console.say(f"{report.merged}: {len(report.models)} models, by netfuse-onnx {report.version}")
    sources = [(name, report.sha256.get(name, "")) for name in report.models]
    console.table(("model", "SHA-256 of the source"), sources)
    if report.recorded:
        console.say("The plan was chosen by measuring, and is recorded node by node.")
    shared = f", shared inputs: {', '.join(report.share)}" if report.share else ""
    shared += f", combined: {', '.join(f'{n} ({how})' for n, how in report.combined.items())}" * bool(
        report.combined
    )
    console.say(f"I/O {report.io}{shared}; target {report.target}; {report.weights} merged weights")
    low_rank(report.low_rank, console)
    _lowered(report.lowered, console)
    _names(report.names, console)
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


def _routing(rows: Sequence[RoutingRow], console: Screen) -> None:
    """Print how rows find their models, and what the other way would cost."""
    told = {
        row.by: f"{row.microseconds:,.0f} us" if row.microseconds is not None else row.reason.rstrip(".")
        for row in rows
    }
    for row in rows:
        if row.chosen:
            others = "".join(f"; {by}: {text}" for by, text in told.items() if by != row.by)
            console.say(
                f"Rows find their models by {row.by}: {told[row.by]} expected for a call of {row.rows} rows "
                f"of random models{others}. --dim rows=R plans for others."
            )


def _names(rows: Sequence[NameRow], console: Screen) -> None:
    """Print the merged names with their models: a line each, or one line where all models use one name."""
    lines = grouped(rows)
    if lines:
        shown = [(*line[:3], some(line[3])) for line in lines[:NAMES]]
        console.table(("", "model", "its name", "in the merged model"), shown)
    if len(lines) > NAMES:
        console.say(f"and {len(lines) - NAMES} more names, see --json")


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


def _proofs(report: VerifyReport, console: Screen) -> None:
    if report.bytes.ok:
        console.say(f"Bytes: {_compared(report.bytes, report.graph.made)}.")
    for problem in report.bytes.problems[:REASONS]:
        console.say(f"Bytes: {problem}")
    reconstruction(report.reconstruction, console)
    graph = report.graph
    if graph.ok and graph.made:
        console.say(f"Graph: {graph.nodes} nodes are what merging these sources gives.")
    for problem in graph.problems[:REASONS]:
        console.say(f"Graph: {problem}")
    values = report.values
    for problem in values.problems:
        console.say(f"Values: {problem}")
    if values.outputs:
        _values(values, len(report.models), console)


def _compared(proof: BytesProof, graph: bool) -> str:
    """Say how much was compared bit for bit, and how much could not be."""
    others = "by values and by the graph" if graph else "by values"
    parts = [f"{proof.weights} weights ({size(proof.bytes)})"] if proof.weights else []
    if proof.attributes:
        parts.append(f"{proof.attributes} attributes ({size(proof.attribute_bytes)})")
    if not parts:
        return f"no weights to compare by bytes; proven {others}"
    rest = f"; {proof.elsewhere} more are computed into constants, proven {others}" if proof.elsewhere else ""
    return f"{' and '.join(parts)} equal the sources', bit for bit{rest}"


def _values(values: ValuesProof, models: int, console: Screen) -> None:
    wrong = [row for row in values.outputs if not row.ok]
    for row in wrong[:REASONS]:
        console.say(f"Values: {describe(row).rstrip('.')}{_noise(row.noise)}.")
    where = values.provider.upper()
    if values.placed:
        where += " (" + ", ".join(f"{n} nodes on {p}" for p, n in sorted(values.placed.items())) + ")"
    verdict = "equal the sources'" if not wrong else f"differ in {len(wrong)} outputs"
    console.say(
        f"Values: {len(values.outputs)} outputs of {models} models {verdict} on {where}; "
        f"cases: {'; '.join(values.cases)}."
    )
    if values.left_out:
        console.say(
            "Optimisations: as CUDA runs the file, without the fusions into operators on bytes, which ONNX "
            f"Runtime has on the CPU alone ({', '.join(values.left_out)})."
        )
    worst = values.worst
    if worst is not None and not wrong:
        console.say(
            f"Worst: output {worst.output} of {worst.model} at {list(worst.at)}, {worst.got} for "
            f"{worst.want}; error {worst.error:.3g} of {worst.allowed:.3g} allowed "
            f"({worst.precision}){_noise(worst.noise)}."
        )
    if values.spread and values.spread.telling:
        one, two = values.spread.models
        console.say(
            f"A mix-up of models would show: the two most alike, {one} and {two}, differ by "
            f"{values.spread.ratio:.3g} times the tolerance."
        )
    _isolation(values.isolation, models, console)
    _selection(values.selection, console)
    _mixes(values.mixes, console)
    _combined(values, console)
    if values.unreached:
        console.say(f"Not reached by any inputs that were tried: {some(values.unreached, 3)}.")
    if values.replays:
        _replays(values.replays, console)
    if values.tf32 is not None:
        console.say(
            f"TF32, CUDA's default, changes the merged outputs by up to {values.tf32:.2g} of their scale."
        )


def _combined(values: ValuesProof, console: Screen) -> None:
    """Print what the proof means for outputs that are a combination of all models."""
    rows = {row.output: row.combined for row in values.outputs if row.combined}
    blind = {row.output for row in values.telling if row.combined and (row.alike or row.left_out)}
    if rows:
        console.say(
            f"Combined of all models: {some([f'{name} ({how})' for name, how in rows.items()])}. Compared "
            "with the same of the sources' outputs. Every model is meant to change them: isolation says "
            "nothing of them."
        )
    if rows.keys() - blind and any(row.combined for row in values.telling):
        shown = some([name for name in rows if name not in blind])
        console.say(f"A model left out of {shown}, or counted in the place of another, would show.")


def _replays(replays: Replays, console: Screen) -> None:
    for problem in replays.problems[:REASONS]:
        console.say(f"Again: {problem}")
    if replays.ok:
        console.say(
            f"Again: {replays.again} files gave the same when they ran again after other inputs, "
            f"{replays.graphs} of them as CUDA graphs too."
        )
    for what, reason in [*replays.refused.items()][:REASONS]:
        console.say(f"No CUDA graph of {what}: {reason}.")


def _mixes(mixes: Mixes | None, console: Screen) -> None:
    if mixes is None:
        return
    for problem in mixes.problems[:REASONS]:
        console.say(f"Rows: {problem}")
    if mixes.ok:
        console.say(
            f"Rows: in {mixes.calls} calls with other mixes, {mixes.rows} rows are what their own models' "
            f"sources give; {mixes.refused} calls that name no model, or disagree in their rows, failed, as "
            "they must."
        )


def _isolation(isolation: Isolation | None, models: int, console: Screen) -> None:
    if isolation is None:
        return
    for problem in isolation.problems[:REASONS]:
        console.say(f"Isolation: {problem}")
    if not isolation.ok:
        return
    count = isolation.refused
    calls = "1 call with unequal sizes" if count == 1 else f"{count} calls with unequal sizes"
    sizes = f"; {calls} failed, as it should" if count else ""
    console.say(
        f"Isolation: odd values in the inputs of {isolation.models} of {models} models left all outputs of "
        f"the others as they were, bit for bit ({isolation.calls} calls){sizes}."
    )


def _selection(selection: Selection | None, console: Screen) -> None:
    if selection is None:
        return
    for problem in selection.problems[:REASONS]:
        console.say(f"Choice: {problem}")
    if selection.ok:
        console.say(
            f"Choice: {selection.calls} calls for some models, twice and out of order among them, gave what "
            f"these give; {selection.refused} calls with an id of no model, or with other rows than ids, "
            "failed, as they should."
        )


def _noise(noise: float | None) -> str:
    return "" if noise is None else f"; the source's own rounding noise is {noise:.3g}"


def _how(row: NodeRow) -> str:
    return f"{_why(row)} ({row.cost})" if row.cost else _why(row)


def _why(row: NodeRow) -> str:
    if row.reason:
        return row.reason
    layouts = f"{', '.join(row.takes)} -> {', '.join(row.gives)}" if row.takes or row.gives else ""
    return f"{row.rule}: {layouts}" if row.rule and layouts else row.rule or layouts


SHOWN_BY: Mapping[type[Report], Callable[[Any, Screen], None]] = {
    BenchReport: bench,
    CheckReport: check,
    InspectReport: inspect,
    MergeReport: merge,
    RulesReport: rules,
    VerifyReport: verify,
}
DATA = (BenchReport, InspectReport, RulesReport)
"""The reports that are what was asked for."""
