"""Exact minimisation of a sum of small tables, by variable elimination.

Variables have a few values each; a factor is a table over a few variables. Eliminating a variable adds up
the factors that mention it and minimises it away, which leaves one factor over its neighbours. The order
is the one that keeps the next table smallest. Walking back gives the best values. (Bertele and Brioschi,
Nonserial Dynamic Programming, 1972; in other fields: bucket elimination.)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
TABLE_LIMIT = 1 << 22
"""Most entries of one table; past it a variable is fixed first and the result is no longer proven exact."""


@dataclass(frozen=True)
class Solution:
    """A value per variable, the total, and whether it is proven to be the minimum."""

    values: tuple[int, ...]
    cost: float
    exact: bool


class Problem:
    """A sum of factors over discrete variables."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._factors: dict[tuple[int, ...], Table] = {}
        self._constant = 0.0

    def variable(self, size: int) -> int:
        """A new variable with values 0..size-1."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def add(self, scope: Sequence[int], table: Table) -> None:
        """Add a factor: `table` has one axis per variable of `scope`, in that order."""
        order = sorted(range(len(scope)), key=lambda i: scope[i])
        key = tuple(scope[i] for i in order)
        table = np.asarray(table, np.float64).transpose(order)
        if not key:
            self._constant += float(table)
        elif key in self._factors:
            self._factors[key] = self._factors[key] + table
        else:
            self._factors[key] = table

    def cost(self, values: Sequence[int]) -> float:
        """The sum at one assignment."""
        return self._constant + sum(
            float(table[tuple(values[v] for v in scope)]) for scope, table in self._factors.items()
        )

    def solve(self, limit: int = TABLE_LIMIT) -> Solution:
        """The assignment with the least sum; ties go to the lower values."""
        work = _Elimination(self.sizes, self._factors, limit)
        values = work.run()
        return Solution(values, self.cost(values), work.exact)


class _Elimination:
    def __init__(self, sizes: Sequence[int], factors: Mapping[tuple[int, ...], Table], limit: int) -> None:
        self.sizes = list(sizes)
        self.limit = limit
        self.exact = True
        self.tables: dict[int, tuple[tuple[int, ...], Table]] = dict(enumerate(factors.items()))
        self.uses: list[set[int]] = [set() for _ in sizes]
        for index, (scope, _) in self.tables.items():
            for v in scope:
                self.uses[v].add(index)
        self.trail: list[tuple[int, tuple[int, ...], NDArray[np.intp]]] = []
        self._next = len(self.tables)

    def run(self) -> tuple[int, ...]:
        heap = [(self._size(v), v) for v in range(len(self.sizes))]
        heapq.heapify(heap)
        left = set(range(len(self.sizes)))
        while left:
            size, v = heapq.heappop(heap)
            if v not in left:
                continue
            now = self._size(v)
            if now != size:
                heapq.heappush(heap, (now, v))
                continue
            if now > self.limit:
                v = max(self._scope(v), key=lambda u: (len(self.uses[u]), -u))
                changed = self._fix(v)
            else:
                changed = self._eliminate(v)
            left.discard(v)
            for u in changed:
                heapq.heappush(heap, (self._size(u), u))
        return self._walk_back()

    def _scope(self, v: int) -> set[int]:
        return {u for index in self.uses[v] for u in self.tables[index][0]} | {v}

    def _size(self, v: int) -> int:
        return math.prod(self.sizes[u] for u in self._scope(v))

    def _take(self, v: int) -> list[tuple[tuple[int, ...], Table]]:
        taken = []
        for index in sorted(self.uses[v]):
            scope, table = self.tables.pop(index)
            for u in scope:
                if u != v:
                    self.uses[u].discard(index)
            taken.append((scope, table))
        self.uses[v] = set()
        return taken

    def _eliminate(self, v: int) -> tuple[int, ...]:
        """Minimise v away; returns its neighbours, whose sizes have changed."""
        taken = self._take(v)
        rest = tuple(sorted({u for scope, _ in taken for u in scope} - {v}))
        joint = _joint(taken, (*rest, v), self.sizes)
        self.trail.append((v, rest, joint.argmin(axis=-1)))
        if rest:
            self._put(rest, joint.min(axis=-1))
        return rest

    def _put(self, scope: tuple[int, ...], table: Table) -> None:
        self.tables[self._next] = (scope, table)
        for u in scope:
            self.uses[u].add(self._next)
        self._next += 1

    def _fix(self, v: int) -> tuple[int, ...]:
        """Give v the value that looks best alone, so that the tables around it lose an axis."""
        self.exact = False
        taken = self._take(v)
        rest = tuple(sorted({u for scope, _ in taken for u in scope} - {v}))
        hopeful = sum(
            table.min(axis=tuple(a for a, u in enumerate(scope) if u != v)) for scope, table in taken
        )
        value = np.argmin(hopeful)
        self.trail.append((v, (), np.asarray(value)))
        for scope, table in taken:
            if len(scope) > 1:
                self._put(
                    tuple(u for u in scope if u != v), np.asarray(table.take(value, axis=scope.index(v)))
                )
        return rest

    def _walk_back(self) -> tuple[int, ...]:
        """Best values, last eliminated first. A fixed variable stands before all that it shaped."""
        values = [0] * len(self.sizes)
        for v, rest, best in reversed(self.trail):
            values[v] = int(best[tuple(values[u] for u in rest)])
        return tuple(values)


def _joint(
    taken: Sequence[tuple[tuple[int, ...], Table]], scope: tuple[int, ...], sizes: Sequence[int]
) -> Table:
    """The sum of tables, over all variables of `scope`."""
    total = np.zeros([sizes[u] for u in scope])
    for part, table in taken:
        order = sorted(range(len(part)), key=lambda i: scope.index(part[i]))
        total += table.transpose(order).reshape([sizes[u] if u in part else 1 for u in scope])
    return total
