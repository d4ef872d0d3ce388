"""One small mistake in our code, and the tests that must see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old` stands exactly once in `file`, and `new` takes its place.

    `tests` are files or ids below tests/, of which at least one must fail then. `equivalent` is the reason why
    no test can: the mistake changes nothing that anybody could see. `hangs`: a run that does not end in time
    counts as seen.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    equivalent: str = ""
    hangs: bool = False


def mutation(name: str, file: str, old: str, new: str, *tests: str, **more: str | bool) -> Mutation:
    """A Mutation, with its tests one after the other."""
    return Mutation(name, file, old, new, tests, **more)  # type: ignore[arg-type]


def place(file: str) -> Path:
    """The place of a file of the package inside a copy of it: cli/ is the package netfuse_onnx.cli."""
    return Path("netfuse_onnx", file) if file.startswith("cli/") else Path(file)


def mutated(text: str, change: Mutation) -> str:
    """The text of the file with the mistake in it. ValueError where it does not fit the code."""
    count = text.count(change.old)
    if count != 1:
        raise ValueError(f"{change.name}: the old text stands {count} times in {change.file}, not once")
    if change.old == change.new:
        raise ValueError(f"{change.name}: the new text is the old one")
    return text.replace(change.old, change.new)
