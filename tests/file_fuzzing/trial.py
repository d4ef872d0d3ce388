"""Runs one input in this process and tells what it should not have done.

Files that Python opens are seen by an audit hook, those that C++ opens by a watch of the system (inotify) on
the folder beside the input's and on /etc/passwd, to which the mutated locations lead.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from netfuse_onnx.cli import main as command_line

from file_fuzzing.case import OUTSIDE, PIPE, SECRET, Case
from netfuse_onnx.errors import NetfuseError

SECONDS = 10
BYTES = 1_000_000_000
EXIT_CODES = (0, 1, 2, 3, 5)
KEPT = "netfuse-onnx-"
"""The start of the names of temporary files that live as long as the process: the spill file."""
OWN = Path(__file__).resolve().parents[2]
PACKAGES = Path(onnx.__file__).resolve().parents[1]
READABLE = tuple(
    os.path.realpath(place)
    for place in (
        OWN,
        PACKAGES,
        sys.prefix,
        sys.base_prefix,
        "/usr",
        "/lib",
        "/dev/null",
        "/dev/urandom",
        "/dev/shm",
        "/sys",
    )
)
"""Where Python's modules and libraries lie, and what these read of the machine. And /proc, see `_strange`."""


@dataclass
class Outcome:
    """The exit codes by command, and what was wrong: a kind by which findings are grouped, and details."""

    codes: list[tuple[str, int]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


class Lab:
    """A folder of its own, watched. One per process."""

    def __init__(self, folder: Path) -> None:
        weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # what the parent removes at its end
        self.root = folder
        self.work, self.outside, self.temporary = folder / "work", folder / OUTSIDE, folder / "tmp"
        for place in (self.outside, self.temporary):
            place.mkdir(parents=True)
        (self.outside / SECRET).write_bytes(bytes(8000))
        os.mkfifo(self.outside / PIPE)
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)
        self.bug: BaseException | None = None
        self.opened: list[str] = []
        self.watching = False
        self.watch = _Watch([self.outside, Path("/etc/passwd")])
        sys.addaudithook(self._heard)
        command_line._bug = self._caught  # type: ignore[assignment]
        self._as_bug = command_line._bug

    def _caught(self, error: Exception) -> NetfuseError:
        self.bug = error
        return NetfuseError(f"{type(error).__name__}: {error}"[:200])

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event == "open" and isinstance(arguments[0], str | bytes):
            self.opened.append(os.fsdecode(arguments[0]))

    def run(self, case: Case) -> Iterator[tuple[str, Outcome]]:
        """Each command's name before it is run, then what came of all of them."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        case.write(self.work)
        os.chdir(self.work)
        outcome = Outcome()
        for command in case.commands:
            yield command[0], outcome
            code = self._command(command, outcome)
            if command[0] in ("check", "merge") and code != 0:
                break
        yield "", outcome

    def _command(self, command: list[str], outcome: Outcome) -> int:
        before, start = self._listed(), time.process_time()
        grown = _Memory()
        self.opened.clear()
        self.watch.events()
        self.bug = None
        with _captured(self.root) as said:
            self.watching = True
            try:
                code = command_line.main(command)
            except BaseException as error:
                self.bug, code = error, 4
            self.watching = False
        seconds, name = time.process_time() - start, command[0]
        outcome.codes.append((name, code))
        fault = outcome.faults.append
        if self.bug is not None:
            fault((f"{name}: {_signature(self.bug)}", "".join(traceback.format_exception(self.bug))))
        elif code not in EXIT_CODES:
            fault((f"{name}: exit {code}", said[0]))
        elif code == 3 and not _one_sentence(said[0]):
            fault((f"{name}: exit 3 without one clear sentence", said[0][:3000]))
        if seconds > SECONDS:
            fault((f"{name}: {SECONDS} s", f"{seconds:.1f} s of the processor"))
        if (size := grown.bytes()) > BYTES:
            fault((f"{name}: memory", f"{size / 1e9:.2f} GB"))
        allowed = {"m.onnx"} if code == 0 and name == "merge" else set()
        left = {p for p in self._listed() - before if p not in allowed and not p.startswith("m-")}
        if left or (code and self._listed() != before):
            fault((f"{name}: left files", f"{sorted(left)} of {sorted(self._listed())}"))
        for path in self._strange():
            fault((f"{name}: opened a file outside", path))
        return code

    def _listed(self) -> set[str]:
        """All files of the input's folder, and temporary ones but the spill file, which lives as long as the
        process."""
        mine = {str(path.relative_to(self.work)) for path in self.work.rglob("*")}
        return mine | {f"tmp/{p.name}" for p in self.temporary.iterdir() if not p.name.startswith(KEPT)}

    def _strange(self) -> list[str]:
        """Files that were opened and should not have been. What the work folder's links lead to is outside.
        Another process that lists the folder gives events without a name."""
        seen = [f"{event} in {self.outside}" for event in self.watch.events() if event.split()[1:]]
        for path in self.opened:
            real = os.path.realpath(path)
            own = (*map(os.path.realpath, (self.work, self.temporary)), *READABLE)
            if path.startswith("/proc/") and not path.endswith("/mem") and "/fd" not in path:
                continue
            if not any(real == place or real.startswith(f"{place}/") for place in own):
                seen.append(path)
        return seen

    def leave(self) -> list[str]:
        """What is left of the temporary files when a process ends as Python does."""
        import atexit

        atexit._run_exitfuncs()
        return sorted(path.name for path in self.temporary.iterdir())


def _one_sentence(said: str) -> bool:
    """An error and a hint, each of one line, nothing of a traceback, nothing from libraries."""
    lines = said.strip("\n").split("\n")
    return lines[0].startswith("netfuse-onnx: error: ") and len(lines) <= 2 and "Traceback" not in said


def _signature(error: BaseException) -> str:
    """The kind of an exception and the function of ours that it came from last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f
        for f in frames
        if f"{os.sep}netfuse_onnx{os.sep}" in f.filename or f"{os.sep}cli{os.sep}" in f.filename
    ]
    at = ours[-1] if ours else frames[-1] if frames else None
    where = (
        f"{os.path.basename(os.path.dirname(at.filename))}/{os.path.basename(at.filename)}:{at.name}"
        if at
        else "?"
    )
    return f"{type(error).__name__} in {where}"


@contextmanager
def _captured(folder: Path) -> Iterator[list[str]]:
    """What the process writes to its standard error, C++ included; standard output is thrown away."""
    found: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(folder / "stderr", "w+b") as file, open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
            file.seek(0)
            found.append(file.read(20_000).decode(errors="replace"))


class _Memory:
    """The growth of this process's largest resident size since it was made."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = resident("self", "VmRSS")

    def bytes(self) -> int:
        return resident("self", "VmHWM") - self.before


def resident(pid: int | str, which: str) -> int:
    """Bytes of a process in memory: VmRSS now, VmHWM at most. 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{which}:")), 0)


class _Watch:
    """Files that anything in this process, C++ included, opens or reads in some folders (inotify)."""

    ACCESS, OPEN = 0x1, 0x20

    def __init__(self, places: list[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for place in places:
            if libc.inotify_add_watch(self.fd, os.fsencode(place), self.ACCESS | self.OPEN) < 0:
                raise OSError(ctypes.get_errno(), f"{place} can't be watched")

    def events(self) -> list[str]:
        """The names that were opened or read since the last call."""
        found = []
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return []
        at = 0
        while at < len(data):
            _, mask, _, length = struct.unpack_from("iIII", data, at)
            name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode(errors="replace")
            found.append(f"{'read' if mask & self.ACCESS else 'opened'} {name}")
            at += 16 + length
        return found
