"""How the compiler does on many architectures: each is exported, merged and proved, and a row says how large
the merged graph is and what was replicated.

    python bench/architectures.py
    python bench/architectures.py --only swin bert --verbose
    python bench/architectures.py --markdown docs/architectures.md

Exports are kept in build/zoo; --fresh makes them again. Expansion is the non-trivial nodes of the merged
graph over those of one source; nodes that only join inputs or split outputs are counted apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from netfuse_onnx.report import MergeReport
from sample_models.export import export_family
from sample_models.zoo import NOT_EXPORTED, ZOO
from sample_models.zoo_build import Architecture

MEDIAN, MOST = 1.25, 1.6
"""The bars: the median of all expansions, and each one that has no reason of its own."""

GOOD_REASONS = (
    "recurrent operator",
    "the size of its output depends on its data",
    "its condition",
    "may differ between the models",  # the shape of what it reads: behind an operator of the line before last
)
"""Parts of the reasons for which an operator may be there once per model."""


@dataclass
class Row:
    """One architecture through one exporter."""

    name: str
    domain: str
    exporter: str
    source: int = 0
    merged: int = 0
    boundary: int = 0
    replicated: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    conversions: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    proved: bool = False
    worst: float = 0.0
    spread: float = 0.0
    cases: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failed: str = ""
    note: str = ""

    @property
    def expansion(self) -> float:
        return self.merged / self.source if self.source else 0.0

    @property
    def problem(self) -> str:
        """Return what is not as it should be, or ''."""
        if self.failed:
            return self.failed
        if not self.proved:
            return "not proved"
        doubtful = [reason for reason in self.reasons if not any(part in reason for part in GOOD_REASONS)]
        if doubtful:
            return f"replicated for no good reason: {doubtful[0]}"
        return "" if self.expansion <= MOST or self.note else f"above {MOST}"


def main() -> int:
    given = _arguments()
    rows: list[Row] = []
    for item in (ZOO[name] for name in given.only or ZOO):
        for exporter in item.exporters:
            if given.exporter in (exporter, "all"):
                rows.append(measure(item, exporter, given.work, given.models, given.fresh, given.verbose))
                if not given.json:
                    print(_line(rows[-1]), flush=True)
    if given.json:
        print(json.dumps([asdict(row) | {"expansion": row.expansion} for row in rows], indent=2))
    else:
        print(_summary(rows))
    if given.markdown:
        given.markdown.write_text(_markdown(rows, given.models))
    over = not given.only and _median(rows) > MEDIAN
    return 1 if over or any(row.problem for row in rows) else 0


def measure(
    item: Architecture, exporter: str, work: Path, models: int = 3, fresh: bool = False, verbose: bool = False
) -> Row:
    """Export where that is still to be done, merge and prove, and count."""
    row = Row(item.name, item.domain, exporter, note=item.reason)
    try:
        paths = exported(item, exporter, work, models, fresh)
    except Exception as error:  # torch raises whatever it likes
        row.failed = f"export: {_told(error, verbose)}"
        return row
    row.bytes = paths[0].stat().st_size
    out = work / "merged" / f"{item.name}-{exporter}.onnx"
    out.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    report: MergeReport | None = None
    try:
        report = netfuse_onnx.merge(list(map(str, paths)), str(out))
    except Exception as error:  # a bug of ours may raise anything, and the others are still to be measured
        row.failed = _told(error, verbose and not isinstance(error, netfuse_onnx.NetfuseError))
        report = getattr(error, "report", None)
    row.seconds = time.monotonic() - start
    if report is not None:
        _fill(row, report)
    if report is not None and verbose:
        _explain(report)
    return row


def exported(item: Architecture, exporter: str, work: Path, models: int, fresh: bool) -> list[Path]:
    """The models of one architecture, exported unless they are there."""
    folder = work / exporter
    paths = [folder / f"{item.name}-{m}.onnx" for m in range(models)]
    if fresh or not all(path.exists() for path in paths):
        with contextlib.redirect_stdout(io.StringIO()):  # on a failure torch prints the graph
            paths = list(export_family(item.family, folder, count=models, exporter=exporter))
    return paths


def _fill(row: Row, report: MergeReport) -> None:
    lowered = report.lowered
    row.source, row.merged, row.boundary = lowered.source_nodes, lowered.merged_nodes, lowered.boundary_nodes
    row.replicated = dict(Counter(node.op for node in lowered.replicated))
    row.reasons = sorted({f"{node.op}: {node.reason}" for node in lowered.replicated})
    row.conversions = dict(Counter({f"{c.before} -> {c.after}": 0 for c in lowered.conversions}))
    for c in lowered.conversions:
        row.conversions[f"{c.before} -> {c.after}"] += c.nodes
    if report.proof:
        row.proved = report.proof.ok
        row.cases = list(report.proof.values.cases)
        worst, spread = report.proof.values.worst, report.proof.values.spread
        row.worst = worst.ratio if worst else 0.0
        row.spread = spread.ratio if spread else 0.0


def _explain(report: MergeReport) -> None:
    """Everything that is more than one node for one node."""
    for node in report.lowered.replicated:
        print(f"    replicated {node.op} {node.name!r}: {node.reason}")
    for c in report.lowered.conversions:
        print(f"    {c.before} -> {c.after}: {c.nodes} nodes, {c.value!r}")
    for warning in report.warnings:
        print(f"    {warning}")


def _told(error: Exception, trace: bool) -> str:
    if trace:
        traceback.print_exc()
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:240]}"


# --------------------------------------------------------------------------- tables


def _line(row: Row) -> str:
    head = f"{row.name:16} {row.exporter:11} {row.bytes / 1e6:5.2f} MB"
    if row.failed:
        return f"{head}  FAILED {row.failed}"
    return (
        f"{head}  {row.source:4} -> {row.merged:4} + {row.boundary:2}  x{row.expansion:4.2f}  "
        f"{row.worst:5.3f} of {row.spread:8.0f}  {row.seconds:4.1f} s  {_counts(row)}"
        + (f"  <-- {row.problem}" if row.problem else "")
    )


def _counts(row: Row) -> str:
    return ", ".join(f"{count} {op}" for op, count in row.replicated.items())


def _median(rows: Sequence[Row]) -> float:
    return statistics.median([row.expansion for row in rows if not row.failed] or [0.0])


def _summary(rows: Sequence[Row]) -> str:
    done = [row for row in rows if not row.failed]
    merged = f"{len({row.name for row in done})} architectures, {len(done)} of {len(rows)} exports merged"
    most = max(done, key=lambda row: row.expansion, default=None)
    largest = f", largest {most.expansion:.2f} ({most.name})" if most else ""
    over = sorted({row.name for row in done if row.expansion > MOST})
    proved = sum(row.proved for row in done)
    return (
        f"{merged}, {proved} proved; expansion: median {_median(rows):.2f}{largest}; "
        f"above {MOST}: {', '.join(over) or 'none'}"
    )


def _markdown(rows: Sequence[Row], models: int) -> str:
    lines = [
        "# Architectures",
        "",
        "`python bench/architectures.py --markdown FILE` writes this table: "
        f"{models} models of each architecture, small, with weights that all differ, exported by torch, "
        "merged, and proved.",
        "Expansion is the number of nodes of the merged graph over that of one source (Constant and Identity "
        "are not counted); the nodes that only join inputs or split outputs are counted apart. It is below 1 "
        "where a source computes shapes that the merged graph knows.",
        "",
        "The families of this page share no weights. Those that do, after fine-tuning with LoRA or on a "
        "frozen backbone, are in [families that share](sharing.md).",
        "",
        f"{_summary(rows)}.",
        "",
        "| architecture | domain | exporter | one source | merged | at the edge | expansion | replicated |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        why = row.note if row.expansion > MOST else ""
        what = row.failed or "; ".join(filter(None, [_counts(row), why]))
        lines.append(
            f"| {row.name} | {row.domain} | {row.exporter} | {row.source} | {row.merged} | {row.boundary} "
            f"| {row.expansion:.2f} | {what} |"
        )
    reasons = sorted({reason for row in rows for reason in row.reasons if "its input" not in reason})
    lines += ["", "Replicated, and why:", "", *(f"- {reason}" for reason in reasons)]
    lines += ["", "Not in the table, because torch does not export them in the pinned versions:", ""]
    lines += [f"- {name}: {reason}" for name, reason in NOT_EXPORTED.items()]
    return "\n".join([*lines, ""])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(ZOO), metavar="NAME", help="default: all")
    parser.add_argument("--exporter", choices=("dynamo", "torchscript", "all"), default="all")
    parser.add_argument("--models", type=int, default=3, help="default: 3")
    parser.add_argument("--work", type=Path, default=Path("build/zoo"), help="default: build/zoo")
    parser.add_argument("--fresh", action="store_true", help="export again")
    parser.add_argument("--verbose", action="store_true", help="every conversion and replicated node")
    parser.add_argument("--json", action="store_true", help="the figures as JSON instead of a table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
