"""Transforms of weights: the order in which a merged weight holds the elements of a source weight.

A transform is one class of this file. The writer calls `apply`, which makes a part of the merged weight from
a source. The byte proof calls `undo`, which gives the source back from the part, and compares that with the
source's own file. A mistake in one can't hide in the other: neither calls the other, and in each class both
work from the shape of the source by themselves and meet only in the bytes. `apply` answers reads of the part,
in its order; `undo` walks over the source. They share just the size of the blocks that they work in.

`text` is the form in the metadata of merged files. Files of old versions are read too, so it never changes.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from netfuse_onnx.storage.elements import Elements
from netfuse_onnx.storage.tensors import Values

Shape = tuple[int, ...]

_CHUNK = 1 << 20  # bytes of a source read at a time, to fill a band that is transposed
_CACHED = 8  # an undo gives tiles of this fraction of its memory: they stay in the processor's cache


class Tile(NamedTuple):
    """Holds some elements of a source: values[i, j, k] is copy k of element start + i * stride + j."""

    start: int
    stride: int
    values: Values


class Transform(ABC):
    """Rearranges the elements of a source weight. Instances are frozen, and equal ones do the same."""

    pattern: ClassVar[str]
    """The text forms, as a regular expression whose groups are the fields of the class, whole numbers."""
    words: ClassVar[str]
    """The outcome in words that follow 'is stored'."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The form in the metadata of merged files."""

    def fits(self, shape: Shape) -> bool:
        """Returns True for a shape of source that the transform can be applied to."""
        return True

    def count(self, shape: Shape) -> int:
        """Returns the number of elements of the part, for a source of this shape."""
        return math.prod(shape)

    def moves(self, shape: Shape) -> bool:
        """Returns True where the part may hold other bytes than a source of this shape."""
        return True

    @abstractmethod
    def apply(self, source: Elements, shape: Shape, memory: int) -> Elements:
        """Returns the part, from a source of this shape. Its reader holds up to `memory` bytes."""

    @abstractmethod
    def undo(self, part: Elements, shape: Shape, memory: int) -> Iterator[Tile]:
        """Yields every copy of each element of the source, from the part. It holds up to `memory` bytes."""


@dataclass(frozen=True)
class AsIs(Transform):
    """The elements stay in their order."""

    pattern = ""
    text = ""
    words = "as it is"

    def moves(self, shape: Shape) -> bool:
        return False

    def apply(self, source: Elements, shape: Shape, memory: int) -> Elements:
        return source

    def undo(self, part: Elements, shape: Shape, memory: int) -> Iterator[Tile]:
        return _in_order(part, 1, memory)


AS_IS = AsIs()


@dataclass(frozen=True)
class Repeat(Transform):
    """Each element stands `times` times in a row: [a, b] -> [a, a, b, b]."""

    times: int
    pattern = "x([0-9]{1,9})"
    words = "repeated"

    @property
    def text(self) -> str:
        return f"x{self.times}"

    def moves(self, shape: Shape) -> bool:
        return self.times != 1

    def count(self, shape: Shape) -> int:
        return math.prod(shape) * self.times

    def apply(self, source: Elements, shape: Shape, memory: int) -> Elements:
        return _Repeated(source, self.times)

    def undo(self, part: Elements, shape: Shape, memory: int) -> Iterator[Tile]:
        return _in_order(part, self.times, memory)


@dataclass(frozen=True)
class SwapLast(Transform):
    """The last two axes are swapped: [.., R, C] -> [.., C, R]."""

    pattern = text = "T"
    words = "transposed"

    def fits(self, shape: Shape) -> bool:
        return len(shape) >= 2

    def moves(self, shape: Shape) -> bool:
        return min(shape[-2:]) > 1

    def apply(self, source: Elements, shape: Shape, memory: int) -> Elements:
        return _Transposed(source, shape[-2], shape[-1], memory)

    def undo(self, part: Elements, shape: Shape, memory: int) -> Iterator[Tile]:
        *_, rows, columns = shape
        return _columns_as_rows(part, rows, columns, memory)


@dataclass(frozen=True)
class SwapAt(Transform):
    """The axes before `axis` and those from it on are swapped: [R.., C..] -> [C.., R..]."""

    axis: int
    pattern = "T([0-9]{1,2})"
    words = "transposed"

    @property
    def text(self) -> str:
        return f"T{self.axis}"

    def fits(self, shape: Shape) -> bool:
        return 0 < self.axis < len(shape)

    def moves(self, shape: Shape) -> bool:
        return math.prod(shape[: self.axis]) > 1 and math.prod(shape[self.axis :]) > 1

    def apply(self, source: Elements, shape: Shape, memory: int) -> Elements:
        return _Transposed(source, math.prod(shape[: self.axis]), math.prod(shape[self.axis :]), memory)

    def undo(self, part: Elements, shape: Shape, memory: int) -> Iterator[Tile]:
        outer, inner = shape[: self.axis], shape[self.axis :]
        return _columns_as_rows(part, math.prod(outer), math.prod(inner), memory)


TYPES: tuple[type[Transform], ...] = (AsIs, Repeat, SwapLast, SwapAt)


def parsed(text: str) -> Transform:
    """Returns the transform of this text form. ValueError where it is none."""
    for each in TYPES:
        if match := re.fullmatch(each.pattern, text):
            transform = each(*map(int, match.groups()))
            if transform.text == text:
                return transform
    raise ValueError("is no transform of a weight")


# --------------------------------------------------------------------------- what apply gives


class _Repeated:
    """Reads each element of `source` `times` times."""

    def __init__(self, source: Elements, times: int) -> None:
        self.source, self.times = source, times
        self.count, self.bits, self.dtype = source.count * times, source.bits, source.dtype

    def read(self, start: int, count: int) -> Values:
        if not self.times:
            return self.source.read(0, 0)
        first, lead = divmod(start, self.times)
        last = -(-(start + count) // self.times)
        return np.repeat(self.source.read(first, last - first), self.times)[lead : lead + count]


class _Transposed:
    """Reads matrices [L, R, C] in the order [L, C, R].

    It holds one band of columns of one matrix, transposed; a matrix of at most `memory` bytes is one band.
    """

    def __init__(self, source: Elements, rows: int, columns: int, memory: int) -> None:
        self.source, self.rows, self.columns = source, rows, columns
        self.count, self.bits, self.dtype = source.count, source.bits, source.dtype
        self.width = max(1, min(columns, _elements(source, memory) // max(1, rows)))  # columns of a band
        self.step = max(1, _elements(source, _CHUNK) // max(1, columns))  # rows per read
        self._at: tuple[int, int] | None = None
        self._band: Values = np.empty((0, 0), self.dtype)

    def read(self, start: int, count: int) -> Values:
        pieces = []
        while count:
            matrix, inside = divmod(start, self.rows * self.columns)
            band = inside // (self.rows * self.width)
            values = self._load(matrix, band).reshape(-1)
            at = inside - band * self.width * self.rows
            pieces.append(values[at : at + count])
            start, count = start + len(pieces[-1]), count - len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, self.dtype), *pieces])

    def _load(self, matrix: int, band: int) -> Values:
        """Returns a band of columns of one matrix as [columns of the band, rows]."""
        if self._at != (matrix, band):
            left = band * self.width
            right = min(left + self.width, self.columns)
            self._band = np.empty((right - left, self.rows), self.dtype)
            for top in range(0, self.rows, self.step):
                rows = min(self.step, self.rows - top)
                first = (matrix * self.rows + top) * self.columns
                block = self.source.read(first, rows * self.columns).reshape(rows, self.columns)
                self._band[:, top : top + rows] = block[:, left:right].T
            self._at = (matrix, band)
        return self._band


# --------------------------------------------------------------------------- what undo gives


def _in_order(part: Elements, copies: int, memory: int) -> Iterator[Tile]:
    """Yields the elements of a source, from a part that holds `copies` of each one in a row."""
    count = part.count // max(1, copies)
    step = max(1, _elements(part, memory // _CACHED) // max(1, copies))
    for start in range(0, count, step):
        size = min(step, count - start)
        yield Tile(start, 0, part.read(start * copies, size * copies).reshape(1, size, copies))


def _columns_as_rows(part: Elements, rows: int, columns: int, memory: int) -> Iterator[Tile]:
    """Yields matrices [L, rows, columns] of a source, from a part that holds [L, columns, rows]."""
    size = rows * columns
    wide = max(1, min(columns, _elements(part, memory) // max(1, rows)))
    high = max(1, min(rows, _elements(part, memory // _CACHED) // max(1, columns)))
    for first in range(0, part.count, max(1, size)):
        for left in range(0, columns, wide):
            some = min(wide, columns - left)
            band = part.read(first + left * rows, some * rows).reshape(some, rows, 1).swapaxes(0, 1)
            for top in range(0, rows, high):
                yield Tile(first + top * columns + left, columns, band[top : top + high])


def _elements(source: Elements, nbytes: int) -> int:
    """Returns the number of elements that `nbytes` bytes of memory hold, at least one."""
    return max(1, nbytes // source.dtype.itemsize)
