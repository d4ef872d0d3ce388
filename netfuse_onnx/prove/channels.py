"""Magnitudes by channel: one output may hold boxes in pixels beside scores of a thousandth.

Axis 1 and the last axis are where networks put what their numbers mean: [n, fields, places] and
[n, places, fields]. The magnitude of an element is the largest at its place on either axis, the smaller of
the two; it is taken over all inputs that were tried, so that a number near zero by chance is not called tiny.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netfuse_onnx.types import Dim

Array = np.ndarray[Any, Any]


PLACES = 256
"""A longer last axis of an output of rank 4 or more is taken for the width of an image."""


class Magnitudes:
    """The largest finite magnitude at every place of an output's channel axes, over all that was added."""

    def __init__(self, dims: Sequence[Dim] | None) -> None:
        """`dims` are the declared ones; the only axis of a vector has channels where its size is fixed."""
        self._fixed = dims is not None and len(dims) == 1 and isinstance(dims[0], int)
        self._most: dict[tuple[int, int, int], Array] = {}

    def add(self, value: Array) -> None:
        """Take the magnitudes of one result into account."""
        size = np.abs(value.astype(np.float64))
        size = np.where(np.isfinite(size), size, 0.0)
        for axis in self._axes(value):
            others = tuple(i for i in range(value.ndim) if i != axis)
            most = size.max(axis=others, initial=0.0)
            key = (value.ndim, axis, value.shape[axis])
            self._most[key] = np.maximum(most, self._most.get(key, 0.0))

    def of(self, value: Array) -> Array | None:
        """The magnitude of each element of `value`, in a shape that broadcasts; None where it has no channels
        or nothing of its shape was added."""
        found: list[Array] = []
        for axis in self._axes(value):
            most = self._most.get((value.ndim, axis, value.shape[axis]))
            if most is None:
                return None
            found.append(most.reshape([-1 if i == axis else 1 for i in range(value.ndim)]))
        return np.minimum(found[0], found[-1]) if found else None

    def _axes(self, value: Array) -> Sequence[int]:
        if value.ndim < 2:
            return [0] if value.ndim == 1 and self._fixed else []
        last = value.ndim - 1
        return [1] if value.ndim > 3 and value.shape[last] > PLACES else sorted({1, last})
