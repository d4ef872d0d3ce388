"""Prints the plan of a fleet."""

from __future__ import annotations

from netfuse_onnx.fleet.report import FleetReport
from netfuse_onnx.units import duration

from .screen import Screen, size, some

MOST = 40
"""At most so many machines and groups are printed; --json has them all."""


def fleet(report: FleetReport, console: Screen) -> None:
    """Print machines, groups, families, and the comparison with simple ways."""
    machines = [
        (
            str(row.number), row.kind, some(row.groups, 4), f"{row.utilisation:.0%}",
            f"{size(row.memory)} of {size(row.memory_of)}", f"{row.expected:.2f}", _part(row.p99),
        )
        for row in report.machines[:MOST]
    ]  # fmt: skip
    console.table(
        ("machine", "kind", "groups", "busy", "memory", "p99/target expected", "simulated"), machines
    )
    _more(len(report.machines), "machines", console)
    groups = [
        (
            row.name, f"{len(row.models)}: {some(row.models, 3)}", some([str(m) for m in row.machines]),
            f"{row.rate:.4g}/s", size(row.memory), duration(row.target), _time(row.p99),
        )
        for row in report.groups[:MOST]
    ]  # fmt: skip
    console.table(("group", "models", "on machines", "rate", "memory", "target", "simulated p99"), groups)
    _more(len(report.groups), "groups", console)
    ways = [
        (way.name, "none", "", "", way.problem)
        if way.problem
        else (way.name, str(way.machines), f"{way.price:g}", _part(way.p99), "")
        for way in report.alternatives
    ]
    if ways:
        plan = ("this plan", str(len(report.machines)), f"{report.price:g}", _part(report.worst), "")
        console.table(("way", "machines", "price", "simulated p99/target", ""), [plan, *ways])
    _summary(report, console)


def _summary(report: FleetReport, console: Screen) -> None:
    price = f", price {report.price:g}" if report.objective == "price" else ""
    proof = "proven to be the best" if report.optimal else f"no plan is below {report.bound:g}"
    console.say(
        f"Plan: {report.models} models in {len(report.groups)} groups on {len(report.machines)} machines"
        f"{price}; {proof}, by the model of load."
    )
    if report.worst is not None:
        console.say(
            f"Simulated: {report.simulated} of {len(report.machines)} machines; the worst p99 is "
            f"{report.worst:.2f} of its target."
        )
    for note in report.notes:
        console.say(f"Note: {note}")
    for row in report.machines[:1]:
        for command in row.serve[:1]:
            console.say(f"Machine {row.number} runs, among others in --json: {command}")
    if report.fault:
        console.say(f"netfuse-onnx: error: {report.fault.message}")


def _more(count: int, what: str, console: Screen) -> None:
    if count > MOST:
        console.say(f"and {count - MOST} more {what}, see --json")


def _part(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _time(value: float | None) -> str:
    return "" if value is None else duration(value)
