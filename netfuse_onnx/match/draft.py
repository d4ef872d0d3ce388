"""A step on the way to its normal form: what is known of its operands, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from netfuse_onnx.match.flat import Flat, Step
from netfuse_onnx.ops import schemas
from netfuse_onnx.ops.kinds import INDEX_TYPES, INTEGERS
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Dim, ValueType, Weight

SMALL = 1 << 13
"""The largest number of bytes of a constant of axes, bounds or sizes that is read."""
NUMERIC = frozenset({*INTEGERS, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
"""Element types whose zero can be written."""


class Draft:
    """The attributes and operands of a step, changed in place. An operand is a name or a new constant."""

    def __init__(self, step: Step, flat: Flat, types: Mapping[str, ValueType]) -> None:
        self.step, self.flat, self.types = step, flat, types
        self.attrs: dict[str, Any] = dict(step.attrs)
        self.ins: list[str | Weight] = list(step.ins)
        self.key = step.node.key

    # ------------------------------------------------------------------ what is known

    @property
    def version(self) -> int:
        return self.flat.opsets.get(self.step.domain, 1)

    def since(self) -> int:
        """Return the opset that gave the operator its present form; 0 outside of the standard."""
        facts = schemas.facts(self.step.op, self.step.domain, self.version)
        return facts.since if facts else 0

    def attr(self, name: str, otherwise: Any = None) -> Any:
        """Return the attribute, else its default in the schema, else `otherwise`."""
        if name in self.attrs:
            return self.attrs[name]
        return schemas.defaults(self.step.op, self.step.domain, self.version).get(name, otherwise)

    def type_of(self, k: int) -> ValueType:
        """Return what is known of the type of operand k of the file."""
        return self.type_named(self.step.ins[k]) if self.has(k) else ValueType()

    def type_named(self, name: str) -> ValueType:
        """Return what is known of the type of a value of the file."""
        weight = self.flat.weights.get(name)
        return ValueType(weight.dtype, weight.shape) if weight else self.types.get(name, ValueType())

    def rank(self, k: int) -> int | None:
        return self.type_of(k).rank

    def dims(self, k: int) -> Sequence[Dim]:
        return self.type_of(k).dims or ()

    def has(self, k: int) -> bool:
        return 0 <= k < len(self.step.ins) and bool(self.step.ins[k])

    def constant(self, k: int) -> Weight | None:
        """Return the constant at operand k if it is one and small."""
        weight = self.flat.weights.get(self.step.ins[k]) if self.has(k) else None
        fits = weight is not None and not isinstance(weight.data, tuple) and weights.nbytes(weight) <= SMALL
        return weight if fits else None

    def integers(self, k: int) -> list[int] | None:
        """Return the elements of a small constant of integers at operand k, at most a vector."""
        weight = self.constant(k)
        if weight is None or weight.dtype not in INDEX_TYPES or len(weight.shape) > 1:
            return None
        return [int(value) for value in weights.array(weight).reshape(-1)]

    # ------------------------------------------------------------------ what changes

    def put(self, k: int, operand: str | Weight) -> None:
        """Set operand k. Missing operands before it become absent; absent ones at the end are removed."""
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
    """Return a constant of int64."""
    array = np.asarray(values, "<i8").reshape(() if scalar else (len(values),))
    return Weight(TensorProto.INT64, array.shape, array.tobytes())


def zeros(dtype: int, shape: tuple[int, ...]) -> Weight | None:
    """Return a constant of zeros; None where the element type is not in NUMERIC."""
    if dtype not in NUMERIC:
        return None
    return Weight(dtype, shape, np.zeros(shape, helper.tensor_dtype_to_np_dtype(dtype)).tobytes())
