"""Groups on machines: a plan while it is made. A copy is quick, since groups never change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from netfuse_onnx.fleet.load import Group
from netfuse_onnx.fleet.rules import Rules, Use


class Machine(NamedTuple):
    """One machine: its kind, the groups on it by their numbers, and what they take."""

    kind: int
    groups: tuple[int, ...]
    use: Use


class Placement:
    """Groups by numbers, the machines of each, and the groups of each machine. The rules always hold."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.groups: dict[int, Group] = {}
        self.places: dict[int, tuple[int, ...]] = {}
        self.machines: dict[int, Machine] = {}
        self._next = 0

    def copy(self) -> Placement:
        """Return a plan that changes by itself."""
        copied = Placement(self.rules)
        copied.groups, copied.places = dict(self.groups), dict(self.places)
        copied.machines, copied._next = dict(self.machines), self._next
        return copied

    # ----------------------------------------------------------------------- what it costs

    @property
    def price(self) -> float:
        """The price of all machines, or their number: what is to be least."""
        return self.rules.fleet.price([machine.kind for machine in self.machines.values()])

    def fullness(self, machine: Machine) -> float:
        """Return the part of a machine that is taken: of its load or its memory, whichever is more."""
        memory = machine.use.memory / self.rules.fleet.kinds[machine.kind].memory
        return max(memory, machine.use.load / machine.use.most if machine.use.most else 0.0)

    @property
    def score(self) -> tuple[float, float]:
        """The figures that a search makes small: the price, then how evenly full the machines are. A plan
        with one full and one nearly empty machine is nearer to one machine than a plan with two that are half
        full."""
        return round(self.price, 9), -sum(self.fullness(one) ** 2 for one in self.machines.values())

    def left(self, kind: int) -> bool:
        """Return True where one more machine of a kind may be had."""
        count = self.rules.fleet.kinds[kind].count
        if count is None:
            return True
        return sum([machine.kind == kind for machine in self.machines.values()]) < count

    # ----------------------------------------------------------------------- changes

    def with_group(self, machine: int, group: Group) -> Use | None:
        """Return the resources of a machine with one more group; None where it does not fit."""
        one = self.machines[machine]
        rules = self.rules
        if not rules.can_run(one.kind, group):
            return None
        if one.use.memory + group.memory > rules.fleet.kinds[one.kind].memory:
            return None
        use = rules.use(one.kind, [*(self.groups[g] for g in one.groups), group])
        return use if rules.holds(one.kind, use) else None

    def with_other(self, machine: int, old: Group, new: Group) -> Use | None:
        """Return the resources of a machine on which a group is replaced by one of its family; None where it
        does not fit."""
        one = self.machines[machine]
        if not self.rules.can_run(one.kind, new):
            return None
        if one.use.memory + new.memory - old.memory > self.rules.fleet.kinds[one.kind].memory:
            return None
        groups = [new if self.groups[g] is old else self.groups[g] for g in one.groups]
        use = self.rules.use(one.kind, groups)
        return use if self.rules.holds(one.kind, use) else None

    def open(self, kind: int) -> int:
        """Add an empty machine, and return its number."""
        self._next += 1
        self.machines[self._next] = Machine(kind, (), self.rules.use(kind, ()))
        return self._next

    def add(self, group: Group, uses: dict[int, Use]) -> None:
        """Put a group on these machines, whose resources are given."""
        self._next += 1
        self.groups[self._next], self.places[self._next] = group, tuple(uses)
        for machine, use in uses.items():
            one = self.machines[machine]
            self.machines[machine] = Machine(one.kind, (*one.groups, self._next), use)

    def replace(self, number: int, group: Group, uses: dict[int, Use]) -> None:
        """Let a group be another, on the same machines."""
        self.groups[number] = group
        for machine, use in uses.items():
            self.machines[machine] = self.machines[machine]._replace(use=use)

    def remove(self, numbers: Iterable[int]) -> list[Group]:
        """Remove groups from all their machines, and the machines that are empty then."""
        removed, touched = [], dict[int, None]()
        for number in dict.fromkeys(numbers):
            removed.append(self.groups.pop(number))
            touched |= dict.fromkeys(self.places.pop(number))
        for machine in touched:
            one = self.machines[machine]
            kept = tuple(g for g in one.groups if g in self.groups)
            if kept:
                use = self.rules.use(one.kind, [self.groups[g] for g in kept])
                self.machines[machine] = Machine(one.kind, kept, use)
            else:
                del self.machines[machine]
        return removed

    def shrink(self) -> None:
        """Let each machine be of the cheapest kind that holds what is on it."""
        if not self.rules.fleet.priced:
            return
        kinds = self.rules.fleet.kinds
        cheapest = sorted(range(len(kinds)), key=lambda k: kinds[k].price)
        for number, one in list(self.machines.items()):
            groups = [self.groups[g] for g in one.groups]
            for kind in cheapest:
                if kinds[kind].price >= kinds[one.kind].price:
                    break
                if self.left(kind) and self.rules.fit(kind, groups):
                    self.machines[number] = Machine(kind, one.groups, self.rules.use(kind, groups))
                    break

    # ----------------------------------------------------------------------- reading

    def contents(self) -> Iterator[tuple[int, Sequence[Group]]]:
        """Yield the kind of each machine and its groups."""
        for one in self.machines.values():
            yield one.kind, [self.groups[g] for g in one.groups]
