"""Factors of a difference: the least rank that is exact enough, checked on every element."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netfuse_onnx.rewrite import factors
from netfuse_onnx.rewrite.factors import Difference
from netfuse_onnx.storage import numbers
from netfuse_onnx.storage.numbers import BFLOAT16, DOUBLE, FLOAT, FLOAT16, encoded, rounded
from netfuse_onnx.types import Weight

TYPES = {FLOAT: np.float32, DOUBLE: np.float64, FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16}


def weight(values: Any, dtype: int = FLOAT) -> Weight:
    return Weight(dtype, values.shape, encoded(np.asarray(values, np.float64), dtype))


def lora(
    high: int,
    wide: int,
    rank: int,
    size: float = 1e-2,
    dtype: int = FLOAT,
    seed: int = 0,
    tolerance: float = 0.0,
) -> Difference:
    """A random matrix, of which a product of this rank is a part."""
    rng = np.random.default_rng(seed)
    base = rounded(rng.standard_normal((high, wide)), dtype)
    product = rng.standard_normal((high, rank)) @ rng.standard_normal((rank, wide)) * size
    return Difference(weight(base + product, dtype), weight(base, dtype), wide, tolerance)


def reconstructed(difference: Difference, found: factors.Factors) -> float:
    """The largest error in units of what is allowed, computed in another way."""
    parts = (difference.weight, difference.base)
    values, base = (np.frombuffer(p.data, TYPES[p.dtype]).astype(np.float64).reshape(p.shape) for p in parts)
    largest = np.abs(values).max(axis=1)
    if difference.weight.dtype == BFLOAT16:
        step = np.array([float(np.spacing(np.float32(v))) * 2**16 for v in largest])
    else:
        step = np.array([float(np.spacing(TYPES[difference.weight.dtype](v))) for v in largest])
    bound = np.maximum(4 * step, difference.tolerance * largest)[:, None]
    return float((np.abs(values - base - found.left @ found.right) / bound).max())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rank", [1, 4, 16, 25])
def test_the_rank_of_a_product_is_found(rank: int, dtype: int) -> None:
    size = {DOUBLE: 1e-2, FLOAT: 1e-4, FLOAT16: 3e-2, BFLOAT16: 1e-1}[dtype]
    difference = lora(96, 120, rank, size, dtype)
    found = factors.factors(difference, 50)
    assert found is not None
    assert found.rank == rank
    assert found.error <= 1.0
    assert found.error == pytest.approx(reconstructed(difference, found), rel=1e-6)
    for factor in (found.left, found.right):
        assert np.array_equal(factor, rounded(factor, dtype)), "as it is stored"


@settings(max_examples=60, deadline=None)
@given(
    high=st.integers(1, 24),
    wide=st.integers(1, 24),
    rank=st.integers(0, 24),
    most=st.integers(0, 24),
    seed=st.integers(0, 99),
)
def test_what_is_found_is_exact_and_no_larger_than_it_must_be(
    high: int, wide: int, rank: int, most: int, seed: int
) -> None:
    difference = lora(high, wide, rank, 0.1, seed=seed)
    found = factors.factors(difference, most)
    if found is None:
        values, origin = numbers.array(difference.weight), numbers.array(difference.base)
        largest = (np.abs(each).max(axis=1) for each in (values, values - origin))
        cancelled = any(one < other / 2 for one, other in zip(*largest, strict=True))
        assert min(rank, high, wide) > most or cancelled, "rounding of the factors is more than of the sum"
        return
    assert found.rank <= min(rank, high, wide, most)
    assert found.left.shape == (high, found.rank)
    assert found.right.shape == (found.rank, wide)
    assert reconstructed(difference, found) <= 1.0


def test_equal_weights_have_rank_0() -> None:
    found = factors.factors(lora(5, 7, 0), 3)
    assert found is not None
    assert (found.rank, found.error) == (0, 0.0)


def test_a_difference_whose_squares_vanish_is_not_dropped() -> None:
    one, two = (np.full((8, 8), value) for value in (1e-200, 2e-200))
    assert factors.factors(Difference(weight(one, DOUBLE), weight(two, DOUBLE), 8), 4) is None


def test_a_small_difference_is_not_dropped() -> None:
    """It is below 4 units in the last place of the largest value of a row, and far above the noise."""
    for dtype, size in ((FLOAT, 1e-7), (FLOAT16, 7e-4)):
        difference = lora(200, 200, 2, size, dtype)
        values = np.square(numbers.array(difference.weight) - numbers.array(difference.base)).sum()
        bound = difference.allowed_energy()
        assert values < bound
        found = factors.factors(difference, 50)
        assert found is not None
        assert found.rank == 2
        loose = factors.factors(lora(200, 200, 2, size, dtype, tolerance=1e-2), 50, 2)
        assert loose is not None
        assert loose.rank <= 2


def test_a_tolerance_lowers_the_rank() -> None:
    rng = np.random.default_rng(0)
    left, right = (
        np.linalg.qr(rng.standard_normal((60, 12)))[0],
        np.linalg.qr(rng.standard_normal((60, 12)))[0],
    )
    product = left * 10.0 ** -np.arange(12) @ right.T
    base = np.ones((60, 60))
    ranks = []
    for tolerance in (0.0, 1e-5, 1e-3):
        difference = Difference(weight(base + product), weight(base), 60, tolerance)
        found = factors.factors(difference, 29)
        assert found is not None
        assert reconstructed(difference, found) <= 1.0
        ranks.append(found.rank)
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_no_factors(value: float) -> None:
    base = np.ones((6, 6))
    other = base.copy()
    other[2, 3] = value
    assert factors.factors(Difference(weight(other), weight(base), 6), 2) is None


def test_a_difference_of_full_rank_has_no_factors() -> None:
    assert factors.factors(lora(64, 64, 64), 31) is None


def test_rows_of_zeros_stay_zeros() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((30, 20))
    base[4] = 0.0
    left = rng.standard_normal((30, 2))
    left[4] = 0.0
    difference = Difference(weight(base + left @ rng.standard_normal((2, 20))), weight(base), 20)
    found = factors.factors(difference, 10)
    assert found is not None
    assert not found.left[4].any()


def test_blocks_of_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that is too large to be held is read in blocks, again for each use."""
    whole = factors.factors(lora(50, 40, 3), 20)
    monkeypatch.setattr(factors, "HELD", 0)
    monkeypatch.setattr(numbers.rows, "__defaults__", (8 * 40 * 7,))
    difference = lora(50, 40, 3)
    assert [len(block) for block, _ in difference.blocks()] == [7, 7, 7, 7, 7, 7, 7, 1]
    split = factors.factors(difference, 20)
    assert whole is not None
    assert split is not None
    assert split.rank == whole.rank == 3
    assert np.allclose(split.left @ split.right, whole.left @ whole.right, atol=1e-7)


def test_factors_are_of_about_equal_size() -> None:
    """Small ones would be rounded to nothing in half precision."""
    found = factors.factors(lora(80, 90, 2, 1e-3, FLOAT16), 20)
    assert found is not None
    ratio = np.abs(found.left).max(axis=0) / np.abs(found.right).max(axis=1)
    assert ((ratio >= 0.5) & (ratio <= 2)).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_are_those_of_numpy(dtype: int) -> None:
    rng = np.random.default_rng(dtype)
    values = np.concatenate([rng.standard_normal(500) * 10.0 ** rng.integers(-6, 5, 500), [0.0, 1.0, -2.0]])
    own = values.astype(TYPES[dtype])
    assert encoded(values if dtype != BFLOAT16 else values.astype(np.float32), dtype) == own.tobytes()
    assert np.array_equal(rounded(values, dtype), own.astype(np.float64))
    if dtype != BFLOAT16:
        spacing = np.spacing(np.abs(own)).astype(np.float64)
        assert np.array_equal(numbers.last_place(own.astype(np.float64), dtype), spacing)
