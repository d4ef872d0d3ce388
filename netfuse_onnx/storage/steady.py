"""Reading files that others may replace meanwhile: what comes out is true of one version of them, whole.

A merged file is replaced by a rename, and so should others be; a proof opens it several times. So the work is
done, and done again when one of the files was replaced or changed on the way. Nothing is locked or copied:
that would take the right to write beside the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from netfuse_onnx.errors import FileFault

ATTEMPTS = 5
"""Times that the work is tried before a file counts as never at rest."""

Stamp = tuple[int, int, int, int]
"""What tells two versions of a file apart: device, inode, bytes, nanoseconds of the last change."""
Result = TypeVar("Result")


def stamp(path: str) -> Stamp | None:
    """The stamp of the file at `path`, links followed; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def steady(paths: Sequence[str], work: Callable[[], Result], attempts: int = ATTEMPTS) -> Result:
    """The result of `work`, or its exception, from a time in which no file at `paths` changed.

    Raises FileFault when one was in each of the attempts.
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
