"""Reading files that others may replace meanwhile, so that every result is true of one version of them.

A merged file is replaced by a rename, and so should others be; a proof opens it several times. So the work is
done, and done again when one of the files was replaced or changed during it. Nothing is locked or copied:
that would need the right to write beside the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from netfuse_onnx.errors import FileFault

ATTEMPTS = 5
"""The work is tried this often before a file counts as never at rest."""

Stamp = tuple[int, int, int, int]
"""The facts that differ between two versions of a file: device, inode, bytes, time of change in ns."""
Result = TypeVar("Result")


def stamp(path: str) -> Stamp | None:
    """Returns the stamp of the file at `path`, links followed; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def steady(paths: Sequence[str], work: Callable[[], Result], attempts: int = ATTEMPTS) -> Result:
    """Returns the result of `work`, or raises its exception, from a time in which no file at `paths` changed.

    Raises FileFault when a file changed during each of the attempts.
    """
    changed: list[str] = []
    for _ in range(attempts):
        before = {path: stamp(path) for path in paths}
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        changed = [path for path in paths if stamp(path) != before[path]]
        if changed:
            continue
        if failure is not None:
            raise failure
        return result
    times = "" if attempts == 1 else f", {attempts} times in a row"
    raise FileFault(
        f"{changed[0]} was replaced or changed while it was read{times}.",
        "Run again when nobody writes to it.",
    )
