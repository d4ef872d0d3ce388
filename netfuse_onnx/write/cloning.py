"""The file from which a new data file can begin: one that has most of the bytes where they are to be.

When a model of a merged file is replaced by another one, all others stay where they are. On a file system
that can share blocks between files, the new data file then begins as a copy of the old one, and only what
differs is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from netfuse_onnx.storage import weights
from netfuse_onnx.storage.clone import clone
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Extent

Placed = tuple[Recipe, int]
"""A recipe, and the byte of the new file at which its weight begins."""


def begun(fd: int, placed: Sequence[Placed], end: int) -> str:
    """Make the empty data file `fd`, whose weights will end at byte `end`, a copy of another file, and return
    the path of that; '' where there is no such file, or the file system can't. What lies between the weights
    is zero, as in any data file."""
    path = donor(placed, end)
    if not path or not clone(path, fd):
        return ""
    at = 0
    for recipe, start in placed:
        weights.write(fd, at, bytes(start - at))
        at = start + weights.recipe_nbytes(recipe)
    return path


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
