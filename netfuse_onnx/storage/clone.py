"""A file as a copy of another that shares its blocks, on file systems that can do that (btrfs, XFS).

What is written to one of the two later does not show in the other. It takes no time and no room, however
large the file is. Where the file system can't, nothing happens, and the caller copies.
"""

from __future__ import annotations

import fcntl

_FICLONE = 0x40049409
"""The request of ioctl(2) for it, from linux/fs.h."""


def clone(source: int, fd: int) -> bool:
    """Makes the empty file `fd` a copy of the file `source`, both open. Returns False where that can't be
    done."""
    try:
        fcntl.ioctl(fd, _FICLONE, source)
    except OSError:
        return False
    return True
