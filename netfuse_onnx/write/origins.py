"""The sources in a merged file: what its metadata hold so that each can be given back without its files.

Of every file of a source the metadata have the bytes that no merged weight holds, and between them references
to merged weights. So the file comes back byte for byte. Where that would take too much, the model is written
anew without what describes it to people: the graph and the weights are the source's, the file is not.
Which merged weight a reference names depends on the bytes alone: the first that holds them.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto, TensorProto

from netfuse_onnx.factored import Factored
from netfuse_onnx.load import rebuild
from netfuse_onnx.load.branches import Side
from netfuse_onnx.original import OriginalFile, Piece
from netfuse_onnx.storage import external, weights, wire
from netfuse_onnx.storage.pieces import Pieces, length
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS, nbytes, tensors
from netfuse_onnx.types import Correspondence, Extent, Source, Weight
from netfuse_onnx.write.packing import Held, Packed, PackedFile, PackedModel, packed
from netfuse_onnx.write.regions import as_bytes, start_of
from netfuse_onnx.write.views import stripped

KEY = "netfuse_onnx.sources"
"""The key of the metadata."""
REFERRED = 64
"""Tensors of at most so many bytes stay among the bytes: a reference takes about as many."""
MOST = 4 << 20
"""The most bytes of a source that are kept although no merged weight and no earlier source holds them."""
DATA = "weights.data"
"""The name of the data file of a model that is written anew."""
ADAPTED = "It is the base with the branches of the adapter: what was merged, not the files of both."
ANEW = "Its file is written anew, without what describes it to people: graph and weights are the same."
FACTORED = "Weights that differ by a low rank are W_0 + L R: within the tolerance of --low-rank."
UNHELD = 1 << 20
"""The most bytes of a source's weights that are kept although no merged weight holds them."""
NOT_HELD = "the merged file does not hold all of its weights, but others that were computed from them"
TOO_MUCH = "its nodes take too much for the metadata of a merged file"
_ALIGN = 64
Regions = Mapping[str, Sequence[tuple[int, int]]]
"""By file, the first byte and the end of each tensor in it."""


def text(family: Correspondence, recipes: Mapping[str, Recipe]) -> str:
    """Return the text for the metadata. `recipes` are those of all weights of the merged file."""
    return packed(recorded(family, recipes))


def recorded(family: Correspondence, recipes: Mapping[str, Recipe]) -> Packed:
    """Return the files of the sources in terms of the merged weights. Raises FileFault where one can't be
    read."""
    factored = family.low_rank.factored if family.low_rank else ()
    writer = _Recorder(_Index(recipes, factored))
    models = tuple(map(writer.model, family.loaded or family.sources))
    held = tuple(Held(name, writer.index.shapes[name]) for name in writer.places)
    return Packed(held, tuple(writer.weights), tuple(writer.runs), models)


# --------------------------------------------------------------------------- the files of a source


def files_of(source: Source) -> tuple[OriginalFile, ...]:
    """Return the files of a source: its own, or those that a merged file gives back."""
    if source.original:
        return source.original.files
    folder = os.path.dirname(os.path.abspath(source.path))
    found = list[OriginalFile]()
    for path in source.files:
        whole = Extent(os.path.abspath(path), 0, os.path.getsize(path))
        found.append(OriginalFile(os.path.relpath(path, folder) if found else "", (whole,)))
    return tuple(found)


def anew(model: ModelProto) -> tuple[OriginalFile, ...]:
    """Return a skeleton as the files of a model whose large tensors are in a data file."""
    pieces, at = list[Piece](), 0
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            extent, gap = external.extent_of(tensor), -at % _ALIGN
            pieces += [bytes(gap), extent]
            external.refer(tensor, Extent(DATA, at + gap, extent.length))
            at += gap + extent.length
    own = OriginalFile("", (bytes(model.SerializeToString(deterministic=True)),))
    return (own, OriginalFile(DATA, tuple(pieces))) if pieces else (own,)


@dataclass
class Placed:
    """A source, opened at its files: its skeleton, and where in its files the bytes of tensors are."""

    model: ModelProto
    files: Mapping[str, Pieces]
    """By location."""
    places: Sequence[tuple[TensorProto, tuple[str, int, int]]]
    """The tensors whose values are there, each with location, first byte and end."""


def opened(files: Sequence[OriginalFile]) -> Placed:
    """Return a source at its files. Raises MalformedError or DecodeError where they are no model, FileFault
    where they can't be read."""
    held = {file.location: Pieces(file.pieces) for file in files}
    model, scanned = wire.skeleton(held[""], "", REFERRED)
    places = []
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            inner = scanned and external.by_scanner(tensor, scanned)
            if inner and inner.path:  # the values are in no raw form, and decoded elsewhere
                continue
            name = "" if inner else os.path.normpath(location)
            start = int(entries.get("offset") or 0)
            size = int(entries.get("length") or nbytes(tensor.data_type, tuple(tensor.dims)))
            if name in held:
                places.append((tensor, (name, start, start + size)))
    return Placed(model, held, places)


def regions(placed: Placed) -> dict[str, list[tuple[int, int]]]:
    """Return the places of the tensors in each file, in order, without those that overlap others."""
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in placed.files}
    for name, start, end in sorted({place for _, place in placed.places}):
        before = found[name][-1][1] if found[name] else 0
        if end - start > REFERRED and before <= start and end <= placed.files[name].size:
            found[name].append((start, end))
    return found


# --------------------------------------------------------------------------- the record


@dataclass
class _Recorder:
    """Builds the value of a family: runs and weights get numbers as they come up."""

    index: _Index
    places: dict[str, int] = field(default_factory=dict)
    weights: dict[tuple[int, ...], int] = field(default_factory=dict)
    runs: dict[bytes, int] = field(default_factory=dict)
    unheld: int = 0
    """The bytes of the last source's weights that no merged weight holds."""

    def model(self, source: Source) -> PackedModel:
        """Record one source: byte for byte where that takes few bytes, else written anew, else not at all."""
        if not source.adapted:
            note = source.original.note if source.original else ""
            known = source.original.regions if source.original else {}
            if files := self._files(files_of(source), known):
                return PackedModel(files, FACTORED if self._computes(files) else note)
        model = rebuild.model(source, places=True) if source.adapted else stripped(source)
        if files := self._files(anew(model)):
            return PackedModel(files, ADAPTED if source.adapted else ANEW)
        return PackedModel((), NOT_HELD if self.unheld > UNHELD else TOO_MUCH)

    def _files(self, files: Sequence[OriginalFile], known: Regions | None = None) -> tuple[PackedFile, ...]:
        """Return the files of one source; none where they take too much. `known` are the places of its
        tensors, where they have been found before. Raises FileFault."""
        self.unheld = 0
        held = {file.location: Pieces(file.pieces) for file in files}
        places = known or regions(opened(files))
        rows = {name: self._cut(held[name], cuts) for name, cuts in places.items()}
        rest = sum(length(piece) for row in rows.values() for piece in row if isinstance(piece, Extent))
        if self.unheld > UNHELD or rest > 2 * MOST:
            return ()
        found = {name: [*_joined(held[name], row)] for name, row in rows.items()}
        fresh = {piece for row in found.values() for piece in row if isinstance(piece, bytes)}
        if sum(map(len, fresh - self.runs.keys())) > MOST:
            return ()
        return tuple(PackedFile(name, tuple(map(self._number, row))) for name, row in found.items())

    def _computes(self, files: Iterable[PackedFile]) -> bool:
        """Return True where a weight of these files is the sum of others."""
        numbers = {-1 - piece for file in files for piece in file.pieces if piece < 0}
        return any(len(weight) > 2 for weight, number in self.weights.items() if number in numbers)

    def _cut(self, file: Pieces, regions: Iterable[tuple[int, int]]) -> list[_Reference | Extent]:
        """Return the file as references to merged weights, and the places in it of the bytes between."""
        found, at = list[_Reference | Extent](), 0
        for start, end in regions:
            reference = self.index.find(file.place(start, end))
            if reference is None:
                self.unheld += end - start
            else:
                found += [Extent("", at, start - at), reference]
                at = end
        return [*found, Extent("", at, file.size - at)]

    def _number(self, piece: bytes | _Reference) -> int:
        """Return the number of a run or of a weight."""
        if isinstance(piece, bytes):
            return self.runs.setdefault(piece, len(self.runs))
        pairs = ((self.places.setdefault(name, len(self.places)), part) for name, part in piece.parts)
        weight = (*itertools.chain.from_iterable(pairs), *piece.form)
        return -1 - self.weights.setdefault(weight, len(self.weights))


@dataclass(frozen=True, slots=True)
class _Reference:
    """A part of a merged weight, by its name and number; or of three, which are W_0, A and B of a weight that
    is W_0 + L R, with the place of the form among those of `Side`."""

    parts: tuple[tuple[str, int], ...]
    form: tuple[int, ...] = ()


def _joined(file: Pieces, row: Iterable[_Reference | Extent]) -> Iterator[bytes | _Reference]:
    """Yield the row with the bytes in place of where they are."""
    for piece in row:
        if not isinstance(piece, Extent):
            yield piece
        elif piece.length:
            yield file.read(piece.offset, piece.length)


class _Index:
    """Finds the merged weight that holds some bytes: the first one, in the order of their names."""

    def __init__(self, recipes: Mapping[str, Recipe], factored: Iterable[Factored]) -> None:
        self._by_start: dict[tuple[int, bytes], dict[Weight, _Reference]] = {}
        self._sums: dict[tuple[int, bytes], dict[Weight, _Reference]] = {}
        self.shapes = {name: tuple(part.shape for part in recipe.parts) for name, recipe in recipes.items()}
        small = dict[Weight, _Reference]()
        for name, recipe in sorted(recipes.items()):
            for number, part in enumerate(recipe.parts):
                if recipe.dtype != TensorProto.STRING:
                    reference = _Reference(((name, number),))
                    _put(self._by_start, part, reference)
                    small.setdefault(part, reference)
        for each in factored:
            for whole, a, b in zip(each.wholes, each.a, each.b, strict=True):
                found = [small.get(part) for part in (each.base, a, b)]
                parts = tuple(one.parts[0] for one in found if one)
                if len(parts) == 3:
                    _put(self._sums, whole, _Reference(parts, (list(Side).index(each.form.side),)))

    def find(self, piece: Piece) -> _Reference | None:
        """Return where the bytes of a piece are, or what they are computed from; None where the merged file
        has neither."""
        wanted = Weight(TensorProto.UINT8, (length(piece),), piece)
        for held in (self._by_start, self._sums):
            for weight, reference in held.get(start_of(wanted), {}).items():
                if weights.same(weight, wanted):
                    return reference
        return None


def _put(held: dict[tuple[int, bytes], dict[Weight, _Reference]], part: Weight, found: _Reference) -> None:
    """Note where the bytes of a weight are. The bits that fill the last byte of a packed one are lost."""
    if weights.nbytes(part) > REFERRED and math.prod(part.shape) * BITS[part.dtype] % 8 == 0:
        plain = as_bytes(part)
        held.setdefault(start_of(plain), {}).setdefault(plain, found)
