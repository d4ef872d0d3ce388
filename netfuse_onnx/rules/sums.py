"""The two ways to sum products of bytes: in kernels for bytes, and for CUDA in those for floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.rules import bytes_in_floats, integer
from netfuse_onnx.rules.integer import Side
from netfuse_onnx.rules.params import Param

Products: TypeAlias = Callable[[Side, Side, Emitter], Tensor]
ToFloats: TypeAlias = Callable[[Tensor, Param, int, Emitter], Tensor]
ToBytes: TypeAlias = Callable[[Tensor, Param, Param, int, Emitter], Tensor]


@dataclass(frozen=True)
class Sums:
    """Functions that sum products, and bring sums of the element type `kind` to floats or bytes. `suffix`
    tells the names of rules apart; `only` is the provider whose kernels it is for, or ''."""

    suffix: str
    only: str
    kind: int
    products: Products
    to_floats: ToFloats
    to_bytes: ToBytes


IN_BYTES = Sums("", "", TensorProto.INT32, integer.products, integer.dequantised, integer.requantised)
IN_FLOATS = Sums(
    "_in_floats",
    "cuda",
    TensorProto.FLOAT,
    bytes_in_floats.sums,
    bytes_in_floats.scaled,
    bytes_in_floats.rescaled,
)
WAYS = (IN_BYTES, IN_FLOATS)


def ways(opset: int) -> tuple[Sums, ...]:
    """The ways that an opset allows."""
    return WAYS if opset >= 13 else (IN_BYTES,)
