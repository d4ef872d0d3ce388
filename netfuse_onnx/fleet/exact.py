"""The best plan of a small fleet, by SciPy's solver of mixed integer programs (HiGHS).

A *group* is a set of models of a family with a number of replicas; it is chosen once or not at all. A
*pattern* is a kind of machine and the groups on one such machine, which fit. With x[p] machines of pattern p
and z[g] = 1 for each chosen group:

    minimise    sum over p of price[p] * x[p]
    subject to  for each model m:   sum over groups g with m of z[g] = 1
                for each group g:   sum over patterns p with g of x[p] = replicas[g] * z[g]
                for each kind k:    sum over patterns p of kind k of x[p] <= count[k]
                x[p] whole, z[g] 0 or 1

A pattern has no group twice, so replicas are on different machines. For a group with one replica, z is the
sum of x, which saves the variable. The rules of a plan (rules.py) are in the patterns, so they need not be
linear.

Left out are patterns that can't be needed: two merged groups of a family with one replica each on one
machine, which are no worse as one group; and patterns that also fit on a kind that costs no more, of which
any number may be had."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.fleet.load import Group
from netfuse_onnx.fleet.placement import Placement
from netfuse_onnx.fleet.rules import Rules

MOST_PATTERNS = 60_000
MOST_MODELS = 12
"""Models of a family up to which all sets of them are listed."""


class TooLarge(Exception):
    """There are too many patterns to list."""


@dataclass(frozen=True, slots=True)
class Solved:
    """The answer of the solver: a plan or None, whether it is the best one, and a price that no plan is
    below."""

    plan: Placement | None
    optimal: bool
    bound: float


@dataclass(frozen=True, slots=True)
class _Option:
    """A group that may be chosen. `models` are bits."""

    group: Group
    models: int


@dataclass(frozen=True, slots=True)
class _Pattern:
    kind: int
    options: tuple[int, ...]


def solve(rules: Rules, shares: Sequence[Sequence[int]], seconds: float = 60.0, extra: int = 1) -> Solved:
    """Return the best plan in which each model's rate is shared by at most `extra` more machines than the
    least that it needs. Raises TooLarge, and UsageFault where SciPy is missing."""
    options = _options(rules, shares, extra)
    patterns = list(itertools.islice(_patterns(rules, options), MOST_PATTERNS + 1))
    if len(patterns) > MOST_PATTERNS:
        raise TooLarge
    return _solved(rules, options, patterns, seconds)


def _options(rules: Rules, shares: Sequence[Sequence[int]], extra: int) -> list[_Option]:
    """Return all groups that fit on a machine of some kind."""
    found, first, kinds = [], 0, range(len(rules.fleet.kinds))
    for f, about in enumerate(rules.fleet.families):
        count = len(about.models)
        if count > MOST_MODELS:
            raise TooLarge
        for share in range(1, max(shares[f]) + extra + 1):
            able = [m for m in range(count) if shares[f][m] <= share <= shares[f][m] + extra]
            for size in range(1, min(len(able), about.max_models) + 1):
                for members in itertools.combinations(able, size):
                    group = Group.of(rules.loads, f, share, members)
                    if any(rules.fit(kind, [group]) for kind in kinds):
                        found.append(_Option(group, sum(1 << (first + m) for m in members)))
        first += count
    return found


def _patterns(rules: Rules, options: Sequence[_Option]) -> Iterator[_Pattern]:
    """Yield all patterns that may be needed."""
    kinds = rules.fleet.kinds
    for kind in range(len(kinds)):
        cheaper = [
            k
            for k, one in enumerate(kinds)
            if one.count is None and (rules.fleet.price([k]), k) < (rules.fleet.price([kind]), kind)
        ]
        for chosen in _contents(rules, kind, options):
            groups = [options[i].group for i in chosen]
            if not any(rules.fit(k, groups) for k in cheaper):
                yield _Pattern(kind, chosen)


def _contents(rules: Rules, kind: int, options: Sequence[_Option]) -> Iterator[tuple[int, ...]]:
    """Yield all sets of groups that fit on one machine, depth first: what does not fit, fits with no more."""
    memory = rules.fleet.kinds[kind].memory
    stack: list[tuple[tuple[int, ...], int, int]] = [((), 0, memory)]
    while stack:
        chosen, models, left = stack.pop()
        for i in range(chosen[-1] + 1 if chosen else 0, len(options)):
            option = options[i]
            if option.models & models or option.group.memory > left or _is_one_group(options, chosen, option):
                continue
            content = (*chosen, i)
            if rules.fit(kind, [options[j].group for j in content]):
                yield content
                stack.append((content, models | option.models, left - option.group.memory))


def _is_one_group(options: Sequence[_Option], chosen: Sequence[int], option: _Option) -> bool:
    """Return True where a merged group is no worse than together with one that is chosen."""
    new = option.group
    if new.replicas > 1 or len(new.members) == 1:
        return False
    others = (options[i].group for i in chosen)
    return any(
        len(one.members) > 1
        and (one.family, one.share) == (new.family, new.share)
        and len(one.members) + len(new.members) <= new.about.max_models
        for one in others
    )


def _solved(rules: Rules, options: Sequence[_Option], patterns: Sequence[_Pattern], seconds: float) -> Solved:
    """Return the best plan of these patterns."""
    try:
        from scipy import optimize, sparse
    except ImportError as error:
        raise UsageFault(
            "--exact needs SciPy, which is not installed.", "Install it: pip install 'netfuse-onnx[fleet]'."
        ) from error
    if not patterns:
        return Solved(None, True, float("inf"))
    costs, rows, columns, values, low, high = _program(rules, options, patterns)
    matrix = sparse.csr_matrix((values, (rows, columns)), shape=(len(low), len(costs)))
    found = optimize.milp(
        costs,
        constraints=optimize.LinearConstraint(matrix, low, high),
        integrality=np.ones(len(costs)),
        bounds=optimize.Bounds(0, np.inf),
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    bound = float("inf") if found.status == 2 else float(found.mip_dual_bound or 0.0)
    if found.x is None:
        return Solved(None, found.status == 2, bound)
    counts = np.round(found.x).astype(int)
    return Solved(_plan(rules, options, patterns, counts.tolist()), found.status == 0, bound)


def _program(
    rules: Rules, options: Sequence[_Option], patterns: Sequence[_Pattern]
) -> tuple[Any, list[int], list[int], list[float], list[float], list[float]]:
    """Return the prices, the entries of the matrix, and the bounds of its rows."""
    models = rules.fleet.models
    several = [i for i, option in enumerate(options) if option.group.replicas > 1]
    z = {option: len(patterns) + i for i, option in enumerate(several)}
    link = {option: models + i for i, option in enumerate(several)}
    counted = [k for k, kind in enumerate(rules.fleet.kinds) if kind.count is not None]
    limit = {kind: models + len(several) + i for i, kind in enumerate(counted)}
    entries: list[tuple[int, int, float]] = []
    for p, pattern in enumerate(patterns):
        for i in pattern.options:
            if i in z:
                entries.append((link[i], p, 1.0))
            else:
                entries += [(m, p, 1.0) for m in range(models) if options[i].models >> m & 1]
        if pattern.kind in limit:
            entries.append((limit[pattern.kind], p, 1.0))
    for i in several:
        entries.append((link[i], z[i], -float(options[i].group.replicas)))
        entries += [(m, z[i], 1.0) for m in range(models) if options[i].models >> m & 1]
    low = [1.0] * models + [0.0] * len(several) + [0.0] * len(counted)
    high = [1.0] * models + [0.0] * len(several)
    high += [float(rules.fleet.kinds[k].count or 0) for k in counted]
    costs = [rules.fleet.price([pattern.kind]) for pattern in patterns] + [0.0] * len(several)
    rows, columns, values = (list(one) for one in zip(*entries, strict=True))
    return np.array(costs), rows, columns, values, low, high


def _plan(
    rules: Rules, options: Sequence[_Option], patterns: Sequence[_Pattern], counts: Sequence[int]
) -> Placement:
    """Return the placement that a solution means."""
    plan = Placement(rules)
    machines: dict[int, list[int]] = {}
    for pattern, count in zip(patterns, counts, strict=False):
        for _ in range(count):
            number = plan.open(pattern.kind)
            for i in pattern.options:
                machines.setdefault(i, []).append(number)
    for i, numbers in machines.items():
        uses = {n: plan.with_group(n, options[i].group) for n in numbers}
        plan.add(options[i].group, {n: use for n, use in uses.items() if use is not None})
    return plan
