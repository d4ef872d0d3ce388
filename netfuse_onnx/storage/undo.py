"""The byte proof: take a merged weight apart again and compare it with every source, bit for bit.

It goes the other way than the writer, merged bytes -> un-interleave -> inverse transform -> source,
and shares none of its transforms, so that a mistake there can't hide here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from netfuse_onnx.errors import ValuesDiffer
from netfuse_onnx.storage.elements import Files, Plain, check
from netfuse_onnx.storage.tensors import Values, nbytes, unit
from netfuse_onnx.types import Extent, Recipe, Weight

_BAND = 1 << 21  # elements of a transposed matrix held at a time
_TILE = 1 << 18  # elements compared at a time: they stay in the processor's cache
_SHORT = 512  # bytes of a run below which a read per run costs more than reading past the others


def first_difference(recipe: Recipe, merged: Extent | bytes | tuple[bytes, ...]) -> tuple[int, int] | None:
    """Where the bytes at `merged` don't hold a source's weight: (model, byte offset in its raw form),
    or None when all is equal. Of several differences it is the first that the comparison meets. Strings
    are compared whole, and their offsets count them.

    Raises ValuesDiffer when the size is wrong, FileFault when a file can't be read.
    """
    check(recipe)
    if isinstance(merged, tuple):
        return _compare_strings(recipe, merged)
    have, size = (
        len(merged) if isinstance(merged, bytes) else merged.length,
        nbytes(recipe.dtype, recipe.shape),
    )
    if have != size:
        raise ValuesDiffer(f"Merged weight {recipe.value!r} takes {size} bytes, {have} are there.")
    with Files() as files:
        whole = Plain(Weight(recipe.dtype, recipe.shape, merged), files)
        sources = [Plain(weight, files) for weight in recipe.parts]
        if not recipe.transform.startswith("T"):
            times = int(recipe.transform[1:]) if recipe.transform else 1
            return _compare_runs(whole, sources, recipe.outer, times)
        for model, (weight, source) in enumerate(zip(recipe.parts, sources, strict=True)):
            split = recipe.transform[1:]
            halves = (weight.shape[: int(split)], weight.shape[int(split) :]) if split else ()
            rows, columns = map(math.prod, halves) if halves else weight.shape[-2:]
            offset = _compare_transposed(_Part(whole, recipe, model), source, rows, columns)
            if offset is not None:
                return model, offset
    return None


def _compare_strings(recipe: Recipe, merged: tuple[bytes, ...]) -> tuple[int, int] | None:
    """String tensors are small and have no raw form: element by element."""
    if len(merged) != math.prod(recipe.shape):
        raise ValuesDiffer(
            f"Merged weight {recipe.value!r} has {math.prod(recipe.shape)} strings, {len(merged)} are there."
        )
    times = int(recipe.transform[1:]) if recipe.transform.startswith("x") else 1
    sizes = [math.prod(part.shape) * times // recipe.outer for part in recipe.parts]
    for model, part in enumerate(recipe.parts):
        rows, columns = part.shape[-2:] if recipe.transform == "T" else (1, 1)
        before = sum(sizes[:model])
        for at, want in enumerate(part.data if isinstance(part.data, tuple) else ()):
            matrix, inside = divmod(at, rows * columns)
            row, column = divmod(inside, columns)
            turned = matrix * rows * columns + column * rows + row
            for copy in range(times):
                run, within = divmod(turned * times + copy, sizes[model])
                if merged[run * sum(sizes) + before + within] != want:
                    return model, at
    return None


def _compare_runs(whole: Plain, sources: Sequence[Plain], outer: int, times: int) -> tuple[int, int] | None:
    """One pass over the merged bytes: in every period a run of each model, each element `times` times."""
    runs = [source.count // outer for source in sources]
    period = sum(runs) * times
    rows = max(1, _TILE // max(1, period))  # periods at a time
    for top in range(0, outer, rows):
        rows = min(rows, outer - top)
        together = whole.read(top * period, rows * period).reshape(rows, period) if rows > 1 else None
        before = 0
        for model, (source, run) in enumerate(zip(sources, runs, strict=True)):
            for at in range(0, run, max(run, 1) if rows > 1 else _TILE):
                count = run if rows > 1 else min(_TILE, run - at)
                if together is None:
                    got = whole.read(top * period + before + at * times, count * times)
                else:
                    got = together[:, before : before + run * times]
                want = source.read(top * run + at, rows * count)
                found = _unequal(got.reshape(rows * count, times), want.reshape(-1, 1))
                if found:
                    return model, (top * run + at + found[0] // times) * source.bits // 8 + found[1]
            before += run * times
    return None


class _Part:
    """What one model put into a merged weight, still transformed: every outer-th run of the bytes."""

    def __init__(self, whole: Plain, recipe: Recipe, model: int) -> None:
        self.whole, self.bits = whole, whole.bits
        sizes = [math.prod(part.shape) // recipe.outer for part in recipe.parts]
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
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        step = max(1, _TILE // self.period)
        rows = [self._rows(top, min(step, last + 1 - top)) for top in range(first, last + 1, step)]
        lead = start - first * self.run
        return np.concatenate(rows)[lead : lead + count]

    def _rows(self, first: int, count: int) -> Values:
        """Whole runs, read together with those of the other models."""
        values = self.whole.read(first * self.period, count * self.period).reshape(count, self.period)
        return values[:, self.before : self.before + self.run].reshape(-1)


def _compare_transposed(part: _Part, source: Plain, rows: int, columns: int) -> int | None:
    """The part holds [L, C, R], the source [L, R, C]; tiles of columns, then of rows."""
    size = rows * columns
    wide = max(1, min(columns, _BAND // max(1, rows)))
    high = max(1, min(rows, _TILE // max(1, columns)))
    for matrix in range(source.count // max(1, size)):
        for left in range(0, columns, wide):
            some = min(wide, columns - left)
            turned = part.read(matrix * size + left * rows, some * rows).reshape(some, rows).T
            for top in range(0, rows, high):
                count = min(high, rows - top)
                block = source.read(matrix * size + top * columns, count * columns).reshape(count, columns)
                found = _unequal(turned[top : top + count], block[:, left : left + some])
                if found:
                    row, within = divmod(found[0], some)
                    at = matrix * size + (top + row) * columns + left + within
                    return at * source.bits // 8 + found[1]
    return None


def _unequal(got: Values, want: Values) -> tuple[int, int] | None:
    """The first element of `got` whose bits differ, and its first differing byte."""
    equal = got == want
    if equal.all():
        return None
    index = int(np.flatnonzero(~equal)[0])
    a, b = (np.broadcast_to(x, got.shape).reshape(-1)[index].tobytes() for x in (got, want))
    return index, next(byte for byte in range(len(a)) if a[byte] != b[byte])
