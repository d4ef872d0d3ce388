"""The models that a verb is given: they are loaded, and none of them may be a merged model."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence

from netfuse_onnx.adapter_rows import Adapters, listed
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.load.adapters import AdapterPath, adapted
from netfuse_onnx.load.loader import load
from netfuse_onnx.load.simplified import SimplifiedPath, simplified
from netfuse_onnx.names import models_in_order
from netfuse_onnx.storage.steady import steady
from netfuse_onnx.types import Correspondence, Source
from netfuse_onnx.write import digests, metadata

SHOWN = 4
"""The number of models of a merged file that a message names."""


def read(paths: Sequence[str]) -> list[Source]:
    """Return all sources. Raises FileFault for the first unreadable one, UsageFault for a merged model,
    AdapterMismatch for an adapter that does not fit its base."""
    base = base_of(paths)
    sources = steady(files(paths), lambda: adapted(base, paths) if base else list(map(_loaded, paths)))
    _refuse_merged(sources[:1] if base else sources)
    return sources


def _loaded(path: str) -> Source:
    """Return one source, simplified where its path says so."""
    return simplified(path) if isinstance(path, SimplifiedPath) else load(path)


def base_of(paths: Sequence[str]) -> str:
    """Return the base of models that are adapters; '' where they are models of their own. Raises UsageFault
    for both together."""
    bases = {path.base if isinstance(path, AdapterPath) else "" for path in paths}
    if len(bases) > 1:
        raise UsageFault("Adapters of one base can't be merged with other models.", "Give one base alone.")
    return bases.pop() if bases else ""


def files(paths: Sequence[str]) -> list[str]:
    """Return the files that the models are in: their paths, and the base of adapters."""
    return [*paths, *filter(None, [base_of(paths)])]


def read_each(paths: Sequence[str]) -> list[Source | FileFault]:
    """Return each source, or the reason why it can't be read. Raises UsageFault for a merged model."""
    if base_of(paths):
        return list(read(paths))
    loaded: list[Source | FileFault] = []
    for path in paths:
        try:
            loaded.append(_loaded(path))
        except FileFault as fault:
            loaded.append(fault)
    _refuse_merged(one for one in loaded if isinstance(one, Source))
    return loaded


def changes(family: Correspondence) -> Adapters | None:
    """Return what the adapters of a family change in their base; None where the models are no adapters."""
    return listed(family.sources, family.names)


def in_order(merged: str, paths: Sequence[str], names: Sequence[str] | None) -> Sequence[str]:
    """Return the paths in the order of the merge. `names` are those of the models, path by path; None where
    the paths are in that order. Raises UsageFault where the file holds other models."""
    if names is None:
        return paths
    return models_in_order(paths, names, metadata.read(merged).models, merged)


def refuse_other_kind(about: metadata.Metadata, merged: str, paths: Sequence[str]) -> None:
    """Raise UsageFault where a file of adapters is given models, or the other way round."""
    of_adapters = any(digests.JOINED in digest for digest in about.sha256)
    if of_adapters and not base_of(paths):
        raise UsageFault(
            f"{merged} was merged from adapters of one base.",
            f"Give base.onnx and an --adapter for each of: {', '.join(about.models[:SHOWN])}.",
        )
    if base_of(paths) and not of_adapters:
        raise UsageFault(f"{merged} was not merged from adapters.", "Give the models that were merged.")


def refuse_other_number(about: metadata.Metadata, merged: str, paths: Sequence[str]) -> None:
    """Raise UsageFault where a file of more or fewer models is given."""
    if len(paths) != len(about.models):
        raise UsageFault(
            f"{merged} holds {len(about.models)} models, {len(paths)} were given.",
            f"Give the models that were merged, in their order: {', '.join(about.models)}.",
        )


def refuse_target(out: str, paths: Sequence[str]) -> None:
    """Raise UsageFault where a model is the merged file at `out`: a second `merge *.onnx -o merged.onnx`."""
    with contextlib.suppress(OSError, ValueError, FileFault):  # whoever reads or writes them will say so
        for path in files(paths):
            if os.path.samefile(path, out):
                _refuse_merged([load(path)])


def _refuse_merged(sources: Iterable[Source]) -> None:
    """Raise UsageFault where a source is a merged model."""
    sentences = [text for source in sources if (text := _merged(source))]
    if sentences:
        more = f"; {len(sentences) - 1} more of the given files {'is' if len(sentences) == 2 else 'are'}, too"
        raise UsageFault(
            f"{sentences[0]}{more if sentences[1:] else ''}.",
            "Give the models that went into it. Only inspect takes a merged file, and, as their first one, "
            "verify and bench.",
        )


def _merged(source: Source) -> str:
    """Return the sentence for a source that netfuse-onnx wrote, or another tool from such a file; else ''."""
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
    """Return the models that the metadata of a merged file name, in any format; None for other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    names = value.get("models") if isinstance(value, dict) and "format" in value else None
    return list(map(str, names)) if isinstance(names, list) else None
