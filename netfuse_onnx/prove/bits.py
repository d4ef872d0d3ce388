"""Compares attributes and stored tensors of two models bit for bit, wherever and in which field they are."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator
from typing import Any

from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto

from netfuse_onnx.ops.schemas import value_of
from netfuse_onnx.storage.weights import blocks, nbytes, weight_of

LONGEST = 60
"""Most characters of a value in a message."""


def same_tensor(a: TensorProto, b: TensorProto) -> bool:
    """True where type, shape and bits are equal. Raises FileFault where bytes can't be read."""
    alike = a.data_type == b.data_type and list(a.dims) == list(b.dims)
    return alike and tensor_bits(a) == tensor_bits(b)


def tensor_bits(tensor: TensorProto) -> Hashable:
    """Return type, shape and raw bytes of a tensor of a skeleton. All of it is read."""
    weight = weight_of(tensor)
    data = weight.data if isinstance(weight.data, tuple) else b"".join(blocks(weight))
    return weight.dtype, weight.shape, data


def value_bits(value: Any) -> Hashable:
    """Return a key that is equal for two values exactly where every bit is. All bodies have one key."""
    if isinstance(value, float):
        return "float", struct.pack("<d", value)
    if isinstance(value, list | tuple):
        return tuple(map(value_bits, value))
    if isinstance(value, TensorProto):
        return tensor_bits(value)
    if isinstance(value, SparseTensorProto):
        return tuple(value.dims), tensor_bits(value.values), tensor_bits(value.indices)
    if isinstance(value, GraphProto):
        return "body"
    if isinstance(value, Message):
        data: bytes = value.SerializeToString(deterministic=True)
        return data
    key: Hashable = value.encode() if isinstance(value, str) else value
    return key


def bits(attribute: AttributeProto) -> Hashable:
    """Return a key for the type and the value of an attribute."""
    return attribute.type, value_bits(value_of(attribute))


def value_nbytes(value: Any) -> int:
    """Return the size of an attribute value as ONNX stores it, in bytes."""
    if isinstance(value, list | tuple):
        return sum(map(value_nbytes, value))
    if isinstance(value, TensorProto):
        return nbytes(weight_of(value))
    if isinstance(value, SparseTensorProto):
        return nbytes(weight_of(value.values)) + nbytes(weight_of(value.indices))
    if isinstance(value, bytes):
        return len(value)
    return 4 if isinstance(value, float) else 8


def unequal_attributes(a: NodeProto, b: NodeProto) -> Iterator[tuple[str, str, str]]:
    """Yield the attributes in which two nodes differ: name, value in `a` and value in `b`, as text."""
    ours, theirs = ({each.name: each for each in node.attribute} for node in (a, b))
    for name in sorted(ours.keys() | theirs.keys()):
        have, want = ours.get(name), theirs.get(name)
        if have is None or want is None or bits(have) != bits(want):
            yield name, shown(have), shown(want)
        elif have.ref_attr_name != want.ref_attr_name:
            yield name, f"a reference to {have.ref_attr_name!r}", f"one to {want.ref_attr_name!r}"


def shown(attribute: AttributeProto | None) -> str:
    """Return the value as text for a message, cut where it is long."""
    if attribute is None:
        return "absent"
    value = value_of(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return f"a tensor of shape {list(value.dims)}"
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
