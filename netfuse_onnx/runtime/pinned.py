"""Blocks of memory on both sides of the bus: arrays that lie one behind the other, copied in one piece.

A copy from numpy's memory goes by way of memory of the driver, at a fifth of the speed; so the host's side is
page-locked memory of CUDA where that can be had.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx import library
from netfuse_onnx.runtime.types import Array

onnxruntime = library.onnxruntime()

ALIGNED = 256
"""Each array begins at a multiple of so many bytes, as CUDA's own allocations do."""
Like = tuple[Sequence[int], np.dtype[Any]]
"""The shape and the type of an array."""


class Block:
    """Arrays by name: `arrays` on the host, and as many bytes on the device."""

    def __init__(self, likes: Mapping[str, Like], device: int) -> None:
        self._places: dict[str, tuple[int, Like]] = {}
        size = 0
        for name, (shape, dtype) in likes.items():
            self._places[name] = (size, (shape, dtype))
            size += -(-math.prod(shape) * dtype.itemsize // ALIGNED) * ALIGNED
        size = max(size, ALIGNED)
        self.host = page_locked(size)
        self.arrays = {
            name: self.host[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (start, (shape, dtype)) in self._places.items()
        }
        self._host_value = onnxruntime.OrtValue.ortvalue_from_numpy(self.host)
        self._device = onnxruntime.OrtValue.ortvalue_from_shape_and_type([size], np.uint8, "cuda", device)
        self._device_id = device

    def bind_inputs(self, binding: Any) -> None:
        """Make the arrays on the device the inputs of their names."""
        for name, args in self._bound():
            binding.bind_input(name, *args)

    def bind_outputs(self, binding: Any) -> None:
        """Make the arrays on the device the outputs of their names."""
        for name, args in self._bound():
            binding.bind_output(name, *args)

    def to_device(self) -> None:
        """Copy all arrays to the device."""
        self._device.update_inplace(self.host)

    def to_host(self) -> None:
        """Copy all arrays from the device."""
        self._host_value.update_inplace(self._device)

    def _bound(self) -> list[tuple[str, tuple[Any, ...]]]:
        base, number = self._device.data_ptr(), self._device_id
        return [
            (name, ("cuda", number, dtype.type, list(shape), base + start))
            for name, (start, (shape, dtype)) in self._places.items()
        ]


def page_locked(size: int) -> Array:
    """Return so many zero bytes that CUDA copies without a detour, or usual ones where it gives none."""
    library, place = _cudart(), ctypes.c_void_p()
    if library is None or library.cudaHostAlloc(ctypes.byref(place), ctypes.c_size_t(size), 0):
        return np.zeros(size, np.uint8)
    memory: Any = (ctypes.c_uint8 * size).from_address(place.value or 0)
    weakref.finalize(memory, library.cudaFreeHost, place)
    found: Array = np.frombuffer(memory, np.uint8)
    found[:] = 0
    return found


def _cudart() -> Any:
    """Return the CUDA runtime that ONNX Runtime has loaded, or None."""
    version = str(getattr(onnxruntime, "cuda_version", "")).partition(".")[0]
    try:
        return ctypes.CDLL(f"libcudart.so.{version}") if version else None
    except OSError:
        return None
