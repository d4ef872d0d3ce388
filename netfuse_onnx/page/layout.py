"""The places of boxes: layers from top to bottom, in as many columns as fill a wide canvas.

A network is a chain of hundreds of layers: in one column it would be a line. So its boxes, in the order in
which they run, are cut where the fewest values cross, and each part is a column of layers, which
fast-sugiyama lays out. A value that goes to the next column is drawn through the gap between the two, and one
that goes further is not drawn as a line: both of its ends name each other.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx.errors import UsageFault

WIDTH, HEIGHT = 168, 40
"""The size of a box."""
ACROSS, DOWN, GAP = 192, 62, 132
"""The distances of the middles of neighbours in a layer, of layers, and of columns from each other."""
LANE = 26
"""The room that a line takes beside boxes, where it passes layers."""
ASPECT = 1.45
"""The width of the canvas over its height that is aimed at."""
PARTS = (0.45, 0.6, 0.75, 0.9, 1.0, 1.15)
"""The numbers of columns that are tried, as parts of that for a plain chain."""
FARTHEST, FARTHEST_OF_MANY, MANY = 60, 6, 5
"""The most layers that a line passes, and the same for the lines of a box with so many readers."""
MOST_COLUMNS = 48

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Column:
    """Boxes that stand below each other, by their places. `left` and `right` are its sides."""

    boxes: tuple[int, ...]
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Places:
    """The middle of each box; the bends of each line, by its ends; and the columns. A line that is missing is
    not drawn."""

    middles: tuple[Point, ...]
    bends: Mapping[tuple[int, int], tuple[Point, ...]]
    columns: tuple[Column, ...]
    width: float
    height: float


def places(count: int, arrows: Sequence[tuple[int, int]]) -> Places:
    """Return the places of `count` boxes, which stand in an order in which what is read comes first. An arrow
    against that order is drawn, but tells nothing of the layers. Of several numbers of columns, the one is
    taken with which most fits into a canvas."""
    rough = math.sqrt(count * DOWN * ASPECT / (ACROSS + GAP))
    tries = {max(1, min(MOST_COLUMNS, round(rough * part))) for part in PARTS}
    found = [_placed(_cut(count, arrows, columns), count, arrows) for columns in sorted(tries)]
    return max(found, key=lambda at: min(ASPECT / max(at.width, 1.0), 1.0 / max(at.height, 1.0)))


def _placed(parts: Sequence[range], count: int, arrows: Sequence[tuple[int, int]]) -> Places:
    """Return the places where these runs of boxes are the columns."""
    middles: list[Point] = [(0.0, 0.0)] * count
    bends: dict[tuple[int, int], tuple[Point, ...]] = {}
    columns, left, height = list[Column](), 0.0, 0.0
    readers = Counter(start for start, _ in arrows)
    for part in parts:
        inner = [(a, b) for a, b in arrows if a in part and b in part and a < b]
        at, lines = _laid(part, inner, readers)
        width = max(x for x, _ in at.values()) + WIDTH
        for box, (x, y) in at.items():
            middles[box] = (left + x + WIDTH / 2, y + HEIGHT / 2)
        for ends, line in lines.items():
            bends[ends] = tuple((left + x + WIDTH / 2, y + HEIGHT / 2) for x, y in line)
        columns.append(Column(tuple(part), left, left + width))
        height = max(height, max(y for _, y in at.values()) + HEIGHT)
        left += width + GAP
    bends |= _between(arrows, columns, middles)
    return Places(tuple(middles), bends, tuple(columns), max(0.0, left - GAP), height)


# --------------------------------------------------------------------------- columns


def _cut(count: int, arrows: Sequence[tuple[int, int]], wanted: int) -> list[range]:
    """Return the runs of boxes that become the wanted number of columns."""
    steps = [0] * (count + 1)
    for start, end in arrows:
        steps[min(start, end) + 1] += 1
        steps[max(start, end) + 1] -= 1
    crossing = list(itertools.accumulate(steps))
    cuts, size = [0], count / wanted
    for number in range(1, wanted):
        ideal = number * size
        near = range(max(cuts[-1] + 1, int(ideal - size / 3)), min(count, int(ideal + size / 3) + 1))
        if near:
            cuts.append(min(near, key=lambda place: (crossing[place], abs(place - ideal))))
    return [range(start, end) for start, end in zip(cuts, [*cuts[1:], count], strict=True) if start < end]


def _between(
    arrows: Sequence[tuple[int, int]], columns: Sequence[Column], middles: Sequence[Point]
) -> dict[tuple[int, int], tuple[Point, ...]]:
    """Return the bends of lines to the next column: down, up in the gap between the two, and down again."""
    where = {box: number for number, column in enumerate(columns) for box in column.boxes}
    found: dict[tuple[int, int], tuple[Point, ...]] = {}
    bottom = {n: max(middles[box][1] for box in column.boxes) for n, column in enumerate(columns)}
    lanes: dict[int, int] = {}
    for start, end in arrows:
        one, two = where[start], where[end]
        if two != one + 1 or _far(middles, start, end, bottom[one]):
            continue
        lane = lanes[one] = lanes.get(one, 0) + 1
        x = columns[one].right + GAP / 2 + 7 * ((lane % 7) - 3)
        below = middles[start][1] + DOWN / 2
        above = middles[end][1] - DOWN / 2
        found[start, end] = (
            (middles[start][0], below),
            (x, below + 8),
            (x, above - 8),
            (middles[end][0], above),
        )
    return found


def _far(middles: Sequence[Point], start: int, end: int, bottom: float) -> bool:
    """True where a line to the next column would pass many boxes."""
    return middles[start][1] < bottom - 6 * DOWN or middles[end][1] > 6 * DOWN


# --------------------------------------------------------------------------- layers of one column


def _laid(
    part: Sequence[int], arrows: Iterable[tuple[int, int]], readers: Mapping[int, int]
) -> tuple[dict[int, Point], dict[tuple[int, int], tuple[Point, ...]]]:
    """Return the upper left corners of the boxes of one column, and the bends of its lines."""
    layer = _layers(part, arrows)
    near = [
        (start, end) for start, end in arrows
        if layer[end] - layer[start] <= (FARTHEST if readers[start] < MANY else FARTHEST_OF_MANY)
    ]  # fmt: skip
    joined = {box for arrow in near for box in arrow}
    alone = [box for box in part if box not in joined]
    at: dict[int, Point] = {}
    lines: dict[tuple[int, int], tuple[Point, ...]] = {}
    left = 0.0
    for positions, edges in _sugiyama(near):
        least = min(x for x, _ in positions.values())
        top = max(y for _, y in positions.values())
        moved = {box: (left + x - least, top - y) for box, (x, y) in positions.items()}
        at |= {box: place for box, place in moved.items() if box in layer}
        lines |= _bends(edges, moved, set(part))
        left = max(x for x, _ in moved.values()) + ACROSS
    for number, box in enumerate(alone):
        at[box] = (left, float(number * DOWN))
    return at, lines


def _layers(part: Sequence[int], arrows: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return the length of the longest way to each box."""
    layer = dict.fromkeys(part, 0)
    for start, end in sorted(arrows, key=lambda pair: pair[1]):
        layer[end] = max(layer[end], layer[start] + 1)
    return layer


def _sugiyama(
    arrows: Sequence[tuple[int, int]],
) -> list[tuple[dict[int, Point], Sequence[tuple[int, int]]]]:
    """Return the places of each connected part, in the middle of a box, and its lines in steps of one layer.
    Negative numbers are bends."""
    if not arrows:
        return []
    try:
        from fast_sugiyama import from_edges
    except ImportError as error:
        raise UsageFault(
            "fast-sugiyama, which lays out the graph, is not installed.", "pip install 'netfuse-onnx[report]'"
        ) from error
    boxes = sorted({box for arrow in arrows for box in arrow})
    number = {box: place for place, box in enumerate(boxes)}  # bends have the numbers from len(boxes) on
    found = from_edges(
        [(number[start], number[end]) for start, end in arrows],
        minimum_length=1, vertex_spacing=ACROSS, dummy_vertices=True, dummy_size=LANE,
    )  # fmt: skip
    names = dict(enumerate(boxes))

    def name(place: int | str) -> int:
        return names.get(int(place), -1 - int(place))

    scale = DOWN / ACROSS
    return [
        (
            {name(box): (x, y * scale) for box, (x, y) in positions},
            [(name(start), name(end)) for start, end in steps or ()],
        )
        for positions, _, _, steps in found
    ]


def _bends(
    steps: Sequence[tuple[int, int]], at: Mapping[int, Point], boxes: set[int]
) -> dict[tuple[int, int], tuple[Point, ...]]:
    """Return the bends of each line between two boxes, which goes over numbers that are no box."""
    after = {start: end for start, end in steps if start not in boxes}
    found = {}
    for start, end in steps:
        if start not in boxes:
            continue
        line, here = list[Point](), end
        while here not in boxes:
            line.append(at[here])
            here = after[here]
        found[start, here] = tuple(line)
    return found
