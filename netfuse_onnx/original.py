"""The files of a source as they were when it was merged: bytes, and references to where the weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from netfuse_onnx.types import Extent

Piece = bytes | Extent
"""Some bytes of a file, or the place where the same bytes are."""


@dataclass(frozen=True, slots=True)
class OriginalFile:
    """One file of a source, which is its pieces in order. `location` is the name by which the model calls its
    data file, '' for the model itself."""

    location: str
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return sum(piece.length if isinstance(piece, Extent) else len(piece) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Original:
    """A source: its files, the model first, and the digest that the merged file has of them. `note` says in
    what the files differ from those that were merged; it is '' where they are the same byte for byte.
    `regions` are the places of the tensors in each file, once they have been looked for."""

    digest: str
    files: tuple[OriginalFile, ...]
    note: str = ""
    regions: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict, compare=False)
