"""split: each source of a merged file back, from the merged file alone.

The files are made in a hidden folder in the target, compared with the digests of the merge, and renamed when
all are there. A file that has another content is not replaced, unless that is asked for.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from onnx import TensorProto

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.lifecycle.origins import Origins, WeightFiles
from netfuse_onnx.lifecycle.split_report import SplitReport, SplitRow
from netfuse_onnx.original import Original, OriginalFile
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.runtime import bundle
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.steady import steady
from netfuse_onnx.types import Extent, Weight
from netfuse_onnx.write import digests
from netfuse_onnx.write.placing import sync_folder
from netfuse_onnx.write.staging import Staging, unwritable

PLAIN = " !#$&'()+,;=@[]^{}~"
"""Characters that a file name keeps beside letters, digits and _.-; others are written as %XX."""


@dataclass(frozen=True)
class Splitting:
    """The arguments of one split, as `api.split` has them."""

    merged: str
    folder: str
    models: Sequence[str]
    force: bool
    tell: Progress

    def report(self) -> SplitReport:
        """Write the models, and say what was written."""
        path = model_path(self.merged)
        return steady([path], lambda: self._written(path))

    def _written(self, path: str) -> SplitReport:
        opened = Origins.read(path)
        wanted = self._wanted(opened)
        with _folder(self.folder) as stage:
            rows, moves = list[SplitRow](), dict[str, str]()
            for done, model in enumerate(wanted):
                self.tell("writing the models", done, len(wanted))
                row, files = self._model(opened, model, stage)
                rows.append(row)
                moves |= files
            self._place(moves)
        return SplitReport(self.merged, self.folder, opened.about.version, tuple(rows))

    def _wanted(self, opened: Origins) -> list[int]:
        """Return the places of the models. Raises UsageFault for one that the file does not hold, FileFault
        where it can't give back any."""
        names = opened.about.models
        for name in self.models:
            if name not in names:
                raise UsageFault(f"{self.merged} holds no model {name!r}.", f"It holds: {', '.join(names)}.")
        wanted = [k for k, name in enumerate(names) if name in self.models or not self.models]
        if not any(map(opened.holds, wanted)):
            opened.require(wanted[0])
        return wanted

    # ------------------------------------------------------------------ one model

    def _model(self, opened: Origins, model: int, stage: Staging) -> tuple[SplitRow, dict[str, str]]:
        """Write one model to the hidden folder. Returns its row, and its files there with their targets."""
        name, digest = opened.about.models[model], opened.about.sha256[model]
        if not opened.holds(model):
            return SplitRow(name, (), 0, False, opened.note(model), "", digest, 0, 0), {}
        home = os.path.join(stage.folder, str(model))
        os.mkdir(home)
        with _scratch(stage) as places:
            original = opened.original(model, places)
            paths = [self._file(file, home, escaped(name)) for file in original.files]
            found = digests.of_files(paths)
            exact = found == digest
            if not exact and not original.note:
                raise FileFault(
                    f"{self.merged} no longer holds {name} as it was merged: the SHA-256 of what comes out "
                    "differs.",
                    "A tool has changed its weights. Give the file that netfuse-onnx wrote.",
                )
            if not exact:
                _compare(original, paths)
        sync_folder(home)
        held = [piece for file in original.files for piece in file.pieces if isinstance(piece, Extent)]
        targets = targets_of(self.folder, name, original)
        size = sum(map(os.path.getsize, paths))
        row = SplitRow(
            name, tuple(targets), size, exact, original.note, found, digest, len(held),
            sum(piece.length for piece in held),
        )  # fmt: skip
        return row, dict(zip(paths, targets, strict=True))

    def _file(self, file: OriginalFile, home: str, name: str) -> str:
        """Write one file, and return its path."""
        path = os.path.join(home, file.location or f"{name}.onnx")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd, at = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), 0
        try:
            for piece in file.pieces:
                if isinstance(piece, bytes):
                    at = weights.write(fd, at, piece)
                else:
                    weights.copy(_as_it_is(piece), fd, at)
                    at += piece.length
            os.fsync(fd)
        finally:
            os.close(fd)
        return path

    # ------------------------------------------------------------------ all models

    def _place(self, moves: Mapping[str, str]) -> None:
        """Move the files to their targets, a model after its data. Raises FileFault, before any is moved,
        where one may not be replaced."""
        taken = set[str]()
        for path, target in moves.items():
            key = os.path.normcase(target).casefold()
            if key in taken:
                raise FileFault(f"Two files would be {target}.", "Give --model, one at a time.")
            taken.add(key)
            if os.path.lexists(target) and not self._may_replace(path, target):
                raise FileFault(f"{target} exists, and is another file.", "Remove it, or give --force.")
        for path, target in reversed(list(moves.items())):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(path, target)
        for home in dict.fromkeys(map(os.path.dirname, moves.values())):
            sync_folder(home)

    def _may_replace(self, path: str, target: str) -> bool:
        """Return True for a target of the same content, and with --force for any file but the merged one."""
        if os.path.islink(target) or not os.path.isfile(target):
            return False
        if any(os.path.samefile(target, own) for own in wire.scan(model_path(self.merged)).files):
            return False
        return self.force or filecmp.cmp(path, target, shallow=False)


@contextlib.contextmanager
def _folder(folder: str) -> Iterator[Staging]:
    """Give a hidden folder in `folder`, which is made where it is not there. Raises FileFault."""
    if not folder:
        raise FileFault("The output folder has no name: ''.", "Name a folder.")
    inside, made = os.path.join(folder, "models"), not os.path.lexists(folder)
    try:
        if made:
            os.mkdir(folder)
        stage = Staging(inside)
        try:
            yield stage
            made = False
        finally:
            stage.remove()
    except OSError as error:
        raise unwritable(inside, error) from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


@contextlib.contextmanager
def _scratch(stage: Staging) -> Iterator[WeightFiles]:
    """Give a place for the weights that are taken out of merged ones, for the time of one model."""
    folder = os.path.join(stage.folder, "taken")
    os.mkdir(folder)
    try:
        yield WeightFiles(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def model_path(merged: str) -> str:
    """Return the merged file: `merged` itself, or that of the bundle in this folder."""
    if os.path.isdir(merged):
        return bundle.read(merged).merged_path
    return merged


def escaped(name: str) -> str:
    """Return the name of a model as that of a file."""
    plain = (each if each.isprintable() and ord(each) > 127 else quote(each, PLAIN) for each in name)
    kept = "".join(plain)
    return "%2E" + kept[1:] if kept.startswith(".") else kept


def targets_of(folder: str, name: str, original: Original) -> list[str]:
    """Return the paths of a model's files: NAME.onnx, or the same in a folder NAME with its data files."""
    model = f"{escaped(name)}.onnx"
    if len(original.files) == 1:
        return [os.path.join(folder, model)]
    return [os.path.join(folder, escaped(name), file.location or model) for file in original.files]


def _as_it_is(extent: Extent) -> Recipe:
    """Return the recipe that copies some bytes."""
    weight = Weight(TensorProto.UINT8, (extent.length,), extent)
    return Recipe("", (weight,), weight.dtype, weight.shape)


def _compare(original: Original, paths: Sequence[str]) -> None:
    """Compare the files with what they are made of. Raises FileFault where the disk has other bytes."""
    for file, path in zip(original.files, paths, strict=True):
        at = 0
        for piece in file.pieces:
            size = piece.length if isinstance(piece, Extent) else len(piece)
            sides = (Weight(TensorProto.UINT8, (size,), data) for data in (piece, Extent(path, at, size)))
            if not weights.same(*sides):
                raise FileFault(f"{path} is not as it was written.", "Check the disk.")
            at += size
