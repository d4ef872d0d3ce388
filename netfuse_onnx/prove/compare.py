"""When two outputs count as equal.

An element is right when  |got - want| <= rtol * |want| + atol * scale,  where `scale` is the largest finite
|want| of the element's channel (channels.py): an absolute tolerance means nothing before one knows whether a
number is a box in pixels, a logit or a probability, and one output may hold all of them. Both factors depend
on the least precise type on the way to the output:

    float64   1e-9  / 1e-10       float16  1e-2 / 5e-3      8-bit and quantised  5e-2 / 2e-2
    float32   1e-4  / 1e-5        bfloat16 5e-2 / 2e-2      integers, bools, strings  exact

For float32 that is about 80 units in the last place of the largest element, what reordered sums of some
thousand terms through some dozen layers give; a wrong weight, axis or model is orders above it. Sigmoids
and the like are computed to an absolute error, two rounding steps of 1, which is allowed beside it. Where a
network amplifies rounding further, a small multiple of what it does to the source itself is allowed
(noise.py). NaN and infinities must stand in the same places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx.run.runtime import Value

Array = np.ndarray[Any, Any]


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
    """How one output of one model differs. `ratio` is error / allowed at the worst element: up to 1 is
    right. `problem` names what can't be measured: another shape or type, NaN in other places."""

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
    """The worst element of one output. Sequences are compared tensor by tensor."""
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
    """|one - two| / allowed, element by element; infinite where one of the two is not finite."""
    with np.errstate(all="ignore"):
        wide = one.astype(np.float64), two.astype(np.float64)
        same = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
        found = np.where(same, 0.0, np.abs(wide[0] - wide[1]) / _allowed(wide[1], tolerance))
    return np.where(np.isnan(found), np.inf, found)


def difference(one: Value, two: Value) -> tuple[float, float]:
    """The largest absolute difference of two results, and the scale (largest finite element) of the second.

    Infinite where they can't be subtracted; equal NaN and infinities count as 0.
    """
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        parts = [difference(a, b) for a, b in zip(one, two, strict=True)]
        return max((p[0] for p in parts), default=0.0), max((p[1] for p in parts), default=0.0)
    gap = compare(one, two, Tolerance(0.0, 0.0, floor=1.0))  # whose worst element is the farthest
    if one is None or two is None or isinstance(two, list):
        return (0.0 if gap.ok else np.inf), 0.0
    return (np.inf if gap.problem else gap.error), _scale(np.asarray(two))


def finite(value: Value) -> bool:
    """Whether there is an element that tells something: not empty, and not all NaN or infinite."""
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
        allowed = _allowed(want, tolerance)
    return _worst(error, allowed, got, want)


def _allowed(want: Array, tolerance: Tolerance) -> Array:
    magnitude = np.where(np.isfinite(want), np.abs(want), 0.0)
    scale = magnitude.max(initial=0.0) if tolerance.scale is None else tolerance.scale
    allowed: Array = tolerance.rtol * magnitude + tolerance.atol * scale + tolerance.floor
    return allowed


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
