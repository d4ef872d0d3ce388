"""The layout of ONNX tensors in bytes: element widths, sizes of raw_data, and the other value fields.

All other modules use one form: raw_data, little-endian, elements narrower than a byte packed from
the lowest bit up. Reference: `TensorProto` in onnx.proto, https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

Values = npt.NDArray[Any]

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}
# Newer than the oldest onnx we run on, so by number: FLOAT8E8M0, UINT2, INT2, FLOAT6E2M3, FLOAT6E3M2.
BITS |= {24: 8, 25: 2, 26: 2, 27: 6, 28: 6}

MOST_AXES = 64
"""numpy 2 holds no arrays of more axes."""

_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}
_ENTRY = {"int32_data": "<i4", "int64_data": "<i8", "uint64_data": "<u8", "double_data": "<f8"}


def dtype_name(dtype: int) -> str:
    """`FLOAT` for 1; the number itself for a type that this onnx doesn't know."""
    return str(TensorProto.DataType.Name(dtype)) if dtype in TensorProto.DataType.values() else str(dtype)


def nbytes(dtype: int, shape: Sequence[int]) -> int:
    """Returns the size in bytes of the raw form. KeyError for strings and for types that have no raw form."""
    return -(-BITS[dtype] * math.prod(shape) // 8)


def value_field(dtype: int) -> str:
    """Returns the name of the field that may hold values of this type instead of raw_data."""
    return _FIELDS.get(dtype, "int32_data")


def unit(bits: int) -> np.dtype[Any]:
    """Returns the numpy type that carries one element as plain bits; narrow elements take a byte each."""
    return np.dtype("V16") if bits == 128 else np.dtype(f"<u{max(bits, 8) // 8}")


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yields every tensor of a model: initializers and attributes, also in nested bodies and functions. A
    sparse tensor counts as two, its values and its indices."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _attribute_tensors(function.attribute_proto)
        yield from _attribute_tensors(each for node in function.node for each in node.attribute)


def inline_count_fault(tensor: TensorProto) -> str:
    """Returns a message when the inline values of a tensor do not fill its shape, else ''."""
    dtype, shape = tensor.data_type, tuple(tensor.dims)
    count = math.prod(shape)
    if tensor.HasField("raw_data"):
        size, expected, entry = len(tensor.raw_data), nbytes(dtype, shape), "bytes"
    else:
        size, expected, entry = len(getattr(tensor, value_field(dtype))), _entries(dtype, count), "values"
    return "" if size == expected else f"holds {size} {entry}, shape {list(shape)} takes {expected}"


def raw_values(tensor: TensorProto) -> bytes:
    """Returns the raw form of a tensor that holds its values inline, in any field. It takes no strings."""
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    field = value_field(tensor.data_type)
    if field == "float_data":
        return _float_bytes(tensor)
    entries = getattr(tensor, field)
    values = np.fromiter(entries, _ENTRY[field], len(entries))
    if field == "double_data":
        return values.tobytes()
    bits = BITS[tensor.data_type]
    if tensor.data_type == TensorProto.BOOL:
        values = values != 0
    if bits == 6:
        return pack(values.astype(np.uint8), bits)
    return values.astype(unit(bits)).tobytes()  # an entry is a packed byte for 4- and 2-bit types


def pack(elements: Values, bits: int) -> bytes:
    """Packs elements that take a byte each; the last byte is padded with zero bits."""
    if bits == 8:
        return elements.tobytes()
    spread = np.unpackbits(elements[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(spread, bitorder="little").tobytes()


def unpack(data: bytes, bits: int, skip: int, count: int) -> Values:
    """Returns `count` packed elements from bit `skip` on, one per byte."""
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    spread = flat[skip : skip + count * bits].reshape(count, bits)
    return np.packbits(spread, axis=1, bitorder="little").reshape(count)


def _entries(dtype: int, count: int) -> int:
    """Returns the number of entries of the typed field for `count` elements."""
    if dtype in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    bits = BITS.get(dtype)  # strings have none
    return -(-count * bits // 8) if bits in (2, 4) else count


def _float_bytes(tensor: TensorProto) -> bytes:
    """Returns float_data bit for bit. A Python float would change signalling NaNs, and before version 7
    protobuf makes floats of what one field takes from another. So the values are taken from the wire form of
    a copy without the other fields: one tag byte, the length, the packed values."""
    alone = TensorProto()
    alone.CopyFrom(tensor)
    for field, _ in tensor.ListFields():
        if field.name != "float_data":
            alone.ClearField(field.name)
    wire = bytes(alone.SerializeToString())
    return wire[len(wire) - 4 * len(alone.float_data) :]


def own_tensors(attribute: onnx.AttributeProto) -> Iterator[TensorProto]:
    """Yields the tensors that an attribute holds itself, not in its bodies. A sparse tensor counts as two,
    its values and its indices."""
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for each in (*sparse, *attribute.sparse_tensors):
        yield from (each.values, each.indices)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _attribute_tensors(each for node in graph.node for each in node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[TensorProto]:
    """Reads all fields: a damaged attribute may hold several, and say that it is of another type."""
    for attribute in attributes:
        yield from own_tensors(attribute)
        for graph in graphs_of(attribute):
            yield from _graph_tensors(graph)


def graphs_of(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that an attribute holds, whatever it says that it is. ops/walk.py goes through them."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs
