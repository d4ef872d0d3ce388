"""Locks between processes. The system releases them when their process ends, however it ends.

flock(2) works on local file systems, and on network ones for files that are open for writing. Callers are
told where it does not work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

PATIENCE = 300.0
"""Seconds to wait for a lock. Its holder renames a few files, which takes milliseconds, and syncs folders,
which may take seconds on a busy disk. The waiting process has done a whole merge, which would be lost."""
_PAUSE = 0.005  # seconds between two attempts


class LockHeld(OSError):
    """Another process did not release the lock in time."""


def granted(fd: int) -> bool | None:
    """Takes the lock of an open file or folder. Returns True when this process has it now, False when another
    process has it, None where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[bool]:
    """Holds the lock file `path`, which exists only during that time. Gives False where there are no locks,
    and then does not wait. OSError when the file can't be made, LockHeld after PATIENCE.

    The file is our own: a lock on the folder or the target would never be granted where a user runs the merge
    under flock(1) with one of them.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        fd = _opened(path)
        try:
            answer = granted(fd)
            if answer is None or (answer and _is_at(fd, path)):
                yield answer is not None
                return
        finally:
            _release(fd, path)
        if answer is False:
            if time.monotonic() > deadline:
                raise LockHeld(errno.EBUSY, f"another merge has held {path} for {PATIENCE:.0f} s")
            time.sleep(_PAUSE)


def clear(path: str) -> None:
    """Removes the lock file that a killed process has left at `path`, if there is one."""
    with contextlib.suppress(OSError):
        _release(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), path)


def _opened(path: str) -> int:
    """Returns the lock file, open for writing. All users who may write to the folder may lock: it is
    empty."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o666)
            return fd


def _is_at(fd: int, path: str) -> bool:
    """Returns True when the open file is still at `path`: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _release(fd: int, path: str) -> None:
    """Removes the file first, so that nobody gets the lock of a file that is about to go. A signal may have
    come between getting the lock and recording it, so this asks for the lock again."""
    try:
        with contextlib.suppress(OSError):
            if granted(fd) is not False and _is_at(fd, path):
                os.unlink(path)
    finally:
        with contextlib.suppress(OSError):  # a process forked meanwhile has the descriptor too
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
