"""Simple ways to place a fleet, for comparison with a plan: nothing merged, one group for each family, and
machines of each family's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from netfuse_onnx.errors import NoPlan
from netfuse_onnx.fleet import bounds, checking
from netfuse_onnx.fleet.checking import Checked
from netfuse_onnx.fleet.heuristic import Item, NoRoom, Packer, Way
from netfuse_onnx.fleet.load import Group
from netfuse_onnx.fleet.placement import Placement
from netfuse_onnx.fleet.report import Alternative
from netfuse_onnx.fleet.rules import Rules
from netfuse_onnx.fleet.types import Fleet

Factors = Mapping[tuple[int, int], float]
MOST_SHARE = 64


@dataclass(frozen=True, slots=True)
class Simple:
    """A simple way: its line for the report; its plan and simulation, where it is one plan for the fleet."""

    told: Alternative
    plan: Placement | None = None
    checked: Mapping[int, Checked] = field(default_factory=dict)


def all_of(fleet: Fleet, factors: Factors, simulate: int, until: float) -> tuple[Simple, ...]:
    """Return all simple ways; those that are not begun by `until` are left out."""
    makers: dict[str, Callable[[Fleet, Factors], list[Placement]]] = {
        "no merging": _apart,
        "each family in as few groups as may be": _whole,
        "each family on machines of its own": _by_family,
    }
    return tuple(
        _one(name, maker, fleet, factors, simulate)
        for name, maker in makers.items()
        if time.monotonic() < until
    )


def _one(
    name: str,
    maker: Callable[[Fleet, Factors], list[Placement]],
    fleet: Fleet,
    factors: Factors,
    simulate: int,
) -> Simple:
    try:
        plans = maker(fleet, factors)
    except NoRoom as error:
        family = error.item.family
        said = f"family {fleet.families[family].name!r} finds no room"
        return Simple(Alternative(name, 0, 0.0, None, said))
    except NoPlan as error:
        return Simple(Alternative(name, 0, 0.0, None, error.message))
    late: list[float] = []
    every: dict[int, Checked] = {}
    for plan in plans:
        every = checking.checked(plan, checking.fullest(plan, simulate), 2000)
        for number, found in every.items():
            late += checking.worst(plan, plan.machines[number], found).values()
    machines = sum(len(plan.machines) for plan in plans)
    told = Alternative(name, machines, sum(plan.price for plan in plans), max(late, default=None))
    return Simple(told, plans[0], every) if len(plans) == 1 else Simple(told)


def _best(rules: Rules, made: list[Way]) -> Placement:
    packer = Packer(rules, bounds.shares(rules))
    plans = []
    for way in made:
        try:
            plans.append(packer.packed(way))
        except NoRoom as error:
            last = error
    if not plans:
        raise last
    return min(plans, key=lambda plan: plan.score)


def _apart(fleet: Fleet, factors: Factors) -> list[Placement]:
    """Return the plan in which each model has a process of its own."""
    alone = replace(fleet, families=tuple(replace(one, max_models=1) for one in fleet.families))
    return [_best(Rules(alone, dict(factors)), [Way(apart=True), Way(apart=True, by_family=True)])]


def _by_family(fleet: Fleet, factors: Factors) -> list[Placement]:
    """Return the plans of each family by itself."""
    plans = []
    for f, family in enumerate(fleet.families):
        own = {(0, k): factors[f, k] for k in range(len(fleet.kinds))}
        rules = Rules(replace(fleet, families=(family,)), own)
        plans.append(_best(rules, [Way(together) for together in (True, False)]))
    return plans


def _whole(fleet: Fleet, factors: Factors) -> list[Placement]:
    """Return the plan in which the models of a family are as few groups as `max_models` allows, each on as
    many machines as it needs."""
    rules = Rules(fleet, dict(factors))
    packer = Packer(rules, [[1] * len(one.models) for one in fleet.families])
    plan = Placement(rules)
    for f, family in enumerate(fleet.families):
        groups = -(-len(family.models) // family.max_models)
        for first in range(groups):
            members = range(first, len(family.models), groups)
            share = _share(rules, f, members)
            if share is None:
                raise NoRoom(Item(f, first, 1), plan)
            group = Group.of(rules.loads, f, share, members)
            packer.place(plan, Item(f, first, share), group, list(plan.machines), Way())
    plan.shrink()
    return [plan]


def _share(rules: Rules, family: int, members: range) -> int | None:
    """Return the smallest number of machines that a group must be on, so that one can hold its part."""
    for share in range(1, MOST_SHARE + 1):
        group = Group.of(rules.loads, family, share, members)
        if any(rules.fit(kind, [group]) for kind in range(len(rules.fleet.kinds))):
            return share
    return None
