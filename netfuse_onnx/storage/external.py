"""Tensor data outside the model file: the bytes that a tensor refers to, and a check that it may.

A location is relative to the model's folder and must stay inside it: a model file from elsewhere must
not be able to pull other files into the merged one. Links are followed first. The folder counts both
as named and as the model file's own links resolve it, because download caches keep a model and its
data as links into one folder. Spec: https://onnx.ai/onnx/repo-docs/ExternalData.html.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Set

import onnx
from onnx import TensorProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import text
from netfuse_onnx.storage.tensors import BITS, MOST_AXES, dtype_name, inline_count_fault, nbytes, tensors
from netfuse_onnx.types import Extent

LFS_HEAD = b"version https://git-lfs"
LFS_HINT = "Fetch the file itself: git lfs pull."
_DAMAGED = "The model is damaged or its data belongs to another version: export it again."


def unreadable(path: str, error: OSError | ValueError) -> FileFault:
    """Returns the FileFault for a failed open or read."""
    path = path or "''"
    if isinstance(error, FileNotFoundError):
        return FileFault(f"{path} does not exist.", "Check the path.")
    if isinstance(error, PermissionError):
        return FileFault(f"{path} may not be read.", "Check its permissions.")
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return FileFault(f"{path} can't be read: {reason}.", "Check the path and the disk.")


def refer(tensor: TensorProto, extent: Extent) -> None:
    """Makes `tensor` stand for the bytes of `extent`, in place; its inline values must be gone."""
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    entries = (("location", extent.path), ("offset", str(extent.offset)), ("length", str(extent.length)))
    for key, value in entries:
        try:
            tensor.external_data.add(key=key, value=value)
        except (UnicodeEncodeError, ValueError) as error:
            raise FileFault(
                f"{extent.path!r} is not a UTF-8 path.", "Rename the file or its folder."
            ) from error


def extent_of(tensor: TensorProto) -> Extent:
    """Returns the bytes that an external tensor of a skeleton stands for."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Extent(entries["location"], int(entries["offset"]), int(entries["length"]))


def resolve(
    model: onnx.ModelProto, path: str, threshold: int, scanned: Set[Extent]
) -> tuple[dict[str, Extent], tuple[str, ...]]:
    """Checks every tensor of a skeleton, in place: values must fill the shape, external data must exist
    inside the folder. Its references become absolute; data of at most `threshold` bytes comes inline.

    `scanned`: the extents that the scanner put there itself. Returns the extents of the main graph's
    initializers by name, and the files: the model, then external data. Raises FileFault.
    """
    text.check(model, path)
    resolver = _Resolver(path)
    for tensor in tensors(model):
        _check_type(tensor, path)
        if tensor.data_location != TensorProto.EXTERNAL:
            if fault := inline_count_fault(tensor):
                raise _fault(path, tensor, fault)
            continue
        extent = by_scanner(tensor, scanned) or resolver.extent(tensor)
        want = nbytes(tensor.data_type, tensor.dims)
        if extent.length != want:
            raise _fault(path, tensor, f"holds {extent.length} bytes, shape {list(tensor.dims)} takes {want}")
        if want <= threshold and extent not in scanned:
            _read_inline(tensor, extent)
        else:
            refer(tensor, extent)
    outside = (t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    return {t.name: extent_of(t) for t in outside}, (path, *resolver.files)


def locations(model: onnx.ModelProto, scanned: Set[Extent]) -> frozenset[str]:
    """Returns the external data locations that the model itself names, without those of the scanner."""
    outside = (t for t in tensors(model) if t.data_location == TensorProto.EXTERNAL)
    named = (t for t in outside if not by_scanner(t, scanned))
    return frozenset(entry.value for t in named for entry in t.external_data if entry.key == "location")


class _Resolver:
    """Turns the external_data entries of one model's tensors into checked extents."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder = os.path.dirname(os.path.abspath(path))
        self.roots = {os.path.realpath(self.folder), os.path.dirname(os.path.realpath(path))}
        self.sizes: dict[str, tuple[str, int]] = {}

    @property
    def files(self) -> tuple[str, ...]:
        """The data files that tensors refer to, in order of first use."""
        return tuple(file for file, _ in self.sizes.values())

    def extent(self, tensor: TensorProto) -> Extent:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in self.sizes:
            self.sizes[location] = self._file(tensor, location)
        file, size = self.sizes[location]
        offset = self._number(tensor, entries.get("offset") or "0")
        length = self._number(tensor, entries.get("length") or str(nbytes(tensor.data_type, tensor.dims)))
        if offset + length > size:
            raise _fault(
                self.path, tensor, f"needs bytes {offset} to {offset + length} of {file}, which has {size}"
            )
        return Extent(file, offset, length)

    def _number(self, tensor: TensorProto, text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise _fault(self.path, tensor, f"has the offset or length {text!r} in its external data")
        return int(text)

    def _file(self, tensor: TensorProto, location: str) -> tuple[str, int]:
        """Returns path and size in bytes of a data file."""
        if not location or "\0" in location:
            raise _fault(self.path, tensor, "names no file for its external data")
        file = os.path.normpath(os.path.join(self.folder, location))
        real = os.path.realpath(os.path.join(self.folder, location))
        inside = any(os.path.commonpath((root, real)) == root for root in self.roots)
        if os.path.isabs(location) or not inside:
            raise FileFault(
                f"{self.path} keeps data of tensor {tensor.name!r} outside its own folder, at {location}.",
                "That is refused for safety: put the data file beside the model and save the model again.",
            )
        try:
            status = os.stat(real)
        except OSError as error:
            raise FileFault(
                f"{self.path} keeps tensor {tensor.name!r} in {file}, which can't be read: {error.strerror}.",
                "Put the data file beside the model.",
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise FileFault(f"{self.path} keeps data in {file}, which is not a regular file.", _DAMAGED)
        return file, status.st_size


def by_scanner(tensor: TensorProto, scanned: Set[Extent]) -> Extent | None:
    """Returns the extent of a reference that the scanner made, None for one of the file itself."""
    if len(tensor.external_data) != 3 or tensor.external_data[0].key != "location":
        return None
    try:
        extent = extent_of(tensor)
    except (KeyError, ValueError):
        return None
    return extent if extent in scanned else None


def _check_type(tensor: TensorProto, path: str) -> None:
    if tensor.data_type not in BITS and tensor.data_type != TensorProto.STRING:
        raise _fault(path, tensor, f"has the unknown type {dtype_name(tensor.data_type)}")
    if any(size < 0 for size in tensor.dims) or len(tensor.dims) > MOST_AXES:
        raise _fault(path, tensor, f"has the shape {list(tensor.dims)}")
    if tensor.data_type == TensorProto.STRING and (
        tensor.data_location == TensorProto.EXTERNAL or tensor.HasField("raw_data")
    ):
        raise _fault(path, tensor, "keeps strings in a raw form, which ONNX does not define")


def _read_inline(tensor: TensorProto, extent: Extent) -> None:
    """Brings a small external tensor inline, so that later stages need not open files for scalars."""
    try:
        with open(extent.path, "rb") as file:
            file.seek(extent.offset)
            tensor.raw_data = file.read(extent.length)
    except OSError as error:
        raise unreadable(extent.path, error) from error
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def _fault(path: str, tensor: TensorProto, problem: str) -> FileFault:
    return FileFault(f"{path} is damaged: tensor {tensor.name!r} {problem}.", _DAMAGED)
