"""Tensor values whose form in the file is not their raw form, decoded once into a temporary file.

That is int32_data, int64_data and uint64_data, which are varints, and value fields that are split or
not packed. Exporters write them for small tensors; a few write everything so. The temporary folder
(under TMPDIR) lives until the process ends, because weights refer to it; it goes on sys.exit and on
signals that a handler turns into SystemExit, too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage.protobuf import Field, MalformedError, Window
from netfuse_onnx.storage.tensors import BITS, Values, pack_values, value_field
from netfuse_onnx.types import Extent

_BLOCK = 1 << 20  # bytes of wire data decoded at a time


def decode(window: Window, runs: Sequence[Field], dtype: int) -> Extent:
    """The raw form of the values in `runs` of one tensor's value field, as an extent of the spill file.

    Raises MalformedError on numbers that don't end, FileFault when there is no room for the file.
    """
    try:
        with _Spill.lock, _Spill.file() as out:
            start = out.tell()
            for part in _in_groups(_values(window, runs, dtype), BITS[dtype]):
                out.write(pack_values(part, dtype) if part.dtype.kind != "f" else part.tobytes())
            return Extent(_Spill.path, start, out.tell() - start)
    except OSError as error:
        raise FileFault(
            f"No temporary file could be written in {tempfile.gettempdir()}: {error.strerror}.",
            "Free some space, or set TMPDIR to a folder with room.",
        ) from error


class _Spill:
    """The spill file of this process: made on first use, removed at exit."""

    lock = threading.Lock()
    path = ""
    _pid = 0

    @classmethod
    def file(cls) -> BinaryIO:
        if cls._pid != os.getpid():  # a forked child must neither share nor remove its parent's file
            folder = tempfile.mkdtemp(prefix="netfuse-onnx-")
            cls.path, cls._pid = os.path.join(folder, "spill"), os.getpid()
            weakref.finalize(cls, _remove, folder, cls._pid)
        return open(cls.path, "ab")


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _values(window: Window, runs: Sequence[Field], dtype: int) -> Iterator[Values]:
    """The entries of the field, in blocks; floats keep their bits."""
    field = value_field(dtype)
    width = {"float_data": 4, "double_data": 8}.get(field, 0)
    for run in runs:
        if width and (run.end - run.start) % (width if run.wire == 2 else width + 1):
            raise MalformedError(f"the {field} at byte {run.at} is no whole number of values")
        if not width:
            numbers = _varints(window, run.start, run.end)
            yield from numbers if run.wire == 2 else _every_second(numbers)
        elif run.wire == 2:
            for at in range(run.start, run.end, _BLOCK):
                yield np.frombuffer(window.take(at, min(at + _BLOCK, run.end)), f"<f{width}")
        else:  # a tag byte before each value
            step = (_BLOCK // (width + 1)) * (width + 1)
            for at in range(run.start, run.end, step):
                records = np.frombuffer(window.take(at, min(at + step, run.end)), np.uint8)
                yield np.ascontiguousarray(records.reshape(-1, width + 1)[:, 1:]).view(f"<f{width}").ravel()


def _varints(window: Window, start: int, end: int) -> Iterator[Values]:
    """Base-128 numbers as 64-bit patterns (int64): a number is the bytes up to one below 128."""
    rest = b""
    for at in range(start, end, _BLOCK):
        data = np.frombuffer(rest + window.take(at, min(at + _BLOCK, end)), np.uint8)
        ends = np.flatnonzero(data < 128)
        whole = int(ends[-1]) + 1 if ends.size else 0
        rest = data[whole:].tobytes()
        if len(rest) > 10:
            break
        if whole:
            starts = np.concatenate(([0], ends[:-1] + 1))
            if int((ends - starts).max()) > 9:
                raise MalformedError(f"a number after byte {at} does not end")
            yield _join(data, starts, ends)
    if rest:
        raise MalformedError(f"a number before byte {end} does not end")


def _join(data: Values, starts: Values, ends: Values) -> Values:
    """Numbers from their 7-bit groups: group k of all numbers that have one is added at once."""
    out = np.zeros(len(starts), np.uint64)
    for k in range(int((ends - starts).max()) + 1):
        has = np.flatnonzero(starts + k <= ends)
        out[has] |= (data[starts[has] + k] & 127).astype(np.uint64) << np.uint64(7 * k)
    return out.view(np.int64)


def _every_second(blocks: Iterator[Values]) -> Iterator[Values]:
    """Unpacked numbers: tag, value, tag, value, ...; a tag is itself a varint of one byte."""
    skip = 1
    for block in blocks:
        yield block[skip::2]
        skip = (skip + len(block)) % 2


def _in_groups(blocks: Iterator[Values], bits: int) -> Iterator[Values]:
    """Blocks of four elements' multiples for 6-bit types, whose groups of four share three bytes."""
    if bits != 6:
        yield from blocks
        return
    rest = np.empty(0, np.int64)
    for block in blocks:
        rest = np.concatenate((rest, block))
        whole = len(rest) // 4 * 4
        yield rest[:whole]
        rest = rest[whole:]
    yield rest
