"""Fuzzes the commands with files: real small ones, mutated, must never hurt.

    python tests/fuzz_files.py --count 100000 --seed 1 [--jobs 2]
    python tests/fuzz_files.py --seed 1 --one 4711 [--keep folder]

Input `index` of a seed is always the same. Each runs in a forked child that is watched: it must not end in
exit 4 or by a signal, take 10 s, take 1 GB, leave files behind, or open files outside its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from file_fuzzing.case import draw
from file_fuzzing.seeds import Family, families
from file_fuzzing.trial import BYTES, SECONDS, Lab, resident

PATIENCE = 60
"""Seconds by the clock, on a machine with other work, after which an input that waits counts as a hang."""
LIFE = 400
"""Inputs of one child."""
Verdict = tuple[int, str, str]
"""The index, the kind of what went wrong, details."""


def _work(link: Connection, seed: int, some: tuple[Family, ...], folder: Path) -> None:
    """A child: takes an index, tells each command before it runs it, then the outcome."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()  # pytest's: a child that dies is a finding
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    lab = Lab(folder)
    while (index := link.recv()) is not None:
        case = draw(seed, index, some)
        for name, outcome in lab.run(case):
            link.send((name, case.story, outcome if not name else None))
    link.send(lab.leave())
    link.close()
    os._exit(0)


@dataclass
class _Job:
    index: int
    command: str
    since: float
    processor: float
    memory: int


class _Child:
    def __init__(self, seed: int, some: tuple[Family, ...], folder: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.link, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, seed, some, folder), daemon=True)
        self.process.start()
        theirs.close()
        self.done = 0
        self.job: _Job | None = None

    def give(self, index: int) -> None:
        self.job = _Job(
            index, "draw", time.monotonic(), _processor(self.process.pid), _memory(self.process.pid)
        )
        self.link.send(index)

    def overdue(self) -> str:
        """The limit that the running input has passed, '' where none."""
        job = self.job
        assert job is not None
        if _memory(self.process.pid) - job.memory > 1.2 * BYTES:
            return "memory"
        if _processor(self.process.pid) - job.processor > SECONDS or time.monotonic() - job.since > PATIENCE:
            return f"{SECONDS} s"
        return ""

    def stop(self) -> None:
        """End it now, where it has not ended."""
        self.process.kill()
        self.process.join()
        self.link.close()


def _memory(pid: int | None) -> int:
    return resident(pid or 0, "VmRSS")


def _processor(pid: int | None) -> float:
    """Seconds of the processor that a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Fuzzer:
    """Runs inputs, and counts exit codes by command."""

    def __init__(self, seed: int, folder: Path, jobs: int = 1) -> None:
        self.seed, self.folder, self.jobs = seed, folder, jobs
        self.families = families(folder / "seeds")
        self.counts: Counter[str] = Counter()
        self.children = 0
        self._told = 0
        self._last: list[Verdict] = []
        self.done = 0

    def run(self, indices: Iterable[int]) -> Iterator[Verdict]:
        """The faults found, as they are found."""
        self._alive: list[_Child] = []
        try:
            yield from self._run(iter(indices))
        finally:
            for child in self._alive:
                child.stop()

    def _run(self, queue: Iterator[int]) -> Iterator[Verdict]:
        pool = [self._child() for _ in range(self.jobs)]
        busy = [child for child in pool if self._next(child, queue)]
        while busy:
            ready = wait([child.link for child in busy], timeout=0.02)
            for place, child in enumerate(list(busy)):
                found, over = self._look(child, child.link in ready)
                yield from found
                if not over:
                    continue
                if over == "dead" or child.done >= LIFE:
                    yield from self._retire(child, over)
                    busy[place] = child = self._child()
                self._next(child, queue)
            if self.done >= self._told + 10_000:
                self._told = self.done
                _say(f"{self.done} inputs")
            busy = [child for child in busy if child.job is not None or self._finished(child)]
        yield from self._last

    def _child(self) -> _Child:
        self.children += 1
        child = _Child(self.seed, self.families, self.folder / f"child{self.children}")
        self._alive.append(child)
        return child

    def _next(self, child: _Child, queue: Iterator[int]) -> bool:
        index = next(queue, None)
        child.job = None
        if index is None:
            return False
        child.give(index)
        return True

    def _finished(self, child: _Child) -> bool:
        self._last = [*self._last, *self._retire(child, "")]
        return False

    def _look(self, child: _Child, ready: bool) -> tuple[list[Verdict], str]:
        """New verdicts of a child, and whether its input is done ('done') or has killed it ('dead')."""
        job = child.job
        if job is None:
            return [], ""
        if not ready:
            if not (why := child.overdue()):
                return [], ""
            child.stop()
            self._count(job.command, why)
            return [(job.index, f"{job.command}: {why}", "stopped from outside")], "dead"
        try:
            command, story, outcome = child.link.recv()
        except (EOFError, ConnectionResetError):
            child.process.join()
            code = child.process.exitcode
            self._count(job.command, f"signal {code}")
            return [(job.index, f"{job.command}: ended by signal {code}", "")], "dead"
        if outcome is None:
            job.command = command
            return [], ""
        for name, code in outcome.codes:
            self._count(name, f"exit {code}")
        self.done += 1
        child.done += 1
        return [(job.index, kind, f"{story}\n{text}") for kind, text in outcome.faults], "done"

    def _count(self, command: str, what: str) -> None:
        self.counts[f"{command} {what}"] += 1

    def _retire(self, child: _Child, over: str) -> list[Verdict]:
        """End a child as a process ends; its temporary files must be gone then."""
        if over == "dead":
            return []
        child.link.send(None)
        try:
            left = child.link.recv()
        except EOFError:
            left = ["(it died)"]
        child.stop()
        return [(-1, "files left at the end of a process", str(left))] if left else []


def _say(*lines: str) -> None:
    sys.stdout.write("\n  ".join(lines) + "\n")
    sys.stdout.flush()


def report(found: Iterable[Verdict], most: int = 4) -> Counter[str]:
    """Print the faults, the first few of each kind in full. Returns how many of each kind."""
    kinds: Counter[str] = Counter()
    with contextlib.suppress(KeyboardInterrupt):  # what was found so far is told
        for index, kind, text in found:
            kinds[kind] += 1
            if kinds[kind] <= most:
                tail = "\n    ".join(text.strip().splitlines()[-6 if kinds[kind] > 1 else -14 :])
                _say(f"--one {index}  {kind}\n    {tail}")
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one", help="this input alone, or several: 3,14,15")
    parser.add_argument(
        "--keep", type=Path, help="with --one: write its files to this new folder, run nothing"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(options.seed, Path(name), options.jobs)
        indices: Iterable[int] = range(options.start, options.start + options.count)
        if options.one is not None:
            indices = [int(index) for index in options.one.split(",")]
            for index in indices:
                case = draw(options.seed, index, fuzzer.families)
                _say(f"{index}: {case.story}", *(" ".join(command) for command in case.commands))
                if options.keep:
                    (options.keep / str(index)).mkdir(parents=True)
                    case.write(options.keep / str(index))
            if options.keep:
                return 0
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        start = time.monotonic()
        kinds = report(fuzzer.run(indices))
        seconds = time.monotonic() - start
        _say(f"seed {options.seed}: {fuzzer.done} inputs in {seconds:.0f} s, {sum(kinds.values())} faults")
        for what, count in (*sorted(fuzzer.counts.items()), *kinds.most_common()):
            _say(f"  {count:7} {what}")
    return int(bool(kinds))


if __name__ == "__main__":
    random.seed(0)
    sys.exit(main())
