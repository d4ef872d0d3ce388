"""Which attributes and inputs count axes, and of what: the table behind every normal form of axes.

An operator is named by its key, `Softmax` or `com.microsoft.BiasSoftmax`. An axis is counted in the rank of
input 0, but for those operators that match/spelling.py and match/operands.py give a rank of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

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
