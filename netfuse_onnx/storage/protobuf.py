"""The protobuf wire format, read in place: fields and their positions, no values.

Format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

_WINDOW = 1 << 15  # bytes per read: a run of nodes, or the head of a tensor


class MalformedError(Exception):
    """The bytes are no protobuf message, or no ONNX model. Callers raise a FileFault that names the file."""


class Field(NamedTuple):
    """One field on the wire: its tag is at `at`, its value at `start` up to `end`, in bytes."""

    at: int
    number: int
    wire: int  # 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes
    start: int
    end: int


class Window:
    """Random access to a file through one small buffer."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.size = fd, size
        self._base, self._data = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """Returns at most `length` bytes from `start` on, fewer where the file ends."""
        return os.pread(self.fd, length, start)

    def take(self, start: int, end: int) -> bytes:
        """Returns bytes start..end, which must lie inside the file."""
        at = start - self._base
        if at >= 0 and end - self._base <= len(self._data):
            return self._data[at : end - self._base]
        data = self.read(start, end - start)
        if len(data) != end - start:
            raise MalformedError("it changed while it was read")
        return data

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Returns the base-128 number at `at`, and the byte where it ends."""
        index = at - self._base
        data = self._data
        if not 0 <= index <= len(data) - 10:
            self._base, self._data = at, self.read(at, _WINDOW)
            index, data = 0, self._data
        value = shift = 0
        for byte in data[index : index + min(10, end - at)]:
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value, at + shift // 7
        raise MalformedError(f"a number at byte {at} does not end")

    def fields(self, at: int, end: int) -> Iterator[Field]:
        """Yields the fields of the message at..end, in order."""
        varint = self.varint
        while at < end:
            tag, start = varint(at, end)
            wire = tag & 7
            if wire == 2:
                length, start = varint(start, end)
                stop = start + length
            elif wire == 0:
                stop = varint(start, end)[1]
            elif wire in (1, 5):
                stop = start + (8 if wire == 1 else 4)
            else:
                stop = -1
            if stop < start or tag < 8:
                raise MalformedError(f"no protobuf field can start at byte {at}")
            if stop > end:
                raise MalformedError(f"it is truncated, the field at byte {at} should end at byte {stop}")
            yield Field(at, tag >> 3, wire, start, stop)
            at = stop


def varint(value: int) -> bytes:
    """Returns a number in base 128, lowest group first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
