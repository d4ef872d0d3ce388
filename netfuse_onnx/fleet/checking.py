"""Simulates the machines of a plan, and measures how much load a machine may have before a target is
missed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from netfuse_onnx.fleet.load import FRONT, Group, Loads
from netfuse_onnx.fleet.placement import Machine, Placement
from netfuse_onnx.fleet.rules import can_answer
from netfuse_onnx.fleet.simulation import Process, Served, Simulation, arrivals
from netfuse_onnx.fleet.types import Family, Fleet, Kind

TARGETS, LEAST = 40, 4000
"""A simulation lasts so many times the longest target, and has so many requests at least."""
MOST = 20_000
"""The most requests of one simulation, whatever it lasts then."""
WARM_UP = 0.2
"""The first part of a simulation, which does not count: the queues are empty at its start."""
STEPS, HIGHEST, LOWEST = 7, 1.6, 0.02
"""The steps of the bisection for a factor, and its bounds; the lower one is a part of the upper one."""
FULL, ELASTIC = 0.95, 1.1
"""A machine whose calls do not get fewer under load is never busy for a larger part of the time. They do
where the load with rounds of four times the length is less by this factor."""
MOST_PAIRS = 8
"""Families on kinds whose factors are measured by themselves; others take that of the nearest."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The simulation of one machine: the 99th percentile of each group's latencies, the part of the workers'
    time that was busy, and the part of the requests that found the queue full. `lasted` are seconds."""

    p99: tuple[float, ...]
    busy: float
    refused: float
    lasted: float
    merged: float = 0.0
    """The part of the calls that were merged ones."""


def process(group: Group, kind: Kind) -> Process:
    """Return the process of a group on a machine of a kind, with its part of the rates."""
    about = group.about
    limits = about.times.limits
    if about.own_sessions == 0 and len(group.members) > 1:
        limits = replace(limits, own_sessions=False)
    return Process(
        [about.rates[m] / group.share for m in group.members],
        about.times.costs(len(group.members), kind.speed),
        limits,
        about.overhead / kind.speed,
    )


def simulate(kind: Kind, groups: Sequence[Group], seed: int = 0, most: int = MOST) -> Checked:
    """Simulate one machine with all its groups, as it is when the spare machines are missing."""
    rate = sum(group.rate for group in groups)
    longest = max(group.about.p99 for group in groups)
    if rate <= 0:
        return Checked((0.0,) * len(groups), 0.0, 0.0, 0.0)
    lasts = min(max(TARGETS * longest, LEAST / rate), most / rate)
    processes = [process(group, kind) for group in groups]
    came = arrivals([one.rates for one in processes], lasts, seed)
    served = Simulation(processes, kind.workers, WARM_UP * lasts).run(came)
    calls = sum(one.alone + one.merged for one in served)
    return Checked(
        tuple(one.percentile(99) for one in served),
        sum(one.seconds for one in served) / (kind.workers * lasts),
        _refused(served, len(came)),
        lasts,
        sum(one.merged for one in served) / calls if calls else 0.0,
    )


def _refused(served: Sequence[Served], came: int) -> float:
    return sum(one.refused for one in served) / came if came else 0.0


def checked(plan: Placement, numbers: Sequence[int], seed: int) -> dict[int, Checked]:
    """Simulate these machines of a plan."""
    kinds = plan.rules.fleet.kinds
    found = {}
    for number in numbers:
        one = plan.machines[number]
        found[number] = simulate(kinds[one.kind], [plan.groups[g] for g in one.groups], seed + number)
    return found


def fullest(plan: Placement, most: int) -> list[int]:
    """Return the machines with the most load for what they may have, and at least one of each family."""

    def load(number: int) -> float:
        use = plan.machines[number].use
        return -use.load / use.most if use.most else 0.0

    order = sorted(plan.machines, key=load)
    chosen, families = dict.fromkeys(order[:most]), set[int]()
    for number in order:
        found = {plan.groups[g].family for g in plan.machines[number].groups}
        if most and found - families:
            chosen[number] = None
        families |= found
    return list(chosen)


def worst(plan: Placement, machine: Machine, found: Checked) -> dict[int, float]:
    """Return the simulated 99th percentile of each family on a machine, as a part of its target."""
    parts: dict[int, float] = {}
    for number, p99 in zip(machine.groups, found.p99, strict=True):
        group = plan.groups[number]
        parts[group.family] = max(parts.get(group.family, 0.0), p99 / group.about.p99)
    return parts


# --------------------------------------------------------------------------- factors


def factors(fleet: Fleet) -> dict[tuple[int, int], float]:
    """Return the factor of each family on each kind: the load at which the simulated 99th percentile is just
    the target, as a part of the workers. Families of large fleets that are like others are not all
    measured."""
    found: dict[tuple[int, int], float] = {}
    measured: dict[tuple[object, ...], float] = {}
    order = sorted(range(len(fleet.families)), key=lambda f: -sum(fleet.families[f].rates))
    for f in order:
        for k, kind in enumerate(fleet.kinds):
            family = fleet.families[f]
            if not can_answer(family, kind):
                found[f, k] = 0.0
                continue
            key = _likeness(family, kind)
            if key not in measured and len(measured) >= MOST_PAIRS:
                found[f, k] = _nearest(measured, key)
                continue
            if key not in measured:
                measured[key] = factor(family, kind)
            found[f, k] = measured[key]
    return found


def _likeness(family: Family, kind: Kind) -> tuple[object, ...]:
    """Return what a factor depends on most."""
    return (
        id(family.times), family.p99, kind.workers, kind.speed, family.overhead, family.own_sessions == 0,
        min(len(family.models), family.max_models).bit_length(),
    )  # fmt: skip


def _nearest(measured: dict[tuple[object, ...], float], key: tuple[object, ...]) -> float:
    """Return the least factor of those that are like it in most."""

    def alike(other: tuple[object, ...]) -> int:
        return sum(a == b for a, b in zip(key, other, strict=True))

    most = max(alike(other) for other in measured)
    return min(value for other, value in measured.items() if alike(other) == most)


def factor(family: Family, kind: Kind) -> float:
    """Return the factor of one family on one kind, for a machine that is filled with its models."""
    count = min(len(family.models), family.max_models)
    order = sorted(range(len(family.models)), key=lambda m: -family.rates[m])
    step = len(order) / count
    members = [order[int(i * step)] for i in range(count)]
    rates = [max(family.rates[m], 1e-12) for m in members]
    high = ceiling(family, kind, _loaded(family, kind, members, rates, 1.0)[0])
    low = LOWEST * high
    for step in range(STEPS):
        middle = high if step == 0 else (low + high) / 2
        groups = _loaded(family, kind, members, rates, middle)
        found = simulate(kind, groups, 1, MOST // 2)
        if max(found.p99) <= family.p99:
            low = middle
            if step == 0:
                break
        else:
            high = middle
    return low


def ceiling(family: Family, kind: Kind, group: Group) -> float:
    """Return the most that a factor may be.

    Where longer rounds make the load clearly less, since more requests share calls, a queue that grows
    shrinks by itself, and simulation tells how far that goes. Else calls of s seconds are served like those
    of c workers in heavy traffic, where P(wait > x) = exp(-2 c (1 - load) x / (load s)): no more than a
    hundredth may wait for longer than the target leaves. No simulation of bearable length could tell that.
    """
    if group.load(0, kind.workers) > ELASTIC * group.longer(kind.workers):
        return HIGHEST
    seconds = (
        min(group.load(0, kind.workers) / group.rate, family.times.alone(1) + family.overhead) / kind.speed
    )
    left = max(family.p99 - seconds, 1e-12)
    return min(FULL, 1 / (1 + math.log(100) / 2 * seconds / (kind.workers * left)))


def _loaded(
    family: Family, kind: Kind, members: Sequence[int], rates: Sequence[float], part: float
) -> list[Group]:
    """Return groups whose load is this part of a machine: one, or more where one front could not take it."""
    wanted = part * kind.workers * kind.speed
    for copies in range(1, kind.workers + 2):
        low, high = 0.0, 1e9 / sum(rates)
        group = _scaled(family, members, rates, low)
        for _ in range(50):
            middle = (low * high) ** 0.5 if low else high / 1e6
            group = _scaled(family, members, rates, middle)
            low, high = (middle, high) if copies * group.load(0, kind.workers) < wanted else (low, middle)
            if low and high / low < 1.002:
                break
        if group.rate * family.overhead <= FRONT * kind.speed:
            break
    return [group] * copies


def _scaled(family: Family, members: Sequence[int], rates: Sequence[float], by: float) -> Group:
    """Return the group of these models with their rates multiplied."""
    some = replace(
        family,
        models=tuple(family.models[m] for m in members),
        rates=tuple(rate * by for rate in rates),
        weights=tuple(family.weights[m] for m in members),
    )
    return Group.of(Loads(Fleet((some,), ())), 0, 1, range(len(members)))
