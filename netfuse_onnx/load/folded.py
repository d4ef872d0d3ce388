"""Files of adapted models, with the product of the adapter added to each weight, as `merge_and_unload` of
peft does.

A merged file holds the products as nodes of its graph. What proves it must not be made in the same way: so
ONNX Runtime runs the base's own file, with other bytes in the place of each changed weight. One copy of the
base's data serves all adapters; each adds only the weights that it changes, in files that last as long as
they are wanted. All lie in a temporary folder (under TMPDIR), which goes when the process ends.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import moving, numbers, steady, weights, wire
from netfuse_onnx.types import Adapted, Change, Source, Weight

DATA = "base.data"
SMALL = 1024
"""Weights of at most so many bytes stay in the model file."""


@contextmanager
def opened(source: Source, *, moved: int = 0) -> Iterator[str]:
    """Give the path of a file that ONNX Runtime loads for a source. That of an adapted model is removed at
    the end; sessions that were made of it stay usable. With `moved`, a seed, its changed weights are
    moved by rounding. Raises FileFault where there is no room for it."""
    path = written(source, moved=moved)
    try:
        yield path
    finally:
        remove([path])


def written(source: Source, *, moved: int = 0) -> str:
    """Return the path of a file for a source: its own, or a new one for an adapted model (see `remove`)."""
    if source.adapted is None:
        return source.path
    try:
        with _LOCK:
            return _base(source.adapted.base).write(source.adapted, moved)
    except OSError as error:
        raise FileFault(
            f"No temporary file could be written in {tempfile.gettempdir()}: {error.strerror}.",
            "Free some space, or set TMPDIR to a folder with room.",
        ) from error


def remove(paths: Iterable[str]) -> None:
    """Remove those files that `written` has made."""
    with _LOCK:
        for path in paths:
            for _, base in _BASES.values():
                if path in base.used:
                    base.used.discard(path)
                    for each in (path, _data(path)):
                        with suppress(OSError):
                            os.unlink(each)


def weight(base: Weight, change: Change) -> Weight:
    """Return the changed weight, computed in float32 (float64 where the base is), rounded to the base's
    type."""
    if change.replaced is not None:
        values = np.asarray(weights.array(change.replaced))
    elif change.a is not None and change.b is not None:
        values = _product(change.a, change.b, change.scale, wide=base.dtype == TensorProto.DOUBLE)
    else:
        return base
    values = values.T if change.transposed else values
    if change.replaced is None:
        values = weights.array(base).astype(values.dtype) + values
    with np.errstate(all="ignore"):  # what is too large becomes infinite, as in the library
        kept = np.ascontiguousarray(values.astype(onnx.helper.tensor_dtype_to_np_dtype(base.dtype)))
    return Weight(base.dtype, base.shape, kept.tobytes())


def tensors(path: str) -> set[str]:
    """Return the names of the tensors of a file's main graph."""
    return stored(wire.scan(path).model)


def stored(model: ModelProto) -> set[str]:
    """Return the names of the tensors of a model's main graph."""
    constants = (node.output[0] for node in model.graph.node if node.op_type == "Constant" and node.output)
    return {tensor.name for tensor in model.graph.initializer} | set(constants)


def _moved(base: Weight, change: Change, seed: int) -> Weight:
    """Return the changed weight with each element moved by one rounding step up, down or not at all: as the
    sum of two numbers it was rounded, and another order of adding up rounds in another way. The change of a
    low-rank difference is none: what is merged is exact to the rounding of the largest element in a row.
    A weight that is replaced moves by steps of its elements.
    Without a seed, and where its elements are no floats, the weight is not moved."""
    changed = weight(base, change)
    if not seed or changed.dtype not in numbers.DIGITS:
        return changed
    values = numbers.array(changed)
    by_row = change.a is None and change.replaced is None
    largest = np.abs(values).reshape(len(values), -1).max(axis=1) if by_row else np.abs(values)
    largest = largest.reshape(*largest.shape, *(1 for _ in values.shape[largest.ndim :]))
    with np.errstate(all="ignore"):
        step = 2.0 ** (1 - numbers.DIGITS[changed.dtype]) * largest
        values = values + step * np.random.default_rng(seed).integers(-1, 2, changed.shape)
    return Weight(changed.dtype, changed.shape, numbers.encoded(values, changed.dtype))


def _product(a: Weight, b: Weight, scale: float, *, wide: bool) -> NDArray[Any]:
    """Return scale times b a: a matrix [out, in], or filters [O, C, k, k]."""
    kind = np.float64 if wide else np.float32
    left: NDArray[Any] = weights.array(b).astype(kind)
    right: NDArray[Any] = weights.array(a).astype(kind)
    product: NDArray[Any] = left.reshape(len(left), -1) @ right.reshape(len(right), -1)
    return (product * kind(scale)).reshape(len(left), *right.shape[1:])


# --------------------------------------------------------------------------- files


class _Base:
    """The data of one base in a temporary folder, and its skeleton, which refers to it."""

    def __init__(self, path: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="netfuse-onnx-")
        weakref.finalize(self, _remove, self.folder, os.getpid())
        self.model = wire.scan(path).model
        self.weights = {tensor.name: weights.weight_of(tensor) for tensor in self.model.graph.initializer}
        with open(os.path.join(self.folder, DATA), "wb") as data:
            moving.move(self.model, data, DATA)
        self._count = itertools.count()
        self.used = set[str]()
        """The files of adapters that are wanted."""

    def write(self, adapted: Adapted, moved: int) -> str:
        """Write the model of one adapter, and return its path."""
        model = ModelProto()
        model.CopyFrom(self.model)
        path = os.path.join(self.folder, f"{next(self._count)}.onnx")
        changes = {change.weight: change for change in adapted.changes}
        with open(_data(path), "wb") as data:
            for tensor in model.graph.initializer:
                if change := changes.pop(tensor.name, None):
                    _write(tensor, _moved(self.weights[tensor.name], change, moved), data)
            for node in model.graph.node:
                if node.op_type == "Constant" and node.output[0] in changes:
                    _inline(node, changes.pop(node.output[0]), moved)
        if changes:
            raise FileFault(
                f"{adapted.base} holds its weight {min(changes)!r} in another form than that of a tensor.",
                "Export the base again.",
            )
        self.used.add(path)
        onnx.save_model(model, path)
        return path


def _write(tensor: TensorProto, changed: Weight, data: BinaryIO) -> None:
    """Put the changed weight into a tensor, or into the data file where it is large."""
    if weights.nbytes(changed) <= SMALL:
        tensor.CopyFrom(weights.proto(changed, tensor.name))
        return
    name = tensor.name
    tensor.Clear()
    tensor.name, tensor.data_type = name, changed.dtype
    tensor.dims.extend(changed.shape)
    moving.place(tensor, changed, data, os.path.basename(data.name))


def _inline(node: onnx.NodeProto, change: Change, moved: int) -> None:
    """Put the changed weight into a Constant node."""
    for attribute in node.attribute:
        if attribute.name == "value":
            changed = _moved(weights.weight_of(attribute.t), change, moved)
            attribute.t.CopyFrom(weights.proto(changed, attribute.t.name))


def _data(path: str) -> str:
    return f"{path.removesuffix('.onnx')}.data"


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


_LOCK = threading.Lock()
_BASES: dict[tuple[str, int], tuple[steady.Stamp | None, _Base]] = {}
"""The bases in use, by path and process: a forked child has none of its parent's."""


def _base(path: str) -> _Base:
    """Return the data of a base, copied where it was not, or has changed since. Those of bases that nobody
    uses any more are removed."""
    key, now = (os.path.abspath(path), os.getpid()), steady.stamp(path)
    stamp, base = _BASES.get(key, (None, None))
    if base is None or stamp != now:
        for other in [other for other, (_, one) in _BASES.items() if not one.used]:
            del _BASES[other]
        base = _Base(path)
        _BASES[key] = now, base
    return base
