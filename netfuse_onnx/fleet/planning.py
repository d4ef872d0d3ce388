"""The verb plan-fleet: reads a fleet, makes a plan, simulates it, and compares it with simple ways.

A plan whose simulation misses a target is made again with less load allowed on the machines of the families
that missed it. A small fleet begins with more load allowed than the factors say, so that its plan is not
larger than the simulation asks for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netfuse_onnx.errors import NoPlan, UsageFault
from netfuse_onnx.fleet import alternatives, bounds, checking, exact, heuristic, reading, rows
from netfuse_onnx.fleet.alternatives import Simple
from netfuse_onnx.fleet.checking import Checked
from netfuse_onnx.fleet.heuristic import NoRoom, Packer
from netfuse_onnx.fleet.placement import Placement
from netfuse_onnx.fleet.report import FleetReport
from netfuse_onnx.fleet.rules import Rules
from netfuse_onnx.fleet.types import Fleet

Progress = Callable[[str, int, int], None]
ENOUGH = 1.1
"""A simulated 99th percentile may be this many times the target. Simulations of other seeds differ, and 1.2
is never to be exceeded."""
GENEROUS, LESS, ROUNDS = 1.15, 0.93, 8
"""The factor on the load at which small fleets begin, that by which it is lowered, and the most tries."""
FAR = 3.0
"""A family that misses its target so many times has its load lowered in larger steps."""
TURNS = {8: 4000, 30: 1000, 100: 200, heuristic.SMALL: 60, 3000: 12, 100_000: 4}
"""Turns of the search, by the models of the fleet up to which they count."""
ALWAYS_EXACT = 6
"""Models up to which the solver is asked without --exact, where SciPy is there."""
ALIKE = 1e-9
"""Prices that differ by this part are equal: sums in another order."""
SIMULATED = 24
"""Machines that are simulated, where no number is given: those with the most load."""


@dataclass(frozen=True, slots=True)
class Try:
    """A plan, its simulation by machines, and what is known of it."""

    plan: Placement
    checked: dict[int, Checked]
    optimal: bool
    scale: float

    @property
    def is_good(self) -> bool:
        """True where no simulated machine misses a target."""
        return max(self.late().values(), default=0.0) <= ENOUGH

    def late(self) -> dict[int, float]:
        """Return the worst simulated 99th percentile of each family, as a part of its target."""
        parts: dict[int, float] = {}
        for number, found in self.checked.items():
            for family, part in checking.worst(self.plan, self.plan.machines[number], found).items():
                parts[family] = max(parts.get(family, 0.0), part)
        return parts


def plan_fleet(
    file: str | os.PathLike[str] | Fleet,
    *,
    exact: bool = False,
    seconds: float = 30.0,
    simulate: int = SIMULATED,
    compare: bool = True,
    progress: Progress | None = None,
) -> FleetReport:
    """Return a plan for the fleet of a TOML file: groups of models, their replicas, and the machines of each.

    With `exact`, the solver finds the best plan under the rules, in at most so many `seconds`; after these,
    the search ends as well. `simulate` is the number of machines that are simulated, 0 for none. With
    `compare`, simple ways are planned, too.

    Raises FileFault for a file with a mistake, UsageFault, and NoPlan where the fleet can't be served."""
    if seconds <= 0 or simulate < 0:
        raise UsageFault(
            f"{seconds:g} seconds and {simulate} machines make no plan.", "Give positive numbers."
        )
    tell = progress or (lambda what, done, total: None)
    fleet = file if isinstance(file, Fleet) else reading.read(os.fspath(file))
    bounds.refuse_misfits(fleet)
    until = time.monotonic() + seconds
    tell("measuring load", 0, 0)
    factors = checking.factors(fleet)
    found = _tried(fleet, factors, exact, until, simulate, tell)
    others = alternatives.all_of(fleet, factors, simulate, until + seconds) if compare else ()
    found = _cheapest(found, others)
    told = tuple(other.told for other in others)
    return rows.report(found.plan, found.checked, found.optimal, found.scale, told)


def _cheapest(found: Try, others: Sequence[Simple]) -> Try:
    """Return the plan that was found or, where a simple way is cheaper or alone meets its targets, that."""
    best = found
    for other in others:
        if other.plan is None or not other.checked:
            continue
        tried = Try(other.plan, dict(other.checked), False, 1.0)
        if not tried.is_good:
            continue
        if not best.is_good or tried.plan.price < best.plan.price * (1 - ALIKE):
            best = tried
    return best


def _tried(
    fleet: Fleet,
    factors: dict[tuple[int, int], float],
    exact: bool,
    until: float,
    simulate: int,
    tell: Progress,
) -> Try:
    """Return the first plan whose simulation is good, or the one that is nearest to it."""
    small = fleet.models <= heuristic.SMALL
    scale = dict.fromkeys(range(len(fleet.families)), GENEROUS if small and simulate else 1.0)
    best: tuple[float, Try] | None = None
    for turn in range(ROUNDS if small else ROUNDS // 4):
        tell("planning", turn, ROUNDS)
        scaled = {(f, k): value * scale[f] for (f, k), value in factors.items()}
        try:
            plan, optimal = solved(Rules(fleet, scaled), exact, until)
        except NoPlan:
            if best is None:
                raise
            break
        found = checking.checked(plan, checking.fullest(plan, simulate), 1000)
        tried = Try(plan, found, optimal, min(scale.values()))
        late = tried.late()
        worst = max(late.values(), default=0.0)
        if best is None or worst <= best[0]:
            best = worst, tried
        if tried.is_good:
            break
        for family, part in late.items():
            if part > ENOUGH:
                scale[family] *= LESS if part < FAR else LESS**3
    assert best is not None
    return best[1]


def solved(rules: Rules, wants_exact: bool, until: float) -> tuple[Placement, bool]:
    """Return a plan under the rules, and whether it is proven to be the best one. Raises NoPlan."""
    shares = bounds.shares(rules)
    missing: NoRoom | None = None
    plan: Placement | None = None
    turns = next(count for most, count in TURNS.items() if rules.fleet.models <= most)
    try:
        plan = heuristic.made(Packer(rules, shares), turns, 0, until)
    except NoRoom as error:
        missing = error
    if wants_exact or (_has_solver() and rules.fleet.models <= ALWAYS_EXACT):
        better = _exactly(rules, shares, wants_exact, until)
        if better and better.plan and (plan is None or better.plan.price <= plan.price * (1 + ALIKE)):
            return better.plan, better.optimal
    if plan is None:
        assert missing is not None
        raise bounds.no_room(rules, shares, missing)
    return plan, plan.price <= bounds.lowest(rules) * (1 + ALIKE)


def _exactly(
    rules: Rules, shares: Sequence[Sequence[int]], wanted: bool, until: float
) -> exact.Solved | None:
    try:
        return exact.solve(rules, shares, max(until - time.monotonic(), 1.0))
    except exact.TooLarge as error:
        if wanted:
            raise UsageFault(
                f"--exact lists all groups of models, which are too many for {rules.fleet.models} models.",
                "Leave it out.",
            ) from error
        return None


def _has_solver() -> bool:
    import importlib.util

    return importlib.util.find_spec("scipy") is not None
