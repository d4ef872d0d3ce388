"""Operations on weights that stay in their files: read, compare, merge by recipe, copy.

Only small weights are held whole. All others are read in blocks, so that memory depends neither on the
number of models nor on their size. Values are compared and copied as bits.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from netfuse_onnx.errors import InternalError
from netfuse_onnx.storage import external
from netfuse_onnx.storage.elements import Elements, Files, Plain, elements_of
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS, Values, pack, raw_values
from netfuse_onnx.storage.tensors import nbytes as raw_nbytes
from netfuse_onnx.storage.transforms import AS_IS
from netfuse_onnx.storage.undo import first_difference as first_difference
from netfuse_onnx.types import Extent, Weight

MEMORY = 16 << 20  # bytes that a transform may hold
_BLOCK = 1 << 20  # bytes
_PAGE = 4096  # bytes
_RUN = 1 << 16  # bytes of a run for which a system call of its own is worth while
_COPY = 16 << 20  # bytes per copy_file_range: an interrupt is answered in between
_NO_RANGE = {
    errno.EXDEV,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
}


def weight_of(tensor: TensorProto) -> Weight:
    """Returns the weight of a TensorProto of a skeleton (wire.scan). Its data is an Extent when it is
    external, raw bytes when it is inline in any field, and a tuple of byte strings for a string tensor."""
    dtype, shape = tensor.data_type, tuple(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        return Weight(dtype, shape, external.extent_of(tensor))
    if dtype == TensorProto.STRING:
        return Weight(dtype, shape, tuple(tensor.string_data))
    return Weight(dtype, shape, raw_values(tensor))


def nbytes(weight: Weight) -> int:
    """Returns the size in bytes of the raw form, or of the characters of a string tensor."""
    if isinstance(weight.data, tuple):
        return sum(map(len, weight.data))
    return raw_nbytes(weight.dtype, weight.shape)


def proto(weight: Weight, name: str = "") -> TensorProto:
    """Returns an inline TensorProto with the values. It reads the whole weight: use it for small ones."""
    tensor = TensorProto(name=name, data_type=weight.dtype, dims=weight.shape)
    if isinstance(weight.data, tuple):
        tensor.string_data.extend(weight.data)
    else:
        with Files() as files:
            tensor.raw_data = files.read(weight.data, 0, nbytes(weight))
    return tensor


def fetch(tensor: TensorProto) -> None:
    """Brings the bytes of an external tensor of a skeleton inline, in place. It reads the whole tensor."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raw = b"".join(blocks(weight_of(tensor)))
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = raw


def array(weight: Weight) -> Values:
    """Returns the values as a numpy array, of an ml_dtypes type where numpy has none, and of objects (str)
    for strings. It reads the whole weight: use it for small ones."""
    return numpy_helper.to_array(proto(weight))


def blocks(weight: Weight, size: int = _BLOCK) -> Iterator[bytes]:
    """Yields the raw form in blocks of `size` bytes, the last one shorter. FileFault when the file shrank."""
    total, data = nbytes(weight), _raw(weight)
    with Files() as files:
        for at in range(0, total, size):
            yield files.read(data, at, min(size, total - at))


def first_page(weight: Weight) -> bytes | tuple[bytes, ...]:
    """Returns the first bytes of the raw form, which differ between most weights of a family; all elements of
    a string tensor."""
    if isinstance(weight.data, tuple):
        return weight.data
    with Files() as files:
        return files.read(weight.data, 0, min(nbytes(weight), _PAGE))


def same(a: Weight, b: Weight) -> bool:
    """Returns True when two weights are equal in type, shape and every bit. It stops at the first difference:
    most weights of a family differ in the first page."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if a.data == b.data:
        return True
    if isinstance(a.data, tuple) or isinstance(b.data, tuple):
        return False
    total, at, size = nbytes(a), 0, _PAGE
    with Files() as files:
        while at < total:
            size = min(size, total - at)
            if files.read(a.data, at, size) != files.read(b.data, at, size):
                return False
            at, size = at + size, _BLOCK
    return True


def stored(model: ModelProto) -> int:
    """Returns the bytes of all initializers of a model, those in other files included. A string counts its
    characters."""
    return sum(
        sum(map(len, tensor.string_data))
        if tensor.data_type == TensorProto.STRING
        else raw_nbytes(tensor.data_type, tuple(tensor.dims))
        for tensor in model.graph.initializer
    )


def recipe_nbytes(recipe: Recipe) -> int:
    """Returns the size in bytes of the merged weight."""
    return raw_nbytes(recipe.dtype, recipe.shape)


def stream(recipe: Recipe, block: int = _BLOCK) -> Iterator[bytes]:
    """Yields the merged weight's raw form in blocks of about `block` bytes.

    Raises FileFault when a source can't be read, InternalError when the parts don't fill the shape.
    """
    recipe.check()
    bits = BITS[recipe.dtype]
    as_bytes = recipe.transform == AS_IS and not any(size % 8 for size in _run_bits(recipe))
    size = max(1, block if bits < 8 or as_bytes else block * 8 // bits)
    with Files() as files:
        values = _values(recipe, files, as_bytes, size)
        if as_bytes or bits >= 8:
            yield from (some.tobytes() for some in values)
        else:
            yield from _packed(values, bits)


def moves(recipe: Recipe) -> bool:
    """Returns True where the parts are not whole runs of bytes of the sources, long enough to be copied."""
    bits = _run_bits(recipe)
    whole = recipe.transform == AS_IS and not any(size % 8 for size in bits)
    return not whole or min(bits, default=0) // 8 < _RUN


def copy(
    recipe: Recipe, fd: int, offset: int, progress: Callable[[int], None] | None = None, there: str = ""
) -> None:
    """Writes the merged weight to `fd` from byte `offset`.

    Long runs that need no transform are copied inside the kernel, the rest is streamed. `progress` is
    told the bytes of each block. `there`: the path of the file of which `fd` is a copy, if it is one: what
    that has in the same place is not written. It raises OSError when the target can't be written, FileFault
    when a source can't be read.
    """
    report = progress or (lambda _: None)
    if moves(recipe):
        for block in stream(recipe):
            offset = write(fd, offset, block)
            report(len(block))
        return
    recipe.check()
    sizes = [bits // 8 for bits in _run_bits(recipe)]
    with Files() as files:
        for run in range(recipe.outer):
            for part, size in zip(recipe.parts, sizes, strict=True):
                if there and part.data == Extent(there, offset - run * size, nbytes(part)):
                    report(size)
                else:
                    _copy_run(part, run * size, size, fd, offset, files, report)
                offset += size


def strings(recipe: Recipe) -> list[bytes]:
    """Returns the elements of a merged string tensor. It raises InternalError as stream does."""
    recipe.check()
    with Files() as files:
        return [text for some in _values(recipe, files, False, _BLOCK) for text in some]


def _run_bits(recipe: Recipe) -> list[int]:
    """Returns the size in bits of one run of each part, after the transform."""
    return [count * BITS[recipe.dtype] // recipe.outer for count in recipe.counts]


def _values(recipe: Recipe, files: Files, as_bytes: bool, block: int) -> Iterator[Values]:
    """Yields the merged elements. Without interleaving the parts come one by one, so that only one of them
    needs memory for its transform; else they share it."""

    def reader(weight: Weight, memory: int) -> Elements:
        if as_bytes:
            return Plain(weight, files, as_bytes=True)
        return recipe.transform.apply(elements_of(weight, files), weight.shape, memory)

    if recipe.outer == 1:
        for part in recipe.parts:
            yield from _interleaved([reader(part, MEMORY)], 1, block)
    else:
        readers = [reader(part, 4 * MEMORY // len(recipe.parts)) for part in recipe.parts]
        yield from _interleaved(readers, recipe.outer, block)


def _interleaved(readers: Sequence[Elements], outer: int, block: int) -> Iterator[Values]:
    """Yields run 0 of every reader, run 1 of every reader, ..., in arrays of about `block` elements."""
    sizes = [reader.count // outer for reader in readers]
    if max(sizes, default=0) > block // 16:
        for run in range(outer):
            for reader, size in zip(readers, sizes, strict=True):
                for at in range(0, size, block):
                    yield reader.read(run * size + at, min(block, size - at))
        return
    step = max(1, block // max(1, sum(sizes)))  # many short runs: as many as fill a block at once
    for top in range(0, outer, step):
        rows = min(step, outer - top)
        parts = [
            r.read(top * size, rows * size).reshape(rows, size)
            for r, size in zip(readers, sizes, strict=True)
        ]
        yield np.concatenate(parts, axis=1).reshape(-1)


def _packed(values: Iterator[Values], bits: int) -> Iterator[bytes]:
    """Packs elements of less than a byte. Elements that don't fill whole bytes wait for the next ones."""
    rest = np.empty(0, np.uint8)
    for some in values:
        rest = np.concatenate((rest, some))
        whole = len(rest) // 4 * 4  # four elements fill whole bytes at every width
        yield pack(rest[:whole], bits)
        rest = rest[whole:]
    yield pack(rest, bits)


def _copy_run(
    weight: Weight, start: int, length: int, fd: int, offset: int, files: Files, report: Callable[[int], None]
) -> None:
    """Copies bytes start..start+length of a weight to byte `offset` of `fd`."""
    while length:
        some = min(length, _COPY)
        moved = 0
        if isinstance(weight.data, Extent):
            moved = _in_kernel(files.fd(weight.data.path), weight.data.offset + start, some, fd, offset)
        if not moved:
            block = files.read(_raw(weight), start, min(some, _BLOCK))
            moved = write(fd, offset, block) - offset
        start, offset, length = start + moved, offset + moved, length - moved
        report(moved)


def transfer(source: int, start: int, length: int, fd: int, offset: int) -> int:
    """Copies up to `length` bytes from one open file to another. Returns how many, 0 at the end of `source`.
    OSError where one can't be read or written."""
    if moved := _in_kernel(source, start, min(length, _COPY), fd, offset):
        return moved
    return write(fd, offset, os.pread(source, min(length, _BLOCK), start)) - offset


def _in_kernel(source: int, start: int, length: int, fd: int, offset: int) -> int:
    """Returns the number of bytes copied by copy_file_range; 0 where the system or a file system can't."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source, fd, length, start, offset)
    except OSError as error:
        if error.errno in _NO_RANGE:
            return 0
        raise


def write(fd: int, offset: int, data: bytes) -> int:
    """Writes all of `data` to `fd` from byte `offset`; returns the byte where it ends."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(fd, rest, offset)
        rest, offset = rest[done:], offset + done
    return offset


def _raw(weight: Weight) -> Extent | bytes:
    if isinstance(weight.data, tuple):
        raise InternalError("A string tensor has no raw form.", "Please report this.")
    return weight.data
