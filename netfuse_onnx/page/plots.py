"""The plots of the page: plans by their predicted cost, plans and ways by measured times, and calls that want
some of the models."""

from __future__ import annotations

from markupsafe import Markup

from netfuse_onnx.lowered import Lowered
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.page.material import Material
from netfuse_onnx.page.plot import Bar, bars
from netfuse_onnx.tuning import TunedRow, Tuning
from netfuse_onnx.types import Became
from netfuse_onnx.units import duration

CHOSEN = "chosen"


def _micro(value: float) -> str:
    return duration(value * 1e-6)


def plans(material: Material) -> Markup:
    """Return the plot of the plan that won and those that lost, by the costs of the target."""
    lowered = material.about.lowered
    if not lowered.predicted:
        return Markup("")
    rows = [Bar("this plan", sum(lowered.predicted.values()), kind=CHOSEN)]
    rows += [Bar(name, cost) for name, cost in lowered.alternatives.items()]
    routing = material.merge.routing if material.merge else ()
    rows += [
        Bar(f"rows by {row.by}", row.microseconds)
        for row in routing
        if not row.chosen and row.microseconds is not None
    ]
    return bars(sorted(rows, key=lambda row: row.value), _micro, "Plans by their predicted time of a call")


def parts(lowered: Lowered) -> Markup:
    """Return the plot of the predicted time by what became of the nodes."""
    kinds = {**{str(kind): str(kind) for kind in Became}, "conversions": "conversion"}
    rows = [Bar(name, cost, kind=kinds.get(name, "")) for name, cost in lowered.predicted.items()]
    ordered = sorted(rows, key=lambda row: -row.value)
    return bars(ordered, _micro, "The predicted time of a call, by what became of nodes")


def tuned(tuning: Tuning) -> list[tuple[str, Markup]]:
    """Return a plot for each choice of sizes: all plans and ways that were measured."""
    found = []
    for case in tuning.cases:
        rows = [row for row in tuning.rows if row.case == case.case and row.seconds is not None]
        listed = [_tuned(row, tuning.chosen) for row in sorted(rows, key=lambda row: row.seconds or 0.0)]
        found.append((case.case, bars(listed, duration, f"Measured plans and ways, {case.case}")))
    return found


def _tuned(row: TunedRow, chosen: str) -> Bar:
    kind = CHOSEN if row.merged and row.way == chosen else "merged" if row.merged else ""
    note = f"{row.ratio:.2f} ×" if row.ratio is not None else ""
    return Bar(row.way, row.seconds or 0.0, row.low, row.high, kind, note)


def bench(report: BenchReport) -> Markup:
    """Return the plot of all ways that ran, the fastest first."""
    rows = [row for row in report.rows if row.ran and row.seconds is not None]
    best = {row.label: row for row in sorted(rows, key=lambda row: -row.median)}
    return bars(
        [
            Bar(
                row.label, row.median, row.seconds.low, row.seconds.high,
                CHOSEN if row.merged else "", row.settings[:24],
            )
            for row in sorted(best.values(), key=lambda row: row.median)
            if row.seconds
        ],
        duration,
        f"Time of a call of all models, {report.case}",
    )  # fmt: skip


def waiting(report: BenchReport) -> Markup:
    """Return the plot of calls that want some of the models: how much faster the merged call is."""
    rows = [
        Bar(
            f"{row.models} of {len(report.models)} wait, {row.best}", row.times.median, row.times.low,
            row.times.high, CHOSEN if row.times.median > 1.0 else "",
        )
        for row in report.waiting
    ]  # fmt: skip
    return bars(
        rows,
        lambda value: f"{value:.2f} ×",
        "Speed of a merged call beside sessions, by the models that wait",
    )
