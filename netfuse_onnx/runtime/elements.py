"""Element types of inputs and outputs, and the conversion of what callers give to arrays of them.

An array must have the type of its input, as ONNX Runtime itself demands: a float64 array for a float32 input
is an error, and so is an int32 array for an int64 one. Lists, tuples and Python numbers have no type of their
own, so they are converted where each number keeps its value; decimal fractions are rounded to the type of the
input, as if they stood in its source code. bfloat16 and 8-bit floats travel as their bits (uint16, uint8):
numpy has no type for them, and ONNX Runtime takes them in no other form.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.types import Array

_NUMPY = {
    "float": "float32", "double": "float64", "float16": "float16", "bool": "bool", "string": "object",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64", "uint8": "uint8",
    "uint16": "uint16", "uint32": "uint32", "uint64": "uint64", "complex64": "complex64",
    "complex128": "complex128",
}  # fmt: skip
_BITS = {
    "bfloat16": ("uint16", 16, "bfloat16"),
    "float8e4m3fn": ("uint8", 17, "float8_e4m3fn"),
    "float8e4m3fnuz": ("uint8", 18, "float8_e4m3fnuz"),
    "float8e5m2": ("uint8", 19, "float8_e5m2"),
    "float8e5m2fnuz": ("uint8", 20, "float8_e5m2fnuz"),
}
"""Types that numpy does not have: the type of their bits, ONNX's number, and the name in ml_dtypes."""


@dataclass(frozen=True, slots=True)
class Element:
    """An element type. `dtype` is the type of the arrays that travel, which hold bits where `number` is not
    0: it is then ONNX's number of the type, and `name` what numpy calls it, as ml_dtypes has it."""

    name: str
    dtype: np.dtype[Any]
    number: int = 0

    @property
    def is_text(self) -> bool:
        """True for strings, in arrays of Python's str."""
        return self.dtype.kind == "O"


def element(ort_type: str) -> Element | None:
    """Return the type of the elements of a tensor, by ONNX Runtime's words: 'tensor(float)'. None for
    sequences, maps and optionals. Raises FileFault for a type that can't be fed from Python."""
    if not ort_type.startswith("tensor("):
        return None
    name = ort_type.removeprefix("tensor(").removesuffix(")")
    if name in _NUMPY:
        return Element("str" if name == "string" else _NUMPY[name], np.dtype(_NUMPY[name]))
    if name in _BITS:
        bits, number, known = _BITS[name]
        return Element(known, np.dtype(bits), number)
    raise FileFault(f"Inputs and outputs of type {name} can't be served.", "Cast them in the models.")


def converted(value: Any, wanted: Element) -> Array:
    """Return a value as an array of the type. Raises ValueError, with what was given instead, where that
    would change it."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError("a masked array, whose masked elements have no value")
    if isinstance(value, list | tuple | bool | int | float | str):
        return _from_list(value, wanted)
    try:
        array = np.asarray(value)
    except Exception as error:
        raise ValueError(f"{type(value).__name__}, which is no array: {error}") from error
    return _typed(array, wanted)


def _typed(array: Array, wanted: Element) -> Array:
    """Return an array whose own type is the wanted one."""
    if wanted.is_text:
        return _text(array)
    if array.dtype.name == wanted.name and wanted.number:
        return np.ascontiguousarray(array).view(wanted.dtype).reshape(array.shape)
    native = array.dtype.newbyteorder("=")
    if native == wanted.dtype and not (wanted.number and array.dtype.kind != "u"):
        return array.astype(native, copy=False)
    raise ValueError(array.dtype.name if array.dtype.kind != "O" else "an array of objects")


def _text(array: Array) -> Array:
    if array.dtype.kind in "UT":
        return np.asarray(array.astype(object))
    if array.dtype.kind != "O":
        raise ValueError(array.dtype.name)
    for one in array.ravel().tolist():
        if not isinstance(one, str):
            raise ValueError(f"{type(one).__name__} among its elements")
    return array


def _from_list(value: Any, wanted: Element) -> Array:
    """Return Python numbers, or strings, as an array."""
    try:
        array = np.asarray(value, object if wanted.is_text else None)
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"lists of unequal lengths, or of other things than numbers ({error})") from error
    if _holds_arrays(value) or wanted.is_text or wanted.number:
        return _typed(array, wanted)
    given, kind = array.dtype.kind, wanted.dtype.kind
    if not array.size and given == "f":
        return array.astype(wanted.dtype)
    if given not in {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "c": "iufc"}[kind]:
        raise ValueError(_NAMES.get(given, "other things than numbers"))
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(wanted.dtype)
    exact = given in "iub"
    same = _as_python(result) == _as_python(array) if exact else np.isfinite(result) | ~np.isfinite(array)
    if not np.all(same):
        raise ValueError(f"a number that {wanted.name} does not have")
    return np.asarray(result)


_NAMES = {"b": "bool", "i": "whole numbers", "u": "whole numbers", "f": "fractions", "U": "strings"}


def _as_python(array: Array) -> Array:
    """Return numbers as Python's own, which compare exactly whatever their types."""
    return np.asarray(array.astype(object))


def _holds_arrays(value: Any) -> bool:
    """True for a list of arrays, or of numpy's numbers, which have types of their own."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, np.ndarray | np.generic)


def from_bits(array: Array, kind: Element) -> Array:
    """Return an output in the type that callers know: that of ml_dtypes, where this package is installed,
    else the bits as they are."""
    dtype = _of_ml_dtypes(kind.name) if kind.number else None
    return array if dtype is None else array.view(dtype)


@functools.cache
def _of_ml_dtypes(name: str) -> np.dtype[Any] | None:
    try:
        found: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
        return found
    except (ImportError, AttributeError):
        return None
