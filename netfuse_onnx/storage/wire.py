"""The scanner of ONNX files: it finds where the bytes of tensors lie, without reading them.

A model file is one protobuf message, most of which is tensor data. The scanner walks the wire format with
small reads, copies all that is small, and replaces large tensor data by a reference to its place (file,
offset, length). The result is the skeleton. It uses no memory map: touched pages would count as resident
memory, and memory must not grow with the models. Format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import external, spill
from netfuse_onnx.storage.protobuf import Field, MalformedError, Window, varint
from netfuse_onnx.storage.tensors import BITS, dtype_name, raw_values, value_field
from netfuse_onnx.types import Extent

_DEPTH = 90  # nested messages; protobuf itself stops at 100
_DAMAGED = "The file is damaged or not an ONNX model: export or download it again."

# The messages in large length-delimited fields, by the number of the field.
_TENSOR, _DROP = "tensor", "drop"
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function", 20: _DROP},  # 20: training_info, no part of inference
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
_PROTO: Mapping[str, Any] = {
    "model": onnx.ModelProto,
    "graph": onnx.GraphProto,
    "function": onnx.FunctionProto,
    "node": onnx.NodeProto,
    "attribute": onnx.AttributeProto,
    "sparse": onnx.SparseTensorProto,
}
_NUMBERS = {name: {f.number for f in proto.DESCRIPTOR.fields} for name, proto in _PROTO.items()}
_FIELDS = {field.number: field.name for field in onnx.TensorProto.DESCRIPTOR.fields}
_VALUES = {n: _FIELDS[n] for n in (4, 5, 7, 9, 10, 11)}  # all but string_data


@dataclass(frozen=True)
class Scanned:
    """A model without its large tensor data.

    In `model` such a tensor has data_location EXTERNAL and the external_data entries location (an
    absolute path), offset and length, in bytes, of its raw little-endian form. `extents` gives the
    same for the initializers of the main graph, by name. `files`: every file read, the model first.
    """

    model: onnx.ModelProto
    extents: Mapping[str, Extent]
    files: tuple[str, ...]


def scan(path: str, *, threshold: int = 1024) -> Scanned:
    """Returns the skeleton of the model at `path`: tensor data of more than `threshold` bytes stays in the
    file. Bytes count as they lie in the file: the raw form of packed numbers may be eight times as long.

    Raises FileFault for whatever cannot be read, is no valid model, or points outside its folder.
    """
    model, scanned = _skeleton(path, threshold)
    if not model.HasField("graph") or not model.opset_import:
        missing = "opset imports" if model.HasField("graph") else "graph"
        raise FileFault(f"{path} is not an ONNX model: it has no {missing}.", _DAMAGED)
    extents, files = external.resolve(model, path, threshold, scanned)
    return Scanned(model, extents, files)


def external_locations(path: str) -> frozenset[str]:
    """Returns the external data locations that the model at `path` names, as written there, unchecked."""
    return external.locations(*_skeleton(path, 1024))


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    """Gives descriptor and size in bytes of a model file. FileFault where it can't be a model."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise FileFault(f"{path} is a folder, not a model file.", "Name the .onnx file in it.")
        if not stat.S_ISREG(mode):
            raise FileFault(f"{path} is not a regular file.", "Save the model to a file first.")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise external.unreadable(path, error) from error
    try:
        size = os.fstat(fd).st_size
        if not size:
            raise FileFault(f"{path} is empty.", _DAMAGED)
        if os.pread(fd, len(external.LFS_HEAD), 0) == external.LFS_HEAD:
            raise FileFault(f"{path} is a Git LFS pointer, not the model.", external.LFS_HINT)
        yield fd, size
    finally:
        os.close(fd)


def _skeleton(path: str, threshold: int) -> tuple[onnx.ModelProto, set[Extent]]:
    """Returns the skeleton of a model file, and the extents that the scanner put there."""
    try:
        with _opened(path) as (fd, size):
            return skeleton(Window(fd, size), os.path.abspath(path), threshold)
    except MalformedError as error:
        raise FileFault(f"{path} is not a valid ONNX model: {error}.", _DAMAGED) from error
    except DecodeError as error:
        raise FileFault(f"{path} is not a valid ONNX model: a field has the wrong form.", _DAMAGED) from error
    except OSError as error:
        raise external.unreadable(path, error) from error


def skeleton(window: Window, path: str, threshold: int) -> tuple[onnx.ModelProto, set[Extent]]:
    """Returns the skeleton of what a window shows of a model, and the extents in `path` that are put there.
    Raises MalformedError or DecodeError for what is no model."""
    scanner = _Scanner(window, path, threshold)
    return onnx.ModelProto.FromString(scanner.skeleton()), scanner.extents


@dataclass
class _Scanner:
    """Builds the skeleton's wire bytes, and collects the extents that it refers to."""

    window: Window
    path: str
    threshold: int
    extents: set[Extent] = field(default_factory=set)

    def skeleton(self) -> bytes:
        return self._message("model", 0, self.window.size, 0)

    def _message(self, name: str, start: int, end: int, depth: int) -> bytes:
        """Returns a message without its large data. Runs of small fields are copied as they stand."""
        if depth > _DEPTH:
            raise MalformedError(f"its graphs are nested more than {_DEPTH} levels deep")
        out, kept = [], start
        for one in self.window.fields(start, end):
            if one.wire != 2 or one.end - one.start <= self.threshold:
                continue
            inside = _INSIDE[name].get(one.number)
            if inside is None and one.number in _NUMBERS[name]:
                continue
            out.append(self.window.take(kept, one.at))
            kept = one.end
            if inside is None or inside is _DROP:
                continue
            body = (
                self._tensor(one)
                if inside is _TENSOR
                else self._message(inside, one.start, one.end, depth + 1)
            )
            out += [varint(one.number << 3 | 2), varint(len(body)), body]
        out.append(self.window.take(kept, end))
        return b"".join(out)

    def _tensor(self, at: Field) -> bytes:
        """Returns a TensorProto, its values replaced by their place when they are large."""
        values: dict[int, Field] = {}  # the last field of each number
        out, kept, dtype, outside, count, size = [], at.start, 0, False, 0, 0
        for one in self.window.fields(at.start, at.end):
            if one.number == 2 and one.wire == 0:
                dtype = self.window.varint(one.start, one.end)[0]
            elif one.number in _VALUES:
                values[one.number] = one
                count, size = count + 1, size + one.end - (one.start if one.wire == 2 else one.at)
            elif one.number == 14 and one.wire == 0:
                outside = self.window.varint(one.start, one.end)[0] == 1
            if one.number in _VALUES or one.number in (13, 14):
                out.append(self.window.take(kept, one.at))
                kept = one.end
        if size <= self.threshold:
            return self.window.take(at.start, at.end)
        if len(values) > 1 or outside:
            raise MalformedError(f"the tensor at byte {at.at} holds its values twice")
        (last,) = values.values()
        out += [self.window.take(kept, at.end), self._reference(at, dtype, last, count)]
        return b"".join(out)

    def _reference(self, at: Field, dtype: int, last: Field, count: int) -> bytes:
        """Returns the external_data fields for the values of the tensor at `at`, which are in `count` fields.
        Values that are not in raw form there are decoded by onnx and go to a temporary file."""
        name = _VALUES[last.number]
        if dtype not in BITS or (name != "raw_data" and name != value_field(dtype)):
            raise MalformedError(f"a tensor of type {dtype_name(dtype)} can't keep its values in {name}")
        raw = name == "raw_data" or (name in ("float_data", "double_data") and count == 1)
        if raw and last.wire == 2:
            extent = Extent(self.path, last.start, last.end - last.start)
        else:
            extent = spill.store(raw_values(onnx.TensorProto.FromString(self.window.take(at.start, at.end))))
        self.extents.add(extent)
        tensor = onnx.TensorProto()
        external.refer(tensor, extent)
        return bytes(tensor.SerializeToString())
