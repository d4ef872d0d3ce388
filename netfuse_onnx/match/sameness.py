"""When two steps are the same operation, whatever their operands: operator, attributes, arity.

Attributes count without those that say what the operator does anyway: a default of the schema, strides of
ones, a kernel shape that the weight has. Floats are compared as bits, so 0.0 is not -0.0 and NaN is NaN.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from onnx import SparseTensorProto, TensorProto

from netfuse_onnx.errors import InternalError
from netfuse_onnx.match.flat import Flat, Step
from netfuse_onnx.ops import schemas, tables
from netfuse_onnx.ops.traits import FILTER, POOLS
from netfuse_onnx.storage import weights

COMMUTATIVE = frozenset(
    {"Add", "Mul", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal"}
    | {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
_WINDOWED = {*FILTER, *POOLS, "MaxUnpool", "Col2Im"}
_IMPLIED: Mapping[str, Callable[[list[int]], bool]] = {
    "strides": lambda v: set(v) <= {1},
    "dilations": lambda v: set(v) <= {1},
    "pads": lambda v: set(v) <= {0},
    "output_padding": lambda v: set(v) <= {0},
}


def commutative(step: Step) -> bool:
    """Whether the order of the operands means nothing."""
    return step.op in COMMUTATIVE and not step.domain and not step.attrs


def same_operation(a: Step, b: Step, in_a: Flat, in_b: Flat, loose: bool = False) -> bool:
    """Equal operator, arity and attributes; `loose` lets attributes differ."""
    if a.op != b.op or a.domain != b.domain or len(a.ins) != len(b.ins) or a.scope != b.scope:
        return False
    if len(a.outs) != len(b.outs) and arity(a, in_a) != arity(b, in_b):
        return False
    return loose or same_attributes(a, b, in_a, in_b)


def identical_attributes(a: Step, b: Step, in_a: Flat, in_b: Flat) -> bool:
    """Equal attributes, those that are weights included."""
    if tables.learned(a.op, a.domain):
        return _plainly_equal(a.attrs, b.attrs)
    return same_attributes(a, b, in_a, in_b)


def same_attributes(a: Step, b: Step, in_a: Flat, in_b: Flat) -> bool:
    if _plainly_equal(a.attrs, b.attrs):
        return True
    return essential(a, in_a) == essential(b, in_b)


def arity(step: Step, flat: Flat) -> int:
    """The number of outputs where it means something; -1 where the last ones are optional."""
    known = schemas.facts(step.op, step.domain, flat.opsets.get(step.domain, 1))
    return len(step.outs) if known is None or known.variadic_outputs else -1


def essential(step: Step, flat: Flat) -> dict[str, Hashable]:
    """The attributes that say something, in a form that can be compared and hashed."""
    if not step.attrs:
        return {}
    version = flat.opsets.get(step.domain, 1)
    if tables.learned(step.op, step.domain):
        signature = tables.signature(step.op, step.domain, version, step.attrs)
        if signature is not None:
            return signature
    known = _frozen_defaults(step.op, step.domain, version)
    result = {}
    for name, value in step.attrs.items():
        key = frozen(value)
        if known.get(name, _NONE) != key and not _implied(step, name, value, flat):
            result[name] = key
    return result


_NONE = object()


@functools.cache
def _frozen_defaults(op: str, domain: str, version: int) -> dict[str, Hashable]:
    return {name: frozen(value) for name, value in schemas.defaults(op, domain, version).items()}


def frozen(value: Any) -> Hashable:
    """An attribute's value as something hashable; equal exactly where the values are, bit by bit."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, (list, tuple)):
        return tuple(frozen(item) for item in value)
    if isinstance(value, TensorProto):
        weight = weights.weight_of(value)
        return (weight.dtype, weight.shape, weight.data)
    if isinstance(value, SparseTensorProto):
        return (tuple(value.dims), frozen(value.values), frozen(value.indices))
    if isinstance(value, Message):
        data: bytes = value.SerializeToString(deterministic=True)
        return data
    if not isinstance(value, (int, bytes, str)):
        kind = type(value).__name__
        raise InternalError(f"An attribute of type {kind} can't be compared.", "Please report this.")
    plain: int | bytes | str = value
    return plain


def _plainly_equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """True only where equal in every bit; the cheap test that nearly all nodes pass."""
    if len(a) != len(b):
        return False
    for name, value in a.items():
        other = b.get(name, _NONE)
        if type(value) is int or type(value) is bytes:
            if value != other:
                return False
        elif other is _NONE or frozen(value) != frozen(other):
            return False
    return True


def _implied(step: Step, name: str, value: Any, flat: Flat) -> bool:
    """Whether the operator does this anyway. The schema's text says so where its default can't."""
    if step.domain or not isinstance(value, Sequence):
        return False
    if name == "perm" and step.op == "Transpose":
        return list(value) == list(range(len(value)))[::-1]
    if step.op not in _WINDOWED:
        return False
    if name == "kernel_shape" and step.op in FILTER:
        weight = flat.weights.get(step.ins[FILTER[step.op]])
        return weight is not None and tuple(value) == weight.shape[2:]
    return name in _IMPLIED and _IMPLIED[name](list(value))
