"""The byte proof: take a merged weight apart and compare what comes out with every source, bit for bit.

The proof goes the other way than the writer: merged bytes -> parts -> Transform.undo -> source. It shares
only the reading of files with the writer: it finds the parts by itself, and calls no transform's `apply`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, pairwise, zip_longest

import numpy as np
from numpy.lib.stride_tricks import as_strided
from onnx import TensorProto

from netfuse_onnx.errors import InternalError, ValuesDiffer
from netfuse_onnx.storage import spill
from netfuse_onnx.storage.elements import Elements, Files, elements_of
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS, Values, nbytes, pack
from netfuse_onnx.storage.transforms import AS_IS, Tile
from netfuse_onnx.types import Extent, Weight

_MEMORY = 8 << 20  # bytes that undoing a transform holds at a time
_LONG = 1 << 15  # bytes of a run from which on it is read alone, without the other models' runs beside it
Difference = tuple[int, int] | None
"""The position of the source and the byte offset in its weight of a difference, or None."""


def first_difference(
    recipe: Recipe,
    merged: Extent | bytes | tuple[bytes, ...],
    sources: Sequence[tuple[int, Weight]] | None = None,
) -> Difference:
    """Returns a place where the bytes at `merged` differ from a source's weight, as (position in `sources`,
    byte offset in its raw form), or None when all are equal. Of several places it is the first that the
    comparison meets. Strings are compared whole, and their offsets count strings.

    `sources` are the weights that the parts must equal, each with the position of its part: those of the
    recipe by default. Several may have one part.

    Raises ValuesDiffer when the size is wrong, FileFault when a file can't be read.
    """
    recipe.check()
    _check_size(recipe, merged)
    with Files() as files:
        periods = _Periods(elements_of(Weight(recipe.dtype, recipe.shape, merged), files), recipe)
        given = list(enumerate(recipe.parts)) if sources is None else sources
        walks = _walks(recipe, periods, given, files)
        # In turn, a tile of each model, when parts are interleaved: those tiles lie in the same periods.
        found = chain.from_iterable(zip_longest(*walks) if periods.together else walks)
        return next(filter(None, found), None)


def taken_out(
    recipe: Recipe, merged: Extent | bytes, part: int, store: Callable[[bytes], Extent] = spill.store
) -> Weight:
    """Returns the source weight that went into a merged weight as this part, by reference where its bytes lie
    together, else as a copy that `store` keeps: by default in the temporary file.

    Raises ValuesDiffer when the size is wrong, FileFault when a file can't be read or there is no room.
    """
    recipe.check()
    _check_size(recipe, merged)
    source = recipe.parts[part]
    size, bits = nbytes(recipe.dtype, source.shape), BITS[recipe.dtype]
    before = bits * sum(math.prod(each.shape) for each in recipe.parts[:part])
    aligned = before % 8 == 0 and math.prod(source.shape) * bits % 8 == 0
    if recipe.transform == AS_IS and recipe.outer == 1 and aligned:
        start = before // 8
        if isinstance(merged, bytes):
            return Weight(recipe.dtype, source.shape, merged[start : start + size])
        return Weight(recipe.dtype, source.shape, Extent(merged.path, merged.offset + start, size))
    with Files() as files:
        whole = elements_of(Weight(recipe.dtype, recipe.shape, merged), files)
        elements, done = np.empty(math.prod(source.shape), whole.dtype), 0
        for start, stride, values in recipe.transform.undo(
            _Part(_Periods(whole, recipe), part), source.shape, _MEMORY
        ):
            rows, columns, _ = values.shape
            steps = (stride * elements.itemsize, elements.itemsize)
            as_strided(elements[start:], (rows, columns), steps)[:] = values[:, :, 0]
            done += rows * columns
    raw = pack(elements, bits) if bits < 8 else elements.tobytes()
    if done != elements.size or len(raw) != size:
        raise InternalError("Elements of a weight were left out.", "Please report this.")
    return Weight(recipe.dtype, source.shape, store(raw))


def _check_size(recipe: Recipe, merged: Extent | bytes | tuple[bytes, ...]) -> None:
    if recipe.dtype == TensorProto.STRING:
        size, unit = math.prod(recipe.shape), "strings"
    else:
        size, unit = nbytes(recipe.dtype, recipe.shape), "bytes"
    have = merged.length if isinstance(merged, Extent) else len(merged)
    if have != size:
        raise ValuesDiffer(f"Merged weight {recipe.value!r} takes {size} {unit}, {have} are there.")


def _walks(
    recipe: Recipe, periods: _Periods, sources: Sequence[tuple[int, Weight]], files: Files
) -> Iterator[Iterator[Difference]]:
    """Yields a walk over each source. Walks that are done in turn share twice the memory."""
    memory = 2 * _MEMORY // len(sources) if periods.together else _MEMORY
    counts = recipe.counts
    for place, (part, weight) in enumerate(sources):
        tiles = recipe.transform.undo(_Part(periods, part), weight.shape, memory)
        yield _compare(place, tiles, counts[part], elements_of(weight, files))


class _Periods:
    """Reads a merged weight as `outer` periods, each of one run of every part."""

    def __init__(self, whole: Elements, recipe: Recipe) -> None:
        self.whole, self.outer = whole, recipe.outer
        self.runs = [count // recipe.outer for count in recipe.counts]
        self.starts = [0, *accumulate(self.runs)]
        self.period = self.starts[-1]
        self.together = recipe.outer > 1 and max(self.runs) * whole.dtype.itemsize < _LONG
        """True for short runs: those of all models are read at once, and compared in turn."""
        self._last: tuple[int, int, Values] | None = None

    def rows(self, first: int, end: int) -> Values:
        """Returns periods first..end, one a row. It keeps the last ones: the next model asks for the same."""
        if self._last is None or self._last[:2] != (first, end):
            values = self.whole.read(first * self.period, (end - first) * self.period)
            self._last = first, end, values.reshape(end - first, self.period)
        return self._last[2]


class _Part:
    """Reads the elements that come from one model, still transformed: its run of every period."""

    def __init__(self, periods: _Periods, model: int) -> None:
        self.periods, self.run = periods, periods.runs[model]
        self.before = periods.starts[model]
        self.count = self.run * periods.outer
        self.bits, self.dtype = periods.whole.bits, periods.whole.dtype

    def read(self, start: int, count: int) -> Values:
        first, lead = divmod(start, self.run)
        if lead + count <= self.run:
            return self.periods.whole.read(first * self.periods.period + self.before + lead, count)
        last = (start + count - 1) // self.run
        if not self.periods.together:
            cuts = [start, *(self.run * run for run in range(first + 1, last + 1)), start + count]
            return np.concatenate([self.read(a, b - a) for a, b in pairwise(cuts)])
        rows = self.periods.rows(first, last + 1)
        return rows[:, self.before : self.before + self.run].reshape(-1)[lead : lead + count]


def _compare(place: int, tiles: Iterator[Tile], count: int, source: Elements) -> Iterator[Difference]:
    """Yields for each tile the first difference to the source, None where there is none.

    Raises InternalError when the tiles don't hold all `count` elements of the part.
    """
    for start, stride, values in tiles:
        rows, columns, copies = values.shape
        flat = source.read(start, (rows - 1) * stride + columns)
        steps = (stride * flat.itemsize, flat.itemsize, 0)
        difference = _unequal(values, as_strided(flat, values.shape, steps, writeable=False))
        if difference:
            row, column = divmod(difference[0] // copies, columns)
            yield place, (start + row * stride + column) * source.bits // 8 + difference[1]
        else:
            yield None
        count -= values.size
    if count:
        raise InternalError("The proof of the bytes left out elements of a weight.", "Please report this.")


def _unequal(values: Values, source: Values) -> tuple[int, int] | None:
    """Returns the first element whose bits differ and its first differing byte, which is 0 for strings."""
    equal = values == source
    if equal.all():
        return None
    index = int(np.flatnonzero(~equal)[0])
    if values.dtype == object:
        return index, 0
    a, b = (x.reshape(-1)[index].tobytes() for x in (values, source))
    return index, next(byte for byte in range(len(a)) if a[byte] != b[byte])
