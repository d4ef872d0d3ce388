"""The factors of a difference of two matrices: D = L R of the least rank that is exact enough.

A randomised SVD (Halko, Martinsson, Tropp, arXiv:0909.4061): the range of D is that of D times a few random
vectors. D is read in blocks of rows, as often as it is used, so that memory holds a few columns and rows of
it. Its rank is not assumed: the error is checked on every element, with factors rounded as they are stored.

The rounding of a merged weight is noise of full rank. Where nobody gives a tolerance, a singular value counts
while it is larger than the noise can be, and so no difference is dropped because it is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from netfuse_onnx.storage.elements import Files
from netfuse_onnx.storage.numbers import DOUBLE, Numbers, allowed, rounded, rows
from netfuse_onnx.types import Weight

SEED = 20_130_062
FIRST, SPARE = 16, 8
"""Random vectors of the first sketch, and those beyond the rank that is expected."""
HELD = 64 << 20
"""A difference of at most so many bytes is held, a larger one is read again for each use."""
LEAST_PART = 1e-8
"""Columns below this part of the largest are rounding of float64, where they are told by their products."""
EDGE = 1.5
"""A singular value of noise is at most about sigma (sqrt(m) + sqrt(n)) where all elements have one sigma. The
factor leaves room for small matrices, and for steps of rounding of several sizes."""


@dataclass(frozen=True)
class Factors:
    """L [m, r] and R [r, n] as they are stored, and the largest error in units of what is allowed."""

    left: Numbers
    right: Numbers
    error: float

    @property
    def rank(self) -> int:
        return int(self.left.shape[1])


class Difference:
    """One weight minus another, as a matrix, with the error that each of its rows may have."""

    def __init__(self, weight: Weight, base: Weight, columns: int, tolerance: float = 0.0) -> None:
        self.weight, self.base, self.tolerance = weight, base, tolerance
        self.shape = (math.prod(weight.shape) // max(1, columns), columns)
        self._held: list[tuple[Numbers, Numbers]] | None = None

    def blocks(self) -> Iterator[tuple[Numbers, Numbers]]:
        """Yield some rows of the difference at a time, and what may be wrong in each row."""
        if self._held is None and 8 * math.prod(self.shape) <= HELD:
            self._held = list(self._read())
        yield from self._read() if self._held is None else self._held

    def _read(self) -> Iterator[tuple[Numbers, Numbers]]:
        with Files() as files:
            both = (rows(each, self.shape[1], files) for each in (self.weight, self.base))
            for values, origin in zip(*both, strict=True):
                yield values - origin, allowed(values, self.weight.dtype, self.tolerance)

    def energy(self) -> float:
        """Return the sum of the squares of all elements; not finite where an element is not."""
        with np.errstate(all="ignore"):
            return float(sum(np.square(block).sum() for block, _ in self.blocks()))

    def allowed_energy(self) -> float:
        """Return the sum of the squares of an error that is everywhere as large as it may be."""
        return float(sum(np.square(bound).sum() for _, bound in self.blocks())) * self.shape[1]

    def times(self, right: Numbers) -> Numbers:
        return np.concatenate([block @ right for block, _ in self.blocks()])

    def transposed_times(self, left: Numbers) -> Numbers:
        total, top = np.zeros((self.shape[1], left.shape[1])), 0
        for block, _ in self.blocks():
            total += block.T @ left[top : top + len(block)]
            top += len(block)
        return total

    def error(self, left: Numbers, right: Numbers) -> tuple[float, float]:
        """Return the largest error of L R in units of what is allowed, and the sum of the squared errors."""
        worst, energy, top = 0.0, 0.0, 0
        for block, bound in self.blocks():
            wrong = np.abs(block - left[top : top + len(block)] @ right)
            ratios = wrong.max(axis=1, initial=0.0) / bound
            worst = max(worst, float(np.where(np.isfinite(ratios), ratios, np.inf).max(initial=0.0)))
            energy += float(np.square(wrong).sum())
            top += len(block)
        return worst, energy


def factors(difference: Difference, most: int, expected: int = 0) -> Factors | None:
    """Return the factors of the least rank that holds, or None where that is above `most`. `expected` is the
    rank where the search begins."""
    energy = difference.energy()
    if not math.isfinite(energy):
        return None
    if energy == 0.0:
        if any(block.any() for block, _ in difference.blocks()):
            return None  # the squares of its elements are too small for float64
        return Factors(np.zeros((difference.shape[0], 0)), np.zeros((0, difference.shape[1])), 0.0)
    most = min(most, *difference.shape)
    size = min(max(FIRST, expected + SPARE), min(difference.shape))
    while True:
        sketch = _Sketch(difference, size)
        found = sketch.least(min(most, size), expected)
        if found is not None:
            return found
        if size >= most or not sketch.may_hold(most):
            return None
        size = min(2 * size, min(difference.shape))


class _Sketch:
    """The first singular values and vectors of a difference."""

    def __init__(self, difference: Difference, size: int) -> None:
        self.difference, (high, wide) = difference, difference.shape
        random = np.random.default_rng([SEED, high, wide, size])
        exact = difference.weight.dtype == DOUBLE
        start = difference.times(random.standard_normal((wide, size)))
        across = _orthonormal(difference.transposed_times(_orthonormal(start, exact)), exact)
        left = difference.times(across)  # rows of zeros stay zeros
        self.values, turn = _principal(left, exact)
        self.left, self.right = _balanced(left @ turn, turn.T @ across.T, difference.weight.dtype)
        self.seen: dict[int, tuple[bool, Factors]] = {}
        self.rest = math.inf

    def least(self, most: int, expected: int) -> Factors | None:
        """Return the factors of the least rank up to `most` that holds."""
        low, high = 0, most
        guess = probe = min(max(expected or self._drop(), 1), most)
        while low < high:
            holds, _ = self._try(probe)
            low, high = (low, probe) if holds else (probe + 1, high)
            if probe == guess and high > low:  # the guess is mostly right: look at its neighbour first
                probe = high - 1 if holds else most
            else:
                probe = (low + high) // 2
            guess = -1
        if low > most:
            return None
        holds, found = self._try(low)
        return found if holds else None

    def may_hold(self, most: int) -> bool:
        """Return False where no factors of rank `most` can hold: each further singular value is at most the
        last one that is known, and what they leave is more than the error that is allowed."""
        self._try(len(self.values))
        left = self.rest - (most - len(self.values)) * float(self.values[-1]) ** 2
        return left <= self.difference.allowed_energy()

    def _drop(self) -> int:
        """Return the rank behind which the singular values fall most."""
        values = np.maximum(self.values, self.values[0] * 1e-14)
        return int(np.argmax(values[:-1] / values[1:])) + 1 if len(values) > 1 else 1

    def _try(self, rank: int) -> tuple[bool, Factors]:
        if rank not in self.seen:
            left, right = self.left[:, :rank], self.right[:rank]
            error, rest = self.difference.error(left, right)
            if rank == len(self.values):
                self.rest = rest
            holds = error <= 1.0 and not self._beyond_noise(rank, rest)
            self.seen[rank] = holds, Factors(left, right, error)
        return self.seen[rank]

    def _beyond_noise(self, rank: int, rest: float) -> bool:
        """Return True where the next singular value is larger than that of noise with this energy."""
        if self.difference.tolerance or rank >= len(self.values):
            return False
        high, wide = self.difference.shape
        edge = EDGE * math.sqrt(rest / (high * wide)) * (math.sqrt(high) + math.sqrt(wide))
        return float(self.values[rank]) > edge


def _orthonormal(columns: Numbers, exact: bool) -> Numbers:
    """Return orthonormal columns that span the same space, or columns of zeros where the given ones depend on
    each other. Products of columns tell directions apart down to 1e-8 of the largest, which is below the
    rounding of float32; they are a few large operations, where a QR is many small ones."""
    if exact:
        return np.asarray(np.linalg.qr(columns)[0], np.float64)
    for _ in range(2):  # the second time removes what rounding left of the first
        values, turn = _principal(columns, exact)
        known = values > LEAST_PART * values[0]
        columns = columns @ (turn * np.divide(known, values, out=np.zeros_like(values), where=known))
    return columns


def _principal(columns: Numbers, exact: bool) -> tuple[Numbers, Numbers]:
    """Return the singular values, largest first, and the vectors that turn the columns along them."""
    if exact:
        _, values, turn = np.linalg.svd(np.linalg.qr(columns, mode="r"))
        return values, turn.T
    squares, turn = np.linalg.eigh(columns.T @ columns)
    return np.sqrt(np.maximum(squares[::-1], 0.0)), turn[:, ::-1]


def _balanced(left: Numbers, right: Numbers, dtype: int) -> tuple[Numbers, Numbers]:
    """Return the factors with the largest elements of a column of L and a row of R about equal, rounded to
    the type. The scales are powers of two, which round nothing."""
    high, wide = np.abs(left).max(axis=0), np.abs(right).max(axis=1)
    known = (high > 0) & (wide > 0)
    ratio = np.divide(wide, high, out=np.ones_like(high), where=known)
    scale = np.exp2(np.round(np.log2(ratio) / 2))
    return rounded(left * scale, dtype), rounded(right / scale[:, None], dtype)
