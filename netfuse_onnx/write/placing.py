"""Renaming a merged model and its data file to their final names, and removing data files of earlier models.

The data file comes first, under a name that is unique to its content; then the model. Each is a rename, so a
reader who opens the target finds the old model or the new one. A reader who has opened the old model may open
its data file later. So that file stays until the next merge to the target is done, and for READERS_TIME at
least. A data file that neither the current model nor the one before it uses is an orphan: every merge removes
those of its target, whether an earlier merge or a killed run left them. That needs no records: the last bytes
of a data file name its target, and the models in the folder name the data files that they use.

From reading the target to removing the last orphan, a lock keeps other merges to the target out. Without it
the faster of two would remove, as an orphan, the data file of the slower, which is to rename its model next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Set

from netfuse_onnx.storage import wire
from netfuse_onnx.write import lock

READERS_TIME = 0.25
"""A data file stays for at least so many seconds after the replacement of its model."""
_UNLOCKED_TIME = 3600.0
"""A data file stays for so many seconds after its last change where the file system has no locks: another
merge may be about to rename its model."""


class Place:
    """The place of the model `name` in the folder `home`. `lock` is the path of the lock file; all targets
    whose data files have names of one form share it."""

    def __init__(self, home: str, name: str, lock: str) -> None:
        self.home, self.name, self.lock = home, name, lock
        self._mark = mark(name)
        self._form = re.compile(re.escape(name.removesuffix(".onnx")) + r"-[0-9a-f]{8}\.data")

    def put(self, folder: str, data: str | None, check: Callable[[], None] = lambda: None) -> None:
        """Moves the model, and its data file `data`, here from `folder`, unless `check` raises: no other run
        to this target moves anything then. OSError when that fails, LockHeld when the lock can't be had; then
        the old model still stands."""
        with lock.exclusive(self.lock) as alone:
            check()
            in_use = (_locations(self._at(self.name)) or frozenset()) | ({data} if data else frozenset())
            orphans = self._orphans(in_use, alone)
            if orphans:
                self._wait()
            self._move(folder, data, alone)
            self._remove(orphans)

    def clear(self) -> None:
        """Removes all data files of earlier models, for there is no room to keep them."""
        with lock.exclusive(self.lock) as alone:
            self._remove(self._orphans(_locations(self._at(self.name)) or frozenset(), alone))

    def _at(self, name: str) -> str:
        return os.path.join(self.home, name)

    def _orphans(self, in_use: Set[str], alone: bool) -> list[str]:
        """Returns the data files of this target that are not in `in_use`; other models in the folder may use
        them. Without a lock it returns only old ones."""
        found = [name for name in os.listdir(self.home) if self._form.fullmatch(name) and name not in in_use]
        latest = float("inf") if alone else time.time() - _UNLOCKED_TIME
        return [name for name in found if self._is_ours(self._at(name), latest)]

    def _wait(self) -> None:
        """Waits until the current model is READERS_TIME old: readers of the model before it may want
        orphans."""
        with contextlib.suppress(OSError):
            left = os.stat(self._at(self.name)).st_ctime + READERS_TIME - time.time()
            if left > 0:
                time.sleep(min(left, READERS_TIME))

    def _move(self, folder: str, data: str | None, alone: bool) -> None:
        if data is None:
            self._rename(folder, self.name)
            return
        new = alone and not os.path.lexists(self._at(data))
        with open(os.path.join(folder, data), "rb") as content:
            try:
                self._rename(folder, data)
                self._rename(folder, self.name)
            except BaseException:
                if new and os.path.exists(os.path.join(folder, self.name)):
                    with contextlib.suppress(OSError):
                        os.unlink(self._at(data))
                raise
            if not os.path.exists(self._at(data)):  # somebody who takes no lock has removed it
                with open(os.path.join(folder, data), "xb") as copy:
                    shutil.copyfileobj(content, copy)
                    os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(content.fileno()).st_mode))
                    copy.flush()
                    os.fsync(copy.fileno())
                self._rename(folder, data)

    def _rename(self, folder: str, name: str) -> None:
        os.replace(os.path.join(folder, name), self._at(name))
        sync_folder(self.home)

    def _remove(self, orphans: Iterable[str]) -> None:
        """Removes those orphans that no model in the folder uses. A model that can't be read counts as using
        all; a file named like a copy of one, say m.onnx.bak, counts if it can be read. It never fails."""
        left = set(orphans)
        with contextlib.suppress(OSError):
            for entry in os.listdir(self.home) if left else ():
                if (".onnx" in entry or entry == self.name) and os.path.isfile(self._at(entry)):
                    used = _locations(self._at(entry))
                    surely = entry.endswith(".onnx") or entry == self.name
                    left = left - used if used is not None else set() if surely else left
            for name in left:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._at(name))

    def _is_ours(self, path: str, latest: float) -> bool:
        """Returns True for a file that ends like a data file of this target and last changed before
        `latest`."""
        with contextlib.suppress(OSError), open(path, "rb", opener=_opener) as file:
            status = os.fstat(file.fileno())
            start = status.st_size - len(self._mark)
            if stat.S_ISREG(status.st_mode) and max(status.st_ctime, status.st_mtime) <= latest:
                return start >= 0 and os.pread(file.fileno(), len(self._mark), start) == self._mark
        return False


def mark(name: str) -> bytes:
    """Returns the last bytes of a data file of the target `name`."""
    return b"\nnetfuse-onnx: weights of " + os.fsencode(name) + b"\n"


def sync_folder(folder: str) -> None:
    """Syncs the entries of a folder to disk, where the file system can do that."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def _locations(path: str) -> frozenset[str] | None:
    """Returns the data files that a model names; None when the model can't be read."""
    try:
        return wire.external_locations(path)
    except Exception:  # the files of others beside ours may be anything
        return None


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
