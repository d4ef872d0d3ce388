"""Weights as sequences of elements: random access to a range of them, in bounded memory.

An element is carried as plain bits in an unsigned numpy type of its width (a byte for narrower ones),
so nothing here can change a NaN. `read(start, count)` is the one operation.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from netfuse_onnx.errors import FileFault, InternalError
from netfuse_onnx.storage import external
from netfuse_onnx.storage.tensors import BITS, Values, nbytes, unit, unpack
from netfuse_onnx.types import Extent, Weight

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
    """A sequence of `count` elements of `bits` bits, which numpy carries as `dtype`."""

    count: int
    bits: int
    dtype: np.dtype[Any]

    def read(self, start: int, count: int) -> Values:
        """Elements start..start+count as a flat array of `dtype`."""
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
        self.dtype = unit(self.bits)

    def read(self, start: int, count: int) -> Values:
        first, skip = divmod(start * self.bits, 8)
        end = -(-(start + count) * self.bits // 8)
        data = self.files.read(self.data, first, end - first)
        if self.bits < 8:
            return unpack(data, self.bits, skip, count)
        return np.frombuffer(data, self.dtype)


class Strings:
    """The elements of a string tensor, in memory. A string counts as one byte."""

    bits, dtype = 8, np.dtype(object)

    def __init__(self, data: tuple[bytes, ...]) -> None:
        self.data, self.count = data, len(data)

    def read(self, start: int, count: int) -> Values:
        values = np.empty(count, object)
        values[:] = self.data[start : start + count]
        return values


def elements_of(weight: Weight, files: Files) -> Elements:
    """The elements of a weight in their own order."""
    if weight.dtype == TensorProto.STRING and isinstance(weight.data, tuple):
        return Strings(weight.data)
    return Plain(weight, files)
