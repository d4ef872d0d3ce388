"""The models that a verb is given: loaded, and none of them a merged model."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.load.loader import load
from netfuse_onnx.storage.steady import steady
from netfuse_onnx.types import Source
from netfuse_onnx.write import metadata

SHOWN = 4
"""How many models of a merged file are named."""


def read(paths: Sequence[str]) -> list[Source]:
    """All sources. Raises FileFault for the first that can't be read, UsageFault where one is merged."""
    sources = steady(paths, lambda: [load(path) for path in paths])
    _refuse_merged(sources)
    return sources


def read_each(paths: Sequence[str]) -> list[Source | FileFault]:
    """In the place of each path its source, or why it can't be read. UsageFault where one is merged."""
    found: list[Source | FileFault] = []
    for path in paths:
        try:
            found.append(load(path))
        except FileFault as fault:
            found.append(fault)
    _refuse_merged(one for one in found if isinstance(one, Source))
    return found


def refuse_target(out: str, paths: Sequence[str]) -> None:
    """Raises UsageFault where a model is the merged file at `out`, as in `merge *.onnx -o merged.onnx` for a
    second time."""
    with contextlib.suppress(OSError, ValueError, FileFault):  # whoever reads or writes them will say so
        for path in paths:
            if os.path.samefile(path, out):
                _refuse_merged([load(path)])


def _refuse_merged(sources: Iterable[Source]) -> None:
    said = [text for source in sources if (text := _merged(source))]
    if said:
        more = f"; {len(said) - 1} more of the given files {'is' if len(said) == 2 else 'are'}, too"
        raise UsageFault(
            f"{said[0]}{more if said[1:] else ''}.",
            "Give the models that went into it. Only inspect takes a merged file, and, as their first one, "
            "verify and bench.",
        )


def _merged(source: Source) -> str:
    """The sentence for a source that netfuse-onnx wrote, or another tool from what it wrote; else ''."""
    for key, value in source.metadata.items():
        names = _names(value) if key == metadata.KEY or key.endswith(f"/{metadata.KEY}") else None
        if names is None:
            continue
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
        if key == metadata.KEY:
            return f"{source.path} is a merged model of {shown}, not one of the models to merge"
        return f"{source.path} is made of merged models: its metadata hold {key!r}, of {shown}"
    return ""


def _names(text: str) -> list[str] | None:
    """The models that the metadata of a merged file name, in any format; None for what is no such text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    names = value.get("models") if isinstance(value, dict) and "format" in value else None
    return list(map(str, names)) if isinstance(names, list) else None
