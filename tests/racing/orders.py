"""Every order of the steps of two commits to one target, with up to two changes of turn, and kills in between."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

from merged_files import family, merged, source

from netfuse_onnx.lowered import Merged
from netfuse_onnx.storage import wire
from netfuse_onnx.types import Source
from netfuse_onnx.write import placing, writer
from racing.steps import Stepped, advance

Content = tuple[Merged, list[Source]]


def content(folder: Path, rows: int = 40) -> Content:
    """What a merge writes: a small family of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = family(folder, 2, rows)
    return merged(paths), [source(path) for path in paths]


@dataclass
class Watched:
    """A target, and what its readers may rely on. `data`: the data files of each model that stood there, the current
    one last. A reader of the last two must find their data files."""

    out: Path
    data: list[frozenset[str]] = field(default_factory=list)
    model: tuple[int, int] | None = None

    def look(self) -> None:
        """AssertionError when the target can't be loaded, or a reader of the last model would fail."""
        if not self.data and not self.out.exists():
            return
        status = os.stat(self.out)
        if (status.st_ino, status.st_mtime_ns) != self.model:
            self.model = status.st_ino, status.st_mtime_ns
            self.data.append(wire.external_locations(str(self.out)))
        there = set(os.listdir(self.out.parent))
        for names in self.data[-2:]:
            assert names <= there, f"{set(names)} of {[set(d) for d in self.data]} is not in {there}"

    @property
    def rest(self) -> set[str]:
        """The files that may be there in the end: the model, and the data files of the last two."""
        return {self.out.name}.union(*self.data[-2:])


def write(merge: Content, out: Path, mode: writer.Mode, begin: Callable[[], None] = lambda: None) -> None:
    """A merge from the writing on, without waiting for the disk or for readers. `begin` is called between writing
    and placing."""
    model, sources = merge
    with (
        patch.object(os, "fsync", lambda fd: None),
        patch.object(placing, "READERS_TIME", 0.0),
        writer.stage(model, str(out), sources, mode=mode, metadata={}) as staged,
    ):
        begin()
        staged.commit()


def look(targets: Sequence[Watched]) -> None:
    for target in targets:
        target.look()


@dataclass
class Duel:
    """Two merges to one target. `first`: the models that stood there before, oldest first."""

    folder: Path
    first: tuple[Content, ...]
    pair: tuple[Content, Content]
    names: tuple[str, str] = ("m.onnx", "m.onnx")
    mode: writer.Mode = "external"

    def begin(self) -> tuple[list[Watched], Stepped, Stepped]:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        targets = [Watched(self.folder / name) for name in dict.fromkeys(self.names)]
        for merge in self.first:
            write(merge, targets[0].out, "external")
            targets[0].look()
        one, other = (
            Stepped(partial(write, merge, self.folder / name, self.mode))
            for merge, name in zip(self.pair, self.names, strict=True)
        )
        return targets, one, other

    def length(self) -> int:
        """Steps of one commit that nobody disturbs."""
        _, one, other = self.begin()
        other.kill()
        return 10_000 - one.steps(10_000)

    def run(self, before: int, between: int, *, killed: bool = False) -> bool:
        """The first process does `before` steps, the second `between`; then the first goes on to its end, or is
        killed, and the second ends. AssertionError when the target is broken at any moment, or something stays.

        False when more steps between make no difference: the second one waits for the first, or has ended."""
        targets, one, other = self.begin()
        try:
            for process, count in ((one, before), (other, between)):
                for _ in range(count):
                    process.steps(1)
                    look(targets)
            free = other.at not in ("", "sleep")
            if killed:
                one.kill()
            while one.at or other.at:
                advance(one, other)
                look(targets)
            assert other.code == 0 and (killed or one.code == 0), (one.code, other.code)
            if killed:  # the next merge tidies up
                write(self.pair[0], targets[0].out, self.mode)
                look(targets)
            left = set(os.listdir(self.folder))
            assert left == set().union(*(target.rest for target in targets)), f"{left} is left"
            return free
        finally:
            one.kill()
            other.kill()


def duels(folder: Path) -> dict[str, Duel]:
    """The kinds of pairs: other content, the same content, that of the models before, one name with and one without
    .onnx, and single files after data files."""
    one, two, three, four = (content(folder / f"sources-{index}") for index in range(4))
    target, first = folder / "target", (one, two)
    return {
        "other content": Duel(target, first, (three, four)),
        "the same content": Duel(target, first, (three, three)),
        "earlier content": Duel(target, first, (one, two)),
        "two targets of one stem": Duel(target, first, (three, four), ("m.onnx", "m")),
        "no data file": Duel(target, first, (three, four), mode="single"),
    }
