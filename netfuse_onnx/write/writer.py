"""The writer of merged models: it computes all offsets, writes the bytes, and renames the files at the end.

Weights are streamed by their recipes from their files; memory depends neither on the number of
models nor on their size. The bytes depend only on the merged graph, the sources and the metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import TensorProto

from netfuse_onnx.errors import FileFault, InternalError
from netfuse_onnx.lowered import Merged
from netfuse_onnx.storage import external, weights, wire
from netfuse_onnx.storage.protobuf import varint
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import tensors
from netfuse_onnx.types import Extent, Source, Weight
from netfuse_onnx.write import cloning, placing, staging
from netfuse_onnx.write.digests import Digests
from netfuse_onnx.write.early import Early

Progress = Callable[[str, int, int], None]
Mode = Literal["auto", "external", "single"]
Confirm = Callable[[], None]
Metadata = Mapping[str, str] | Callable[[tuple[str, ...]], Mapping[str, str]]

INLINE_BELOW = 64 << 20  # bytes of a model from which its weights get a file of their own, which loads faster
_PROTOBUF_LIMIT = (1 << 31) - (1 << 20)  # bytes that every reader takes, with room for the metadata
_ALIGN = 64  # bytes: a cache line, and the widest vector load
_SLACK = 1 << 20  # bytes of room for metadata and folder entries
_GRAPH, _INITIALIZER, _RAW_DATA, _METADATA = b"\x3a", b"\x2a", b"\x4a", b"\x72"  # field tags
_FORMAT = 3  # of the data file: goes into its name


class Staged:
    """A merged model that is complete and on disk, but not yet at its target.

    `model_path` can be loaded. It is a context manager, which discards a model that was not committed.
    """

    def __init__(self, folder: staging.Staging, data: str | None, digests: Digests) -> None:
        self._staging, self._data, self._sources = folder, data, digests
        self.out, self.digests = folder.out, digests.result()
        self.model_path = os.path.join(folder.folder, folder.name)
        self.size = sum(os.path.getsize(os.path.join(folder.folder, name)) for name in self._names)

    @property
    def files(self) -> tuple[str, ...]:
        """The final paths of the model and of its data file, if it has one. `size` is their bytes
        together."""
        return tuple(os.path.join(self._staging.home, name) for name in self._names)

    @property
    def _names(self) -> tuple[str, ...]:
        return (self._staging.name, self._data) if self._data else (self._staging.name,)

    def names(self, shown: str) -> Mapping[str, str]:
        """Returns the names for messages of paths that last until the commit: `shown` for the model, and
        final paths for the files beside it."""
        folder = os.path.dirname(self.model_path)
        return {
            self.model_path: shown,
            folder + os.sep: self._staging.home + os.sep,
            folder: self._staging.home,
        }

    @property
    def folder(self) -> str:
        """The folder in which the files are, until the commit."""
        return self._staging.folder

    @property
    def data(self) -> str:
        """The name of the data file, '' where the model holds its weights."""
        return self._data or ""

    def commit(self, put: Callable[[staging.Staging, Confirm], None] | None = None) -> None:
        """Moves the model to its target, or has `put` move all files of the folder. FileFault when that
        fails, or when a source has changed since it was read; then the old model is still there."""
        try:
            self._sources.confirm()
            if put:
                put(self._staging, self._sources.confirm)
            else:  # and again under the lock: of two updates of one file, one must not undo the other
                self._staging.place(self._data, self._sources.confirm)
        except OSError as error:
            raise staging.unwritable(self.out, error) from error
        finally:
            self._staging.remove()
        self.model_path = self.out

    def discard(self) -> None:
        """Removes everything that was written. It does nothing after a commit."""
        if self.model_path != self.out:
            self._staging.remove()

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def stage(
    merged: Merged,
    out: str,
    sources: Sequence[Source],
    *,
    mode: Mode = "auto",
    metadata: Metadata,
    progress: Progress | None = None,
    digests: Digests | None = None,
    early: Early | None = None,
) -> Staged:
    """Writes the merged model beside `out`, complete and synced, to be proven and then committed.

    `mode`: weights inside the model file (single), in `NAME-<8 hex>.data` beside it (external), or the
    latter from 64 MiB on (auto), unless `out` is a link into another folder. `metadata` is given the sources'
    digests when it is a function. `progress` is told what is done, and the weight bytes done and in total, at
    least every 16 MiB. `digests`: those of the sources, where the caller has started them earlier; stage()
    ends them. `early`: a copy of the data file of the merged model that this one replaces.

    Raises FileFault when the target can't be written or a source can't be read; nothing stays behind.
    """
    digests = digests or Digests(sources)
    folder: staging.Staging | None = None
    try:
        check(out, sources, external=mode == "external")
        skeleton = _Skeleton(merged)
        inside = mode != "external" and (
            mode == "single" or skeleton.size < INLINE_BELOW or staging.elsewhere(out)
        )
        if inside:
            _check_single(out, skeleton.size)
        folder = staging.Staging(out)  # which also makes room: it removes what a killed run left
        there = early.size if early else 0
        folder.check_room(skeleton.size + _ALIGN * len(merged.recipes) + _SLACK - there)
        write = _write_inline if inside or not merged.recipes else _write_external
        tell = progress or (lambda *_: None)
        job = _Job(skeleton, merged.recipes, folder, digests, metadata, tell, early)
        data = write(job)
        placing.sync_folder(folder.folder)  # the files in it were synced as they were written
        return Staged(folder, data, digests)
    except BaseException as error:
        digests.cancel()
        if folder:
            folder.remove()
        if isinstance(error, OSError):
            raise staging.unwritable(out, error) from error
        raise


def check(out: str, sources: Sequence[Source], *, external: bool = False) -> None:
    """Raises FileFault, before any work, when `out` can't be written or is a file of a source. It may be the
    merged file that has the source, as it is replaced in one step."""
    read = [path for source in sources if not source.original for path in source.files]
    staging.check_target(out, read, external=external)


def read_merged(path: str) -> Mapping[str, Weight]:
    """Returns the initializers of a written model, small ones too, by reference to their bytes; strings and
    empty ones are held. The byte proof reads them. FileFault as wire.scan."""
    scanned = wire.scan(path, threshold=0)
    held = {}
    for tensor in scanned.model.graph.initializer:
        data: Extent | bytes | tuple[bytes, ...] = scanned.extents.get(tensor.name, b"")
        if tensor.data_type == TensorProto.STRING:
            data = tuple(tensor.string_data)
        held[tensor.name] = Weight(tensor.data_type, tuple(tensor.dims), data)
    return held


def _check_single(out: str, size: int) -> None:
    if size > _PROTOBUF_LIMIT:
        raise FileFault(
            f"{out} would take {size / 1e9:.1f} GB, and a single model file can have 2 GiB.",
            f"Let the weights go to a file of their own: name {staging.real(out)} itself, not a link to it."
            if staging.elsewhere(out)
            else "Let the weights go to a file of their own: leave out --single-file.",
        )


class _Skeleton:
    """Splits the merged model into the pieces that are written: the heads of the initializers with recipes,
    in order, and the serialised rest."""

    def __init__(self, merged: Merged) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(merged.model)
        self.heads = [_head(t, merged.recipes) for t in model.graph.initializer if t.name in merged.recipes]
        kept = [t for t in model.graph.initializer if t.name not in merged.recipes]
        missing = merged.recipes.keys() - {head.name for head in self.heads}
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        missing |= {t.name for t in tensors(model) if t.data_location == TensorProto.EXTERNAL}
        if missing:
            raise InternalError(f"Weight {min(missing)!r} lost its bytes.", "Please report this.")
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.graph = bytes(model.graph.SerializeToString(deterministic=True))
        model.ClearField("graph")
        model.ClearField("metadata_props")
        self.model = bytes(model.SerializeToString(deterministic=True))
        self.weight = sum(map(weights.recipe_nbytes, merged.recipes.values()))
        self.size = len(self.model) + len(self.graph) + self.weight + 256 * len(self.heads)

    def tail(self, metadata: Mapping[str, str]) -> bytes:
        """Returns the metadata_props fields. They are written last, because they need the digests."""
        entries = {**self.metadata, **metadata}
        protos = (onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items())
        return b"".join(_field(_METADATA, proto.SerializeToString()) for proto in protos)


@dataclass(frozen=True)
class _Job:
    """Holds the arguments of one write."""

    skeleton: _Skeleton
    recipes: Mapping[str, Recipe]
    folder: staging.Staging
    digests: Digests
    metadata: Metadata
    progress: Progress
    early: Early | None

    def tail(self) -> bytes:
        given = self.metadata(self.digests.result()) if callable(self.metadata) else self.metadata
        return self.skeleton.tail(given)

    def teller(self) -> Callable[[int], None]:
        """Returns a function that adds up the bytes that copy() reports, over all recipes."""
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            self.progress("writing the weights", done, self.skeleton.weight)

        return tell


def _write_inline(job: _Job) -> None:
    """Writes one valid ModelProto with one graph field: every length is known before the bytes are read."""
    skeleton = job.skeleton
    heads = [_inline_head(head, job.recipes[head.name]) for head in skeleton.heads]
    sizes = [weights.recipe_nbytes(job.recipes[head.name]) for head in skeleton.heads]
    graph_size = len(skeleton.graph) + sum(map(len, heads)) + sum(sizes)
    with _created(job.folder, job.folder.name) as fd:
        at = weights.write(fd, 0, skeleton.model + _GRAPH + varint(graph_size) + skeleton.graph)
        tell = job.teller()
        for proto, head, size in zip(skeleton.heads, heads, sizes, strict=True):
            at = weights.write(fd, at, head)
            weights.copy(job.recipes[proto.name], fd, at, tell)
            at += size
        os.fsync(fd)  # while the digests, which the tail waits for, are still being computed
        weights.write(fd, at, job.tail())


def _write_external(job: _Job) -> str:
    """Writes the weights to a file of their own, which the model names by its base name; returns that
    name."""
    heads, tell = job.skeleton.heads, job.teller()
    places, end = cloning.places([weights.recipe_nbytes(job.recipes[head.name]) for head in heads], _ALIGN)
    placed = [(job.recipes[head.name], at) for head, (at, _) in zip(heads, places, strict=True)]
    unnamed = "data"
    there = cloning.begun(os.path.join(job.folder.folder, unnamed), placed, end, job.early)
    with _created(job.folder, unnamed, new=not there) as fd:
        if there:
            cloning.clear(fd, placed)
        for recipe, at in placed:
            weights.copy(recipe, fd, at, tell, there)
        os.truncate(fd, weights.write(fd, end, placing.mark(job.folder.name)))
    stem = job.folder.name.removesuffix(".onnx")
    recipes, digests, tail = {h.name: job.recipes[h.name] for h in heads}, job.digests.result(), job.tail()
    name = f"{stem}-{_content(recipes, digests, tail)}.data"
    os.rename(os.path.join(job.folder.folder, unnamed), os.path.join(job.folder.folder, name))
    fields = []
    for head, (offset, size) in zip(heads, places, strict=True):
        external.refer(head, Extent(name, offset, size))
        fields.append(_field(_INITIALIZER, head.SerializeToString(deterministic=True)))
    body = job.skeleton.graph + b"".join(fields)
    with _created(job.folder, job.folder.name) as fd:
        weights.write(fd, 0, job.skeleton.model + _field(_GRAPH, body) + tail)
    return name


def _head(tensor: TensorProto, recipes: Mapping[str, Recipe]) -> TensorProto:
    """Returns an initializer with a recipe without its values: name, type and shape."""
    recipe = recipes[tensor.name]
    if (tensor.data_type, tuple(tensor.dims)) != (recipe.dtype, recipe.shape):
        raise InternalError(f"Weight {tensor.name!r} and its recipe differ in shape.", "Please report this.")
    head = TensorProto()
    head.CopyFrom(tensor)
    for field in ("raw_data", "external_data", "data_location"):
        head.ClearField(field)
    return head


def _inline_head(head: TensorProto, recipe: Recipe) -> bytes:
    """Returns the bytes of the graph before those of the recipe: tag and length of the initializer, its small
    fields, tag and length of raw_data."""
    small = bytes(head.SerializeToString(deterministic=True))
    size = weights.recipe_nbytes(recipe)
    raw = _RAW_DATA + varint(size)
    return _INITIALIZER + varint(len(small) + len(raw) + size) + small + raw


def _content(recipes: Mapping[str, Recipe], digests: Sequence[str], tail: bytes) -> str:
    """Returns 8 hex digits that stand for the data file's bytes, without reading them all: the bytes follow
    from the models, the recipes, in the file's order, and the options of the merge, which the metadata hold.
    The places where the models' bytes are do not count: an update reads most of them in the merged file."""

    def part(weight: Weight) -> list[object]:
        page = weights.first_page(weight)
        start = page if isinstance(page, bytes) else b"".join(page)
        return [weight.shape, hashlib.blake2b(start, digest_size=8).hexdigest()]

    rows = [
        [name, r.dtype, r.shape, r.outer, r.transform.text, [*map(part, r.parts)]]
        for name, r in recipes.items()
    ]
    text = json.dumps([_FORMAT, _ALIGN, list(digests), rows])
    return hashlib.blake2b(text.encode() + tail, digest_size=4).hexdigest()


@contextmanager
def _created(folder: staging.Staging, name: str, *, new: bool = True) -> Iterator[int]:
    """Gives a descriptor of a file in the staging folder, a `new` one or one that is there. It is synced to
    disk at the end."""
    fd = folder.create(name, new=new)
    try:
        yield fd
        os.fsync(fd)
    finally:
        os.close(fd)


def _field(tag: bytes, value: bytes) -> bytes:
    return tag + varint(len(value)) + value
