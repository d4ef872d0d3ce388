"""Scores of ai.onnx.ml operators, and the labels that they select, as ONNX Runtime's kernels compute them.

Scores are a tensor [.., K] with the models on one of the axes in front, `at`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.rules._build import need
from netfuse_onnx.rules._site import Site

NEARLY_ZERO = np.float32(1e-7)
"""SOFTMAX_ZERO leaves scores alone that are not farther from 0."""
LEAST = np.finfo(np.float32).min
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")


def transform_of(site: Site) -> str:
    """The attribute `post_transform`. Refuses PROBIT, which operators do not compute to the last digits."""
    given = site.attr("post_transform")
    name: str = given.decode()
    need(name in TRANSFORMS, f"its post_transform is {name}")
    return name


def transformed(scores: Tensor, transform: str, rank: int, emit: Emitter) -> Tensor:
    """The scores [.., K] of `rank` axes after a post transform."""
    if transform == "LOGISTIC":
        return emit("Sigmoid", scores)
    if transform == "SOFTMAX":
        return emit("Softmax", scores, axis=rank - 1)
    return _softmax_zero(scores, rank, emit) if transform == "SOFTMAX_ZERO" else scores


def _softmax_zero(scores: Tensor, rank: int, emit: Emitter) -> Tensor:
    """Softmax in which a score of 0 stays 0. A score of NaN is not counted, neither as the largest nor in the
    sum."""
    least, zero, near = (emit.const(number, np.float32) for number in (LEAST, 0.0, NEARLY_ZERO))
    largest = emit.reduce(
        "ReduceMax", emit("Where", emit("Greater", scores, least), scores, least), [rank - 1], keepdims=1
    )
    counted = emit("Greater", emit("Abs", scores), near)
    powers = emit("Exp", emit("Sub", scores, largest))
    total = emit.reduce("ReduceSum", emit("Where", counted, powers, zero), [rank - 1], keepdims=1)
    others = emit("Mul", scores, emit("Exp", emit("Neg", largest)))
    return emit("Div", emit("Where", counted, powers, others), total)


def first_largest(scores: Tensor, axis: int, emit: Emitter) -> Tensor:
    """The index of the first largest score along an axis. ONNX Runtime's ArgMax compares each score with the
    largest so far, as its kernels of ai.onnx.ml do: a NaN in front stays the largest, any other never is."""
    return emit("ArgMax", scores, axis=axis, keepdims=0)


@dataclass(frozen=True)
class Labels:
    """The labels of the classes in each model, all of one type and equally many."""

    each: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, site: Site, ints: str) -> Labels:
        """Those that a site names; the text counts where it names numbers as well."""
        return cls(tuple(_named(attrs, ints) for attrs in site.attrs))

    @property
    def count(self) -> int:
        """The number of classes; -1 where models name different numbers of them, or text and numbers."""
        kinds = {(len(one), bool(one) and isinstance(one[0], bytes)) for one in self.each}
        return len(self.each[0]) if len(kinds) == 1 else -1

    def constant(self, values: Sequence[Sequence[Any]], shape: Sequence[int], emit: Emitter) -> Tensor:
        """Labels of each model as a constant."""
        flat = [value for row in values for value in row]
        text = isinstance(flat[0], bytes)
        return emit.const(
            np.array(flat, object if text else np.int64).reshape(shape), object if text else np.int64
        )

    def selected(self, index: Tensor, at: int, rank: int, emit: Emitter) -> Tensor:
        """The labels at an index [..] of `rank` axes, which is in range for each model. Whole numbers in a
        row are the index, moved by the first of them."""
        first = [one[0] for one in self.each]
        if all(
            isinstance(one[0], int) and one == tuple(range(one[0], one[0] + len(one))) for one in self.each
        ):
            if not any(first):
                return index
            same = len(set(first)) == 1
            return emit("Add", index, emit.const(first[0] if same else placed(first, at, rank, np.int64)))
        if len(set(self.each)) == 1:
            return emit("Gather", self.constant(self.each[:1], [self.count], emit), index, axis=0)
        begins = self.count * placed(range(emit.models), at, rank, np.int64)
        table = self.constant(self.each, [emit.models * self.count], emit)
        return emit("Gather", table, emit("Add", index, emit.const(begins)), axis=0)

    def of_two(self, positive: Tensor, at: int, rank: int, emit: Emitter) -> Tensor:
        """The second label where `positive`, [..] of `rank` axes, is True, else the first."""
        same = len(set(self.each)) == 1
        shape = [1] * rank if same else [emit.models if axis == at else 1 for axis in range(rank)]
        rows = self.each[:1] if same else self.each
        other, one = (self.constant([row[k : k + 1] for row in rows], shape, emit) for k in (0, 1))
        return emit("Where", positive, one, other)


def _named(attrs: Mapping[str, Any], ints: str) -> tuple[Any, ...]:
    return tuple(attrs.get("classlabels_strings") or attrs.get(ints) or ())


def placed(values: Any, at: int, rank: int, dtype: Any) -> np.ndarray[Any, Any]:
    """Numbers along one axis, `at` of `rank`."""
    numbers = np.asarray(values, dtype)
    return numbers.reshape([len(numbers) if axis == at else 1 for axis in range(rank)])


def folded(x: Tensor, at: int, width: int, emit: Emitter) -> Tensor:
    """An output with the models on axis `at` as FOLDED: [N, B, T] -> [N*B, T], or [B, N, T] -> [B, N*T].
    Labels, whose `width` is 0, are folded by rows: [N, B] or [B, N] -> [N*B]."""
    if not width:
        return emit.reshape(emit.transpose(x, [1, 0]) if at else x, [-1])
    return emit.reshape(x, [-1, emit.models * width if at else width])


def as_floats(site: Site, x: Tensor, emit: Emitter) -> Tensor:
    """The first input in float32, in which these kernels compute."""
    return x if site[0].dtype == TensorProto.FLOAT else emit("Cast", x, to=TensorProto.FLOAT)
