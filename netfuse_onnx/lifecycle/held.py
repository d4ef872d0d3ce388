"""A merged file and its models as they are at one moment, whatever becomes of the file meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from netfuse_onnx.lifecycle import before, origins
from netfuse_onnx.lifecycle.places import Choose, Places
from netfuse_onnx.storage import steady, wire
from netfuse_onnx.types import Source
from netfuse_onnx.write import metadata, staging
from netfuse_onnx.write.early import Early


@dataclass(frozen=True)
class Held:
    """A merged file that was read: its metadata, its models that stay, by place, and its stamp then."""

    path: str
    about: metadata.Metadata
    models: Mapping[int, Source]
    stamp: steady.Stamp | None
    early: Early | None

    def paths(self, places: Places) -> list[str]:
        """Return the path of each model after a change."""
        return [place.path or self.models[place.before].path for place in places.after]

    @property
    def shown(self) -> Mapping[str, str]:
        """The words for messages in place of the paths of the models, which last as long as the change."""
        names = self.about.models
        return {source.path: f"{self.path} ({names[place]})" for place, source in self.models.items()}


@contextlib.contextmanager
def held(merged: str, out: str, choose: Choose, *, copied: bool) -> Iterator[Held]:
    """Read a merged file, and those of its models that stay after a change. For the time of the change a
    hidden folder beside it, or beside `out` where that is impossible, has another name of its data, which
    last even when the file is replaced. With `copied`, a copy of a data file is begun. Raises FileFault."""
    home = os.path.dirname(staging.real(merged))
    beside = merged if os.access(home, os.W_OK | os.X_OK) else out
    try:
        folder = staging.Staging(beside)
    except OSError as error:
        raise staging.unwritable(beside, error) from error
    attempts, early = itertools.count(), list[Early]()

    def read() -> Held:
        stamp, about = steady.stamp(merged), metadata.read(merged)
        before.refuse(merged, about)
        inner = os.path.join(folder.folder, f"read-{next(attempts)}")
        os.mkdir(inner)
        early.extend(_begun(merged, inner) if copied else ())
        stay = origins.Origins.read(merged).some(choose(about.models).kept.values(), inner)
        return Held(merged, about, stay, stamp, early[-1] if early else None)

    try:
        yield steady.steady([merged], read)
    except OSError as error:
        raise staging.unwritable(beside, error) from error
    finally:
        for each in early:
            each.stop()
        folder.remove()


def _begun(merged: str, folder: str) -> Iterator[Early]:
    """Begin to copy the data file of a merged file into a folder, where it has one."""
    for name in wire.external_locations(merged):
        copy = Early.of(os.path.join(os.path.dirname(os.path.abspath(merged)), name), folder)
        yield from (copy,) if copy else ()
        return
