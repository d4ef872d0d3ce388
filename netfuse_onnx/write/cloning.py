"""The file from which a new data file can begin: one that has most of the bytes where they are to be.

When a model of a merged file is replaced by another one, all others stay where they are. The new data file
then begins as a copy of the old one, and only what differs is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from netfuse_onnx.storage import weights
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Extent
from netfuse_onnx.write.early import Early

Placed = tuple[Recipe, int]
"""A recipe, and the byte of the new file at which its weight begins."""


def places(sizes: Sequence[int], align: int) -> tuple[list[tuple[int, int]], int]:
    """Return the offset and the size of each weight in a data file, and where the last one ends."""
    found, at = [], 0
    for size in sizes:
        at = -(-at // align) * align
        found.append((at, size))
        at += size
    return found, at


def begun(target: str, placed: Sequence[Placed], end: int, early: Early | None) -> str:
    """Make the data file `target`, whose weights will end at byte `end`, a copy of the file that most of them
    are in, and return the path of that; '' where there is no such file, or no copy of it."""
    path = donor(placed, end)
    if early is None:
        return ""
    if path and early.of_file(path) and early.take(target):
        return path
    early.stop()
    return ""


def clear(fd: int, placed: Sequence[Placed]) -> None:
    """Make zero what lies between the weights of a data file that began as a copy."""
    at = 0
    for recipe, start in placed:
        weights.write(fd, at, bytes(start - at))
        at = start + weights.recipe_nbytes(recipe)


def donor(placed: Sequence[Placed], size: int) -> str:
    """Return the path of the file in which more than half of the `size` bytes of a new data file are where
    they are to be; '' where there is none."""
    found: Counter[str] = Counter()
    for recipe, at in placed:
        for extent in _in_place(recipe, at):
            found[extent.path] += extent.length
    path, count = found.most_common(1)[0] if found else ("", 0)
    return path if 2 * count > size else ""


def _in_place(recipe: Recipe, at: int) -> Iterator[Extent]:
    """Yield the places in files of those parts that lie as far from the beginning there as they are to."""
    if recipe.outer != 1 or weights.moves(recipe):
        return
    for part in recipe.parts:
        size = weights.nbytes(part)
        if isinstance(part.data, Extent) and part.data.offset == at:
            yield part.data
        at += size
