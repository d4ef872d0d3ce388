"""Plans of any size: models are inserted one by one where they cost least, then parts are made again.

**Insertion** puts a model into the group, or as a group of its own on the machines, where it takes the
smallest part of machines more, and opens a machine only where it fits nowhere. Larger models come first.
`Way` says in which order, how far groups are preferred, and how many machines share a model.

**Search** (ruin and recreate, Schrimpf et al. 2000): the groups of one to three machines are taken out and
inserted again, in an order that is drawn; the new plan is kept where it is no worse. All that is drawn comes
from a seed, and the number of turns is fixed, so the same fleet has the same plan."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from netfuse_onnx.fleet.load import Group
from netfuse_onnx.fleet.placement import Placement
from netfuse_onnx.fleet.rules import Rules, Use

WINDOW = 8
"""Machines that are tried for a model in a large fleet: those that were opened last, from the last one on."""
WORSE = 0.3
"""The search goes on from a plan of the same price that is this much less unevenly full, at first; in the end
from none that is worse."""
BLINK = (0.0, 0.0, 0.1, 0.3)
"""In a turn of the search, a machine is passed over with one of these chances, so that others are tried."""
STARTS = 4
"""Plans from which the search starts, for small fleets."""
SMALL = 400
"""Models up to which all machines are tried."""


class Item(NamedTuple):
    """One model, and the number of machines that share its rate."""

    family: int
    model: int
    share: int


@dataclass(frozen=True, slots=True)
class Way:
    """A way to insert. `together`: a group is joined before another machine is looked at; `apart`: groups are
    never joined; `by_family`: families come one after the other; `more`: models that take more than this part
    of a machine are shared by one machine more; `kind`: the place of the kind of new machines in the order of
    prices for a part of the fleet."""

    together: bool = False
    apart: bool = False
    by_family: bool = False
    more: float = float("inf")
    kind: int = 0


class NoRoom(Exception):
    """A model fits nowhere, and no machine is left."""

    def __init__(self, item: Item, placed: Placement) -> None:
        super().__init__(item)
        self.item, self.placed = item, placed


class Packer:
    """Makes plans under the rules of a fleet."""

    def __init__(self, rules: Rules, shares: Sequence[Sequence[int]]) -> None:
        """Take the smallest number of machines that share each model, of each family."""
        self.rules, self.shares = rules, shares
        self.is_small = rules.fleet.models <= SMALL
        self.sizes = {
            (f, m): self._size(f, m, share) for f, each in enumerate(shares) for m, share in enumerate(each)
        }
        self.kinds = self._kinds()

    def _size(self, family: int, model: int, share: int) -> float:
        """Return the part of the machine that suits best, which a model takes by itself."""
        group = Group.of(self.rules.loads, family, share, (model,))
        parts = []
        for kind, about in enumerate(self.rules.fleet.kinds):
            use = self.rules.use(kind, [group])
            if use.most > 0:
                parts.append(max(use.load / use.most, use.memory / about.memory))
        return min(parts, default=float("inf"))

    def _kinds(self) -> list[int]:
        """Return the kinds, those first whose machines hold the whole fleet for the lowest price."""
        fleet = self.rules.fleet
        items = [(f, m, s) for f, each in enumerate(self.shares) for m, s in enumerate(each)]
        load = memory = 0.0
        for f, m, s in items:
            group = Group.of(self.rules.loads, f, s, (m,))
            load += s * group.load(group.round, 1)
            memory += group.replicas * fleet.families[f].weights[m]

        def price(kind: int) -> float:
            about = fleet.kinds[kind]
            return fleet.price([kind]) * max(load / (about.workers * about.speed), memory / about.memory)

        return sorted(range(len(fleet.kinds)), key=price)

    def items(self, way: Way) -> list[Item]:
        """Return all models in the order in which they are inserted."""
        found = [
            Item(f, m, share + (self.sizes[f, m] > way.more))
            for f, each in enumerate(self.shares)
            for m, share in enumerate(each)
        ]
        return self.ordered(found, way)

    def ordered(self, items: Sequence[Item], way: Way) -> list[Item]:
        """Return items, larger ones first: of all families, or family by family."""

        def key(item: Item) -> tuple[float, ...]:
            size = -self.sizes[item.family, item.model]
            return (item.family, size) if way.by_family else (-item.share, size)

        return sorted(items, key=key)

    def insert(self, placed: Placement, item: Item, way: Way, machines: Sequence[int]) -> None:
        """Insert one model on these machines, or on new ones. Raises NoRoom."""
        join = None if way.apart else self._join(placed, item, machines)
        if join is not None and (way.together or len(machines) == 0):
            placed.replace(*join[1:])
            return
        group = Group.of(self.rules.loads, item.family, item.share, (item.model,))
        alone = self._alone(placed, group, machines)
        if join is not None and (alone is None or join[0] <= alone[0]):
            placed.replace(*join[1:])
        else:
            self.place(placed, item, group, machines, way)

    def place(self, placed: Placement, item: Item, group: Group, machines: Sequence[int], way: Way) -> None:
        """Put a group on machines that have room, or on new ones. Raises NoRoom."""
        alone = self._alone(placed, group, machines)
        if alone is not None:
            placed.add(group, alone[1])
        else:
            self._open(placed, item, group, machines, way)

    def _join(
        self, placed: Placement, item: Item, machines: Sequence[int]
    ) -> tuple[float, int, Group, dict[int, Use]] | None:
        """Return the group that the model joins, with the part of machines that this takes."""
        best = None
        tried = dict.fromkeys(g for machine in reversed(machines) for g in placed.machines[machine].groups)
        for number in tried:
            old = placed.groups[number]
            if old.family != item.family or old.share != item.share:
                continue
            if len(old.members) >= old.about.max_models:
                continue
            new, part, uses = old.plus(item.model), 0.0, dict[int, Use]()
            for machine in placed.places[number]:
                use = placed.with_other(machine, old, new)
                if use is None:
                    break
                uses[machine] = use
                part += self._more(placed, machine, use)
            else:
                if best is None or part < best[0]:
                    best = part, number, new, uses
                if not self.is_small:
                    break
        return best

    def _more(self, placed: Placement, machine: int, use: Use) -> float:
        """Return the part of a machine that is taken more than before; a little less where it is fuller
        then."""
        one = placed.machines[machine]
        memory = self.rules.fleet.kinds[one.kind].memory
        before, after = one.use, use
        load = after.load / after.most - (before.load / before.most if before.most else 0.0)
        part = load + (after.memory - before.memory) / memory
        return part - 0.1 * max(after.load / after.most, after.memory / memory)

    def _alone(
        self, placed: Placement, group: Group, machines: Sequence[int]
    ) -> tuple[float, dict[int, Use]] | None:
        """Return the machines for a group of its own; None where too few have room."""
        found = []
        for machine in machines:
            use = placed.with_group(machine, group)
            if use is not None:
                found.append((self._more(placed, machine, use), machine, use))
        if len(found) < group.replicas:
            return None
        best = sorted(found, key=lambda one: one[:2])[: group.replicas]
        return sum(part for part, _, _ in best), {machine: use for _, machine, use in best}

    def _open(self, placed: Placement, item: Item, group: Group, machines: Sequence[int], way: Way) -> None:
        """Put a group on the machines that have room, and on new ones."""
        uses: dict[int, Use] = {}
        for machine in machines:
            if len(uses) < group.replicas and (use := placed.with_group(machine, group)) is not None:
                uses[machine] = use
        order = self.kinds[way.kind :] + self.kinds[: way.kind]
        opened: list[int] = []
        while len(uses) < group.replicas:
            kind = next((k for k in order if placed.left(k) and self.rules.fit(k, [group])), None)
            if kind is None:
                for machine in opened:
                    del placed.machines[machine]
                raise NoRoom(item, placed)
            opened.append(placed.open(kind))
            uses[opened[-1]] = self.rules.use(kind, [group])
        placed.add(group, uses)

    def packed(self, way: Way) -> Placement:
        """Return a plan in which all models were inserted in one way. Raises NoRoom."""
        placed = Placement(self.rules)
        for item in self.items(way):
            machines = list(placed.machines)
            self.insert(placed, item, way, machines if self.is_small else machines[-WINDOW:])
        placed.shrink()
        return placed


def ways(kinds: int, small: bool) -> list[Way]:
    """Return the ways that are tried: a few for large fleets."""
    found = [
        Way(together, by_family=b, kind=k)
        for k in range(kinds)
        for together in (True, False)
        for b in (True, False)
    ]
    if not small:
        return [Way(True, by_family=True), Way(False, by_family=True)]
    found += [Way(together, by_family=b, more=0.3) for together in (True, False) for b in (True, False)]
    found += [Way(apart=True)]
    return found


def made(packer: Packer, turns: int, seed: int = 0, until: float = float("inf")) -> Placement:
    """Return the best plan that is found: of all ways, after so many turns of search. Raises NoRoom where no
    way places all models. After `until`, a moment of time.monotonic(), no further turn begins."""
    found: list[Placement] = []
    missing: NoRoom | None = None
    for way in ways(len(packer.kinds), packer.is_small):
        try:
            found.append(packer.packed(way))
        except NoRoom as error:
            if missing is None or len(error.placed.groups) > len(missing.placed.groups):
                missing = error
        if found and time.monotonic() > until:
            break
    if not found:
        assert missing is not None
        raise missing
    found.sort(key=lambda plan: plan.score)
    starts = [plan for i, plan in enumerate(found) if i % 2 == 0][: STARTS if packer.is_small else 1]
    ends = [searched(packer, plan, turns // len(starts), seed + i, until) for i, plan in enumerate(starts)]
    return min(ends, key=lambda plan: plan.score)


def searched(packer: Packer, plan: Placement, turns: int, seed: int, until: float) -> Placement:
    """Return the plan after so many turns in which a part of it is made again."""
    drawn, kept, best = random.Random(seed), plan, plan
    least = 1 if packer.rules.fleet.priced else 2
    for turn in range(turns):
        if len(kept.machines) < least or time.monotonic() > until:
            break
        try:
            fresh = again(packer, kept, drawn)
        except NoRoom:
            continue
        if fresh.score < best.score:
            best = fresh
        worse = fresh.score[1] - kept.score[1]
        if fresh.score[0] < kept.score[0] or (
            fresh.score[0] == kept.score[0] and worse <= WORSE * (1 - turn / turns)
        ):
            kept = fresh
    return best


def again(packer: Packer, plan: Placement, drawn: random.Random) -> Placement:
    """Return a plan in which the groups of some machines were made again. Raises NoRoom."""
    fresh = plan.copy()
    machines = sorted(fresh.machines, key=lambda m: fresh.fullness(fresh.machines[m]))
    chosen = {machines[min(int(drawn.expovariate(0.5)), len(machines) - 1)]}
    while len(chosen) < min(drawn.choice((1, 2, 2, 3, 3, 5)), len(machines)):
        chosen.add(drawn.choice(machines))
    numbers = [g for machine in sorted(chosen) for g in fresh.machines[machine].groups]
    items = [
        Item(group.family, model, group.share) for group in fresh.remove(numbers) for model in group.members
    ]
    way = Way(
        together=drawn.random() < 0.5,
        apart=drawn.random() < 0.3,
        by_family=drawn.random() < 0.5,
        kind=drawn.randrange(len(packer.kinds)),
    )
    items = [_reshared(packer, item, drawn) for item in items]
    items = packer.ordered(items, way)
    if drawn.random() < 0.5:
        noise = [(i + drawn.gauss(0, 3), item) for i, item in enumerate(items)]
        items = [item for _, item in sorted(noise)]
    among, blink = drawn.sample(list(fresh.machines), min(WINDOW, len(fresh.machines))), drawn.choice(BLINK)
    mixed = len(packer.kinds) > 1 and drawn.random() < 0.5
    for item in items:
        machines = list(fresh.machines)
        if not packer.is_small:
            machines = list(dict.fromkeys([*(m for m in among if m in fresh.machines), *machines[-WINDOW:]]))
        if mixed:
            way = replace(way, kind=drawn.randrange(len(packer.kinds)))
        packer.insert(fresh, item, way, [m for m in machines if drawn.random() >= blink])
    fresh.shrink()
    return fresh


def _reshared(packer: Packer, item: Item, drawn: random.Random) -> Item:
    """Return the item, at times shared by another number of machines."""
    least = packer.shares[item.family][item.model]
    if item.share > least:
        return item._replace(share=least + drawn.randrange(2))
    if packer.sizes[item.family, item.model] > 0.15 and drawn.random() < 0.1:
        return item._replace(share=least + 1)
    return item
