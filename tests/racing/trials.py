"""Whole merges through the API: in pairs to one target, killed, and beside readers. Each trial counts what it did
and what went wrong."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

from families import WIDE, WIDE_WEIGHTS, model, save

import netfuse_onnx
from netfuse_onnx.storage import wire
from netfuse_onnx.write import writer
from racing.readers import READERS, reading
from racing.steps import Stepped

FORK = multiprocessing.get_context("fork")
PATIENCE = 120.0
"""Seconds after which a merge counts as hanging."""


@dataclass
class Tally:
    """The counts of a trial by what was done, and a sentence for everything that went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def check(self, right: bool, sentence: str) -> None:
        if not right:
            self.faults.append(sentence)


@dataclass(frozen=True)
class Arena:
    """A folder with a target, the families that are merged to it, and the bytes that each then has there."""

    out: Path
    families: tuple[tuple[str, ...], ...]
    wanted: tuple[tuple[bytes, ...], ...]

    def merge(self, which: int, verify: bool = False, delay: float = 0.0) -> None:
        time.sleep(delay)
        netfuse_onnx.merge(
            self.families[which], str(self.out), data="external", verify=verify, provider="cpu"
        )

    def state(self) -> tuple[bytes, ...]:
        """All bytes that the target consists of. FileFault or OSError when it is not whole."""
        names = sorted(wire.scan(str(self.out)).files[1:])
        return (self.out.read_bytes(), *(Path(name).read_bytes() for name in names))

    def which(self) -> int:
        """The family whose merge stands there, whole; -1 for anything else."""
        try:
            return self.wanted.index(self.state())
        except (ValueError, OSError, netfuse_onnx.FileFault):
            return -1

    def data(self) -> set[str]:
        return set(wire.external_locations(str(self.out)))

    def strays(self, previous: set[str]) -> set[str]:
        """The files beside the target that neither it nor the model before it uses."""
        return set(os.listdir(self.out.parent)) - {self.out.name} - self.data() - previous


@contextmanager
def arena(count: int = 4) -> Iterator[Arena]:
    """An arena in a temporary folder; its first family is merged already."""
    with tempfile.TemporaryDirectory(prefix="races-") as name:
        folder, families, wanted = Path(name), [], []
        for which in range(count):
            home = folder / f"sources-{which}"
            home.mkdir()
            protos = [model(WIDE, WIDE_WEIGHTS, seed=10 * which + i) for i in range(2)]
            families.append(tuple(save(home / f"{'ab'[i]}.onnx", proto) for i, proto in enumerate(protos)))
        for which in range(count):
            (folder / f"alone-{which}").mkdir()
            alone = Arena(folder / f"alone-{which}/m.onnx", tuple(families), ())
            alone.merge(which)
            wanted.append(alone.state())
        (folder / "target").mkdir()
        found = Arena(folder / "target/m.onnx", tuple(families), tuple(wanted))
        found.merge(0)
        if not found.data():
            raise AssertionError("the families are too small to have a data file")
        yield found


def forked(work: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=work)
    process.start()
    return process


def ended(process: multiprocessing.process.BaseProcess) -> int | None:
    """Its exit code; one that hangs is killed, and has none."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def pairs(count: int, seed: int) -> Tally:
    """Two merges to one target at the same time, `count` times; each tenth with its proofs, each fifth of equal
    content."""
    dice, tally = random.Random(seed), Tally()
    with arena() as place:
        for turn in range(count):
            one, other = (2, 2) if turn % 5 == 0 else dice.sample(range(4), 2)
            verify = turn % 10 == 9
            merges = [
                forked(partial(place.merge, which, verify, dice.uniform(0, 0.05))) for which in (one, other)
            ]
            codes = [ended(merge) for merge in merges]
            tally.counts["pairs of merges"] += 1
            tally.check(codes == [0, 0], f"pair {turn}: the merges ended with {codes}")
            tally.check(place.which() in (one, other), f"pair {turn}: the target is broken")
            last = {name for which in (one, other) for name in _names(place, which)}
            tally.check(not place.strays(last), f"pair {turn}: left behind: {place.strays(last)}")
    return tally


def kills(count: int, seed: int) -> Tally:
    """A merge killed at a moment of its whole run, or before a system call of placing and sweeping, in turns; then
    one that ends."""
    dice, tally = random.Random(seed), Tally()
    with arena() as place:
        whole = [_seconds(place, verify) for verify in (False, True)]
        steps = _steps(place)
        for turn in range(count):
            before = place.which()
            new = (before + 1) % 4
            if turn % 2:
                verify = turn % 4 == 3
                moment = dice.uniform(0, 1.05 * whole[verify])
                _killed_after(moment, partial(place.merge, new, verify))
                said = f"after {moment:.3f} s of {whole[verify]:.3f}"
            else:
                step = dice.randrange(steps + 1)
                said = f"before call {step} of {steps} of its commit"
                _killed_before(step, place, new)
            now = place.which()
            tally.counts["kills"] += 1
            tally.counts["kills after which the new model stood"] += now == new
            tally.check(now in (before, new), f"killed {said}: the target is broken")
            previous = place.data()
            code = ended(forked(partial(place.merge, (new + 1) % 4)))
            tally.check(code == 0, f"after a kill {said}: the next merge ended with {code}")
            left = place.strays(previous)
            tally.check(not left, f"after a kill {said}: left behind: {left}")
    return tally


def readers(merges: int, seed: int) -> Tally:
    """Readers of all kinds while one process merges again and again, each fourth time with proofs."""
    dice, tally = random.Random(seed), Tally()
    with arena() as place:
        done, found = FORK.Event(), FORK.SimpleQueue()
        running = [
            forked(partial(reading, kind, str(place.out), place.families, done, found.put))
            for kind in READERS
        ]
        for turn in range(merges):
            code = ended(forked(partial(place.merge, turn % 4, turn % 4 == 3)))
            tally.counts["merges beside readers"] += 1
            tally.check(code == 0, f"merge {turn} ended with {code}")
            tally.check(place.which() == turn % 4, f"merge {turn}: the target is broken")
            time.sleep(dice.choice((0, 0, 0.02, dice.uniform(0, 1.5))))
        done.set()
        for _ in running:
            kind, counts, faults = found.get()
            tally.counts.update(counts)
            tally.faults += [f"{kind}: {fault}" for fault in faults]
        for process in running:
            tally.check(ended(process) == 0, "a reader crashed")
    return tally


def _names(place: Arena, which: int) -> Sequence[str]:
    alone = place.out.parent.parent / f"alone-{which}"
    return [name for name in os.listdir(alone) if name.endswith(".data")]


def _seconds(place: Arena, verify: bool) -> float:
    began = time.monotonic()
    ended(forked(partial(place.merge, 1, verify)))
    return time.monotonic() - began


def _committing(place: Arena, which: int) -> Stepped:
    """A merge that stops before every call of its commit."""

    def work(begin: Callable[[], None]) -> None:
        commit = writer.Staged.commit

        def stepwise(staged: writer.Staged) -> None:
            begin()
            commit(staged)

        with patch.object(writer.Staged, "commit", stepwise):
            place.merge(which)

    return Stepped(work)


def _steps(place: Arena) -> int:
    process = _committing(place, 1)
    return 10_000 - process.steps(10_000)


def _killed_before(step: int, place: Arena, which: int) -> None:
    process = _committing(place, which)
    process.steps(step)
    process.kill()


def _killed_after(seconds: float, work: Callable[[], None]) -> None:
    process = forked(work)
    time.sleep(seconds)
    if process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
