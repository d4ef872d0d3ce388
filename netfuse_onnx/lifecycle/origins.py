"""The sources that a merged file gives back, from its bytes and the record in its metadata alone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from netfuse_onnx import factored
from netfuse_onnx.errors import FileFault, InternalError, ValuesDiffer
from netfuse_onnx.load.loader import load
from netfuse_onnx.original import Original, OriginalFile, Piece
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.protobuf import MalformedError
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import tensors
from netfuse_onnx.storage.transforms import AS_IS
from netfuse_onnx.storage.undo import taken_out
from netfuse_onnx.types import Extent, Source, Weight
from netfuse_onnx.write import metadata, origins, views, writer
from netfuse_onnx.write.metadata import Metadata
from netfuse_onnx.write.packing import Packed, unpacked

AGAIN = "Merge again, from the sources."


def sources(merged: str, folder: str) -> list[Source]:
    """Return the sources of a merged file as `load` gave them, in order. Their weights are where they are in
    the merged file, which is linked (or, where that is impossible, copied) into `folder`; those that were
    rearranged are taken out into a file there. The path of each is that of a graph in `folder` that ONNX
    Runtime loads.

    Raises FileFault where the file can't be read, was not written by netfuse-onnx, or does not hold a source.
    """
    opened = Origins.read(merged)
    return list(opened.some(range(len(opened.about.models)), folder).values())


@dataclass(frozen=True)
class Origins:
    """The record of the sources in the merged file at `path`. `held` are the merged weights by name."""

    path: str
    about: Metadata
    packed: Packed
    held: Mapping[str, Weight]

    @classmethod
    def read(cls, path: str) -> Origins:
        """Return the record of a merged file. Raises FileFault where there is none, or a damaged one."""
        about = metadata.read(path)
        props = {entry.key: entry.value for entry in wire.scan(path).model.metadata_props}
        if origins.KEY not in props:
            raise FileFault(
                f"{path} has no record of its sources: an older version wrote it, or a tool has removed it.",
                AGAIN,
            )
        try:
            packed = unpacked(props[origins.KEY])
            if len(packed.models) != len(about.models):
                raise ValueError("it has another number of models")
        except ValueError as error:
            raise _damaged(path, str(error)) from error
        return cls(path, about, packed, writer.read_merged(path))

    def some(self, models: Iterable[int], folder: str) -> dict[int, Source]:
        """Return some models as they were loaded, as `sources` does. Raises FileFault."""
        holder = LinkedFiles(folder)
        return {model: self.source(model, holder) for model in models}

    def note(self, model: int) -> str:
        """Return in what a model's files differ from those that were merged; '' where they are the same."""
        return self.packed.models[model].note

    def holds(self, model: int) -> bool:
        """Return True where the file holds what is needed to give a model back."""
        return bool(self.packed.models[model].files)

    def require(self, model: int) -> None:
        """Raise FileFault where the file does not hold what a model needs."""
        if not self.holds(model):
            name, reason = self.about.models[model], self.note(model)
            raise FileFault(f"{self.path} can't give back {name}: {reason}.", "Keep the file of that model.")

    def original(self, model: int, folder: WeightFiles) -> Original:
        """Return the files of a model, whose weights are in `folder`. Raises FileFault."""
        self.require(model)
        row = self.packed.models[model]
        files = tuple(
            OriginalFile(file.location, tuple(self._piece(number, folder) for number in file.pieces))
            for file in row.files
        )
        return Original(self.about.sha256[model], files, row.note)

    def source(self, model: int, folder: WeightFiles) -> Source:
        """Return a model as it was loaded. Raises FileFault."""
        original = self.original(model, folder)
        path = os.path.join(folder.path, f"{model}.onnx")
        try:
            placed = origins.opened(original.files)
        except (MalformedError, DecodeError) as error:
            raise _damaged(self.path, f"{self.about.models[model]} is no model: {error}") from error
        found = replace(original, regions=origins.regions(placed))
        with open(path, "xb") as file:
            file.write(_graph(placed).SerializeToString(deterministic=True))
        return replace(load(path), original=found)

    def _piece(self, number: int, folder: WeightFiles) -> Piece:
        if number >= 0:
            return self.packed.runs[number]
        weight = self.packed.weights[-1 - number]
        if len(weight) == 2:
            data = folder.weights(self, *weight).data
            assert not isinstance(data, tuple)
            return data
        base, a, b = (folder.weights(self, *weight[k : k + 2]) for k in (0, 2, 4))
        try:
            return folder.store(b"".join(factored.sums(base, a, b, weight[6])))
        except (ValueError, IndexError, KeyError) as error:
            raise _damaged(self.path, f"factors do not fit: {error}") from error

    def taken_out(self, held: int, part: int, folder: WeightFiles) -> Weight:
        """Return a weight as it went into a merged one. Raises FileFault where the file has none such."""
        name, shapes = self.packed.held[held].name, self.packed.held[held].shapes
        try:
            weight, line = self.held[name], self.about.weights[name]
            parts = tuple(Weight(weight.dtype, shape, b"") for shape in shapes)
            outer, transform = line.get("outer", 1), line.get("transform", AS_IS)
            recipe = Recipe(name, parts, weight.dtype, weight.shape, outer, transform)
            if isinstance(weight.data, tuple):
                raise ValueError("it holds strings")
            found = taken_out(recipe, folder.linked(weight.data), part, folder.store)
        except (KeyError, ValueError, InternalError, ValuesDiffer) as error:
            raise FileFault(
                f"{self.path} has its weight {name!r} in another form than was merged: a tool changed it.",
                "Give the file that netfuse-onnx wrote.",
            ) from error
        return found


@dataclass
class WeightFiles:
    """The weights of a merged file, and a folder for those that are taken out of it."""

    path: str
    _taken: dict[tuple[int, int], Weight] = field(default_factory=dict)

    def weights(self, given: Origins, held: int, part: int) -> Weight:
        """Return a weight, which is taken out once."""
        if (held, part) not in self._taken:
            self._taken[held, part] = given.taken_out(held, part, self)
        return self._taken[held, part]

    def linked(self, data: Extent | bytes) -> Extent | bytes:
        """Return the place at which bytes of the merged file are read."""
        return data

    def store(self, raw: bytes) -> Extent:
        """Keep bytes in a file of this folder."""
        path = os.path.join(self.path, "taken.data")
        with open(path, "ab") as file:
            start = file.tell()
            file.write(raw)
        return Extent(path, start, len(raw))


@dataclass
class LinkedFiles(WeightFiles):
    """The same, with the files of the merged model linked into the folder."""

    _links: dict[str, str] = field(default_factory=dict)

    def linked(self, data: Extent | bytes) -> Extent | bytes:
        if isinstance(data, bytes):
            return data
        if data.path not in self._links:
            self._links[data.path] = self._link(data.path)
        return replace(data, path=self._links[data.path])

    def _link(self, path: str) -> str:
        """Return another name of a file, or of a copy of it."""
        target = os.path.join(self.path, f"merged-{len(self._links)}.data")
        with contextlib.suppress(OSError):
            os.link(os.path.realpath(path), target)
            return target
        shutil.copyfile(path, target)
        return target


def _graph(placed: origins.Placed) -> ModelProto:
    """Return the graph of a model, whose weights refer to files in one folder."""
    kept = list(views.movable(placed.model))  # which keeps their ids
    movable = set(map(id, kept))
    for tensor, (name, start, end) in placed.places:
        data = placed.files[name].place(start, end)
        weight = Weight(tensor.data_type, tuple(tensor.dims), data)
        if isinstance(data, Extent):
            views.refer(tensor, replace(data, path=os.path.basename(data.path)))
        if isinstance(data, bytes) or id(tensor) not in movable or views.steers(weight):
            tensor.CopyFrom(weights.proto(weight, tensor.name))
    for tensor in tensors(placed.model):
        if tensor.data_location == TensorProto.EXTERNAL and not _here(tensor):
            weights.fetch(tensor)
    return placed.model


def _here(tensor: TensorProto) -> bool:
    """Return True for a reference to a file in the model's folder."""
    return all(os.sep not in entry.value for entry in tensor.external_data if entry.key == "location")


def _damaged(path: str, reason: str) -> FileFault:
    return FileFault(f"The record of the sources in {path} is damaged: {reason}.", AGAIN)
