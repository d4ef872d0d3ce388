"""Attributes that do not decide the shape of an output, and what of a window does.

An operator whose attributes differ between the models only in these gives all models outputs of one shape, if
what it reads has. Attributes that are not named decide shapes as far as is known.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from netfuse_onnx.ops.traits import POOLS
from netfuse_onnx.types import Node

_ACTIVATION = ("activation", "activation_alpha", "activation_beta", "activation_params", "activations")
_CELL = (*_ACTIVATION, "clip", "input_forget", "linear_before_reset")
_DRAWN = ("mean", "scale", "high", "low", "seed")
_HEADS = ("is_causal", "mask_filter_value", "scale", "softcap", "unidirectional")
_SAMPLED = ("align_corners", "mode", "padding_mode")

NEUTRAL: Mapping[str, tuple[str, ...]] = {
    "AffineGrid": ("align_corners",), "ArgMax": ("select_last_index",), "ArgMin": ("select_last_index",),
    "Attention": _HEADS, "AveragePool": ("count_include_pad",), "BatchNormalization": ("epsilon", "momentum"),
    "Bernoulli": ("seed",), "BitShift": ("direction",), "Celu": ("alpha",), "Clip": ("max", "min"),
    "ConstantOfShape": ("value",), "CumProd": ("exclusive", "reverse"), "CumSum": ("exclusive", "reverse"),
    "DFT": ("inverse",), "DepthToSpace": ("mode",), "DequantizeLinear": ("axis",),
    "Dropout": ("ratio", "seed"), "Elu": ("alpha",), "EyeLike": ("k",), "GRU": _CELL,
    "GatherElements": ("axis",), "Gelu": ("approximate",), "Gemm": ("alpha", "beta"), "GridSample": _SAMPLED,
    "GroupNormalization": ("epsilon", "num_groups"), "HammingWindow": ("periodic",),
    "HannWindow": ("periodic",), "BlackmanWindow": ("periodic",), "HardSigmoid": ("alpha", "beta"),
    "Hardmax": ("axis",), "InstanceNormalization": ("epsilon",),
    "IsInf": ("detect_negative", "detect_positive"),
    "LRN": ("alpha", "beta", "bias", "size"), "LSTM": _CELL, "LayerNormalization": ("epsilon",),
    "LeakyRelu": ("alpha",), "LogSoftmax": ("axis",), "LpNormalization": ("axis", "p"), "LpPool": ("p",),
    "MaxPool": ("storage_order",), "MeanVarianceNormalization": ("axes",), "Mod": ("fmod",),
    "NegativeLogLikelihoodLoss": ("ignore_index",), "Pad": ("mode", "value"),
    "QuantizeLinear": ("axis", "saturate"),
    "RMSNormalization": ("axis", "epsilon"), "RNN": _CELL, "RandomNormal": _DRAWN, "RandomNormalLike": _DRAWN,
    "RandomUniform": _DRAWN, "RandomUniformLike": _DRAWN,
    "Resize": ("antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside",
               "extrapolation_value", "mode", "nearest_mode"),
    "ReverseSequence": ("batch_axis", "time_axis"),
    "RoiAlign": ("coordinate_transformation_mode", "mode", "sampling_ratio", "spatial_scale"),
    "RotaryEmbedding": ("interleaved", "num_heads", "rotary_embedding_dim"),
    "ScatterElements": ("axis", "reduction"), "ScatterND": ("reduction",), "Selu": ("alpha", "gamma"),
    "Shrink": ("bias", "lambd"), "Softmax": ("axis",), "SoftmaxCrossEntropyLoss": ("ignore_index",),
    "Swish": ("alpha",), "ThresholdedRelu": ("alpha",), "TopK": ("largest", "sorted"), "Trilu": ("upper",),
    "Upsample": ("mode",),
    "com.microsoft.Attention": _HEADS, "com.microsoft.BiasGelu": (), "com.microsoft.BiasSplitGelu": (),
    "com.microsoft.EmbedLayerNormalization": ("epsilon",), "com.microsoft.FusedConv": _ACTIVATION,
    "com.microsoft.FusedGemm": (*_ACTIVATION, "alpha", "beta", "activation_gamma"),
    "com.microsoft.FusedMatMul": ("alpha",), "com.microsoft.GroupNorm": ("activation", "epsilon", "groups"),
    "com.microsoft.GroupQueryAttention": (*_HEADS, "local_window_size"),
    "com.microsoft.MultiHeadAttention": _HEADS, "com.microsoft.NhwcFusedConv": _ACTIVATION,
    "com.microsoft.QuickGelu": ("alpha",),
    "com.microsoft.RotaryEmbedding": ("interleaved", "is_packed_batching", "scale"),
    "com.microsoft.SkipGroupNorm": ("activation", "epsilon", "groups"),
    "com.microsoft.SkipLayerNormalization": ("epsilon",),
    "com.microsoft.SkipSimplifiedLayerNormalization": ("epsilon",),
    "SimplifiedLayerNormalization": ("epsilon",),
}  # fmt: skip
"""Operator -> the attributes that no output's shape follows."""

TYPING = frozenset({"dtype", "output_dtype", "to"})
"""Attributes that decide an element type."""


def deciding(node: Node, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a node that may decide the shape of an output."""
    return {name: value for name, value in attrs.items() if name not in NEUTRAL.get(node.key, ())}


def window(node: Node, attrs: Mapping[str, Any], filters: Sequence[int] | None) -> Hashable:
    """All that the shape of a convolution or a pool depends on beside its input's; None where it is unknown.

    An output of size floor((L + pads - dilation * (kernel - 1) - 1) / stride) + 1 is the same for all L where
    the stride and `pads - dilation * (kernel - 1)` are; rounded up, it depends on where the last window
    begins, so on all of these. `filters` is the shape of the weight of a Conv.
    """
    if node.domain or node.op not in (*POOLS, "Conv") or (node.op == "Conv") != (filters is not None):
        return None
    kernel = list(attrs.get("kernel_shape", (filters or ())[2:]))
    rank = len(kernel)
    strides, dilations = (list(attrs.get(name, [1] * rank)) for name in ("strides", "dilations"))
    pads = list(attrs.get("pads", [0] * (2 * rank)))
    if not rank or not len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        return None
    auto = attrs.get("auto_pad", b"NOTSET")
    if auto not in (b"NOTSET", b"VALID"):
        return None
    total = [0 if auto == b"VALID" else pads[i] + pads[rank + i] for i in range(rank)]
    spans = tuple(t - d * (k - 1) for t, d, k in zip(total, dilations, kernel, strict=True))
    up = (tuple(pads), tuple(dilations), tuple(kernel)) if attrs.get("ceil_mode", 0) else ()
    return (filters and filters[0], tuple(strides), spans, up)
