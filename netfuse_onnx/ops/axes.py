"""The attributes and inputs that count axes, and of what: the table behind every normal form of axes.

An operator is named by its key, `Softmax` or `com.microsoft.BiasSoftmax`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netfuse_onnx.ops import kinds
from netfuse_onnx.types import ValueType

REDUCERS = frozenset(
    {f"Reduce{name}" for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2")}
    | {"ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"}
)

ONE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "ArgMax", "ArgMin", "Compress", "Concat", "ConcatFromSequence", "DFT", "DequantizeLinear",
            "Flatten", "Gather", "GatherElements", "Hardmax", "LayerNormalization", "LogSoftmax",
            "LpNormalization", "OneHot", "QuantizeLinear", "RMSNormalization", "Scatter", "ScatterElements",
            "SimplifiedLayerNormalization", "Softmax", "Split", "SplitToSequence", "TensorScatter", "TopK",
            "Unique",
            "com.microsoft.BiasSoftmax", "com.microsoft.DequantizeLinear", "com.microsoft.QLinearConcat",
            "com.microsoft.QLinearSoftmax", "com.microsoft.QOrderedLayerNormalization",
            "com.microsoft.QuantizeLinear",
        ),
        ("axis",),
    ),
    "com.microsoft.GatherBlockQuantized": ("gather_axis", "quantize_axis"),
    "com.microsoft.UnfoldTensor": ("dim",),
}  # fmt: skip
"""Attributes that hold one axis."""

SETS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys((*REDUCERS, "MeanVarianceNormalization", "Squeeze", "Unsqueeze"), ("axes",)),
    "com.microsoft.QLinearReduceMean": ("axes",),
    "com.microsoft.ReduceSumInteger": ("axes",),
}
"""Attributes that hold axes whose order means nothing."""

ROWS: Mapping[str, tuple[str, ...]] = {
    "CenterCropPad": ("axes",),
    "Resize": ("axes",),
    "Scan": ("scan_input_axes", "scan_output_axes"),
    "Slice": ("axes",),
}
"""Attributes that hold axes, each of which goes with an element of something else."""

INPUTS: Mapping[str, int] = {
    "CumProd": 1, "CumSum": 1, "DFT": 2, "Pad": 3, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1,
    **dict.fromkeys(REDUCERS, 1),
    "com.microsoft.ExpandDims": 1,
}  # fmt: skip
"""The input that holds axes, in those versions of an operator that have one."""

FREE: Mapping[str, str] = {
    "ConcatFromSequence.new_axis": "yes or no",
    "GatherND.batch_dims": "a count of axes, never negative",
    "ReverseSequence.batch_axis": "0 or 1, never negative",
    "ReverseSequence.time_axis": "0 or 1, never negative",
    "RotaryEmbedding.rotary_embedding_dim": "a size",
    "com.microsoft.FusedMatMulActivation.activation_axis": "its axis -1 is all that is ever written",
}
"""Attributes that are named like axes, and why they have no normal form."""


def from_front(axis: int, rank: int) -> int:
    """The axis counted from the front; one out of range as it is."""
    return axis + rank if -rank <= axis < 0 else axis


def counted_in(key: str, attrs: Mapping[str, Any], inputs: Sequence[ValueType]) -> int | None:
    """The rank in which an operator counts its axes, where it is known: of input 0, but for a few."""
    if key == "Concat":
        return next((kind.rank for kind in inputs if kind.rank is not None), None)
    place = 2 if key == "com.microsoft.QLinearConcat" else 0
    kind = inputs[place] if place < len(inputs) else ValueType()
    rank = _rank_of_elements(kind) if key == "ConcatFromSequence" else kind.rank
    return None if rank is None else rank + _more(key, attrs)


def _more(key: str, attrs: Mapping[str, Any]) -> int:
    """By how much the output, which the axes are those of, has more of them."""
    if key == "Unsqueeze":
        return len(attrs.get("axes", ()))
    return 1 if key == "OneHot" or (key == "ConcatFromSequence" and attrs.get("new_axis", 0)) else 0


def _rank_of_elements(kind: ValueType) -> int | None:
    """The rank of the tensors in a sequence."""
    if kind.proto is None or kind.proto.WhichOneof("value") != "sequence_type":
        return None
    return kinds.of_proto(kind.proto.sequence_type.elem_type).rank
