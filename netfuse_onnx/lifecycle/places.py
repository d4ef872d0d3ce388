"""The models of a merged file after a change: which stay, in which order, and which are new."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx import arguments
from netfuse_onnx.changes import Changes
from netfuse_onnx.errors import UsageFault

SHOWN = 8
"""Names of models in a message, at most."""


@dataclass(frozen=True, slots=True)
class Place:
    """A model after the change: the path of its file where it is new, else its place before the change."""

    name: str
    path: str = ""
    before: int = -1

    @property
    def stays(self) -> bool:
        return self.before >= 0


@dataclass(frozen=True, slots=True)
class Places:
    """The models of the merged file `merged` before and after a change."""

    merged: str
    names: tuple[str, ...]
    after: tuple[Place, ...]

    @property
    def new(self) -> tuple[str, ...]:
        """The paths of the new files."""
        return tuple(place.path for place in self.after if not place.stays)

    @property
    def kept(self) -> dict[int, int]:
        """The place of each model that stays after the change -> its place before."""
        return {k: place.before for k, place in enumerate(self.after) if place.stays}

    @property
    def stay_put(self) -> bool:
        """True where as many models as before are in the same places."""
        return len(self.after) == len(self.names) and all(now == then for now, then in self.kept.items())

    def changes(self, notes: Sequence[str]) -> Changes:
        """Return what a report says of the change."""
        fresh = [place.name for place in self.after if not place.stays]
        left = {place.name for place in self.after}
        return Changes(
            updated=tuple(name for name in fresh if name in self.names),
            added=tuple(name for name in fresh if name not in self.names),
            removed=tuple(name for name in self.names if name not in left),
            kept=tuple(place.name for place in self.after if place.stays),
            notes=tuple(notes),
        )


Choose = Callable[[Sequence[str]], Places]
"""Gives the models after a change from the names of those before it. Raises UsageFault."""


def updated(merged: str, names: Sequence[str], files: Mapping[str, str]) -> Places:
    """Return the models with new files in the place of some. Raises UsageFault for an unknown name."""
    _require_known(merged, names, list(files))
    after = [
        Place(name, files[name]) if name in files else Place(name, before=k) for k, name in enumerate(names)
    ]
    return Places(merged, tuple(names), tuple(after))


def added(merged: str, names: Sequence[str], paths: Sequence[str], given: Sequence[str]) -> Places:
    """Return the models with new ones, called `given`, behind them. Raises UsageFault for a name that is in
    use or can't be one."""
    for name in given:
        if name in names:
            raise UsageFault(
                f"{merged} holds a model {name!r} already.",
                f"Give the new one another name, NAME=FILE, or replace that one: netfuse-onnx update "
                f"{merged} --model {name} FILE.",
            )
    arguments.model_names(paths, given)
    stay = [Place(name, before=k) for k, name in enumerate(names)]
    return Places(
        merged, tuple(names), (*stay, *(Place(n, path) for n, path in zip(given, paths, strict=True)))
    )


def removed(merged: str, names: Sequence[str], gone: Sequence[str]) -> Places:
    """Return the models without some. Raises UsageFault for an unknown name, and for fewer than two that
    stay."""
    _require_known(merged, names, gone)
    stay = [Place(name, before=k) for k, name in enumerate(names) if name not in gone]
    if len(stay) < 2:
        hint = "Delete the file."
        if stay:
            hint = f"Get it back as a file: netfuse-onnx split {merged} -o DIR --model {stay[0].name}."
        left = f"only {stay[0].name}" if stay else "no model"
        raise UsageFault(f"A merged file has two models or more, and {left} would be left in {merged}.", hint)
    return Places(merged, tuple(names), tuple(stay))


def _require_known(merged: str, names: Sequence[str], asked: Sequence[str]) -> None:
    """Raise UsageFault where a name is not that of a model, or is given twice."""
    if not asked:
        raise UsageFault("No model was named.", f"{merged} holds {_listed(names)}.")
    for name in asked:
        if name not in names:
            raise UsageFault(f"{merged} holds no model {name!r}.", f"It holds: {_listed(names)}.")
        if list(asked).count(name) > 1:
            raise UsageFault(f"The model {name!r} is named twice.", "Name every model once.")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
