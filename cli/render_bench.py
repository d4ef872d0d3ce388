"""Prints a comparison on a terminal: a table of all ways, and one of all kinds of operators."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from netfuse_onnx.measure.report import BenchReport, KindRow, Row
from netfuse_onnx.measure.rounds import Quartiles

from .render import _bytes as size
from .render import _line as line
from .render import _table as table_of
from .render import _text as text
from .render import _warnings as warn

KINDS = 15
"""At most so many kinds of operators are printed; --json has them all."""


def bench(report: BenchReport, console: Console) -> None:
    where = f"{report.machine.get('gpu') or report.machine['processor']}, {report.machine['cores']} cores"
    line(
        console,
        f"{len(report.models)} models on {report.provider.upper()} ({where}), "
        f"ONNX Runtime {report.versions.get('onnxruntime')}; {report.case}.",
    )
    console.print(_ways(report, console))
    for speedup in report.speedups:
        times = speedup.times
        line(
            console,
            f"{speedup.merged}: {times.median:.2f} times as fast as the best alternative, {speedup.best} "
            f"(quartiles {times.low:.2f} and {times.high:.2f} of {times.samples} rounds).",
        )
    if not report.together:
        line(console, "Each was loaded for its turn: all do not fit into memory at once.")
    if report.profile:
        console.print(_kinds(report.profile, console))
        _more(report.profile, console)
    warn(report.warnings, console)


def _ways(report: BenchReport, console: Console) -> Table:
    gpu = report.provider == "cuda"
    columns = [
        "way",
        "settings",
        "ms a call",
        "quartiles",
        "equal",
        "load s",
        "memory",
        *["GPU"] * gpu,
        "file",
    ]
    table = table_of(console, *columns)
    fastest = sorted(report.rows, key=lambda row: row.seconds.median if row.seconds else float("inf"))
    for row in fastest:
        sizes = [row.resident, *[row.gpu] * gpu, row.file]
        cells = [row.label, row.settings, *_times(row.seconds), _equal(row), f"{row.load:.2f}"]
        table.add_row(*map(text, [*cells, *map(size, sizes)]))
    return table


def _times(seconds: Quartiles | None) -> tuple[str, str]:
    if seconds is None:
        return "", ""
    return f"{seconds.median * 1e3:.4g}", f"{seconds.low * 1e3:.4g} - {seconds.high * 1e3:.4g}"


def _equal(row: Row) -> str:
    return "did not run" if row.error is None else "no" if row.problem else "yes"


def _kinds(rows: tuple[KindRow, ...], console: Console) -> Table:
    """Make a table of the kinds of operators, with the largest loss first and the largest gain last."""
    table = table_of(console, "operators", "separate ms", "kernels", "merged ms", "kernels", "lost ms")
    shown = rows if len(rows) <= KINDS else (*rows[: KINDS // 2], *rows[-(KINDS // 2) :])
    for row in shown:
        separate, merged, loss = (f"{s * 1e3:.3f}" for s in (row.separate, row.merged, row.loss))
        counts = str(row.separate_kernels or ""), str(row.merged_kernels or "")
        table.add_row(text(row.kind), separate, counts[0], merged, counts[1], loss)
    return table


def _more(rows: tuple[KindRow, ...], console: Console) -> None:
    separate, merged = sum(row.separate for row in rows), sum(row.merged for row in rows)
    rest = len(rows) - KINDS
    more = f" {rest} kinds between the two are in --json." if rest > 0 else ""
    line(console, f"In all kernels: {separate * 1e3:.3f} ms separate, {merged * 1e3:.3f} ms merged.{more}")
