"""Writing beside the target so that it is, at every moment, the old model or the new one, whole.

The new files are made under their final names in a hidden folder beside the target, so that they can
be loaded and proven there. Placing them is: the data file (its name is unique to its content), then
the model, each by a rename. What a killed run leaves is that hidden folder; the next run to the same
target removes it. A lock on the folder tells a dead run from a live one. Where the name given is a link,
the target is what it points to, and the link stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import weakref
from collections.abc import Iterable

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import wire

_MARK = ".placed"


class Staging:
    """The hidden folder of one run, and the target that its files are for. Raises FileFault."""

    def __init__(self, out: str) -> None:
        self.out = real(out)
        self.home, self.name = os.path.split(self.out)
        stem = re.escape(self.name.removesuffix(".onnx"))
        self._ours = re.compile(stem + r"-[0-9a-f]{8}\.data")
        self._prefix = f".netfuse-onnx-{hashlib.blake2b(os.fsencode(self.name), digest_size=4).hexdigest()}-"
        self._sweep_dead()
        self.folder, self._lock = self._make()

    def create(self, name: str) -> int:
        """A new file for writing, with the permissions of the target that it may replace."""
        fd = os.open(
            os.path.join(self.folder, name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
        )
        with contextlib.suppress(OSError):  # no target yet, or not ours to imitate
            os.fchmod(fd, stat.S_IMODE(os.stat(self.out).st_mode))
        return fd

    def sync(self) -> None:
        """The folder's own entries to disk; its files were synced as they were written."""
        _sync_folder(self.folder)

    def place(self, data: str | None) -> None:
        """Puts the files in their place: the data file `data` first, the model last; then removes the
        data files that only the replaced model used."""
        replaced = {name for name in _locations(self.out) or () if self._ours.fullmatch(name)}
        for name in sorted(replaced | ({data} if data else set())):
            os.close(os.open(os.path.join(self.folder, name + _MARK), os.O_CREAT | os.O_WRONLY, 0o600))
        self.sync()
        for name in (data, self.name) if data else (self.name,):
            os.replace(os.path.join(self.folder, name), os.path.join(self.home, name))
            _sync_folder(self.home)

    def remove(self) -> None:
        """Removes the folder, and the marked data files that no model beside it uses. Never fails."""
        self._sweep(self.folder)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _make(self) -> tuple[str, int]:
        """The folder and its lock, which dies with the process. A sweeping neighbour may take a folder
        between the two steps; then another one is made."""
        while True:
            folder = os.path.join(self.home, self._prefix + secrets.token_hex(4))
            # A signal may unwind the stack before anybody holds this object: then its end is the folder's.
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            os.mkdir(folder, 0o700)
            lock = _locked(folder)
            if os.path.isdir(folder) and lock is not None:
                return folder, lock
            if lock is not None:
                os.close(lock)

    def _sweep_dead(self) -> None:
        for entry in os.listdir(self.home):
            if entry.startswith(self._prefix):
                folder = os.path.join(self.home, entry)
                lock = _locked(folder)
                if lock is not None and lock >= 0:
                    self._sweep(folder)
                    os.close(lock)

    def _sweep(self, folder: str) -> None:
        with contextlib.suppress(OSError):
            marked = [name.removesuffix(_MARK) for name in os.listdir(folder) if name.endswith(_MARK)]
            for name in self._unused(name for name in marked if self._ours.fullmatch(name)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.home, name))
        shutil.rmtree(folder, ignore_errors=True)

    def _unused(self, names: Iterable[str]) -> set[str]:
        """Those that no model in the folder refers to. A model that can't be read counts as using all."""
        left = set(names)
        for entry in os.listdir(self.home) if left else ():
            if entry.endswith(".onnx") or entry == self.name:
                used = _locations(os.path.join(self.home, entry))
                left = left - used if used is not None else set()
        return left


def real(out: str) -> str:
    """The file that writing to `out` is to replace: through a link that is its last part, the file behind
    it. A link stays a link."""
    path = os.path.abspath(out)
    return os.path.realpath(path) if os.path.islink(path) else path


def check_target(out: str, read: Iterable[str]) -> None:
    """FileFault unless `out` can be written: its folder exists, it is no folder or device, and it is
    none of the files in `read` (by device and inode). Links are followed."""
    if not out:
        raise FileFault("The output file has no name: ''.", "Name the model file to write, say merged.onnx.")
    home = os.path.dirname(real(out))
    if not os.path.isdir(home):
        what = "is not a folder" if os.path.lexists(home) else "does not exist"
        raise FileFault(f"{out} can't be written: {home} {what}.", "Create the folder, or name another one.")
    if os.path.isdir(out) or not os.path.basename(out):
        raise FileFault(f"{out} is a folder.", "Name the model file to write, say merged.onnx in it.")
    if _through_device(out):
        raise FileFault(f"{out} is a device or stream.", "Name a file to write the model to.")
    target = _there(out)
    if not os.access(home, os.W_OK | os.X_OK):
        raise FileFault(f"{home} may not be written to.", "Check its permissions, or name another folder.")
    for path in read if target else ():
        with contextlib.suppress(OSError):
            if target and os.path.samestat(os.stat(path), target):
                raise FileFault(f"{out} is one of the models' own files, {path}.", "Write to another file.")


def unwritable(out: str, error: OSError) -> FileFault:
    """The FileFault for a failed write."""
    home = os.path.dirname(real(out))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FileFault(f"{out} can't be written: no room left in {home}.", "Free some, or write elsewhere.")
    if error.errno == errno.EFBIG:
        return FileFault(f"{out} can't be written: files there can't be that large.", "Write elsewhere.")
    return FileFault(f"{out} can't be written: {error.strerror}.", f"Check the disk and folder of {home}.")


def check_room(out: str, size: int) -> None:
    """FileFault unless `size` bytes fit where `out` goes, beside what is there."""
    home = os.path.dirname(real(out))
    disk = os.statvfs(home)
    free = disk.f_bavail * disk.f_frsize
    if size > free:
        raise FileFault(
            f"{out} takes {size / 1e6:,.0f} MB, and {home} has room for {free / 1e6:,.0f} MB.",
            "Free some, or write elsewhere.",
        )


def _there(out: str) -> os.stat_result | None:
    """The file that stands at `out`, None where there is none. FileFault for what is no regular file."""
    try:
        target = os.stat(out)
    except FileNotFoundError:
        return None
    except OSError as error:  # a loop of links, a name that is too long
        raise unwritable(out, error) from error
    if not stat.S_ISREG(target.st_mode):
        raise FileFault(f"{out} is not a regular file.", "Name a file to write the model to.")
    return target


def _through_device(out: str) -> bool:
    """Whether `out`, or a link on the way from it, lies where devices and open files have names: what is
    behind /dev/stdout may be a regular file, but it is the shell's to write. /dev/shm is a folder."""
    path = os.path.abspath(out)
    for _ in range(40):  # as many as the system follows
        home = os.path.realpath(os.path.dirname(path))
        if home == "/dev" or home.split(os.sep)[1] in ("proc", "sys"):
            return True
        path = os.path.join(home, os.path.basename(path))
        if not os.path.islink(path):
            return False
        path = os.path.join(home, os.readlink(path))
    return False


def _locations(path: str) -> frozenset[str] | None:
    """The data files that a model names; None when it can't be told."""
    try:
        return wire.external_locations(path)
    except FileFault:
        return None


def _locked(folder: str) -> int | None:
    """A descriptor that holds the folder's lock; -1 where the file system has no locks; None when
    another process holds it, or the folder is gone."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        return None if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else -1
    return fd


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems without it
            raise
    finally:
        os.close(fd)
