"""Runs sessions with inputs or outputs of types that numpy lacks: their arrays hold bits (elements.py)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx import library
from netfuse_onnx.runtime.elements import Element, element
from netfuse_onnx.runtime.types import Array

onnxruntime = library.onnxruntime()


def run_bits(session: Any, wanted: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """Return the outputs of a session. `session.run` neither takes nor gives arrays of bits."""
    kinds = {port.name: element(port.type) for port in (*session.get_inputs(), *session.get_outputs())}
    values = {name: _given(value, kinds[name]) for name, value in feeds.items()}
    results = session.run_with_ort_values(list(wanted), values, None)
    return [_taken(value, kinds[name]) for name, value in zip(wanted, results, strict=True)]


def _given(value: Array, kind: Element | None) -> Any:
    create = onnxruntime.OrtValue
    if kind is None or not kind.number:
        return create.ortvalue_from_numpy(np.ascontiguousarray(value))
    return create.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(value), kind.number)


def _taken(value: Any, kind: Element | None) -> Any:
    if kind is None or not kind.number:
        return np.array(value.numpy())  # a view, of the caller's own input where an output is an input
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * kind.dtype.itemsize
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(raw, kind.dtype).reshape(shape)
