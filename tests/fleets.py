"""Fleets for tests and benchmarks, drawn from a seed, with the cost tables of tests/costs."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator, Sequence

from simulated import FORM, recorded

from netfuse_onnx.errors import NoPlan
from netfuse_onnx.fleet import bounds, exact, heuristic
from netfuse_onnx.fleet.load import Group
from netfuse_onnx.fleet.placement import Placement
from netfuse_onnx.fleet.rules import Rules
from netfuse_onnx.fleet.times import Times
from netfuse_onnx.fleet.types import Family, Fleet, Kind
from netfuse_onnx.runtime.cost_table import CostTable, cost_table
from netfuse_onnx.runtime.limits import Limits

MB = 10**6
NAMES = ("lora", "lora-selected", "bert", "frozen")
TURNS = 1200


def table(name: str) -> CostTable:
    """The cost table of a family that was measured."""
    costs = recorded(name)
    return cost_table(costs, FORM, Limits(), models=costs.models, workers=1, threads=1)


@functools.cache
def times(name: str) -> Times:
    return Times(table(name))


def family(
    name: str,
    rates: Sequence[float],
    *,
    costs: str = "lora",
    weights: int = 20 * MB,
    p99: float = 0.05,
    **more: object,
) -> Family:
    """A family of models with these rates."""
    models = tuple(f"{name}{i}" for i in range(len(rates)))
    return Family(name, models, tuple(rates), (weights,) * len(rates), times(costs), p99, **more)  # type: ignore[arg-type]


def small(seed: int, most: int = 8) -> Fleet:
    """A fleet of up to `most` models, of one to three families, on one or two kinds of machines."""
    drawn = random.Random(seed)
    total = drawn.randint(3, most)
    count = min(drawn.choice((1, 1, 2, 2, 3)), total)
    cuts = sorted(drawn.sample(range(1, total), count - 1))
    families = tuple(
        _drawn_family(drawn, f"f{i}", end - start)
        for i, (start, end) in enumerate(itertools.pairwise([0, *cuts, total]))
    )
    largest = max(one.base + one.process + 2 * max(one.weights) for one in families)
    memory, workers = int(largest * drawn.choice((1.05, 1.5, 2.2, 3))), drawn.choice((1, 2))
    kinds = [Kind("small", memory, workers)]
    if drawn.random() < 0.6:
        price, bound = drawn.choice((1.6, 1.9, 2.2)), drawn.choice((None, 2))
        kinds.append(Kind("large", 2 * memory, 2 * workers, bound, price))
    return Fleet(families, tuple(kinds), len(kinds) > 1 and drawn.random() < 0.7)


def _drawn_family(drawn: random.Random, name: str, count: int) -> Family:
    costs = times(drawn.choice(NAMES))
    alone, weights = costs.alone(1), drawn.choice((20, 50, 100)) * MB
    parts = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.9)
    return Family(
        name,
        tuple(f"{name}-{i}" for i in range(count)),
        tuple(drawn.choice(parts) * drawn.uniform(0.8, 1.2) * 1.5 / alone for _ in range(count)),
        tuple(int(weights * drawn.uniform(0.7, 1.3)) for _ in range(count)),
        costs,
        alone * drawn.choice((10, 20, 40)),
        base=drawn.choice((0, 0, 40 * MB)),
        spare=int(drawn.random() < 0.15),
        overhead=drawn.choice((0.0, 0.0003)),
        process=drawn.choice((0, 30 * MB)),
        own_sessions=drawn.choice((None, None, 0, 1)),
    )


def gap(seed: int, most: int = 7) -> float | None:
    """Return by which part the heuristic's price is above the optimum; None where the fleet can't be served, or has too many
    patterns to be solved in short time."""
    rules = Rules(small(seed, most))
    try:
        shares = bounds.shares(rules)
        best = exact.solve(rules, shares, 20.0)
    except (NoPlan, exact.TooLarge):
        return None
    if best.plan is None or not best.optimal:
        return None
    plan = heuristic.made(heuristic.Packer(rules, shares), TURNS)
    valid(plan)
    return plan.price / best.plan.price - 1


def medium(seed: int) -> Fleet:
    """A fleet of 20 to 120 models that needs several machines for its load."""
    drawn = random.Random(seed)
    families = []
    for i in range(drawn.choice((1, 2, 3))):
        costs = times(drawn.choice(NAMES))
        count, alone = drawn.randint(8, 40), costs.alone(1)
        total = drawn.uniform(3, 12) / alone
        power = drawn.choice((0.0, 0.7, 1.0))
        weights = [(k + 1) ** -power for k in range(count)]
        rates = tuple(total * weight / sum(weights) for weight in weights)
        models = tuple(f"f{i}-{k}" for k in range(count))
        families.append(
            Family(
                f"f{i}", models, rates, (20 * MB,) * count, costs, alone * drawn.choice((15, 30, 60)),
                base=drawn.choice((0, 50 * MB)), overhead=drawn.choice((0.0, 0.0002)), process=90 * MB,
            )
        )  # fmt: skip
    return Fleet(tuple(families), (Kind("m", 8000 * MB, drawn.choice((2, 4, 8))),))


def large(models: int) -> Fleet:
    """A fleet of many models, in five families of which few models have most of the requests."""
    drawn, families = random.Random(models), []
    for i, name in enumerate(("lora", "policy", "bert", "lora-selected", "frozen")):
        costs, count = times(name), models // 5
        weights = [(k + 1) ** -0.8 for k in range(count)]
        total = 0.006 * models / costs.alone(1) if name != "policy" else 3.0 * models
        rates = [total * weight / sum(weights) for weight in weights]
        drawn.shuffle(rates)
        names = tuple(f"f{i}-{k}" for k in range(count))
        families.append(
            Family(
                name, names, tuple(rates), (drawn.choice((5, 20, 50)) * MB,) * count, costs,
                costs.alone(1) * 40 if name != "policy" else 0.02, overhead=0.0002, process=90 * MB,
                max_models=4 * costs.measured,
            )
        )  # fmt: skip
    return Fleet(tuple(families), (Kind("m", 16_000 * MB, 8),))


def valid(plan: Placement) -> None:
    """Check a plan by itself: all models placed with all their requests, replicas apart, memory and load kept."""
    fleet, rules = plan.rules.fleet, plan.rules
    for number, machine in plan.machines.items():
        groups = [plan.groups[g] for g in machine.groups]
        assert groups and len(set(machine.groups)) == len(groups)
        assert sum(group.memory for group in groups) <= fleet.kinds[machine.kind].memory
        assert rules.fit(machine.kind, groups)
        assert all(number in plan.places[g] for g in machine.groups)
    placed: dict[tuple[int, int], int] = {}
    for g, group in plan.groups.items():
        on = [number for number, machine in plan.machines.items() if g in machine.groups]
        assert sorted(on) == sorted(plan.places[g])
        assert len(set(on)) == len(on) == group.share + group.about.spare
        for model in group.members:
            placed[group.family, model] = placed.get((group.family, model), 0) + 1
    assert placed == {(f, m): 1 for f, one in enumerate(fleet.families) for m in range(len(one.models))}
    for k, kind in enumerate(fleet.kinds):
        assert kind.count is None or sum(one.kind == k for one in plan.machines.values()) <= kind.count


# --------------------------------------------------------------------------- brute force


def brute_force(rules: Rules, shares: Sequence[Sequence[int]], most: int) -> float:
    """The least number of machines of one kind: all partitions of the models, all shares, all machines; `most` + 1
    where no plan has at most so many machines."""
    fleet = rules.fleet
    models = [(f, m) for f, one in enumerate(fleet.families) for m in range(len(one.models))]
    best = most + 1
    for blocks in _partitions(models):
        if any(len({f for f, _ in block}) > 1 for block in blocks):
            continue
        choices = [_groups(rules, shares, block) for block in blocks]
        for groups in itertools.product(*choices):
            ordered = sorted(groups, key=lambda group: -group.replicas)
            best = min(best, _fewest(rules, ordered, [], best - 1))
    return best


def _groups(rules: Rules, shares: Sequence[Sequence[int]], block: list[tuple[int, int]]) -> list[Group]:
    f, each = block[0][0], [shares[f][m] for f, m in block]
    allowed = range(max(each), min(each) + 2)
    return [Group.of(rules.loads, f, share, [m for _, m in block]) for share in allowed]


def _partitions(items: list[tuple[int, int]]) -> Iterator[list[list[tuple[int, int]]]]:
    if not items:
        yield []
        return
    for rest in _partitions(items[1:]):
        yield [[items[0]], *rest]
        for i, block in enumerate(rest):
            yield [*rest[:i], [items[0], *block], *rest[i + 1 :]]


def _fewest(rules: Rules, groups: Sequence[Group], machines: list[list[Group]], most: int) -> int:
    """The fewest machines that hold all groups beside what is there; `most` + 1 where no so many do."""
    if len(machines) > most:
        return most + 1
    if not groups:
        return len(machines)
    first, best = groups[0], most + 1
    fresh: list[list[Group]] = [[] for _ in range(first.replicas)]
    for on in itertools.combinations(range(len(machines) + first.replicas), first.replicas):
        new = sum(place >= len(machines) for place in on)
        if any(len(machines) <= place != len(machines) + i for i, place in enumerate(on[len(on) - new :])):
            continue  # new machines are alike: only the first ones are taken
        after = [list(one) for one in [*machines, *fresh[:new]]]
        for place in on:
            after[place].append(first)
        if all(rules.fit(0, after[place]) for place in on):
            best = min(best, _fewest(rules, groups[1:], after, best - 1))
    return best
