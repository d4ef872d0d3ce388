"""Simple ways to place a fleet, for comparison with a plan: nothing merged, one group for each family, and
machines of each family's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from netfuse_onnx.errors import NoPlan
from netfuse_onnx.fleet import bounds, checking
from netfuse_onnx.fleet.heuristic import Item, NoRoom, Packer, Way
from netfuse_onnx.fleet.load import Group
from netfuse_onnx.fleet.placement import Placement
from netfuse_onnx.fleet.report import Alternative
from netfuse_onnx.fleet.rules import Rules
from netfuse_onnx.fleet.types import Fleet

Factors = Mapping[tuple[int, int], float]
MOST_SHARE = 64


def all_of(fleet: Fleet, factors: Factors, simulate: int, until: float) -> tuple[Alternative, ...]:
    """Return all simple ways."""
    makers: dict[str, Callable[[Fleet, Factors], list[Placement]]] = {
        "no merging": _apart,
        "each family merged as a whole": _whole,
        "each family on machines of its own": _by_family,
    }
    return tuple(_one(name, maker, fleet, factors, simulate) for name, maker in makers.items())


def _one(
    name: str,
    maker: Callable[[Fleet, Factors], list[Placement]],
    fleet: Fleet,
    factors: Factors,
    simulate: int,
) -> Alternative:
    try:
        plans = maker(fleet, factors)
    except NoRoom as error:
        family = error.item.family
        return Alternative(name, 0, 0.0, None, f"family {fleet.families[family].name!r} finds no room")
    except NoPlan as error:
        return Alternative(name, 0, 0.0, None, error.message)
    late: list[float] = []
    for plan in plans:
        for number, found in checking.checked(plan, checking.fullest(plan, simulate), 2000).items():
            late += checking.worst(plan, plan.machines[number], found).values()
    machines = sum(len(plan.machines) for plan in plans)
    return Alternative(name, machines, sum(plan.price for plan in plans), max(late, default=None))


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
    """Return the plan in which all models of a family are one group, on as many machines as it needs."""
    large = replace(fleet, families=tuple(replace(one, max_models=len(one.models)) for one in fleet.families))
    rules = Rules(large, dict(factors))
    packer = Packer(rules, [[1] * len(one.models) for one in large.families])
    plan = Placement(rules)
    for f, family in enumerate(large.families):
        every = range(len(family.models))
        for share in range(1, MOST_SHARE + 1):
            group = Group.of(rules.loads, f, share, every)
            if any(rules.fit(kind, [group]) for kind in range(len(fleet.kinds))):
                packer.place(plan, Item(f, 0, share), group, list(plan.machines), Way())
                break
        else:
            raise NoRoom(Item(f, 0, 1), plan)
    plan.shrink()
    return [plan]
