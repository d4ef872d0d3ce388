"""The rules of a plan: what fits on one machine.

A machine of a kind holds processes, one for each group. Their memory is at most the machine's. Their loads,
with rounds as short as the tightest target among them wants, are at most workers * speed * factor, where the
factor of a family on a kind is measured (calibrate.py), and the smallest of those on the machine counts. The
front of each process, one thread, has a bound of its own. No two replicas of a group share a machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from netfuse_onnx.fleet.load import FRONT, Group, Loads
from netfuse_onnx.fleet.types import Family, Fleet, Kind

ALIKE, LEAST_IDLE = 0.5, 0.05
"""Groups with this part of the most load of one wait like it; and the least part of the time, by that of the
load, that a machine is taken to be idle."""
CLOSE = 1 + 1e-9
"""Sums of the same numbers in another order are equal."""


class Use(NamedTuple):
    """The resources that groups take on a machine: the place of the seconds of a round, the load, the most
    load that there may be, and bytes."""

    place: int
    load: float
    most: float
    memory: int


class Rules:
    """The rules for a fleet. `factors` has the factor of each family and kind, 0 where the family can't run
    there."""

    def __init__(self, fleet: Fleet, factors: dict[tuple[int, int], float] | None = None) -> None:
        self.fleet, self.loads = fleet, Loads(fleet)
        self.factors = {
            (f, k): float(can_answer(family, kind))
            for f, family in enumerate(fleet.families)
            for k, kind in enumerate(fleet.kinds)
        } | dict(factors or {})

    def use(self, kind: int, groups: Iterable[Group]) -> Use:
        """Return the resources that groups take on a machine of a kind, whether they fit or not."""
        groups = list(groups)
        place = min((group.round for group in groups), default=len(self.loads.rounds) - 1)
        about = self.fleet.kinds[kind]
        factor = min((self.factors[group.family, kind] for group in groups), default=1.0)
        loads = [group.load(place, about.workers) for group in groups]
        most = about.workers * about.speed * shared(factor, loads)
        return Use(place, sum(loads), most, sum([g.memory for g in groups]))

    def holds(self, kind: int, use: Use) -> bool:
        """Return True where a machine has these resources."""
        return use.memory <= self.fleet.kinds[kind].memory and use.load <= use.most * CLOSE

    def can_run(self, kind: int, group: Group) -> bool:
        """Return True where the group's one process may run on a kind, whatever runs beside it."""
        about = group.about
        front = group.rate * about.overhead <= FRONT * self.fleet.kinds[kind].speed * CLOSE
        return front and len(group.members) <= about.max_models and self.factors[group.family, kind] > 0

    def fit(self, kind: int, groups: Sequence[Group]) -> bool:
        """Return True where a machine of a kind may hold exactly these groups."""
        return all(self.can_run(kind, group) for group in groups) and self.holds(kind, self.use(kind, groups))

    def least_share(self, family: int, model: int, most: int = 64) -> int | None:
        """Return the smallest number of machines that share the rate of a model, so that it fits on one of
        them by itself; None where there is none up to `most`."""
        for share in range(1, most + 1):
            group = Group.of(self.loads, family, share, (model,))
            if any(self.fit(kind, [group]) for kind in range(len(self.fleet.kinds))):
                return share
        return None


def can_answer(family: Family, kind: Kind) -> bool:
    """Return True where a machine that does nothing else answers one request within the target."""
    return (family.times.alone(1) + family.overhead) / kind.speed <= family.p99


def shared(factor: float, loads: Sequence[float]) -> float:
    """Return the factor of a machine with groups of these loads, given that of a machine with one.

    The system gives all processes the same part of the cores. So where much waits, it waits in the groups
    with the most load, and for as long as if these had to bear all the waiting: 1 / `busiest` times as long.
    """
    if len(loads) < 2 or factor <= 0:
        return factor
    top, total = max(loads), sum(loads)
    busiest = sum([load for load in loads if load >= ALIKE * top]) / total if total else 1.0
    idle = max(1 / factor - 1, LEAST_IDLE)
    return factor * (1 + idle) / (1 + idle / busiest)
