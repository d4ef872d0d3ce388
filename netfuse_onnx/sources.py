"""The models that a verb is given: loaded, and none of them a merged model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.load.loader import load
from netfuse_onnx.storage.steady import steady
from netfuse_onnx.types import Source
from netfuse_onnx.write import metadata


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
    if metadata.KEY in source.metadata:
        return f"{source.path} is a merged model{_names(source.path)}, not one of the models to merge"
    inherited = next((key for key in source.metadata if key.endswith(f"/{metadata.KEY}")), "")
    if inherited:
        return f"{source.path} is made of merged models (its metadata hold {inherited!r})"
    return ""


def _names(path: str) -> str:
    try:
        names = metadata.read(path).models
    except FileFault:
        return ""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f" of {', '.join(names[:4])}{more}"
