"""A fleet that can't be served, in words; and a price that no plan is below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from netfuse_onnx.errors import NoPlan
from netfuse_onnx.fleet.heuristic import NoRoom, Packer, ways
from netfuse_onnx.fleet.rules import Rules, can_answer
from netfuse_onnx.fleet.types import Family, Fleet
from netfuse_onnx.units import duration, size

MORE = 10_000
"""Machines of each kind in a fleet without bounds."""


def refuse_misfits(fleet: Fleet) -> None:
    """Raise NoPlan where a model fits on no machine, or no machine answers in time."""
    for family in fleet.families:
        able = [kind for kind in fleet.kinds if can_answer(family, kind)]
        if not able:
            fastest = max(fleet.kinds, key=lambda kind: kind.speed)
            least = (family.times.alone(1) + family.overhead) / fastest.speed
            raise NoPlan(
                f"Family {family.name!r} can't meet its target of {duration(family.p99)}: one request alone "
                f"takes {duration(least)} on a machine {fastest.name!r}.",
                "Give a longer p99, or faster machines.",
            )
        largest = max(able, key=lambda kind: kind.memory)
        for model, weights in zip(family.models, family.weights, strict=True):
            if family.memory(1, weights) > largest.memory:
                raise NoPlan(
                    f"Model {model!r} of family {family.name!r} fits on no machine: it takes "
                    f"{size(family.memory(1, weights))}, and {largest.name!r} has {size(largest.memory)}.",
                    "Give machines with more memory.",
                )
        _refuse_spare(fleet, family)


def _refuse_spare(fleet: Fleet, family: Family) -> None:
    counts = [kind.count for kind in fleet.kinds]
    machines = sum(count for count in counts if count is not None)
    if None not in counts and machines < family.spare + 1:
        raise NoPlan(
            f"Family {family.name!r} needs {family.spare + 1} machines for spare = {family.spare}, and there "
            f"are {machines}.",
            "Give more machines, or fewer spare ones.",
        )


def shares(rules: Rules) -> list[list[int]]:
    """Return the least number of machines that share each model, of each family. Raises NoPlan."""
    found = []
    for f, family in enumerate(rules.fleet.families):
        each, known = [], dict[tuple[float, int], int | None]()
        for m, model in enumerate(family.models):
            key = family.rates[m], family.weights[m]
            if key not in known:
                known[key] = rules.least_share(f, m)
            share = known[key]
            if share is None:
                raise NoPlan(
                    f"Model {model!r} of family {family.name!r} has too many requests: {family.rates[m]:g} "
                    "per second are too much for 64 machines.",
                    "Check its rate and the costs, or give machines with more workers.",
                )
            each.append(share)
        found.append(each)
    return found


def no_room(rules: Rules, least: Sequence[Sequence[int]], missing: NoRoom) -> NoPlan:
    """Return the error that the machines are too few, with how many would do."""
    item = missing.item
    family = rules.fleet.families[item.family]
    kinds = tuple(replace(kind, count=None) for kind in rules.fleet.kinds)
    free = Rules(replace(rules.fleet, kinds=kinds), rules.factors)
    plan = min(
        (Packer(free, least).packed(way) for way in ways(len(kinds), False)), key=lambda plan: plan.score
    )
    wanted = [machine.kind for machine in plan.machines.values()]
    counts = ", ".join(f"{wanted.count(k)} of {kinds[k].name!r}" for k in sorted(set(wanted)))
    have = ", ".join(f"{kind.count} of {kind.name!r}" for kind in rules.fleet.kinds if kind.count is not None)
    return NoPlan(
        f"The machines are too few: model {family.models[item.model]!r} of {family.name!r} found no room.",
        f"There are {have}; {counts} would do.",
    )


def lowest(rules: Rules) -> float:
    """Return a price that no plan is below, by the model of load: what memory and calls take at the least, on
    the machines with the most of either for their price."""
    fleet = rules.fleet
    memory = load = 0.0
    for family in fleet.families:
        replicas = 1 + family.spare
        memory += replicas * (sum(family.weights) + family.process + family.base)
        each = family.times.least_per_row(max(2, min(family.max_models, len(family.models))))
        load += sum(family.rates) * (each + family.overhead)
    prices = [fleet.price([k]) for k in range(len(fleet.kinds))]
    by_memory = min(price / kind.memory for price, kind in zip(prices, fleet.kinds, strict=True))
    top = max([1.0, *rules.factors.values()])
    by_load = min(
        price / (top * kind.workers * kind.speed) for price, kind in zip(prices, fleet.kinds, strict=True)
    )
    most_spare = max(family.spare for family in fleet.families)
    found = max(memory * by_memory, load * by_load, (1 + most_spare) * min(prices))
    if all(price == prices[0] for price in prices):
        return prices[0] * math.ceil(found / prices[0] - 1e-9)
    return found
