"""Writing beside the target, which at every moment is the whole old model or the whole new one.

The new files are made under their final names in a hidden folder beside the target, so that they can
be loaded and proven there. Then they are placed (placing.py). A killed run leaves that hidden folder, and the
next run to the same target removes it. A lock on the folder tells a dead run from a live one. Where the given
name is a link, the target is the file behind it, and the link stays.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import weakref
from collections.abc import Callable, Iterable

from netfuse_onnx.errors import FileFault
from netfuse_onnx.write import lock
from netfuse_onnx.write.placing import Place, sync_folder


class Staging:
    """Holds the hidden folder of one run, and the target that its files are for. It raises FileFault."""

    def __init__(self, out: str) -> None:
        self.out = real(out)
        self.home, self.name = os.path.split(self.out)
        # One lock for all targets that may share data files, or be one file: by stem, in one case.
        stem = self.name.removesuffix(".onnx").casefold()
        self._prefix = f".netfuse-onnx-{hashlib.blake2b(os.fsencode(stem), digest_size=4).hexdigest()}-"
        self._place = Place(self.home, self.name, os.path.join(self.home, self._prefix + "lock"))
        self._sweep_dead()
        self.folder, self._lock = self._make()

    def create(self, name: str, *, new: bool = True) -> int:
        """Opens a file for writing, with the permissions of the target that it may replace. It is a `new`
        one, or was moved into the folder."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0)
        fd = os.open(os.path.join(self.folder, name), flags, 0o666)
        with contextlib.suppress(OSError):  # no target yet, or not ours to imitate
            os.fchmod(fd, stat.S_IMODE(os.stat(self.out).st_mode))
        return fd

    @property
    def lock_file(self) -> str:
        """The path of the lock file that keeps other runs to the target out while files are moved."""
        return self._place.lock

    def place(self, data: str | None, check: Callable[[], None] = lambda: None) -> None:
        """Moves the model and its data file `data` to the target. OSError when that fails. `check` is called
        while no other run can move files there, and may raise."""
        sync_folder(self.folder)
        self._place.put(self.folder, data, check)

    def check_room(self, size: int) -> None:
        """Raises FileFault unless `size` bytes fit on the disk. Where they do not, it first removes the data
        files that only readers of an earlier model may want."""
        try:
            check_room(self.out, size)
        except FileFault:
            self._place.clear()
            check_room(self.out, size)

    def remove(self) -> None:
        """Removes the folder. It never fails."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _make(self) -> tuple[str, int]:
        """Makes the folder and locks it; the lock ends with the process. Another run may remove the folder
        between the two steps; then a new one is made."""
        while True:
            folder = os.path.join(self.home, self._prefix + secrets.token_hex(4))
            # A signal may unwind the stack before anybody holds this object: then its end is the folder's.
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            os.mkdir(folder, 0o700)
            fd = _locked(folder)
            if os.path.isdir(folder) and fd is not None:
                return folder, fd
            if fd is not None:
                os.close(fd)

    def _sweep_dead(self) -> None:
        """Removes the folders that killed runs to this target have left. A data file that such a run has
        placed is removed later, when it is known which one is current."""
        for entry in os.listdir(self.home):
            if entry.startswith(self._prefix):
                folder = os.path.join(self.home, entry)
                fd = _locked(folder)
                if fd is not None and fd >= 0:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(fd)
        lock.clear(self._place.lock)


def real(out: str) -> str:
    """Returns the file that writing to `out` replaces. Where the last part of `out` is a link, it is the file
    behind it: a link stays a link."""
    path = os.path.abspath(out)
    return os.path.realpath(path) if os.path.islink(path) else path


def elsewhere(out: str) -> bool:
    """Returns True when `out` is a link to a file in another folder. ONNX Runtime looks for a data file in
    the folder of the name that it is given; only some of its versions follow a link there to the data
    file."""
    return os.path.realpath(os.path.dirname(os.path.abspath(out))) != os.path.dirname(os.path.realpath(out))


def check_target(out: str, read: Iterable[str], *, external: bool = False) -> None:
    """Raises FileFault unless `out` can be written: its folder exists, it is no folder or device, and it is
    none of the files in `read` (by device and inode). Links are followed. `external`: the model has a data
    file, which ONNX Runtime must find by the name `out`."""
    if not out:
        raise FileFault("The output file has no name: ''.", "Name the model file to write, say merged.onnx.")
    home = os.path.dirname(real(out))
    if not os.path.isdir(home):
        reason = "is not a folder" if os.path.lexists(home) else "does not exist"
        raise FileFault(
            f"{out} can't be written: {home} {reason}.", "Create the folder, or name another one."
        )
    if os.path.isdir(out) or not os.path.basename(out):
        raise FileFault(f"{out} is a folder.", "Name the model file to write, say merged.onnx in it.")
    if _through_device(out):
        raise FileFault(f"{out} is a device or stream.", "Name a file to write the model to.")
    target = _existing(out)
    if external and elsewhere(out):
        raise FileFault(
            f"{out} is a link into another folder, and ONNX Runtime looks for a data file beside the link.",
            f"Name the file itself, {real(out)}, or leave out --external-data.",
        )
    if not os.access(home, os.W_OK | os.X_OK):
        raise FileFault(f"{home} may not be written to.", "Check its permissions, or name another folder.")
    for path in read if target else ():
        with contextlib.suppress(OSError):
            if target and os.path.samestat(os.stat(path), target):
                raise FileFault(f"{out} is one of the models' own files, {path}.", "Write to another file.")


def unwritable(out: str, error: OSError) -> FileFault:
    """Returns the FileFault for a failed write."""
    home = os.path.dirname(real(out))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FileFault(f"{out} can't be written: no room left in {home}.", "Free some, or write elsewhere.")
    if isinstance(error, lock.LockHeld):
        return FileFault(f"{out} can't be written: {error.strerror}.", "Wait for that merge, or end it.")
    if error.errno == errno.EFBIG:
        return FileFault(f"{out} can't be written: files there can't be that large.", "Write elsewhere.")
    return FileFault(f"{out} can't be written: {error.strerror}.", f"Check the disk and folder of {home}.")


def check_room(out: str, size: int) -> None:
    """Raises FileFault unless `size` bytes fit on the disk of `out`."""
    home = os.path.dirname(real(out))
    disk = os.statvfs(home)
    free = disk.f_bavail * disk.f_frsize
    if size > free:
        raise FileFault(
            f"{out} takes {size / 1e6:,.0f} MB, and {home} has room for {free / 1e6:,.0f} MB.",
            "Free some, or write elsewhere.",
        )


def _existing(out: str) -> os.stat_result | None:
    """Returns the status of the file at `out`, None where there is none. FileFault for all but a regular
    file."""
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
    """Returns True when `out`, or a link on the way from it, lies in a folder of devices or open files.
    Behind /dev/stdout may be a regular file, but the shell writes it. /dev/shm is an ordinary folder."""
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


def _locked(folder: str) -> int | None:
    """Returns a descriptor that holds the folder's lock; -1 where the file system has no locks; None when
    another process has the lock, or the folder does not exist."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    answer = lock.granted(fd)
    if not answer:
        os.close(fd)
        return None if answer is False else -1
    return fd
