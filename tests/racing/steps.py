"""Processes that stop before every system call of interest, so that a test chooses the order of their steps."""

from __future__ import annotations

import fcntl
import os
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

CALLS: tuple[tuple[Any, str], ...] = (
    (os, "open"),
    (os, "replace"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "listdir"),
    (fcntl, "flock"),
    (time, "sleep"),
)
"""The calls of placing and sweeping that change something, or read what others change."""


class Stepped:
    """A forked process that runs `work` and stops before each of CALLS. `at` names the call before which it stands;
    it is empty when the process has ended. The first stop, 'start', comes from the process itself."""

    def __init__(self, work: Callable[[Callable[[], None]], None]) -> None:
        """`work` is given what begins the stepping: until it calls that, the process runs freely."""
        told, tell = os.pipe()
        listen, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(told)
            os.close(self._go)
            _run(work, tell, listen)
        os.close(tell)
        os.close(listen)
        self._told = told
        self.code: int | None = None
        self.at = "before"
        self._hear()

    def step(self) -> None:
        """Lets it do the call before which it stands."""
        os.write(self._go, b".")
        self._hear()

    def steps(self, count: int) -> int:
        """Up to `count` steps; returns how many were left when it ended."""
        while count and self.at:
            self.step()
            count -= 1
        return count

    def kill(self) -> None:
        """Ends it where it stands, as `kill -9` does."""
        if self.at:
            os.kill(self.pid, signal.SIGKILL)
            self._end()

    def _hear(self) -> None:
        line = b""
        while not line.endswith(b"\n"):
            block = os.read(self._told, 1)
            if not block:
                self._end()
                return
            line += block
        self.at = line.decode().strip()

    def _end(self) -> None:
        self.at = ""
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._told)
        os.close(self._go)


def _run(work: Callable[[Callable[[], None]], None], tell: int, listen: int) -> None:
    """The life of the child."""
    code = 1
    write, read = os.write, os.read

    def stop(name: str) -> None:
        write(tell, f"{name}\n".encode())
        if not read(listen, 1):
            os._exit(1)

    def begin() -> None:
        stop("start")
        for module, name in CALLS:
            setattr(module, name, _stopping(name, getattr(module, name), stop))

    try:
        work(begin)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _stopping(name: str, real: Callable[..., Any], stop: Callable[[str], None]) -> Callable[..., Any]:
    def stopped(*given: Any, **named: Any) -> Any:
        stop(name)
        return None if name == "sleep" else real(*given, **named)

    return stopped


def advance(one: Stepped, other: Stepped) -> None:
    """A step of `one`, or of `other` when it has ended. Where `one` waits for the other, that one gets a step."""
    if one.at == "sleep" and other.at:
        other.step()
    (one if one.at else other).step()
