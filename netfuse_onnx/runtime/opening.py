"""Opens the engine of a merged file or a bundle, as the options of a session ask for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from netfuse_onnx.runtime import bundle
from netfuse_onnx.runtime.engine import ServedFiles
from netfuse_onnx.runtime.ort import Provider, Setup
from netfuse_onnx.runtime.types import Engine


@dataclass(frozen=True, slots=True)
class Opening:
    """The options of a session that concern its files; MergedSession says what each means."""

    sources: tuple[str, ...] = ()
    providers: tuple[Provider, ...] | None = None
    threads: int | None = None
    workers: int | None = None
    max_rows: int = 8
    max_batch: int = 64
    buckets: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    pad: Mapping[str, float] = field(default_factory=dict)
    rows_apart: bool | None = None
    own_sessions: int = 64
    calibrate: float = 1.0


def open_engine(path: str | os.PathLike[str], opening: Opening) -> Engine:
    """Open the sessions of a merged file or of the folder of a bundle."""
    path, sources = os.fspath(path), opening.sources
    if bundle.is_bundle(path):
        read = bundle.read(path)
        path, sources = read.merged_path, read.view_paths
    setup = Setup(threads=opening.threads or 1)
    return cast(Engine, ServedFiles(path, setup, sources=sources, own_sessions=opening.own_sessions))
