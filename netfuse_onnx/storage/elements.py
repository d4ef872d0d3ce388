"""Weights as runs of elements: random access to a range of them, through a transform, in bounded memory.

An element is carried as plain bits in an unsigned numpy type of its width (a byte for narrower ones),
so nothing here can change a NaN. `read(start, count)` is the one operation.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from types import TracebackType
from typing import Protocol

import numpy as np
from onnx import TensorProto

from netfuse_onnx.errors import FileFault, InternalError
from netfuse_onnx.storage import external
from netfuse_onnx.storage.tensors import BITS, Values, nbytes, unit, unpack
from netfuse_onnx.types import Extent, Recipe, Weight

BAND = 16 << 20  # bytes of a matrix held at once to transpose it
_CHUNK = 1 << 20  # bytes read at a time to fill a band
_OPEN_FILES = 32


class Files:
    """The files that one operation reads, each opened once, the least recently used closed first.
    A context manager: nothing stays open behind it, so a replaced file is never read by its old content."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def fd(self, path: str) -> int:
        """An open descriptor, valid until 32 other files were asked for. FileFault when there is none."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        try:
            self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise external.unreadable(path, error) from error
        return self._open[path]

    def read(self, data: Extent | bytes, start: int, length: int) -> bytes:
        """`length` bytes of a weight's data from byte `start`. FileFault when the file ends early."""
        if isinstance(data, bytes):
            return data[start : start + length]
        try:
            got = os.pread(self.fd(data.path), length, data.offset + start)
            while len(got) < length:  # one read gives at most 2 GiB
                more = os.pread(self.fd(data.path), length - len(got), data.offset + start + len(got))
                if not more:
                    raise FileFault(f"{data.path} became shorter while it was read.", "Run it again.")
                got += more
        except OSError as error:
            raise external.unreadable(data.path, error) from error
        return got


class Elements(Protocol):
    """A sequence of `count` elements of `bits` bits."""

    count: int
    bits: int

    def read(self, start: int, count: int) -> Values:
        """Elements start..start+count as a flat array of tensors.unit(bits)."""
        ...


class Plain:
    """The elements of a weight in their own order. `as_bytes`: its bytes, whatever the element is."""

    def __init__(self, weight: Weight, files: Files, as_bytes: bool = False) -> None:
        if isinstance(weight.data, tuple):
            raise InternalError("A string tensor has no recipe.", "Please report this.")
        self.data, self.files = weight.data, files
        self.count, self.bits = math.prod(weight.shape), BITS[weight.dtype]
        if as_bytes:
            self.count, self.bits = nbytes(weight.dtype, weight.shape), 8

    def read(self, start: int, count: int) -> Values:
        first, skip = divmod(start * self.bits, 8)
        end = -(-(start + count) * self.bits // 8)
        data = self.files.read(self.data, first, end - first)
        if self.bits < 8:
            return unpack(data, self.bits, skip, count)
        return np.frombuffer(data, unit(self.bits))


class Repeated:
    """Each element `times` times."""

    def __init__(self, source: Elements, times: int) -> None:
        self.source, self.times = source, times
        self.count, self.bits = source.count * times, source.bits

    def read(self, start: int, count: int) -> Values:
        if not self.times:
            return self.source.read(0, 0)
        first, lead = divmod(start, self.times)
        last = -(-(start + count) // self.times)
        return np.repeat(self.source.read(first, last - first), self.times)[lead : lead + count]


class Transposed:
    """Matrices [L, R, C], elements in the order [L, C, R].

    Holds one band of columns of one matrix, transposed; a matrix of at most `band` bytes is one band.
    """

    def __init__(self, source: Elements, shape: tuple[int, ...], band: int = BAND) -> None:
        if len(shape) < 2:
            raise InternalError(
                f"A weight of shape {list(shape)} can't be transposed.", "Please report this."
            )
        self.source, (self.rows, self.columns) = source, shape[-2:]
        self.count, self.bits = source.count, source.bits
        width = max(self.bits, 8) // 8
        self.width = max(1, min(self.columns, band // max(1, self.rows * width)))  # columns of a band
        self.step = max(1, _CHUNK // max(1, self.columns * width))  # rows per read
        self._held: tuple[int, int] | None = None
        self._band: Values = np.empty((0, 0), unit(self.bits))

    def read(self, start: int, count: int) -> Values:
        pieces = []
        while count:
            matrix, inside = divmod(start, self.rows * self.columns)
            band = inside // (self.rows * self.width)
            held = self._load(matrix, band).reshape(-1)
            at = inside - band * self.width * self.rows
            pieces.append(held[at : at + count])
            start, count = start + len(pieces[-1]), count - len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, unit(self.bits)), *pieces])

    def _load(self, matrix: int, band: int) -> Values:
        """Columns of one matrix as [columns of the band, rows]."""
        if self._held != (matrix, band):
            left = band * self.width
            right = min(left + self.width, self.columns)
            self._band = np.empty((right - left, self.rows), unit(self.bits))
            for top in range(0, self.rows, self.step):
                rows = min(self.step, self.rows - top)
                first = (matrix * self.rows + top) * self.columns
                block = self.source.read(first, rows * self.columns).reshape(rows, self.columns)
                self._band[:, top : top + rows] = block[:, left:right].T
            self._held = (matrix, band)
        return self._band


def transformed(weight: Weight, transform: str, files: Files, band: int = BAND) -> Elements:
    """The elements of a recipe's part, after its transform: '', 'T', 'T<k>' or 'x<k>'."""
    plain = Plain(weight, files)
    if transform == "T":
        return Transposed(plain, weight.shape, band)
    if transform.startswith("T") and transform[1:].isdigit():
        at = int(transform[1:])
        return Transposed(plain, (math.prod(weight.shape[:at]), math.prod(weight.shape[at:])), band)
    if transform.startswith("x") and transform[1:].isdigit():
        return Repeated(plain, int(transform[1:]))
    if transform:
        raise InternalError(f"The writer knows no transform {transform!r}.", "Please report this.")
    return plain


def check(recipe: Recipe) -> None:
    """InternalError when the parts of a recipe can't fill its shape exactly."""
    transform, flat = recipe.transform, any(len(part.shape) < 2 for part in recipe.parts)
    times = int(transform[1:]) if transform.startswith("x") and transform[1:].isdecimal() else 1
    counts = [math.prod(part.shape) * times for part in recipe.parts]
    whole = recipe.outer > 0 and not any(count % recipe.outer for count in counts)
    known = recipe.dtype in BITS or recipe.dtype == TensorProto.STRING
    typed = known and all(part.dtype == recipe.dtype for part in recipe.parts)
    split = transform.startswith("T") and transform[1:].isdecimal()
    inside = split and all(0 < int(transform[1:]) < len(part.shape) for part in recipe.parts)
    possible = transform in ("", f"x{times}") or (transform == "T" and not flat) or inside
    if not whole or not typed or not possible or sum(counts) != math.prod(recipe.shape):
        raise InternalError(
            f"The parts of merged weight {recipe.value!r} don't fill its shape {list(recipe.shape)}.",
            "Please report this.",
        )
