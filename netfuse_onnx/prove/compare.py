"""Compares two outputs element by element.

An element is right when  |got - want| <= rtol * |want| + atol * scale,  where `scale` is the largest finite
|want| of the element's channel (see Magnitudes): an absolute tolerance means nothing before one knows whether
a number is a box in pixels, a logit or a probability, and one output may hold all of them. Both factors
depend on the least precise type on the way to the output:

    float64   1e-9  / 1e-10       float16  1e-2 / 5e-3      8-bit and quantised  5e-2 / 2e-2
    float32   1e-4  / 1e-5        bfloat16 5e-2 / 2e-2      integers, bools, strings  exact

For float32 that is about 80 units in the last place of the largest element, what reordered sums of some
thousand terms through some dozen layers give; a wrong weight, axis or model is orders above it. Sigmoids
and the like are computed to an absolute error, two rounding steps of 1, which is allowed beside it. Where a
network amplifies rounding further, a small multiple of what it does to the source itself is allowed
(noise.py). NaN and infinities must stand in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx.run.runtime import Array, Value
from netfuse_onnx.types import Dim


@dataclass(frozen=True, slots=True, eq=False)
class Tolerance:
    """Allowed error: `rtol * |want| + atol * scale + floor`. `scale` is one number per channel, in a shape
    that broadcasts; None stands for the largest finite element. `floor` is absolute: --atol, noise, the error
    of a sigmoid; one number, or one per channel."""

    rtol: float
    atol: float
    floor: float | Array = 0.0
    scale: Array | None = None


EXACT = Tolerance(0.0, 0.0)
BY_PRECISION = {
    "float64": Tolerance(1e-9, 1e-10),
    "float32": Tolerance(1e-4, 1e-5),
    "float16": Tolerance(1e-2, 5e-3),
    "bfloat16": Tolerance(5e-2, 2e-2),
    "8-bit": Tolerance(5e-2, 2e-2),
}


@dataclass(frozen=True, slots=True)
class Gap:
    """The difference of one output of one model. `ratio` is error / allowed at the worst element; the output
    is right up to 1. `problem` names a difference that has no size: another shape or type, NaN elsewhere."""

    ratio: float = 0.0
    at: tuple[int, ...] = ()
    got: str = ""
    want: str = ""
    error: float = 0.0
    allowed: float = 0.0
    scale: float = 0.0
    wrong: int = 0
    size: int = 0
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem and self.ratio <= 1.0


def compare(got: Value, want: Value, tolerance: Tolerance) -> Gap:
    """Compare one output and return its worst element. Sequences are compared tensor by tensor."""
    if got is None or want is None:
        return Gap() if got is want else Gap(problem="one is an empty optional, the other is not")
    if isinstance(got, list) or isinstance(want, list):
        return _sequences(got, want, tolerance)
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return Gap(problem=f"its shape is {_dims(got)}, not {_dims(want)}")
    if got.dtype != want.dtype and "U" not in got.dtype.kind + want.dtype.kind:
        return Gap(problem=f"its type is {got.dtype}, not {want.dtype}")
    if want.dtype.kind not in "fVc":
        return _exact(got, want, tolerance.floor)
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    return _close(got.astype(wide), want.astype(wide), tolerance)


def ratios(one: Array, two: Array, tolerance: Tolerance) -> Array:
    """Return |one - two| / allowed for each element; infinity where only one of the two is finite."""
    with np.errstate(all="ignore"):
        wide = one.astype(np.float64), two.astype(np.float64)
        same = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
        ratio = np.where(same, 0.0, np.abs(wide[0] - wide[1]) / allowed(wide[1], tolerance))
    return np.where(np.isnan(ratio), np.inf, ratio)


def difference(one: Value, two: Value) -> tuple[float, float]:
    """Return the largest absolute difference of two results, and the largest finite element of the second.

    The difference is infinite where they can't be subtracted; equal NaN and infinities count as 0.
    """
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        parts = [difference(a, b) for a, b in zip(one, two, strict=True)]
        return max((p[0] for p in parts), default=0.0), max((p[1] for p in parts), default=0.0)
    gap = compare(one, two, Tolerance(0.0, 0.0, floor=1.0))  # whose worst element is the farthest
    if one is None or two is None or isinstance(two, list):
        return (0.0 if gap.ok else np.inf), 0.0
    return (np.inf if gap.problem else gap.error), _scale(np.asarray(two))


def finite(value: Value) -> bool:
    """True where some element can be compared: the value is not empty, and not all NaN or infinite."""
    if isinstance(value, list):
        return any(finite(v) for v in value)
    array = np.asarray(value)
    if array.dtype.kind in "fV":
        return bool(np.isfinite(array.astype(np.float64)).any())
    return value is not None and array.size > 0


def _sequences(got: Value, want: Value, tolerance: Tolerance) -> Gap:
    if not isinstance(got, list) or not isinstance(want, list):
        return Gap(problem="one is a sequence, the other is a tensor")
    if len(got) != len(want):
        return Gap(problem=f"it has {len(got)} elements, not {len(want)}")
    if all(isinstance(v, dict) for v in [*got, *want]):  # ZipMap
        if [list(v) for v in got] != [list(v) for v in want]:
            return Gap(problem="the keys of its maps differ")
        got, want = ([np.array(list(v.values())) for v in side] for side in (got, want))
    gaps = [compare(g, w, tolerance) for g, w in zip(got, want, strict=True)]
    return max(gaps, key=lambda gap: (bool(gap.problem), gap.ratio), default=Gap())


def _exact(got: Array, want: Array, allowed: float | Array) -> Gap:
    if got.dtype.kind in "iu" and want.dtype.kind in "iu":
        error = np.where(got > want, got - want, want - got).astype(np.float64)
    else:
        error = np.asarray(got != want).astype(np.float64)
    return _worst(error, np.broadcast_to(allowed, error.shape), got, want)


def _close(got: Array, want: Array, tolerance: Tolerance) -> Gap:
    with np.errstate(all="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        odd = (~np.isfinite(got) | ~np.isfinite(want)) & ~same
        if odd.any():
            at = tuple(int(i) for i in np.argwhere(odd)[0])
            where = f"at {list(at)}: {got[at]:g}, not {want[at]:g}"
            problem = f"NaN or infinity differs {where}"
            return Gap(problem=problem, at=at, wrong=int(odd.sum()), size=want.size)
        error = np.where(same, 0.0, np.abs(got - want))
        bound = allowed(want, tolerance)
    return _worst(error, bound, got, want)


def allowed(want: Array, tolerance: Tolerance) -> Array:
    """Return the error that is allowed for each element of `want`, in float64."""
    magnitude = np.where(np.isfinite(want), np.abs(want), 0.0)
    scale = magnitude.max(initial=0.0) if tolerance.scale is None else tolerance.scale
    bound: Array = tolerance.rtol * magnitude + tolerance.atol * scale + tolerance.floor
    return bound


def _worst(error: Array, allowed: Array, got: Array, want: Array) -> Gap:
    if error.size == 0:
        return Gap()
    with np.errstate(all="ignore"):
        ratio = np.where(error == 0, 0.0, error / allowed)
    at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return Gap(
        ratio=float(ratio[at]),
        at=tuple(int(i) for i in at),
        got=_text(got[at]),
        want=_text(want[at]),
        error=float(error[at]),
        allowed=float(allowed[at]),
        wrong=int((ratio > 1.0).sum()),
        size=int(ratio.size),
        scale=_scale(want),
    )


def _scale(array: Array) -> float:
    if array.dtype.kind not in "fViu":
        return 1.0
    wide = np.abs(array.astype(np.float64))
    return float(np.where(np.isfinite(wide), wide, 0.0).max(initial=0.0))


def _text(element: Any) -> str:
    return f"{element:.9g}" if isinstance(element, float | np.floating) else str(element)


def _dims(array: Array) -> str:
    return "x".join(map(str, array.shape)) or "scalar"


WIDEST_CHANNELS = 256
"""The last axis of an output of rank 4 or more is taken for the width of an image where it is longer."""


class Magnitudes:
    """The largest finite magnitude of every channel of an output, over all results that were added.

    One output may hold boxes in pixels beside scores of a thousandth. Axis 1 and the last axis are taken for
    channel axes: networks write [n, fields, places] and [n, places, fields]. The magnitude of an element is
    the smaller one of the maxima of its two channels; taking these over all inputs that were tried keeps a
    number that is near zero by chance from counting as tiny.
    """

    def __init__(self, dims: Sequence[Dim] | None) -> None:
        """`dims` are the declared ones. The only axis of a vector holds channels where its size is fixed."""
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
        """Return the magnitude of each element of `value`, in a shape that broadcasts; None where it has no
        channels or nothing of its shape was added."""
        maxima: list[Array] = []
        for axis in self._axes(value):
            most = self._most.get((value.ndim, axis, value.shape[axis]))
            if most is None:
                return None
            maxima.append(most.reshape([-1 if i == axis else 1 for i in range(value.ndim)]))
        return np.minimum(maxima[0], maxima[-1]) if maxima else None

    def _axes(self, value: Array) -> Sequence[int]:
        if value.ndim < 2:
            return [0] if value.ndim == 1 and self._fixed else []
        last = value.ndim - 1
        return [1] if value.ndim > 3 and value.shape[last] > WIDEST_CHANNELS else sorted({1, last})
