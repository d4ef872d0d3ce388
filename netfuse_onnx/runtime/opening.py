"""Opens the engine of a merged file or a bundle, as the options of a session ask for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime import bundle as bundles
from netfuse_onnx.runtime.engine import ServedFiles
from netfuse_onnx.runtime.ort import Provider


@dataclass(frozen=True, slots=True)
class Opening:
    """The options of a session that concern its files; MergedSession says what each means."""

    sources: tuple[str, ...] = ()
    providers: tuple[Provider, ...] | None = None
    threads: int | None = None
    workers: int | None = None
    libraries: tuple[str, ...] = ()
    max_rows: int = 8
    max_batch: int = 64
    buckets: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    pad: Mapping[str, float] = field(default_factory=dict)
    rows_apart: bool | None = None
    own_sessions: int | None = None
    calibrate: float = 1.0


def open_engine(path: str | os.PathLike[str], opening: Opening | None = None) -> ServedFiles:
    """Open the sessions of a merged file or of the folder of a bundle. Raises FileFault for files that do not
    open, and UsageFault for options that do not fit them."""
    path, chosen = os.fspath(path), opening or Opening()
    if not path.strip():
        raise UsageFault("The path is empty.", "Give a merged file, or the folder of a bundle.")
    if bundles.is_bundle(path):
        if chosen.sources:
            raise UsageFault(f"{path} is a bundle, which has its own views.", "Leave out the sources.")
        return bundles.opened(path, lambda found: ServedFiles(found.merged_path, chosen, found))
    return ServedFiles(path, chosen)
