"""The byte proof: take a merged weight apart and compare what comes out with every source, bit for bit.

The proof goes the other way than the writer: merged bytes -> parts -> Transform.undo -> source. It shares
only the reading of files with the writer: it finds the parts by itself, and calls no transform's `apply`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
from numpy.lib.stride_tricks import as_strided
from onnx import TensorProto

from netfuse_onnx.errors import InternalError, ValuesDiffer
from netfuse_onnx.storage.elements import Elements, Files, elements_of
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import Values, nbytes
from netfuse_onnx.storage.transforms import Tile
from netfuse_onnx.types import Extent, Weight

_MEMORY = 8 << 20  # bytes that undoing a transform holds at a time
Difference = int | None
"""The byte offset of a difference in the raw form of a source, or None."""


def first_difference(recipe: Recipe, merged: Extent | bytes | tuple[bytes, ...]) -> tuple[int, int] | None:
    """Where the bytes at `merged` don't hold a source's weight: (model, byte offset in its raw form),
    or None when all is equal. Of several differences it is the first that the comparison meets. Strings
    are compared whole, and their offsets count them.

    Raises ValuesDiffer when the size is wrong, FileFault when a file can't be read.
    """
    recipe.check()
    _check_size(recipe, merged)
    with Files() as files:
        periods = _Periods(elements_of(Weight(recipe.dtype, recipe.shape, merged), files), recipe)
        differences = _in_turn if recipe.outer > 1 else _one_by_one
        return next(differences(list(_comparisons(recipe, periods, files))), None)


def _check_size(recipe: Recipe, merged: Extent | bytes | tuple[bytes, ...]) -> None:
    if recipe.dtype == TensorProto.STRING:
        size, unit = math.prod(recipe.shape), "strings"
    else:
        size, unit = nbytes(recipe.dtype, recipe.shape), "bytes"
    have = merged.length if isinstance(merged, Extent) else len(merged)
    if have != size:
        raise ValuesDiffer(f"Merged weight {recipe.value!r} takes {size} {unit}, {have} are there.")


def _comparisons(recipe: Recipe, periods: _Periods, files: Files) -> Iterator[Iterator[Difference]]:
    """The walk over each model's source. Walks that are done in turn hold twice the memory, all together."""
    memory = 2 * _MEMORY // len(recipe.parts) if recipe.outer > 1 else _MEMORY
    for model, weight in enumerate(recipe.parts):
        part = _Part(periods, model)
        tiles = recipe.transform.undo(part, weight.shape, memory)
        yield _compare(tiles, recipe.counts[model], elements_of(weight, files))


def _one_by_one(walks: list[Iterator[Difference]]) -> Iterator[tuple[int, int]]:
    """Differences as (model, offset): all of the first model's, all of the second's, ..."""
    for model, walk in enumerate(walks):
        yield from ((model, offset) for offset in walk if offset is not None)


def _in_turn(walks: list[Iterator[Difference]]) -> Iterator[tuple[int, int]]:
    """The same, one tile of every model at a time: interleaved parts are then read from the same periods."""
    for step in zip_longest(*walks):
        yield from ((model, offset) for model, offset in enumerate(step) if offset is not None)


class _Periods:
    """A merged weight as `outer` periods, each of one run of every part."""

    def __init__(self, whole: Elements, recipe: Recipe) -> None:
        self.whole, self.outer = whole, recipe.outer
        self.runs = [count // recipe.outer for count in recipe.counts]
        self.period = sum(self.runs)
        self._last: tuple[int, int, Values] | None = None

    def rows(self, first: int, end: int) -> Values:
        """Periods first..end, one a row. The last answer is kept: the next model asks for the same ones."""
        if self._last is None or self._last[:2] != (first, end):
            values = self.whole.read(first * self.period, (end - first) * self.period)
            self._last = first, end, values.reshape(end - first, self.period)
        return self._last[2]


class _Part:
    """The elements that one model put into a merged weight, still transformed: a run of every period."""

    def __init__(self, periods: _Periods, model: int) -> None:
        self.periods, self.run = periods, periods.runs[model]
        self.before = sum(periods.runs[:model])
        self.count = self.run * periods.outer
        self.bits, self.dtype = periods.whole.bits, periods.whole.dtype

    def read(self, start: int, count: int) -> Values:
        first, lead = divmod(start, self.run)
        if lead + count <= self.run:
            return self.periods.whole.read(first * self.periods.period + self.before + lead, count)
        if count <= self.run:  # the end of a long run, and the start of the next one
            some = self.run - lead
            return np.concatenate((self.read(start, some), self.read(start + some, count - some)))
        rows = self.periods.rows(first, -(-(start + count) // self.run))
        return rows[:, self.before : self.before + self.run].reshape(-1)[lead : lead + count]


def _compare(tiles: Iterator[Tile], count: int, source: Elements) -> Iterator[Difference]:
    """For each tile the byte offset in the source of the first difference, None where there is none.

    Raises InternalError when the tiles don't hold all `count` elements of the part.
    """
    for start, stride, values in tiles:
        rows, columns, copies = values.shape
        flat = source.read(start, (rows - 1) * stride + columns)
        steps = (stride * flat.itemsize, flat.itemsize, 0)
        found = _unequal(values, as_strided(flat, values.shape, steps, writeable=False))
        if found:
            row, column = divmod(found[0] // copies, columns)
            yield (start + row * stride + column) * source.bits // 8 + found[1]
        else:
            yield None
        count -= values.size
    if count:
        raise InternalError("The proof of the bytes left out elements of a weight.", "Please report this.")


def _unequal(got: Values, want: Values) -> tuple[int, int] | None:
    """The first element whose bits differ, and its first differing byte, which is 0 for strings."""
    equal = got == want
    if equal.all():
        return None
    index = int(np.flatnonzero(~equal)[0])
    if got.dtype == object:
        return index, 0
    a, b = (x.reshape(-1)[index].tobytes() for x in (got, want))
    return index, next(byte for byte in range(len(a)) if a[byte] != b[byte])
