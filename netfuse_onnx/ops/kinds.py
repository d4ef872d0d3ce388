"""Types of values: from and to ONNX's protos, and the ways in which two accounts of one value become one.

Each way has a name that says which account counts where they differ. Sizes are ints, symbols are text, None
is unknown; a rank that is unknown is `dims` None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onnx import TensorProto, TypeProto, ValueInfoProto

from netfuse_onnx.dims import INFERRED
from netfuse_onnx.types import Dim, ValueType, Weight

UNKNOWN = ValueType()

UNJOINABLE = frozenset(
    getattr(TensorProto, name)
    for name in (
        "FLOAT4E2M1", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0",
        "INT2", "INT4", "UINT2", "UINT4",
    )
    if hasattr(TensorProto, name)
)  # fmt: skip
"""Element types that Concat, Split, Gather and Transpose do not take, nor Reshape all of them."""

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
NARROW_FLOATS = FLOATS - {TensorProto.DOUBLE}
"""Those for which ONNX Runtime has kernels of Gelu, HardSigmoid, HardSwish and GlobalAveragePool."""
INDEX_TYPES = frozenset({TensorProto.INT32, TensorProto.INT64})
"""The element types that shapes, axes and indices have."""
SHAPE_TYPES = INDEX_TYPES | {TensorProto.BOOL}
"""The element types in which shapes are computed."""
INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 9, 12, 13})
"""All types of whole numbers of 8 bits and more, BOOL included."""

# --------------------------------------------------------------------------- conversion


def of_proto(proto: TypeProto | None) -> ValueType:
    """A declared type. An empty or negative size counts as unknown."""
    if proto is None or proto.WhichOneof("value") != "tensor_type":
        return ValueType(proto=proto) if proto is not None and proto.WhichOneof("value") else UNKNOWN
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return ValueType(tensor.elem_type)
    return ValueType(tensor.elem_type, tuple([_dim(d) for d in tensor.shape.dim]))


def _dim(dim: Any) -> Dim:
    if dim.WhichOneof("value") == "dim_value":
        size: int = dim.dim_value
        return size if size >= 0 else None
    return dim.dim_param or None


def of_weight(weight: Weight) -> ValueType:
    return ValueType(weight.dtype, weight.shape)


def proto(kind: ValueType) -> TypeProto:
    """The type as ONNX holds it. What is not known is left out."""
    if kind.proto is not None:
        return kind.proto
    result = TypeProto()
    if kind.dtype:
        tensor = result.tensor_type
        tensor.elem_type = kind.dtype
        if kind.dims is not None:
            tensor.shape.SetInParent()
        for dim in kind.dims or ():
            entry = tensor.shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
            elif dim:
                entry.dim_param = dim
    return result


def declared(name: str, kind: ValueType) -> ValueInfoProto:
    """A name with its type, as inputs, outputs and values in between are declared."""
    info = ValueInfoProto(name=name)
    if kind != UNKNOWN:
        info.type.CopyFrom(proto(kind))
    return info


def clear_shape(info: ValueInfoProto) -> None:
    """Take away the rank that a tensor is declared to have."""
    if info.type.HasField("tensor_type"):
        info.type.tensor_type.ClearField("shape")


def clear_sizes(info: ValueInfoProto) -> None:
    """Take away the sizes, but not the rank, that a tensor is declared to have."""
    for dim in info.type.tensor_type.shape.dim:
        dim.Clear()


def has_rank(kind: ValueType) -> bool:
    """False for a tensor of unknown rank."""
    return kind.dims is not None or kind.proto is not None


# --------------------------------------------------------------------------- merging


def both(first: ValueType, second: ValueType | None) -> ValueType:
    """The knowledge of two accounts that are both true; the second counts where they contradict.

    A size says more than a symbol. Of two symbols the second counts: the first may be one that onnx made up,
    and onnx's inference has been seen to miscount (STFT, 1.23) where no runtime did.
    """
    if second is None or first.proto is not None:
        return first
    if second.proto is not None:
        return first if first.dtype else second
    dtype = first.dtype or second.dtype
    if first.dims is None or second.dims is None or len(first.dims) != len(second.dims):
        return ValueType(dtype, second.dims if first.dims is None else first.dims)
    pairs = zip(first.dims, second.dims, strict=True)
    dims = [a if b is None or (_static(a) and not _static(b)) else b for a, b in pairs]
    return ValueType(dtype, tuple(dims))


def filled(inferred: ValueType, claim: ValueType) -> ValueType:
    """The type that inference found; where it found nothing, or made up a symbol, the file's claim counts."""
    dims = claim.dims if inferred.dims is None else inferred.dims
    if dims is not None and claim.dims is not None and len(dims) == len(claim.dims):
        pairs = zip(dims, claim.dims, strict=True)
        dims = tuple([said if dim is None or str(dim).startswith(INFERRED) else dim for dim, said in pairs])
    return ValueType(inferred.dtype or claim.dtype, dims, inferred.proto)


def accepted(first: ValueType, second: ValueType) -> ValueType:
    """The type of the values that two inputs both take, in the symbols of the first: sizes of either count.
    Symbols of the second alone name nothing."""
    if first.proto is not None or second.dims is None:
        return first
    if first.dims is None:
        return sizes_only(replace(first, dims=second.dims))
    return replace(first, dims=accepted_dims(first.dims, second.dims))


def accepted_dims(first: Sequence[Dim], second: Sequence[Dim]) -> tuple[Dim, ...]:
    """The same for dims; the first's where the ranks differ."""
    if len(first) != len(second):
        return tuple(first)
    return tuple([b if _static(b) and not _static(a) else a for a, b in zip(first, second, strict=True)])


def sizes_only(kind: ValueType) -> ValueType:
    """The type without symbols: the sizes that are numbers, the rest unknown."""
    if kind.dims is None:
        return kind
    return replace(kind, dims=tuple([dim if _static(dim) else None for dim in kind.dims]))


def _static(dim: Dim) -> bool:
    return isinstance(dim, int)
