"""Equality of two steps, whatever their operands: operator, attributes, number of inputs and outputs.

Attributes that state the default are left out: a default of the schema, strides of ones, a kernel shape that
the weight has. Floats are compared as bits, so 0.0 is not -0.0 and NaN is NaN.
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
    """Return True where the order of the operands has no meaning."""
    return step.op in COMMUTATIVE and not step.domain and not step.attrs


def same_operation(a: Step, b: Step, in_a: Flat, in_b: Flat, loose: bool = False) -> bool:
    """Return True for equal operator, arity and attributes; `loose` lets attributes differ."""
    if a.op != b.op or a.domain != b.domain or len(a.ins) != len(b.ins) or a.scope != b.scope:
        return False
    if len(a.outs) != len(b.outs) and arity(a, in_a) != arity(b, in_b):
        return False
    return loose or same_attributes(a, b, in_a, in_b)


def identical_attributes(a: Step, b: Step, in_a: Flat, in_b: Flat) -> bool:
    """Return True for equal attributes, also those that hold weights."""
    if tables.learned(a.op, a.domain):
        return _equal_bits(a.attrs, b.attrs)
    return same_attributes(a, b, in_a, in_b)


def same_attributes(a: Step, b: Step, in_a: Flat, in_b: Flat) -> bool:
    """Return True for equal attributes; those that hold weights may differ in value."""
    if _equal_bits(a.attrs, b.attrs):
        return True
    return essential(a, in_a) == essential(b, in_b)


def arity(step: Step, flat: Flat) -> int:
    """Return the number of outputs; -1 where the last ones are optional."""
    facts = schemas.facts(step.op, step.domain, flat.opsets.get(step.domain, 1))
    return len(step.outs) if facts is None or facts.variadic_outputs else -1


def essential(step: Step, flat: Flat) -> dict[str, Hashable]:
    """Return the attributes that differ from the default, in a form that can be compared and hashed."""
    if not step.attrs:
        return {}
    version = flat.opsets.get(step.domain, 1)
    if tables.learned(step.op, step.domain):
        signature = tables.signature(step.op, step.domain, version, step.attrs)
        if signature is not None:
            return signature
    defaults = _frozen_defaults(step.op, step.domain, version)
    result = {}
    for name, value in step.attrs.items():
        key = frozen(value)
        if defaults.get(name, _NONE) != key and not _implied(step, name, value, flat):
            result[name] = key
    return result


_NONE = object()


@functools.cache
def _frozen_defaults(op: str, domain: str, version: int) -> dict[str, Hashable]:
    return {name: frozen(value) for name, value in schemas.defaults(op, domain, version).items()}


def frozen(value: Any) -> Hashable:
    """Return an attribute's value as something hashable, equal exactly where the values are, bit by bit."""
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
    if isinstance(value, (int, bytes, str)):
        return value
    type_name = type(value).__name__
    raise InternalError(f"An attribute of type {type_name} can't be compared.", "Please report this.")


def _equal_bits(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return True where the attributes are equal in every bit. Nearly all nodes pass this cheap test."""
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
    """Return True for a value that the schema's text, not its default, names as the default."""
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
