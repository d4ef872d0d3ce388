"""Yields sizes for the symbolic dims of the inputs, the smallest first, and other sizes when they are
refused.

The graph does not tell how sizes depend on each other. So all are different at first, which shows exchanged
axes. Then follow sizes that are equal for inputs of one form, and for all; larger and smaller ones; and one
symbol as the sum, the product or the neighbour of others. What ONNX Runtime says directs the search: where a
size stands in its message beside another number, that number is tried in its place.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx.run import symbols
from netfuse_onnx.run.symbols import Dims

Sizes = dict[str, int]

PLAIN = (8, 16, 32, 64, 128, 256, 1024)
SPATIAL = (8, 16, 32, 64, 128, 224, 512)
"""Rungs: the smallest size of a plain dim, and of a spatial one (from axis 2 on in rank 4 or more)."""
PLAIN_TOP, SPATIAL_TOP = 6, 3
"""The rungs up to which a climb may show more. Above, sizes are only tried when smaller ones are refused."""
STEPS = (1, 8, 8, 16, 32, 32, 128)
"""The difference between two plain dims of one rung."""
RELATED = 6
"""The number of symbols (or groups of them), at most, among which relations are tried."""
LARGEST = 1 << 14
"""The largest size that is read out of a message."""
MENTIONED = 12
"""The numbers of a message that are used, at most."""
PROPOSED = 6
"""The sizes that one message may propose, at most."""

Rung = tuple[int, int]
"""The rung of the plain dims, and that of the spatial dims."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The free symbols in order. `wide` are the spatial ones; `groups` are symbols at the same place of
    inputs of one form; `taken` are sizes that no symbol gets (the number of models, static dims)."""

    names: tuple[str, ...]
    wide: frozenset[str]
    groups: tuple[tuple[str, ...], ...]
    taken: frozenset[int] = frozenset()

    def rung(self, at: Rung) -> Iterator[Sizes]:
        """Yield the sizes of one rung: all different, multiples of the least, one per group, one for all."""
        if not self.names:
            yield {}
            return
        plain, wide = min(at[0], len(PLAIN) - 1), min(at[1], len(SPATIAL) - 1)
        singles = [(name,) for name in self.names]
        yield self._spread(singles, (PLAIN[plain], STEPS[plain]), (SPATIAL[wide], SPATIAL[wide] // 2))
        if len(self.names) > 1:
            multiples = (PLAIN[plain], PLAIN[plain]), (SPATIAL[wide], SPATIAL[wide])
            yield self._spread(singles, *multiples)
            if len(self.groups) < len(self.names):
                yield self._spread(self.groups, (PLAIN[plain], STEPS[plain]), multiples[1])
        yield {name: SPATIAL[wide] if name in self.wide else PLAIN[plain] for name in self.names}

    def small(self) -> Iterator[Sizes]:
        """Yield sizes below 8, for sources that take no larger ones, such as tables of few rows."""
        yield {name: 3 + i for i, name in enumerate(self.names)}
        yield dict.fromkeys(self.names, 4)

    def relations(self, outer: Mapping[str, int], fixed: Collection[int]) -> Iterator[Sizes]:
        """Yield sizes in which one group depends on the others, then one symbol, where they are few; then one
        symbol as a multiple of a size in `outer`, such as batch * heads. The other sizes are those of the
        first rung, and `outer`."""
        singles, base = tuple((name,) for name in self.names), Sizes()
        for units in dict.fromkeys((self.groups, singles)):
            if len(units) <= RELATED:
                base = self._spread(units, (PLAIN[0], STEPS[0]), (SPATIAL[0], SPATIAL[0] // 2))
                yield from self._related(units[::-1], {**base, **outer}, fixed)
        for unit, size, factor in itertools.product(singles, dict.fromkeys(outer.values()), fixed):
            yield self._with({**base, **outer}, unit, size * factor)

    def _related(
        self, units: Sequence[tuple[str, ...]], base: Mapping[str, int], fixed: Collection[int]
    ) -> Iterator[Sizes]:
        """Yield sizes in which one unit depends on the others, the last unit first: equal, a sum, one more or
        less, twice, a product of two or with one of `fixed`. These cover differences and quotients."""
        for first, second in itertools.permutations(units, 2):  # equal
            yield self._with(base, first, base[second[0]])
        for shift in (0, 1, -1):
            for unit, one, two in self._pairs(units):
                yield self._with(base, unit, base[one[0]] + base[two[0]] + shift)
        for first, second in itertools.permutations(units, 2):
            size = base[second[0]]
            for related in (size + 1, size - 1, 2 * size, *(size * factor for factor in fixed)):
                yield self._with(base, first, related)
        for unit, one, two in self._pairs(units):
            yield self._with(base, unit, base[one[0]] * base[two[0]])
        for unit in units:
            others = [other for other in units if other != unit]
            for three in itertools.combinations(others, 3):
                yield self._with(base, unit, sum(base[one[0]] for one in three))

    def proposed(self, sizes: Mapping[str, int], message: str) -> list[Sizes]:
        """Return the sizes that a message about refused sizes proposes: in place of a size that it names (or
        one more or less, a multiple, a part) the other numbers that it names, those that no symbol has
        first."""
        named, ranked = numbers(message)[:MENTIONED], list[tuple[float, int, tuple[str, ...], int]]()
        units = dict.fromkeys((*((name,) for name in self.names), *self.groups))
        for order, unit in enumerate(reversed(units)):
            size = sizes[unit[0]]
            if any(sizes[name] != size for name in unit):
                continue
            for seen, other in itertools.permutations(named, 2):
                for doubt, target in _answers(size, seen, other):
                    if 0 < target <= LARGEST and target != size:
                        doubt += 0.5 * (target in sizes.values()) + (target <= 4)
                        ranked.append((doubt, order, unit, target))
        best = dict.fromkeys((unit, target) for _, _, unit, target in sorted(ranked))
        return [self._with(sizes, *choice) for choice in itertools.islice(best, PROPOSED)]

    def _spread(
        self, units: Sequence[tuple[str, ...]], plain: tuple[int, int], wide: tuple[int, int]
    ) -> Sizes:
        """Give each unit a size of its own: `plain` and `wide` are the smallest size and the step."""
        steps = {is_wide: itertools.count(*start) for is_wide, start in ((False, plain), (True, wide))}
        sizes, used = Sizes(), set(self.taken)
        for unit in units:
            size = next(size for size in steps[unit[0] in self.wide] if size not in used)
            used.add(size)
            sizes |= dict.fromkeys(unit, size)
        return {name: sizes[name] for name in self.names}

    def _pairs(
        self, units: Sequence[tuple[str, ...]]
    ) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
        for unit in units:
            others = [other for other in units if other != unit]
            for one, two in itertools.combinations(others, 2):
                yield unit, one, two

    def _with(self, sizes: Mapping[str, int], unit: tuple[str, ...], size: int) -> Sizes:
        return {**sizes, **dict.fromkeys(unit, size)}


def ladder(shapes: Sequence[Dims], names: Sequence[str], models: int) -> Ladder:
    """Make the ladder for the symbols `names` of inputs of these shapes."""
    static = {dim for dims in shapes for dim in dims or () if isinstance(dim, int)}
    return Ladder(
        tuple(names), symbols.spatial(shapes), _groups(shapes, names), frozenset({1, models} | static)
    )


def numbers(message: str) -> list[int]:
    """Return the numbers in a message, each once, without those in names and those that count axes."""
    plain = re.sub(r"(?i)\b(dim|dimension|axis|index|rank|input|output)s?\b:? *\d+\b", " ", message)
    plain = re.sub(r"'[^']*'|\"[^\"]*\"", " ", plain)
    return list(dict.fromkeys(map(int, re.findall(r"(?<![\w./-])\d{1,9}(?![\w/]|\.\d)", plain))))


def _answers(size: int, seen: int, other: int) -> Iterator[tuple[float, int]]:
    """Yield the doubt (0 is best) and the size that a symbol should have when a value computed from it has
    the extent `seen`, and `other` is needed."""
    if seen == size:
        yield 0.0, other
    elif abs(size - seen) == 1:
        yield 1.0, other + size - seen
    elif seen and size % seen == 0:
        yield 2.0, other * (size // seen)
    elif seen > size and seen % size == 0 and other % (seen // size) == 0:
        yield 2.0, other // (seen // size)


def _groups(shapes: Sequence[Dims], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Group symbols at the same place of inputs of one form, such as the lengths of the caches of all layers.
    Inputs of rank 2 and less are in no group."""
    groups: dict[object, list[str]] = {}
    for name in names:
        key: object = name
        for dims in shapes:
            if dims and name in dims and len(dims) > 2:
                key = (dims.index(name), tuple(dim if isinstance(dim, int) else None for dim in dims))
                break
        groups.setdefault(key, []).append(name)
    return tuple(map(tuple, groups.values()))
