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
from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.report import MergeReport
from sample_models.export import export_family
from sample_models.zoo import ZOO
from sample_models.zoo_build import Architecture

MEDIAN, MOST = 1.25, 1.6
"""The bars: the median of all expansions, and each one that has no reason of its own."""


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
    def holds(self) -> bool:
        return self.proved and (self.expansion <= MOST or bool(self.note))


def main() -> int:
    given = _arguments()
    rows: list[Row] = []
    for item in (ZOO[name] for name in given.only or ZOO):
        for exporter in item.exporters:
            if given.exporter in (exporter, "all"):
                rows.append(measure(item, exporter, given))
                if not given.json:
                    print(_line(rows[-1]), flush=True)
    if given.json:
        print(json.dumps([asdict(row) | {"expansion": row.expansion} for row in rows], indent=2))
    else:
        print(_summary(rows))
    if given.markdown:
        given.markdown.write_text(_markdown(rows))
    return 0 if all(row.holds for row in rows) else 1


def measure(item: Architecture, exporter: str, given: argparse.Namespace) -> Row:
    row = Row(item.name, item.domain, exporter, note=item.reason)
    start = time.monotonic()
    try:
        paths = exported(item, exporter, given.work, given.models, fresh=given.fresh)
    except Exception as error:  # torch raises whatever it likes
        row.failed = f"export: {type(error).__name__}: {_first_line(error)}"
        if given.verbose:
            traceback.print_exc()
        return row
    row.bytes = paths[0].stat().st_size
    out = given.work / "merged" / f"{item.name}-{exporter}.onnx"
    out.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        report = netfuse_onnx.merge(list(map(str, paths)), str(out))
    except Exception as error:
        row.failed = f"{type(error).__name__}: {_first_line(error)}"
        if given.verbose and not isinstance(error, NetfuseError):
            traceback.print_exc()
        found = getattr(error, "report", None)
        if found is not None:
            _fill(row, found)
        return row
    row.seconds = time.monotonic() - start
    _fill(row, report)
    if given.verbose:
        _explain(report)
    return row


def exported(item: Architecture, exporter: str, work: Path, models: int, *, fresh: bool) -> list[Path]:
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:240]


# --------------------------------------------------------------------------- tables


def _line(row: Row) -> str:
    head = f"{row.name:18} {row.exporter:11} {row.bytes / 1e6:5.2f} MB "
    if row.failed:
        return f"{head} FAILED {row.failed}"
    verdict = "" if row.holds else "  <-- over the bar" if row.proved else "  <-- not proved"
    return (
        f"{head} {row.source:4} -> {row.merged:4} + {row.boundary:2}  {row.expansion:5.2f}  "
        f"{row.worst:6.3f} of {row.spread:9.1f}  {row.seconds:4.1f} s  {_counts(row)}{verdict}"
    )


def _counts(row: Row) -> str:
    return ", ".join(f"{count} {op}" for op, count in row.replicated.items())


def _summary(rows: Sequence[Row]) -> str:
    done = [row.expansion for row in rows if not row.failed]
    if not done:
        return "nothing merged"
    over = [row.name for row in rows if not row.failed and row.expansion > MOST]
    return (
        f"{len(done)} of {len(rows)} merged; expansion: median {statistics.median(done):.3f}, "
        f"largest {max(done):.2f}; above {MOST}: {', '.join(over) or 'none'}"
    )


def _markdown(rows: Sequence[Row]) -> str:
    lines = [
        "| architecture | domain | exporter | nodes of a source | merged | at the boundary | expansion |"
        " replicated |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        what = row.failed or "; ".join(filter(None, [_counts(row), row.note]))
        lines.append(
            f"| {row.name} | {row.domain} | {row.exporter} | {row.source} | {row.merged} | {row.boundary} "
            f"| {row.expansion:.2f} | {what} |"
        )
    return "\n".join([*lines, "", _summary(rows), ""])


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
