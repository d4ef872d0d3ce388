"""The rows of reports that say how the files of a family were written, and what was brought together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.respelling import Respelled, Respelling
from netfuse_onnx.types import Correspondence, Producer, Source


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """The way in which the file of a model was written. `simplified` has its number of nodes before and after
    --simplify; empty without it."""

    model: str
    producer: Producer
    opset: int
    simplified: tuple[int, ...] = ()

    def __str__(self) -> str:
        slim = f", {self.simplified[0]} nodes simplified to {self.simplified[1]}" if self.simplified else ""
        return f"{self.model}: {str(self.producer) or 'unknown'}, opset {self.opset}{slim}"


@dataclass(frozen=True, slots=True)
class Spelling:
    """The files of a family that were not written in one way. `forms` are those that changed some models more
    than others; `opset` is that to which the family was raised for their sake, 0 where it was not; `onnxslim`
    is the version of that tool with --simplify."""

    models: tuple[WrittenRow, ...]
    forms: tuple[Respelling, ...] = ()
    opset: int = 0
    onnxslim: str = ""

    def sentences(self) -> Iterator[str]:
        """Yield the lines that are shown."""
        yield f"Written by {'; '.join(map(str, self.models[:SHOWN]))}{' ...' * (len(self.models) > SHOWN)}."
        for sentence in Respelled(self.forms).sentences():
            yield f"Brought together: {sentence}"

    def written(self) -> dict[str, Any]:
        """Return what the metadata of a merged file hold."""
        models = [
            {"model": row.model, "producer": row.producer.name, "version": row.producer.version,
             "exporter": row.producer.exporter, "opset": row.opset, "nodes": list(row.simplified)}
            for row in self.models
        ]  # fmt: skip
        forms = [dataclasses.asdict(row) for row in self.forms]
        return {"models": models, "forms": forms, "opset": self.opset, "onnxslim": self.onnxslim}


SHOWN = 8
"""The number of models whose files are described."""


def read(value: Mapping[str, Any] | None) -> Spelling | None:
    """Return what `Spelling.written` wrote."""
    if value is None:
        return None
    rows = tuple(
        WrittenRow(
            row["model"],
            Producer(row["producer"], row["version"], row["exporter"]),
            row["opset"],
            tuple(row["nodes"]),
        )
        for row in value["models"]
    )
    forms = tuple(Respelling(**row) for row in value["forms"])
    return Spelling(rows, forms, value["opset"], value["onnxslim"])


def of(family: Correspondence) -> Spelling | None:
    """Return how the files of a family were written; None where they were written in one way."""
    sources = family.loaded or family.sources
    rows = tuple(_row(name, source) for name, source in zip(family.names, sources, strict=True))
    ways = {(str(row.producer), row.opset) for row in rows}
    slim = next((source.simplified.version for source in sources if source.simplified), "")
    told = family.respelled
    if told is None and not slim and len(ways) == 1:
        return None
    forms = told.differing if told else ()
    return Spelling(rows, forms, told.opset if told else 0, slim)


def _row(name: str, source: Source) -> WrittenRow:
    about = source.simplified
    counts = (about.before, about.after) if about else ()
    return WrittenRow(name, source.producer, source.opsets.get("", 0), counts)
