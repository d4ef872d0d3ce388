"""A temporary file for the values of tensors whose form in the model file is not their raw form.

Such are int32_data, int64_data and uint64_data, which are numbers of varying length, and value fields that
are split or not packed. Exporters write them for small tensors; a few write everything so. The temporary
folder (under TMPDIR) lives until the process ends, because weights refer to it; it goes on sys.exit and on
signals that a handler turns into SystemExit, too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable
from typing import BinaryIO

from netfuse_onnx.errors import FileFault
from netfuse_onnx.types import Extent


def store(raw: bytes) -> Extent:
    """Writes `raw` to the temporary file; returns its place. FileFault when there is no room for it."""
    return store_blocks([raw])


def store_blocks(blocks: Iterable[bytes]) -> Extent:
    """Writes the blocks one after the other, as `store` does. What making a block raises is raised."""
    try:
        with _Spill.lock, _Spill.file() as out:
            start = out.tell()
            out.writelines(blocks)
            return Extent(_Spill.path, start, out.tell() - start)
    except OSError as error:
        raise FileFault(
            f"No temporary file could be written in {tempfile.gettempdir()}: {error.strerror}.",
            "Free some space, or set TMPDIR to a folder with room.",
        ) from error


class _Spill:
    """The temporary file of this process: made on first use, removed at exit."""

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
