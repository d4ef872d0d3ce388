"""The elements of floating-point weights as float64, in blocks of rows, and what their types round to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from netfuse_onnx.storage.elements import Files, Plain
from netfuse_onnx.storage.tensors import BITS, unit
from netfuse_onnx.types import Weight

Numbers = NDArray[np.float64]

FLOAT, DOUBLE, FLOAT16, BFLOAT16 = (
    int(kind) for kind in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
)
DIGITS: Mapping[int, int] = {FLOAT: 24, DOUBLE: 53, FLOAT16: 11, BFLOAT16: 8}
"""The types that are read, with the binary digits of a significand."""
LEAST: Mapping[int, int] = {FLOAT: -126, DOUBLE: -1022, FLOAT16: -14, BFLOAT16: -126}
"""The exponent of the smallest number that a type holds with all its digits."""
OF_NUMPY: Mapping[int, Any] = {FLOAT: np.float32, DOUBLE: np.float64, FLOAT16: np.float16}
"""The types that numpy has."""
PLACES = 4
"""Units in the last place of the largest value in a row that a reconstructed element may be away."""
HALF = (FLOAT16, BFLOAT16)
BLOCK = 16 << 20
"""Bytes of the float64 rows that are held at a time."""


def rows(weight: Weight, columns: int, files: Files, block: int = BLOCK) -> Iterator[Numbers]:
    """Yield a weight as a matrix of so many columns, some rows at a time."""
    elements = Plain(weight, files)
    count = math.prod(weight.shape) // max(1, columns)
    step = max(1, block // (8 * max(1, columns)))
    for top in range(0, count, step):
        some = min(step, count - top)
        raw = elements.read(top * columns, some * columns)
        yield decoded(raw, weight.dtype).reshape(some, columns)


def decoded(bits: NDArray[Any], dtype: int) -> Numbers:
    """Return the numbers that these elements, as unsigned integers, stand for."""
    if dtype == BFLOAT16:
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.asarray(bits.view(OF_NUMPY[dtype]), np.float64)


def encoded(numbers: Numbers, dtype: int) -> bytes:
    """Return the nearest numbers of a type, as raw_data holds them. Too large ones become infinite."""
    with np.errstate(over="ignore"):
        if dtype != BFLOAT16:
            return np.ascontiguousarray(numbers, OF_NUMPY[dtype]).tobytes()
        bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def rounded(numbers: Numbers, dtype: int) -> Numbers:
    """Return the nearest numbers of a type."""
    return decoded(np.frombuffer(encoded(numbers, dtype), unit(BITS[dtype])), dtype).reshape(numbers.shape)


def array(weight: Weight) -> Numbers:
    """Return a small weight."""
    with Files() as files:
        return decoded(Plain(weight, files).read(0, math.prod(weight.shape)), weight.dtype).reshape(
            weight.shape
        )


def last_place(numbers: Numbers, dtype: int) -> Numbers:
    """Return the distance of each number from the next larger one of a type."""
    _, exponents = np.frexp(np.abs(numbers))
    return np.asarray(np.ldexp(1.0, np.maximum(exponents, LEAST[dtype] + 1) - DIGITS[dtype]), np.float64)


def allowed(values: Numbers, dtype: int, tolerance: float) -> Numbers:
    """Return the error that each row of a weight may have: 4 units in the last place of its largest absolute
    value, or `tolerance` times that value where it is more."""
    largest = np.abs(values).max(axis=1, initial=0.0)
    return np.asarray(np.maximum(PLACES * last_place(largest, dtype), tolerance * largest), np.float64)
