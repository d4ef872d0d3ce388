"""Constant nodes of every attribute kind, and sparse initializers, as weights."""

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

DENSE_LIMIT = 1 << 28
"""Bytes that one sparse tensor may unfold to. It would have to be held in memory."""


KINDS = {
    "value": AttributeProto.TENSOR, "sparse_value": AttributeProto.SPARSE_TENSOR,
    "value_float": AttributeProto.FLOAT, "value_floats": AttributeProto.FLOATS,
    "value_int": AttributeProto.INT, "value_ints": AttributeProto.INTS,
    "value_string": AttributeProto.STRING, "value_strings": AttributeProto.STRINGS,
}  # fmt: skip
"""The attributes that hold a Constant's value."""


def constant(node: NodeProto, path: str) -> Weight:
    """The value of a Constant node. Raises FileFault where it has none."""
    if len(node.attribute) != 1:
        raise FileFault(
            f"{path}: Constant node '{node.name or node.output[0]}' has {len(node.attribute)} attributes, "
            "it must have exactly one value.",
            AGAIN,
        )
    attribute = node.attribute[0]
    if attribute.name not in KINDS:
        raise FileFault(
            f"{path}: Constant node '{node.name or node.output[0]}' has an attribute '{attribute.name}', "
            "which the operator does not know.",
            AGAIN,
        )
    if attribute.ref_attr_name or KINDS.get(attribute.name, attribute.type) != attribute.type:
        raise FileFault(
            f"{path}: the attribute '{attribute.name}' of Constant node '{node.name or node.output[0]}' is "
            "of another kind than its name says.",
            AGAIN,
        )
    value = schemas.value_of(attribute)
    match attribute.name:
        case "value":
            return weights.weight_of(value)
        case "sparse_value":
            return dense(value, path)
        case "value_float" | "value_floats":
            return _plain(TensorProto.FLOAT, "<f4", value)
        case "value_int" | "value_ints":
            return _plain(TensorProto.INT64, "<i8", value)
        case "value_string":
            return Weight(TensorProto.STRING, (), (value,))
    return Weight(TensorProto.STRING, (len(value),), tuple(value))  # value_strings


def dense(sparse: SparseTensorProto, path: str) -> Weight:
    """A sparse tensor written out. Its indices are positions, or one row of coordinates for each value."""
    shape, name = tuple(sparse.dims), sparse.values.name
    held = (weights.weight_of(sparse.values), weights.weight_of(sparse.indices))
    if isinstance(held[0].data, tuple) or any(size < 0 for size in shape):
        raise FileFault(f"{path}: the sparse tensor '{name}' has a type or shape that ONNX lacks.", AGAIN)
    if max(math.prod(shape) * BITS[held[0].dtype] // 8, *map(weights.nbytes, held)) > DENSE_LIMIT:
        raise FileFault(
            f"{path}: the sparse tensor '{name}' of shape {list(shape)} would take more than "
            f"{DENSE_LIMIT >> 20} MiB when written out.",
            "Store it as a dense initializer.",
        )
    values, places = weights.array(held[0]), weights.array(held[1]).astype(np.int64)
    full = np.zeros(math.prod(shape), values.dtype)
    try:
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), shape)
        if places.shape != values.shape or places.min(initial=0) < 0:
            raise ValueError("no place for each value")
        full[places] = values
    except (ValueError, IndexError) as fault:
        raise FileFault(
            f"{path}: the indices of the sparse tensor '{name}' do not fit its shape {list(shape)}.",
            AGAIN,
        ) from fault
    bits = BITS[held[0].dtype]
    raw = full.tobytes() if bits >= 8 else pack(full.view(np.uint8), bits)
    return Weight(sparse.values.data_type, shape, raw)


def _plain(dtype: int, kind: str, value: float | int | Sequence[Any]) -> Weight:
    array = np.asarray(value, dtype=kind)
    return Weight(dtype, array.shape, array.tobytes())
