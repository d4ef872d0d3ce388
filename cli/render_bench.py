"""Prints a comparison on a terminal: a table of all ways, and one of all kinds of operators."""

from __future__ import annotations

from netfuse_onnx.measure.report import BenchReport, KindRow, Row, Serving, Speedup
from netfuse_onnx.measure.rounds import Quartiles
from netfuse_onnx.units import duration

from .render_verdict import verdict
from .screen import Screen, size

KINDS = 15
"""At most so many kinds of operators are printed; --json has them all."""


def bench(report: BenchReport, console: Screen) -> None:
    where = f"{report.machine.get('gpu') or report.machine['processor']}, {report.machine['cores']} cores"
    console.say(
        f"{len(report.models)} models on {report.provider.upper()} ({where}), "
        f"ONNX Runtime {report.versions.get('onnxruntime')}; {report.case}."
    )
    _ways(report, console)
    for speedup in report.speedups:
        _speedup(speedup, console, told=report.verdict is not None and report.verdict.label == speedup.merged)
    if report.combined:
        console.say("The other ways combine the outputs of the models in numpy; that is part of their time.")
    if report.provider == "cuda":
        console.say("Each was loaded and measured once, one after the other.")
    elif not report.together:
        console.say("Each was loaded for its turn: all do not fit into memory at once.")
    if report.snippet:
        console.say("The merged file was fastest with these session options:")
        for line in report.snippet.splitlines():
            console.say(f"    {line}" if line else "")
    if report.profile:
        _kinds(report.profile, console)
        _more(report.profile, console)
    console.warn(report.warnings)
    verdict(report.verdict, console)
    if report.serving:
        _serving(report.serving, len(report.models), console)


def _speedup(speedup: Speedup, console: Screen, *, told: bool) -> None:
    """Print how fast a merged model is. `told`: the verdict has that of whole calls."""
    times, device = speedup.times, speedup.device
    if not told:
        console.say(
            f"{speedup.merged}: {times.median:.2f} times as fast as the best alternative, {speedup.best} "
            f"(quartiles {times.low:.2f} and {times.high:.2f})."
        )
    if device:
        console.say(
            f"{speedup.merged}, with inputs and outputs that stay on the GPU: {device.median:.2f} times as "
            f"fast as {speedup.device_best} (quartiles {device.low:.2f} and {device.high:.2f})."
        )


def _serving(found: Serving, models: int, console: Screen) -> None:
    """Print from how many waiting models on a MergedSession takes a merged call."""
    each, merged = duration(found.each), duration(found.merged)
    own = f"own sessions, which take {each} a request"
    if found.merges_from is None:
        console.say(
            f"A MergedSession runs each model alone: where all {models} models wait, a merged call ({merged})"
            f" does not answer {found.gain:g} times as many requests per second as {own}."
        )
        return
    console.say(
        f"A MergedSession takes a merged call ({merged}) from {found.merges_from} of {models} waiting models "
        f"on: it then answers more than {found.gain:g} times as many requests per second as {own}."
    )


def _ways(report: BenchReport, console: Screen) -> None:
    gpu = report.provider == "cuda"
    columns = [
        "way",
        "settings",
        "ms a call",
        "quartiles",
        "on GPU",
        "equal",
        "load s",
        "memory",
        "GPU",
        "file",
    ]
    rows = []
    for row in sorted(report.rows, key=lambda row: row.median):
        sizes = [size(row.resident), size(row.gpu), size(row.file)]
        device = f"{row.device.median * 1e3:.4g}" if row.device else ""
        times = [*_times(row.seconds), device]
        rows.append([row.label, row.settings, *times, _equal(row), f"{row.load:.2f}", *sizes])
    kept = [i for i, column in enumerate(columns) if gpu or "GPU" not in column]
    console.table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _times(seconds: Quartiles | None) -> tuple[str, str]:
    if seconds is None:
        return "", ""
    return f"{seconds.median * 1e3:.4g}", f"{seconds.low * 1e3:.4g} - {seconds.high * 1e3:.4g}"


def _equal(row: Row) -> str:
    if row.error is None:
        return "not compared" if row.ran else "did not run"
    return "no" if row.problem else "yes"


def _kinds(kinds: tuple[KindRow, ...], console: Screen) -> None:
    """Print the kinds of operators, with the largest loss first and the largest gain last."""
    rows = []
    for row in kinds if len(kinds) <= KINDS else (*kinds[: KINDS // 2], *kinds[-(KINDS // 2) :]):
        separate, merged, loss = (f"{s * 1e3:.3f}" for s in (row.separate, row.merged, row.loss))
        counts = str(row.separate_kernels or ""), str(row.merged_kernels or "")
        rows.append((row.kind, separate, counts[0], merged, counts[1], loss))
    console.table(("operators", "separate ms", "kernels", "merged ms", "kernels", "lost ms"), rows)


def _more(rows: tuple[KindRow, ...], console: Screen) -> None:
    separate, merged = sum(row.separate for row in rows), sum(row.merged for row in rows)
    rest = len(rows) - KINDS
    more = f" {rest} kinds between the two are in --json." if rest > 0 else ""
    console.say(f"In all kernels: {separate * 1e3:.3f} ms separate, {merged * 1e3:.3f} ms merged.{more}")
