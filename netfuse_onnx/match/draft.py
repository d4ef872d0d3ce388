"""A step on its way to its normal form: what is known of its operands, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from netfuse_onnx.match.flat import Flat, Step
from netfuse_onnx.ops import schemas
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.tensors import EXACT_TYPES, INDEX_TYPES
from netfuse_onnx.types import Dim, ValueType, Weight

SMALL = 1 << 13
"""Bytes of a constant of axes, bounds or sizes that is read. Larger ones stay as they are."""
NUMERIC = frozenset({*EXACT_TYPES, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
"""Element types whose zero can be written."""


class Draft:
    """The attributes and operands of a step, to be changed. An operand is a name or a new constant."""

    def __init__(self, step: Step, flat: Flat, kinds: Mapping[str, ValueType]) -> None:
        self.step, self.flat, self.kinds = step, flat, kinds
        self.attrs: dict[str, Any] = dict(step.attrs)
        self.ins: list[str | Weight] = list(step.ins)
        self.key = step.node.key

    # ------------------------------------------------------------------ what is known

    @property
    def version(self) -> int:
        return self.flat.opsets.get(self.step.domain, 1)

    def since(self) -> int:
        """The version in which the operator took its present form; 0 for one that is not of the standard."""
        facts = schemas.facts(self.step.op, self.step.domain, self.version)
        return facts.since if facts else 0

    def attr(self, name: str, otherwise: Any = None) -> Any:
        """The attribute, its default, or `otherwise`."""
        if name in self.attrs:
            return self.attrs[name]
        return schemas.defaults(self.step.op, self.step.domain, self.version).get(name, otherwise)

    def kind(self, k: int) -> ValueType:
        """What is known of operand k as the file has it."""
        return self.of(self.step.ins[k]) if self.has(k) else ValueType()

    def of(self, name: str) -> ValueType:
        held = self.flat.weights.get(name)
        return ValueType(held.dtype, held.shape) if held else self.kinds.get(name, ValueType())

    def rank(self, k: int) -> int | None:
        return self.kind(k).rank

    def dims(self, k: int) -> Sequence[Dim]:
        return self.kind(k).dims or ()

    def has(self, k: int) -> bool:
        return 0 <= k < len(self.step.ins) and bool(self.step.ins[k])

    def constant(self, k: int) -> Weight | None:
        """The constant at operand k, where it is one and small."""
        held = self.flat.weights.get(self.step.ins[k]) if self.has(k) else None
        fits = held is not None and not isinstance(held.data, tuple) and weights.nbytes(held) <= SMALL
        return held if fits else None

    def integers(self, k: int) -> list[int] | None:
        """The elements of a small constant of integers at operand k."""
        held = self.constant(k)
        if held is None or held.dtype not in INDEX_TYPES or len(held.shape) > 1:
            return None
        return [int(value) for value in weights.array(held).reshape(-1)]

    # ------------------------------------------------------------------ what changes

    def put(self, k: int, operand: str | Weight) -> None:
        """Set operand k; those that are missing before it become absent, absent ones at the end go."""
        self.ins += [""] * (k + 1 - len(self.ins))
        self.ins[k] = operand
        while self.ins and self.ins[-1] == "" and len(self.ins) > 1:
            self.ins.pop()

    def put_integers(self, k: int, values: Sequence[int], *, scalar: bool = False) -> None:
        self.put(k, integers(values, scalar=scalar))

    def drop(self, *names: str) -> None:
        for name in names:
            self.attrs.pop(name, None)


def integers(values: Sequence[int], *, scalar: bool = False) -> Weight:
    """A constant of int64."""
    array = np.asarray(values, "<i8").reshape(() if scalar else (len(values),))
    return Weight(TensorProto.INT64, array.shape, array.tobytes())


def zeros(dtype: int, shape: tuple[int, ...]) -> Weight | None:
    """A constant of zeros; None where the element type is not in NUMERIC."""
    if dtype not in NUMERIC:
        return None
    return Weight(dtype, shape, np.zeros(shape, helper.tensor_dtype_to_np_dtype(dtype)).tobytes())
