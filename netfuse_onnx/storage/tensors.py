"""How ONNX lays a tensor out in bytes: element widths, raw_data sizes, and the other value fields.

One form is used everywhere else: raw_data, little-endian, elements narrower than a byte packed from
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

from netfuse_onnx.ops import walk

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
"""numpy (2) holds no tensors of more."""

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


def dtype_name(dtype: int) -> str:
    """`FLOAT` for 1; the number itself for a type that this onnx doesn't know."""
    return str(TensorProto.DataType.Name(dtype)) if dtype in TensorProto.DataType.values() else str(dtype)


def nbytes(dtype: int, shape: Sequence[int]) -> int:
    """Size in bytes of the raw form. KeyError for strings and for types that have no raw form."""
    return -(-BITS[dtype] * math.prod(shape) // 8)


def value_field(dtype: int) -> str:
    """The typed field that may hold values of this type instead of raw_data."""
    return _FIELDS.get(dtype, "int32_data")


def unit(bits: int) -> np.dtype[Any]:
    """The numpy type that carries one element as plain bits: a byte for anything narrower than one."""
    return np.dtype("V16") if bits == 128 else np.dtype(f"<u{max(bits, 8) // 8}")


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers and attributes, nested bodies and functions too; of sparse
    ones the values and the indices."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _attribute_tensors(function.attribute_proto)
        yield from _node_tensors(function.node)


def inline_count_fault(tensor: TensorProto) -> str:
    """Why the inline values of a tensor do not fill its shape, or '' when they do."""
    dtype, shape = tensor.data_type, tuple(tensor.dims)
    count = math.prod(shape)
    if tensor.HasField("raw_data"):
        have, want, what = len(tensor.raw_data), nbytes(dtype, shape), "bytes"
    else:
        have, want, what = len(getattr(tensor, value_field(dtype))), _entries(dtype, count), "values"
    return "" if have == want else f"holds {have} {what}, shape {list(shape)} takes {want}"


def raw_values(tensor: TensorProto) -> bytes:
    """The raw form of a tensor that holds its values inline, in whichever field. Not for strings."""
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    field = value_field(tensor.data_type)
    if field == "float_data":
        return _float_bytes(tensor)
    values = getattr(tensor, field)
    if field == "double_data":
        return np.array(values, "<f8").tobytes()
    wide = np.array(values, np.uint64 if field == "uint64_data" else np.int64)
    return pack_values(wide, tensor.data_type)


def pack_values(values: Values, dtype: int) -> bytes:
    """Raw form of what an int32_data, int64_data or uint64_data field holds. A field entry is one
    element, or one packed byte for 4- and 2-bit types."""
    bits = BITS[dtype]
    if dtype == TensorProto.BOOL:
        values = values != 0
    if bits == 6:
        return pack(values.astype(np.uint8), bits)
    return values.astype(unit(bits)).tobytes()


def pack(elements: Values, bits: int) -> bytes:
    """Elements, one per byte, to their packed form; the last byte is padded with zero bits."""
    if bits == 8:
        return elements.tobytes()
    spread = np.unpackbits(elements[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(spread, bitorder="little").tobytes()


def unpack(data: bytes, bits: int, skip: int, count: int) -> Values:
    """`count` packed elements from bit `skip` on, one per byte."""
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    spread = flat[skip : skip + count * bits].reshape(count, bits)
    return np.packbits(spread, axis=1, bitorder="little").reshape(count)


def _entries(dtype: int, count: int) -> int:
    """Entries of the typed field for `count` elements."""
    if dtype == TensorProto.STRING:
        return count
    bits = BITS[dtype]
    if dtype in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    return -(-count * bits // 8) if bits in (2, 4) else count


def _float_bytes(tensor: TensorProto) -> bytes:
    """float_data bit for bit. By way of a Python float, signalling NaNs would change, so it goes
    through the wire form: one tag byte, the length, the packed values."""
    alone = TensorProto()
    alone.float_data.MergeFrom(tensor.float_data)
    wire = bytes(alone.SerializeToString())
    return wire[len(wire) - 4 * len(alone.float_data) :]


def own_tensors(attribute: onnx.AttributeProto) -> Iterator[TensorProto]:
    """The tensors that an attribute holds itself, those of its bodies apart; of sparse ones the values and
    the indices."""
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
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        if node.attribute:
            yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[TensorProto]:
    """Those of all fields: a damaged attribute may hold several, and say that it is of another kind."""
    for attribute in attributes:
        yield from own_tensors(attribute)
        for graph in walk.graphs_of(attribute):
            yield from _graph_tensors(graph)
