"""A file that is given as pieces: bytes, and places in other files where the same bytes are.

So a model can be read that lies nowhere as a file: the bytes of its weights are in a merged file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from netfuse_onnx.original import Piece
from netfuse_onnx.storage.elements import Files
from netfuse_onnx.storage.protobuf import MalformedError, Window
from netfuse_onnx.types import Extent


def length(piece: Piece) -> int:
    """Returns the bytes of a piece."""
    return piece.length if isinstance(piece, Extent) else len(piece)


class Pieces(Window):
    """Random access to the file that some pieces make up."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = [piece for piece in pieces if length(piece)]
        self.starts = [0, *accumulate(map(length, self.pieces))]
        super().__init__(-1, self.starts.pop())

    def read(self, start: int, length: int) -> bytes:
        with Files() as files:
            return b"".join(
                piece[first:end] if isinstance(piece, bytes) else files.read(piece, first, end - first)
                for piece, first, end in self._between(start, min(start + length, self.size))
            )

    def place(self, start: int, end: int) -> Piece:
        """Returns where bytes start..end are; the bytes themselves where they are in several pieces. Raises
        MalformedError where the file is shorter."""
        if not 0 <= start <= end <= self.size:
            raise MalformedError("it is shorter than a reference to it says")
        found = list(self._between(start, end))
        if len(found) == 1:
            piece, first, last = found[0]
            if isinstance(piece, Extent):
                return Extent(piece.path, piece.offset + first, last - first)
        return self.read(start, end - start)

    def _between(self, start: int, end: int) -> Iterator[tuple[Piece, int, int]]:
        """Yields each piece with bytes between two places, and the first and last of these in it."""
        k = max(0, bisect_right(self.starts, start) - 1)
        while k < len(self.pieces) and self.starts[k] < end:
            at = self.starts[k]
            yield self.pieces[k], max(start - at, 0), min(end - at, length(self.pieces[k]))
            k += 1
