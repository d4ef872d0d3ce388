"""Turns a plan and its simulation into a report, with the commands to run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from netfuse_onnx.fleet import bounds, checking
from netfuse_onnx.fleet.checking import Checked
from netfuse_onnx.fleet.load import Group
from netfuse_onnx.fleet.placement import Placement
from netfuse_onnx.fleet.report import Alternative, FleetFamily, FleetGroup, FleetMachine, FleetReport
from netfuse_onnx.fleet.rules import Rules

PORT = 8000
"""The port of the first process of a machine. Each has two: HTTP, then gRPC."""
STEPS = 12


def report(
    plan: Placement,
    checked: Mapping[int, Checked],
    optimal: bool,
    scale: float,
    others: Sequence[Alternative],
) -> FleetReport:
    """Return the report of a plan. Machines and groups are numbered in the order of kinds and families."""
    rules, fleet = plan.rules, plan.rules.fleet
    machines = sorted(plan.machines, key=lambda n: (plan.machines[n].kind, _first(plan, n), n))
    numbers = {machine: i + 1 for i, machine in enumerate(machines)}
    groups = sorted(plan.groups, key=lambda g: (plan.groups[g].family, plan.groups[g].members[0], g))
    names = _names(plan, groups)
    worst: dict[int, float] = {}
    for machine, found in checked.items():
        for g, p99 in zip(plan.machines[machine].groups, found.p99, strict=True):
            worst[g] = max(worst.get(g, 0.0), p99)
    group_rows = tuple(_group(plan, g, names[g], numbers, worst.get(g)) for g in groups)
    machine_rows = tuple(_machine(plan, m, numbers[m], names, checked.get(m)) for m in machines)
    late = [row.p99 for row in machine_rows if row.p99 is not None]
    return FleetReport(
        fleet.file,
        "price" if fleet.priced else "machines",
        plan.price,
        min(bounds.lowest(rules), plan.price),
        optimal,
        fleet.models,
        machine_rows,
        group_rows,
        tuple(_family(plan, f, group_rows) for f in range(len(fleet.families))),
        len(checked),
        max(late, default=None),
        scale,
        tuple(others),
        tuple(_notes(plan, checked)),
    )


def _first(plan: Placement, machine: int) -> tuple[int, int]:
    return min((plan.groups[g].family, plan.groups[g].members[0]) for g in plan.machines[machine].groups)


def _names(plan: Placement, groups: Sequence[int]) -> dict[int, str]:
    """Return a name for each group: the family's and a number."""
    counts: dict[int, int] = {}
    names = {}
    for g in groups:
        family = plan.groups[g].family
        counts[family] = counts.get(family, 0) + 1
        names[g] = f"{plan.rules.fleet.families[family].name}-{counts[family]}"
    return names


def _group(plan: Placement, g: int, name: str, numbers: Mapping[int, int], p99: float | None) -> FleetGroup:
    group = plan.groups[g]
    about = group.about
    models = tuple(about.models[m] for m in group.members)
    kind = plan.rules.fleet.kinds[plan.machines[plan.places[g][0]].kind]
    return FleetGroup(
        name,
        about.name,
        models,
        tuple(sorted(numbers[machine] for machine in plan.places[g])),
        group.rate,
        group.load(group.round, kind.workers),
        group.memory,
        about.p99,
        p99,
        _merge(name, about.path, models),
    )


def _merge(name: str, path: str, models: Sequence[str]) -> str:
    if len(models) == 1:
        return ""
    sources = [shlex.quote(f"{model}={path.replace('{model}', model)}") for model in models]
    return f"netfuse-onnx merge {' '.join(sources)} -o {shlex.quote(name)} --io stacked --views"


def _serve(plan: Placement, g: int, name: str, place: int) -> str:
    group = plan.groups[g]
    about = group.about
    ports = PORT + 2 * place, PORT + 2 * place + 1
    served = shlex.quote(name)
    if len(group.members) == 1:
        served = shlex.quote(about.path.replace("{model}", about.models[group.members[0]]))
    return (
        f"netfuse-onnx serve {served} --name {shlex.quote(about.name)} --http 0.0.0.0:{ports[0]} "
        f"--grpc 0.0.0.0:{ports[1]}"
    )


def _machine(
    plan: Placement, m: int, number: int, names: Mapping[int, str], found: Checked | None
) -> FleetMachine:
    one = plan.machines[m]
    kind = plan.rules.fleet.kinds[one.kind]
    capacity = kind.workers * kind.speed
    late = max(checking.worst(plan, one, found).values()) if found else None
    return FleetMachine(
        number,
        kind.name,
        tuple(names[g] for g in one.groups),
        one.use.load / capacity,
        one.use.most / capacity,
        one.use.memory,
        kind.memory,
        expected(plan.rules, one.kind, [plan.groups[g] for g in one.groups]),
        late,
        found.busy if found else None,
        tuple(_serve(plan, g, names[g], i) for i, g in enumerate(one.groups)),
    )


def expected(rules: Rules, kind: int, groups: Sequence[Group]) -> float:
    """Return the part of the targets that the model of load expects the 99th percentile to be: the least for
    which the machine could hold its groups if their targets were that part of what they are."""
    low, high = 0.0, 1.0
    about = rules.fleet.kinds[kind]
    for group in groups:
        family = group.about
        low = max(low, (family.times.alone(1) + family.overhead) / about.speed / family.p99)
    low, factors = min(low, 1.0), rules.factors
    for _ in range(STEPS):
        part = (low + high) / 2
        families = tuple(replace(one, p99=part * one.p99) for one in rules.fleet.families)
        closer = Rules(replace(rules.fleet, families=families), factors)
        made = [Group.of(closer.loads, one.family, one.share, one.members) for one in groups]
        low, high = (low, part) if closer.holds(kind, closer.use(kind, made)) else (part, high)
    return high


def _family(plan: Placement, f: int, groups: Sequence[FleetGroup]) -> FleetFamily:
    about = plan.rules.fleet.families[f]
    mine = [row for row in groups if row.family == about.name]
    late = [row.p99 for row in mine if row.p99 is not None]
    return FleetFamily(
        about.name,
        len(about.models),
        len(mine),
        sum(len(row.machines) for row in mine),
        len({machine for row in mine for machine in row.machines}),
        about.p99,
        max(late, default=None),
        any(group.merges(group.round) for group in plan.groups.values() if group.family == f),
    )


def _notes(plan: Placement, checked: Mapping[int, Checked]) -> list[str]:
    notes = []
    if refused := [found.refused for found in checked.values() if found.refused > 0]:
        notes.append(
            f"On {len(refused)} machines a full queue refused requests, up to {max(refused):.2%} of them."
        )
    short = [m for m, found in checked.items() if 0 < found.lasted < 5 * _longest(plan, m)]
    if short:
        notes.append(
            f"{len(short)} simulations lasted less than 5 times the target: their requests are many."
        )
    if any(family.spare for family in plan.rules.fleet.families):
        notes.append("Loads and latencies are those with the spare machines missing.")
    return notes


def _longest(plan: Placement, machine: int) -> float:
    return max(plan.groups[g].about.p99 for g in plan.machines[machine].groups)
