"""What the inputs of a backend case are to its operator, and values that differ between three models.

Model 0 keeps the values of the case. The others get them permuted, and floats scaled and shifted as well,
seeded by the names of the case and the input. What a value may be is known to the operator alone, so the
harness asks ONNX Runtime: LEVELS are tried from the boldest change to none.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from netfuse_onnx.ops import traits

Array = np.ndarray
Value = Array | list[Any] | None

LEVELS = ("shrink", "grow", "permute", "same")
"""What is done to a value. shrink keeps |x| <= 1, grow keeps x >= 1, both keep x > 0."""

STEERS: Mapping[str, tuple[int, ...]] = {
    **{key.rpartition(".")[2]: traits.of(key).steered for key in traits.keys("steered")},
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "CumProd": (1,), "CumSum": (1,), "Dropout": (2,), "If": (0,), "Loop": (0, 1), "NonMaxSuppression": (2,),
    "SequenceAt": (1,), "SequenceErase": (1,), "SequenceInsert": (2,), "Trilu": (1,),
}  # fmt: skip
"""Inputs that are equal in all models: they say how much, where or how often, not what."""

INDICES: Mapping[str, tuple[int, ...]] = {
    "ArrayFeatureExtractor": (1,), "Attention": (6,), "GRU": (4,), "Gather": (1,), "GatherElements": (1,),
    "GatherND": (1,), "LSTM": (4,), "MaxUnpool": (1,), "NegativeLogLikelihoodLoss": (1,), "OneHot": (0,),
    "RNN": (4,), "ReverseSequence": (1,), "RoiAlign": (2,), "RotaryEmbedding": (3,), "Scatter": (1,),
    "ScatterElements": (1,), "ScatterND": (1,), "SoftmaxCrossEntropyLoss": (1,), "TensorScatter": (2,),
}  # fmt: skip
"""Inputs that point into something: they are permuted along one axis, which keeps them valid and distinct."""

FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)


def vary(value: Value, models: int, level: str, *, index: bool, seed: str) -> list[Value]:
    """The value of each model, all different where that is possible; that of model 0 is the case's own."""
    if level == "same" or value is None:
        return [value] * models
    if isinstance(value, list):
        columns = [vary(v, models, level, index=index, seed=f"{seed}/{i}") for i, v in enumerate(value)]
        return [[column[m] for column in columns] for m in range(models)]
    found: list[Value] = [value]
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    for _ in range(1, models):
        found.append(changed(value, found, level, rng, index=index))
    return found


def changed(
    value: Array, seen: Sequence[Value], level: str, rng: np.random.Generator, *, index: bool
) -> Array:
    moved = permuted(value, seen, rng, index=index)
    if level == "permute" or not value.size:
        return moved
    if value.dtype.type in FLOATS and not index:
        return scaled(moved, len(seen), grow=level == "grow")
    new = all(differs(moved, other) for other in seen)
    return moved if new else replaced(value, len(seen), rng, index=index)


def boldest(names: Sequence[str], accepts: Callable[[Mapping[str, str]], bool]) -> dict[str, str]:
    """The first level per input that `accepts`: one for all inputs, else each as bold as the others allow."""
    for level in LEVELS[:-1]:
        if accepts(dict.fromkeys(names, level)):
            return dict.fromkeys(names, level)
    chosen = dict.fromkeys(names, "same")
    for name in names:
        for level in LEVELS[:-1]:
            if accepts(chosen | {name: level}):
                chosen[name] = level
                break
    return chosen


def differs(a: Value, b: Value) -> bool:
    """Not the same bits."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(differs(x, y) for x, y in zip(a, b, strict=True))
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return a is not b
    if a.shape != b.shape or a.dtype != b.dtype:
        return True
    return a.tolist() != b.tolist() if a.dtype.kind == "O" else a.tobytes() != b.tobytes()


# --------------------------------------------------------------------------- changes


def permuted(value: Array, seen: Sequence[Value], rng: np.random.Generator, *, index: bool) -> Array:
    """Another order of the elements, or of the rows along the first axis that has several."""
    for _ in range(6):
        if index:
            axis = next((a for a, size in enumerate(value.shape) if size > 1), 0)
            moved = rng.permutation(value, axis=axis) if value.ndim else value
        else:
            moved = value.reshape(-1)[rng.permutation(value.size)].reshape(value.shape)
        if all(differs(moved, other) for other in seen):
            return moved
    return moved


def scaled(value: Array, model: int, *, grow: bool) -> Array:
    """Nearer to zero or further from it, and shifted by a part of the largest element."""
    wide = value.astype(np.float64)
    largest = float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0)) or 1.0
    factor = 1 + 0.2 * model if grow else 1 - 0.1 * (model + 1)
    with np.errstate(all="ignore"):
        return np.asarray(wide * factor + 0.05 * model * largest).astype(value.dtype)


def replaced(value: Array, model: int, rng: np.random.Generator, *, index: bool) -> Array:
    """Another value for what is the same in any order."""
    if value.dtype == np.bool_:
        flat = value.reshape(-1).copy()
        flat[(model - 1) % flat.size] ^= True
        return flat.reshape(value.shape)
    if value.dtype.kind == "O":
        return np.array([f"{s}{model}" for s in value.reshape(-1)], object).reshape(value.shape)
    if index:
        low, high = min(int(value.min()), 0), max(int(value.max()), 1)
        return rng.integers(low, high, value.shape, endpoint=True).astype(value.dtype)
    wide = value.astype(np.float64) if value.dtype.kind == "V" else value
    with np.errstate(all="ignore"):
        return np.asarray(wide + model).astype(value.dtype)
