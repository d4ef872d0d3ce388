"""Combines the outputs of N models in numpy: as their user would do it, and as the proof checks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOATS = "fV"
"""The numpy kinds of floating-point numbers; bfloat16 of ml_dtypes is of kind V."""


def combined(how: str, values: Sequence[Array]) -> Array:
    """Return the mean, the sum or the vote of the values of all models, as a user computes it."""
    each = np.stack(values)
    if how == "vote":
        return majority(labels(each))
    wide = each.astype(np.float32) if each.dtype.kind in FLOATS and each.dtype.itemsize < 4 else each
    total = wide.mean(axis=0) if how == "mean" else wide.sum(axis=0, dtype=wide.dtype)
    return np.asarray(total, each.dtype)


def labels(each: Array) -> Array:
    """Return the labels of scores `[N, .., C]`, or the values themselves where they are labels."""
    if each.dtype.kind not in FLOATS:
        return each
    if each.dtype.kind == "V":
        each = each.astype(np.float32)
    return np.asarray(each.argmax(axis=-1), np.int64)


def majority(each: Array) -> Array:
    """Return the most frequent of N labels for each element of `[N, ..]`: of several, the smallest."""
    classes, places = np.unique(each, return_inverse=True)
    won = winners(counts(places.reshape(each.shape), len(classes)))
    return np.asarray(classes[won]) if classes.size else each[0]


def counts(places: NDArray[np.intp], classes: int) -> NDArray[np.int64]:
    """Return the votes `[.., classes]` for labels `[N, ..]` that are places among so many sorted classes."""
    flat = places.reshape(len(places), -1)
    votes = np.zeros((flat.shape[1], classes), np.int64)
    rows = np.arange(flat.shape[1])
    for one in flat:
        votes[rows, one] += 1
    return votes.reshape(*places.shape[1:], classes)


def winners(votes: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the place of the label with the most votes; of several, the first, which is the smallest."""
    return np.asarray(votes.argmax(axis=-1)) if votes.shape[-1] else np.zeros(votes.shape[:-1], np.intp)
