"""A copy of a data file that is made while a change of its merged file is still being planned.

Most of the new data file will be what the old one holds, in the same places. So a thread copies it, inside
the kernel, and brings it to the disk; the writer then writes only what differs. Where the plan turns out to
put weights elsewhere, or there is no room for the copy, the copy goes, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import os
import threading

from netfuse_onnx.storage import weights
from netfuse_onnx.storage.clone import clone
from netfuse_onnx.write import staging

_NAME = "early"


class Early:
    """A copy in the folder `home` of the data file at `path`, from the moment of construction."""

    def __init__(self, path: str, home: str) -> None:
        self.source, self.copy = path, os.path.join(home, _NAME)
        self.size, self._status = 0, os.stat(path)
        self._stop, self._done = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)
        self._thread.start()

    @staticmethod
    def of(path: str, home: str) -> Early | None:
        """Return a copy that is being made; None where there is no room for it."""
        try:
            staging.check_room(os.path.join(home, _NAME), 2 * os.path.getsize(path))
            return Early(path, home)
        except Exception:  # whoever reads the file, or writes, will say so
            return None

    def of_file(self, path: str) -> bool:
        """Return True where this is, or is becoming, a copy of the file at `path`, under whatever name."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(path), self._status)
        return False

    def take(self, path: str) -> bool:
        """Wait for the copy, and move it to `path`. Returns False where there is none."""
        self._thread.join()
        try:
            if self._done:
                os.rename(self.copy, path)
                self._done, self.size = False, 0
                return True
        except OSError:  # another file system
            self.stop()
        return False

    def stop(self) -> None:
        """Stop the work, and remove what there is of the copy."""
        self._stop.set()
        self._thread.join()
        self.size = 0
        with contextlib.suppress(OSError):
            os.unlink(self.copy)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            source = os.open(self.source, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fd = os.open(self.copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                try:
                    self._done = self._copied(source, fd)
                finally:
                    os.close(fd)
            finally:
                os.close(source)

    def _copied(self, source: int, fd: int) -> bool:
        """Copy the file. Returns False where it was stopped, or ends early."""
        total = self._status.st_size
        if clone(source, fd):
            self.size = total
        while self.size < total and not self._stop.is_set():
            moved = weights.transfer(source, self.size, total - self.size, fd, self.size)
            if not moved:
                return False
            self.size += moved
        os.fsync(fd)  # which the writer would have to wait for
        return self.size == total
