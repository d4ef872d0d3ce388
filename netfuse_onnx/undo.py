"""The byte proof: take a merged weight apart again and compare it with every source, bit for bit.

It goes the other way than the writer, merged bytes -> un-interleave -> inverse transform -> source,
and shares none of its transforms, so that a mistake there can't hide here.
"""

from __future__ import annotations

import math

import numpy as np

from netfuse_onnx.elements import Files, Plain, check
from netfuse_onnx.errors import ValuesDiffer
from netfuse_onnx.tensors import Values, nbytes, unit
from netfuse_onnx.types import Extent, Recipe, Weight

_TILE = 1 << 21  # elements compared at a time
_SHORT = 512  # bytes of a run below which a read per run costs more than reading past the others


def first_difference(recipe: Recipe, merged: Extent) -> tuple[int, int] | None:
    """Where the bytes at `merged` don't hold a source's weight: (model, byte offset in its raw form),
    or None when all is equal. Models in order; within one, a differing byte of the first unequal tile.

    Raises ValuesDiffer when the size is wrong, FileFault when a file can't be read.
    """
    check(recipe)
    if merged.length != nbytes(recipe.dtype, recipe.shape):
        size = nbytes(recipe.dtype, recipe.shape)
        raise ValuesDiffer(f"Merged weight {recipe.value!r} takes {size} bytes, {merged.length} are there.")
    with Files() as files:
        whole = Plain(Weight(recipe.dtype, recipe.shape, merged), files)
        for model, weight in enumerate(recipe.parts):
            offset = _compare(_Part(whole, recipe, model), Plain(weight, files), weight, recipe.transform)
            if offset is not None:
                return model, offset
    return None


class _Part:
    """What one model put into a merged weight, still transformed: every outer-th run of the bytes."""

    def __init__(self, whole: Plain, recipe: Recipe, model: int) -> None:
        self.whole, self.bits = whole, whole.bits
        times = 1 if recipe.transform == "T" else _times(recipe.transform)
        sizes = [math.prod(part.shape) * times // recipe.outer for part in recipe.parts]
        self.period, self.before, self.run = sum(sizes), sum(sizes[:model]), sizes[model]

    def read(self, start: int, count: int) -> Values:
        """Elements start..start+count of the part."""
        if not count:
            return np.empty(0, unit(self.bits))
        first, last = start // self.run, (start + count - 1) // self.run
        if self.run * self.bits // 8 >= _SHORT or first == last:
            pieces = []
            while count:
                run, lead = divmod(start, self.run)
                some = min(count, self.run - lead)
                pieces.append(self.whole.read(run * self.period + self.before + lead, some))
                start, count = start + some, count - some
            return np.concatenate(pieces)
        step = max(1, _TILE // self.period)
        rows = [self._rows(top, min(step, last + 1 - top)) for top in range(first, last + 1, step)]
        lead = start - first * self.run
        return np.concatenate(rows)[lead : lead + count]

    def _rows(self, first: int, count: int) -> Values:
        """Whole runs, read together with those of the other models."""
        values = self.whole.read(first * self.period, count * self.period).reshape(count, self.period)
        return values[:, self.before : self.before + self.run].reshape(-1)


def _compare(part: _Part, source: Plain, weight: Weight, transform: str) -> int | None:
    """Byte offset of a difference between a part, its transform undone, and the source."""
    if transform == "T":
        return _compare_transposed(part, source, *weight.shape[-2:])
    times = _times(transform)
    step = max(1, _TILE // times)
    for at in range(0, source.count, step):
        count = min(step, source.count - at)
        got = part.read(at * times, count * times).reshape(count, times)
        want = source.read(at, count)
        for column in range(times):
            found = _unequal(np.ascontiguousarray(got[:, column]), want)
            if found:
                return (at + found[0]) * source.bits // 8 + found[1]
    return None


def _compare_transposed(part: _Part, source: Plain, rows: int, columns: int) -> int | None:
    """The part holds [L, C, R], the source [L, R, C]; tiles of columns, then of rows."""
    size = rows * columns
    wide = max(1, min(columns, _TILE // max(1, rows)))
    high = max(1, min(rows, _TILE // max(1, columns)))
    for matrix in range(source.count // max(1, size)):
        for left in range(0, columns, wide):
            some = min(wide, columns - left)
            turned = part.read(matrix * size + left * rows, some * rows).reshape(some, rows).T
            for top in range(0, rows, high):
                count = min(high, rows - top)
                block = source.read(matrix * size + top * columns, count * columns).reshape(count, columns)
                want = np.ascontiguousarray(block[:, left : left + some])
                found = _unequal(np.ascontiguousarray(turned[top : top + count]), want)
                if found:
                    row, within = divmod(found[0], some)
                    at = matrix * size + (top + row) * columns + left + within
                    return at * source.bits // 8 + found[1]
    return None


def _unequal(got: Values, want: Values) -> tuple[int, int] | None:
    """The first element whose bits differ, and its first differing byte. Both contiguous."""
    a, b = got.reshape(-1).view(np.uint8), want.reshape(-1).view(np.uint8)
    if np.array_equal(a, b):
        return None
    return divmod(int(np.flatnonzero(a != b)[0]), want.itemsize)


def _times(transform: str) -> int:
    return int(transform[1:]) if transform else 1
