"""Tensors on the wire: as bytes in row-major order, and as lists of JSON."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from netfuse_onnx.runtime.errors import BadInput
from netfuse_onnx.runtime.signature import Tensor
from netfuse_onnx.runtime.types import Array

MOST_AXES = 32
"""Axes of a tensor that numpy takes in all its versions."""
LENGTH = struct.Struct("<I")
"""The number of bytes of a string, before them."""


def bad(model: str, tensor: str, said: str, expected: str = "") -> BadInput:
    """Return the error of an input that can't be read."""
    return BadInput(
        f"Input {tensor[:80]!r} of model {model!r} {said}.", model=model, input=tensor[:80], expected=expected
    )


def shape_of(model: str, name: str, given: Any) -> tuple[int, ...]:
    """Return a shape of whole numbers from 0. Raises BadInput."""
    try:
        shape = tuple(given)
    except TypeError:
        raise bad(model, name, "has no shape: a list of sizes") from None
    if len(shape) > MOST_AXES:
        raise bad(model, name, f"has {len(shape)} axes; a tensor may have {MOST_AXES}")
    for size in shape:
        if type(size) is not int or size < 0:
            raise bad(model, name, f"has the size {str(size)[:20]} in its shape")
    return shape


def from_raw(model: str, tensor: Tensor, shape: tuple[int, ...], raw: bytes | memoryview) -> Array:
    """Return the array of a shape whose bytes came. It shares their memory. Raises BadInput."""
    assert tensor.element is not None
    dtype = tensor.element.dtype
    count = math.prod(shape)
    if dtype.kind == "O":
        return _filled(model, tensor, shape, strings(model, tensor.name, count, raw))
    if len(raw) != count * dtype.itemsize:
        wanted = f"{count * dtype.itemsize} bytes"
        said = f"has {len(raw)} bytes; {tensor.datatype} of shape {list(shape)} has {wanted}"
        raise bad(model, tensor.name, said, wanted)
    if dtype.kind == "b":  # a byte may be any number
        return _shaped(model, tensor, shape, np.frombuffer(raw, np.uint8) != 0)
    return _shaped(model, tensor, shape, np.frombuffer(raw, dtype))


def counted(model: str, tensor: Tensor, shape: tuple[int, ...], array: Array) -> Array:
    """Return elements in their shape. Raises BadInput for another number of them."""
    if array.size != math.prod(shape):
        said = f"has {array.size} elements; shape {list(shape)} has {math.prod(shape)}"
        raise bad(model, tensor.name, said, f"{math.prod(shape)} elements")
    return _shaped(model, tensor, shape, array)


def _shaped(model: str, tensor: Tensor, shape: tuple[int, ...], array: Array) -> Array:
    try:
        return array.reshape(shape)
    except ValueError:  # no elements, and sizes beyond the address space
        raise bad(model, tensor.name, f"can't have the shape {list(shape)}") from None


def _filled(model: str, tensor: Tensor, shape: tuple[int, ...], values: Sequence[Any]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return counted(model, tensor, shape, array)


def strings(model: str, name: str, count: int, raw: bytes | memoryview) -> list[str]:
    """Return the strings of a BYTES tensor, each after its length. Raises BadInput for another number of
    them, and for what is no UTF-8."""
    found, at, end = list[str](), 0, len(raw)
    if count * LENGTH.size > end:
        raise bad(model, name, f"has {end} bytes, too few for {count} strings")
    for _ in range(count):
        start = at + LENGTH.size
        if start > end:
            raise bad(model, name, f"has {len(found)} strings; its shape has {count}")
        at = start + LENGTH.unpack_from(raw, start - LENGTH.size)[0]
        if at > end:
            raise bad(model, name, f"ends inside of string {len(found)}")
        found.append(text(model, name, bytes(raw[start:at])))
    if at != end:
        raise bad(model, name, f"has {end - at} bytes after its {count} strings")
    return found


def text(model: str, name: str, raw: bytes) -> str:
    """Return a string of ONNX, which is text. Raises BadInput for bytes that are no UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise bad(model, name, "has a string that is no UTF-8; strings of ONNX are text") from None


def from_list(model: str, tensor: Tensor, shape: tuple[int, ...], data: Any) -> Array:
    """Return the array of a list, flat or nested. Raises BadInput for another number of elements, and for
    numbers that the type does not have."""
    assert tensor.element is not None
    if not isinstance(data, list | tuple):
        raise bad(model, tensor.name, "has no list of its elements as data")
    flat = flattened(model, tensor.name, data)
    if tensor.element.is_text:
        if not all(type(one) is str for one in flat):
            raise bad(model, tensor.name, "takes BYTES, which are strings in JSON")
        for one in flat:
            if not one.isascii():
                _is_text(model, tensor.name, one)
        return _filled(model, tensor, shape, flat)
    return counted(model, tensor, shape, _numbers(model, tensor, flat))


def _is_text(model: str, name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair, which JSON can write
        raise bad(model, name, "has a string that is no Unicode; strings of ONNX are text") from None


def flattened(model: str, name: str, data: Sequence[Any]) -> list[Any]:
    """Return the elements of nested lists in row-major order. Raises BadInput for lists of unequal depth."""
    flat = list(data)
    for _ in range(MOST_AXES):
        nested = sum(isinstance(one, list) for one in flat)
        if not nested:
            return flat
        if nested != len(flat) or len({len(one) for one in flat}) > 1:
            break
        flat = [value for one in flat for value in one]
    raise bad(model, name, "has lists of unequal lengths or depths as data")


def _numbers(model: str, tensor: Tensor, flat: list[Any]) -> Array:
    """Return Python numbers as an array. A fraction is no whole number, nor is 1 a truth value in JSON."""
    assert tensor.element is not None
    if tensor.datatype == "BF16":
        return _bfloat16(_cast(model, tensor, flat, np.dtype(np.float32)))
    return _cast(model, tensor, flat, tensor.element.dtype)


def _cast(model: str, tensor: Tensor, flat: list[Any], dtype: np.dtype[Any]) -> Array:
    takes: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
    other = set(map(type, flat)) - takes[dtype.kind]
    if other:
        given = ", ".join(sorted(one.__name__ for one in other))
        raise bad(model, tensor.name, f"takes {tensor.datatype}, and was given {given}", tensor.datatype)
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype)
    except OverflowError:
        raise bad(model, tensor.name, f"has a number that {tensor.datatype} does not have") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        overflown = any(math.isfinite(flat[k]) for k in np.flatnonzero(~np.isfinite(array)))
        if overflown:
            raise bad(model, tensor.name, f"has a number that {tensor.datatype} does not have")
    return array


def _bfloat16(array: Array) -> Array:
    """Return the bits of float32 numbers, rounded to the nearest bfloat16, ties to even."""
    bits = array.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


# ------------------------------------------------------------------------------------ outputs


def to_raw(value: Array) -> bytes:
    """Return the bytes of an output, in row-major order; strings each after its length."""
    if value.dtype.kind == "O":
        return packed(value.ravel().tolist())
    return value.tobytes()


def packed(values: Iterable[str | bytes]) -> bytes:
    """Return strings, each after its length."""
    parts = list[bytes]()
    for one in values:
        raw = one.encode() if isinstance(one, str) else one
        parts += (LENGTH.pack(len(raw)), raw)
    return b"".join(parts)


def to_flat(tensor: Tensor, value: Array) -> list[Any]:
    """Return the elements of an output as JSON has them, in row-major order."""
    if tensor.datatype == "BF16":
        bits = value.view(np.uint16).astype(np.uint32) << 16
        value = bits.view(np.float32)
    flat: list[Any] = value.ravel().tolist()
    return flat
