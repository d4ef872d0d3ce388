"""Constant nodes of every attribute kind, and sparse tensors, as weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, SparseTensorProto, TensorProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.ops import schemas
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.tensors import BITS, pack
from netfuse_onnx.types import Weight

AGAIN = "The file is not a valid ONNX model; export it again."
"""The hint for a file that is not valid."""
DENSE_LIMIT = 1 << 26
"""The bytes that all sparse tensors of a file may take when written out. They are held in memory."""
ATTRIBUTES = {
    "value": AttributeProto.TENSOR, "sparse_value": AttributeProto.SPARSE_TENSOR,
    "value_float": AttributeProto.FLOAT, "value_floats": AttributeProto.FLOATS,
    "value_int": AttributeProto.INT, "value_ints": AttributeProto.INTS,
    "value_string": AttributeProto.STRING, "value_strings": AttributeProto.STRINGS,
}  # fmt: skip
"""The attributes that can hold a Constant's value, with their types."""


def invalid(path: str, what: str) -> FileFault:
    """Return the error for a file that is not valid."""
    return FileFault(f"{path}: {what}.", AGAIN)


def constant(node: NodeProto, path: str) -> Weight:
    """Return the value of a Constant node. Raises FileFault where it has none."""
    label = f"Constant node '{node.name or node.output[0]}'"
    if (count := len(node.attribute)) != 1:
        raise invalid(path, f"{label} has {count} attributes, it must have exactly one value")
    attribute = node.attribute[0]
    name = attribute.name
    if name not in ATTRIBUTES:
        raise invalid(path, f"{label} has an attribute '{name}', which the operator does not know")
    if attribute.ref_attr_name or ATTRIBUTES[name] != attribute.type:
        raise invalid(path, f"attribute '{name}' of {label} has another type than its name says")
    value = schemas.value_of(attribute)
    match name:
        case "value":
            return weights.weight_of(value)
        case "sparse_value":
            return dense(value, path)
        case "value_float" | "value_floats":
            return _of_numbers(TensorProto.FLOAT, "<f4", value)
        case "value_int" | "value_ints":
            return _of_numbers(TensorProto.INT64, "<i8", value)
        case "value_string":
            return Weight(TensorProto.STRING, (), (value,))
    return Weight(TensorProto.STRING, (len(value),), tuple(value))  # value_strings


def dense(sparse: SparseTensorProto, path: str) -> Weight:
    """Write out a sparse tensor that validate.py has accepted. Its indices are positions in the flat tensor,
    or one row of coordinates for each value."""
    shape, dtype = tuple(sparse.dims), sparse.values.data_type
    values, places = (weights.array(weights.weight_of(part)) for part in (sparse.values, sparse.indices))
    full = np.zeros(math.prod(shape), values.dtype)
    try:
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), shape)
        if places.shape != values.shape or places.min(initial=0) < 0:
            raise ValueError("the number of indices is not that of the values")
        full[places] = values
    except (ValueError, IndexError) as fault:
        name, sizes = sparse.values.name, list(shape)
        raise invalid(
            path, f"the indices of the sparse tensor '{name}' do not fit its shape {sizes}"
        ) from fault
    raw = full.tobytes() if BITS[dtype] >= 8 else pack(full.view(np.uint8), BITS[dtype])
    return Weight(dtype, shape, raw)


def _of_numbers(dtype: int, numpy_dtype: str, value: float | int | Sequence[Any]) -> Weight:
    """Return a weight from a number or a list of numbers."""
    array = np.asarray(value, dtype=numpy_dtype)
    return Weight(dtype, array.shape, array.tobytes())
