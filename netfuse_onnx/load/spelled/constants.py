"""The constants of a graph that forms rewrite: reading small ones, and computing new ones from large ones.

What is computed from a large weight goes to the temporary file (storage/spill.py) block by block, so that
memory does not grow with the weights. It is computed in float64 and rounded once to the weight's type.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from netfuse_onnx.ops.kinds import FLOATS
from netfuse_onnx.storage import numbers, spill, steady, weights
from netfuse_onnx.storage.elements import Files
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.transforms import SwapLast
from netfuse_onnx.types import Extent, Graph, Weight

SMALL = 64
"""The largest number of elements of a constant whose values a form reads."""
CHANNELS = 1 << 16
"""The largest number of elements of a vector of parameters that a form computes with."""
INLINE = 1024
"""Constants of at most so many bytes stay in memory, as those of files do."""
WHOLE = 64 << 20
"""The largest weight in bytes whose axes are permuted in memory."""

Values = NDArray[Any]
Numbers = NDArray[np.float64]


class Constants:
    """The weights of a graph, with those that were added. `made` are the ones that hold computed values."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.weights: dict[str, Weight] = dict(graph.weights)
        self.made: set[Weight] = set()
        values = (name for node in graph.nodes for name in node.outputs)
        self._added: dict[Weight, str] = {}
        self._counts: dict[str, int] = {}
        self.taken = {*values, *graph.inputs, *graph.weights}

    # ------------------------------------------------------------------ reading

    def constant(self, name: str, most: int = SMALL) -> Values | None:
        """Return the values of a small constant."""
        weight = self.weights.get(name)
        if weight is None or isinstance(weight.data, tuple) or math.prod(weight.shape) > most:
            return None
        return weights.array(weight)

    def number(self, name: str) -> float | None:
        """Return the value of a constant with one element."""
        values = self.constant(name, 1)
        return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None

    def vector(self, name: str) -> Numbers | None:
        """Return a constant of finite floats that has one value per channel, or one."""
        weight = self.weights.get(name)
        if weight is None or weight.dtype not in FLOATS or math.prod(weight.shape) > CHANNELS:
            return None
        values = numbers.array(weight)
        return values if np.isfinite(values).all() else None

    # ------------------------------------------------------------------ new constants

    def add(self, weight: Weight, computed: bool = False) -> str:
        """Add a constant and return its name: that of an equal one, where there is one."""
        if computed:
            self.made.add(weight)
        if weight not in self._added:
            name = self.fresh("constant")
            self._added[weight], self.weights[name] = name, weight
        return self._added[weight]

    def fresh(self, base: str) -> str:
        """Return a name that is new in the graph."""
        count = self._counts.get(base, 0)
        while f"{base}__{count}" in self.taken:
            count += 1
        self._counts[base] = count + 1
        self.taken.add(f"{base}__{count}")
        return f"{base}__{count}"

    def new_constant(self, values: Values) -> str:
        """Add a small constant and return its name."""
        dtype = int(helper.np_dtype_to_tensor_dtype(values.dtype))
        return self.add(Weight(dtype, values.shape, np.ascontiguousarray(values).tobytes()))

    def of_type(self, values: Numbers | float, like: int, computed: bool = False) -> str:
        """Add floats, rounded to an element type. Raises ValueError where they are too large for it."""
        array = np.asarray(values, np.float64)
        raw = _encoded(array, like)
        return self.add(_kept(like, array.shape, [raw]), computed)

    def scaled(self, name: str, factors: Numbers, columns: int) -> str:
        """Add a weight times factors. It counts as a matrix of so many columns; the factors are one for each
        row, [rows, 1], or for each column, [columns]. Raises ValueError where a product is too large."""
        weight = self.weights[name]
        key = ("scaled", weight, factors.shape, factors.tobytes(), columns)
        return self.add(_once(key, weight, lambda: _scaled(weight, factors, columns)), computed=True)

    def transposed(self, name: str, perm: list[int]) -> str | None:
        """Add a weight whose axes are permuted; None where it is too large for that."""
        weight = self.weights[name]
        if isinstance(weight.data, tuple) or sorted(perm) != list(range(len(weight.shape))):
            return None
        last = [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]
        if perm != last and (weights.nbytes(weight) > WHOLE or weight.dtype not in FLOATS):
            return None
        key = ("transposed", weight, tuple(perm))
        return self.add(_once(key, weight, lambda: _transposed(weight, perm, perm == last)), computed=True)


def _scaled(weight: Weight, factors: Numbers, columns: int) -> Weight:
    def blocks() -> Iterator[bytes]:
        top = 0
        with Files() as files:
            for some in numbers.rows(weight, columns, files):
                row = factors[top : top + len(some)] if factors.ndim == 2 else factors
                yield _encoded(some * row, weight.dtype)
                top += len(some)

    return _kept(weight.dtype, weight.shape, blocks())


def _transposed(weight: Weight, perm: list[int], last: bool) -> Weight:
    shape = tuple([weight.shape[axis] for axis in perm])
    if last:
        recipe = Recipe("", (weight,), weight.dtype, shape, transform=SwapLast())
        return _kept(weight.dtype, shape, weights.stream(recipe))
    values = np.ascontiguousarray(weights.array(weight).transpose(perm))
    return _kept(weight.dtype, shape, [values.tobytes()])


def _encoded(values: Numbers, dtype: int) -> bytes:
    """Return the nearest numbers of a type. Raises ValueError where a finite one becomes infinite or NaN."""
    if not np.isfinite(numbers.rounded(values, dtype)).all():
        raise ValueError("a computed weight is too large for its type")
    return numbers.encoded(values, dtype)


def _kept(dtype: int, shape: tuple[int, ...], blocks: Iterable[bytes]) -> Weight:
    """Return a weight with these bytes: in memory where they are few, else in the temporary file."""
    size = weights.nbytes(Weight(dtype, shape, b""))
    return Weight(dtype, shape, b"".join(blocks) if size <= INLINE else spill.store_blocks(blocks))


_MOST = 1 << 14
_ONCE: dict[Hashable, Weight] = {}
"""Computed weights by what they were computed from: a family is matched once for each target."""


def _once(key: Hashable, weight: Weight, compute: Callable[[], Weight]) -> Weight:
    """Return what was computed before from the same weight of the same file, or compute it."""
    stamp = steady.stamp(weight.data.path) if isinstance(weight.data, Extent) else None
    whole = (key, stamp, os.getpid())
    if whole not in _ONCE:
        if len(_ONCE) >= _MOST:
            _ONCE.clear()
        _ONCE[whole] = compute()
    return _ONCE[whole]
