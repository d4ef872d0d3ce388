"""The options with which a merged file was made, as its metadata record them, for the models of a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from netfuse_onnx import spelling_rows
from netfuse_onnx.errors import FileFault
from netfuse_onnx.lifecycle.places import Places
from netfuse_onnx.write.digests import JOINED
from netfuse_onnx.write.metadata import Metadata


class Options(TypedDict):
    """The arguments of a merge that a merged file records."""

    io: str
    routing: str
    share: tuple[str, ...]
    combine: Mapping[str, str]
    target: str
    partial: bool
    portable: bool
    data: str


def options(places: Places, about: Metadata) -> Options:
    """Return the options of the merge that the change amounts to."""
    inputs, outputs = _names(places, about)
    return Options(
        io=about.io,
        routing="auto",
        share=tuple(inputs.get(name, name) for name in about.share),
        combine={outputs.get(name, name): how for name, how in about.combined.items()},
        target=about.target,
        partial=about.partial,
        portable=about.portable,
        data=about.data,
    )


def refuse(merged: str, about: Metadata) -> None:
    """Raise FileFault for a merged file that only its sources can change."""
    if about.low_rank is not None:
        raise FileFault(
            f"{merged} holds low-rank differences, whose factors were found beside their base, and the base "
            "is not in the file.",
            "Merge again from all models, with --low-rank.",
        )
    if any(JOINED in digest for digest in about.sha256):
        raise FileFault(
            f"{merged} was merged from adapters of one base, whose files it does not hold.",
            "Merge again from the base and all adapters.",
        )
    if (spelling := spelling_rows.read(about.spelling)) is not None and spelling.onnxslim:
        raise FileFault(
            f"{merged} was merged from models that onnxslim had simplified, and holds them as it left them.",
            "Merge again from all models, with --simplify; netfuse-onnx split gets those that it holds.",
        )
    if about.unmoved:
        raise FileFault(
            f"{merged} is part of a bundle, whose views read its data.", "Merge again with --views."
        )


def _names(places: Places, about: Metadata) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the names of inputs and outputs that a model which stays has, the first one where possible, by
    those of the first model before the change. Any model's name may be given to a merge."""
    if about.names is None or not places.kept:
        return {}, {}
    edge = about.names[next(iter(places.kept.values()))]
    return edge.inputs, edge.outputs
