"""When outputs count as equal: tolerances by type and scale, and what no tolerance excuses."""

from __future__ import annotations

import numpy as np
import pytest

from netfuse_onnx.prove.compare import BY_PRECISION, EXACT, Tolerance, compare, difference, finite

FP32 = BY_PRECISION["float32"]


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_rounding_passes_and_errors_do_not() -> None:
    want = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert compare(want * np.float32(1 + 1e-6), want, FP32).ok
    gap = compare(want + floats(*([0.0] * 999), 1e-3), want, FP32)
    assert not gap.ok
    assert (gap.at, gap.wrong, gap.size) == ((999,), 1, 1000)


def test_the_absolute_part_goes_with_the_scale() -> None:
    tiny = floats(1e-8, 2e-8)
    assert not compare(floats(1e-8, 3e-8), tiny, FP32).ok
    assert compare(floats(100.0, 0.0005), floats(100.0, 0.0), FP32).ok
    assert not compare(floats(1e-7), floats(0.0), FP32).ok
    assert compare(floats(1e-7), floats(0.0), Tolerance(1e-4, 1e-5, scale=floats(0.1))).ok
    assert compare(floats(0.5), floats(0.0), Tolerance(0.0, 0.0, floor=0.5)).ok


def test_nan_and_infinity_stand_in_the_same_places() -> None:
    want = floats(np.nan, np.inf, -np.inf, 1)
    assert compare(want.copy(), want, FP32).ok
    for i, other in enumerate((0.0, -np.inf, np.nan, np.nan)):
        got = want.copy()
        got[i] = other
        gap = compare(got, want, FP32)
        assert not gap.ok
        assert gap.at == (i,)
    assert not compare(floats(np.nan), floats(np.inf), FP32).ok


def test_shapes_and_types_are_equal() -> None:
    assert "shape" in compare(np.zeros((2, 3)), np.zeros((3, 2)), FP32).problem
    assert "shape" in compare(np.zeros(1), np.zeros(()), FP32).problem
    assert "type" in compare(np.zeros(2, np.float64), np.zeros(2, np.float32), FP32).problem


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, object])
def test_what_is_not_a_float_is_exact(dtype: type) -> None:
    want = np.array([0, 1, 1, 0]).astype(dtype)
    got = want.copy()
    assert compare(got, want, EXACT).ok
    got[2] = want[0]
    gap = compare(got, want, EXACT)
    assert (gap.ok, gap.at) == (False, (2,))


def test_unsigned_differences_do_not_wrap() -> None:
    gap = compare(np.array([3], np.uint8), np.array([4], np.uint8), Tolerance(0, 0, 1))
    assert gap.ok
    assert gap.error == 1


def test_half_types() -> None:
    import ml_dtypes

    want = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert compare((want.astype(np.float32) * 1.01).astype(want.dtype), want, BY_PRECISION["bfloat16"]).ok
    assert not compare((want.astype(np.float32) * 1.5).astype(want.dtype), want, BY_PRECISION["bfloat16"]).ok


def test_sequences_maps_and_optionals() -> None:
    one, two = floats(1, 2), floats(3)
    assert compare([one, two], [one.copy(), two.copy()], FP32).ok
    assert not compare([one, two], [one, two + 1], FP32).ok
    assert "2 elements, not 1" in compare([one, two], [one], FP32).problem
    assert compare([{"a": 1.0}], [{"a": 1.0 + 1e-7}], FP32).ok
    assert not compare([{"a": 1.0}], [{"b": 1.0}], FP32).ok
    assert compare(None, None, FP32).ok
    assert not compare(None, one, FP32).ok
    assert not compare(one, [one], FP32).ok


def test_empty_is_equal_but_tells_nothing() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert compare(empty, empty, FP32).ok
    assert not finite(empty)
    assert not finite(floats(np.nan))
    assert finite([empty, floats(1)])


def test_difference() -> None:
    assert difference(floats(1, np.nan), floats(3, np.nan)) == (2.0, 3.0)
    assert difference(floats(1), floats(1, 2))[0] == np.inf
    assert difference([floats(1)], [floats(4)]) == (3.0, 4.0)
