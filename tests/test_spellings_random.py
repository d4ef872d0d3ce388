"""Properties of the normal form of axes: another spelling always matches, and what matches gives the same."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spellings import FAR32, FAR64, ints, model, pad
from test_spellings import equal, matched, result, saved

DIMS = (3, 4, 5, 3)
SEEDS = st.integers(0, 2**32)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
Rows = list[tuple[int, ...]]


def either(axis: int, rank: int, chance: random.Random) -> int:
    return axis - rank if chance.random() < 0.5 else axis


def axes_of(rows: Rows, chance: random.Random) -> list[int]:
    return [either(row[0], len(DIMS), chance) for row in rows]


def slices(chance: random.Random) -> Rows:
    """(axis, start, end, step), where an end of None is that of the axis."""
    rows = []
    for axis in chance.sample(range(len(DIMS)), chance.randint(1, 3)):
        step = chance.choice([1, 1, 2, -1])
        bounds = (0, FAR64) if step > 0 else (-1, -FAR64)
        start = chance.choice([bounds[0], 1]) if step > 0 else bounds[0]
        end = chance.choice([bounds[1], 2]) if step > 0 else chance.choice([bounds[1], -3])
        rows.append((axis, start, end, step))
    return rows


def sliced(rows: Rows, chance: random.Random) -> str:
    rows = chance.sample(rows, len(rows))
    rest = [axis for axis in range(len(DIMS)) if axis not in {row[0] for row in rows}]
    if rest and chance.random() < 0.5:
        rows.append((rest[0], 0, FAR64, 1))  # says nothing
    if chance.random() < 0.5:
        rows = [(a, s, {FAR64: FAR32, -FAR64: -FAR32 - 1}.get(e, e), t) for a, s, e, t in rows]
    axes = axes_of(rows, chance)
    columns = [[row[k] for row in rows] for k in (1, 2, 3)]
    names = ["s", "e", "a"]
    text = ints("s", columns[0]) + ints("e", columns[1]) + ints("a", axes)
    if any(step != 1 for step in columns[2]) or chance.random() < 0.5:
        text, names = text + ints("t", columns[2]), [*names, "t"]
    return f"{text}y = Slice(h, {', '.join(names)})"


def pads(chance: random.Random) -> Rows:
    axes = chance.sample(range(len(DIMS)), chance.randint(1, 3))
    return [(axis, chance.randint(0, 2), chance.randint(0, 2)) for axis in axes]


def padded(rows: Rows, chance: random.Random) -> str:
    rows = chance.sample(rows, len(rows))
    value = chance.choice(["", "0.0"])
    if chance.random() < 0.3:
        full = [next((row for row in rows if row[0] == axis), (axis, 0, 0)) for axis in range(len(DIMS))]
        return pad([row[1] for row in full] + [row[2] for row in full], None, value)
    return pad([row[1] for row in rows] + [row[2] for row in rows], axes_of(rows, chance), value)


def some_axes(chance: random.Random) -> Rows:
    return [(axis,) for axis in chance.sample(range(len(DIMS)), chance.randint(1, 3))]


def reduced(rows: Rows, chance: random.Random) -> str:
    axes = axes_of(chance.sample(rows, len(rows)), chance)
    return f"{ints('a', axes)}y = ReduceSum<keepdims=0>(h, a)"


def unsqueezed(rows: Rows, chance: random.Random) -> str:
    rank = len(DIMS) + len(rows)
    axes = [either(row[0], rank, chance) for row in chance.sample(rows, len(rows))]
    return f"{ints('a', axes)}y = Unsqueeze(h, a)"


def squeezed(rows: Rows, chance: random.Random) -> str:
    """The axes of size 1 that a sum leaves, or some of them."""
    kept = ints("k", sorted(row[0] for row in rows))
    axes = axes_of(chance.sample(rows, len(rows)), chance)
    return f"{kept}u = ReduceSum(h, k) {ints('a', axes)}y = Squeeze(u, a)"


KINDS: list[tuple[Callable[[random.Random], Rows], Callable[[Rows, random.Random], str]]] = [
    (slices, sliced),
    (pads, padded),
    (some_axes, reduced),
    (some_axes, unsqueezed),
    (some_axes, squeezed),
]


@QUICK
@given(SEEDS, st.sampled_from(KINDS))
def test_another_spelling_matches_and_what_matches_gives_the_same(
    seed: int, kind: tuple[Callable[[random.Random], Rows], Callable[[Rows, random.Random], str]]
) -> None:
    drawn, spelled = kind
    chance = random.Random(seed)
    rows = drawn(chance)
    bodies = [spelled(rows, chance), spelled(rows, chance), spelled(drawn(chance), chance)]
    x = np.random.default_rng(seed % 2**32).standard_normal(DIMS).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            saved(Path(folder), f"m{k}", model(body, 0, opset=18, dims=DIMS)) for k, body in enumerate(bodies)
        ]
        one, other, third = (result(path, x) for path in paths)
        assert equal(one, other), bodies[:2]
        assert matched(*paths[:2]) is not None, bodies[:2]
        if matched(paths[0], paths[2]) is not None:
            assert equal(one, third), bodies[::2]
