"""Which operators draw random numbers, carry bodies, or give outputs whose shape depends on values.

A value is ragged where its shape may differ between the models: it stays PER_MODEL, and so does what
reads it, because a join of unequal shapes would fail, or worse, succeed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import onnx

from netfuse_onnx.ops.shapes_contrib import SHAPES
from netfuse_onnx.types import Node

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})

UNJOINABLE = frozenset(
    getattr(onnx.TensorProto, name)
    for name in (
        "FLOAT4E2M1", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0",
        "INT2", "INT4", "UINT2", "UINT4",
    )
    if hasattr(onnx.TensorProto, name)
)  # fmt: skip
"""Element types that Concat, Split, Gather and Transpose do not take, nor Reshape all of them."""

DATA_DEPENDENT = frozenset(
    {
        "Compress",
        "NonMaxSuppression",
        "NonZero",
        "StringNormalizer",
        "StringSplit",
        "Unique",
        "ConcatFromSequence",
        "SequenceAt",
        "OptionalGetElement",
        "ImageDecoder",
        # ONNX Runtime's own
        "BeamSearch",
        "BifurcationDetector",
        "DynamicTimeWarping",
        "EPContext",
        "GreedySearch",
        "RemovePadding",
        "Sampling",
        "Snpe",
        "SpeculativePrefixCommit",
        "Tokenizer",
        "WhisperBeamSearch",
    }
)

READ = ("", "ai.onnx.ml", "com.microsoft")
"""Domains whose operators have been read: those whose shapes follow values are named here, all others give
outputs whose shapes follow from those of the inputs. Nothing is taken for granted of other domains."""

STEERED_BY = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2),
    "ConstantOfShape": (0,), "ConvTransposeWithDynamicPads": (2,), "CropAndResize": (3,), "DFT": (1, 2),
    "DecoderAttention": (8, 9, 10), "DequantizeBFP": (1, 2), "DynamicSparseAttention": (10,),
    "Expand": (1,), "ExpandDims": (1,), "GroupQueryAttention": (6,), "HammingWindow": (0,),
    "HannWindow": (0,), "MatMulFpQ4": (2,),
    "MaxUnpool": (2,), "MelWeightMatrix": (0, 1), "OneHot": (1,), "Pad": (1, 3), "Range": (0, 1, 2),
    "ReduceL1": (1,), "ReduceL2": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,), "ReduceMax": (1,),
    "ReduceMean": (1,), "ReduceMin": (1,), "ReduceProd": (1,), "ReduceSum": (1,), "ReduceSumSquare": (1,),
    "RelativePositionBias": (1, 2), "Reshape": (1,), "Resize": (1, 2, 3), "STFT": (1, 3),
    "Slice": (1, 2, 3, 4), "SparseAttention": (7,), "Split": (1,),
    "SplitToSequence": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,), "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip
"""Inputs whose values, not only their shapes, may decide the shape of an output."""


def steers(op: str, inputs: Sequence[str], attrs: Mapping[str, Any]) -> tuple[int, ...]:
    """The inputs of a node whose values decide the shape of an output. No operator of a domain that has been
    read has a namesake in another."""
    if op == "Resize" and len(inputs) > 2:
        return (3,) if len(inputs) > 3 and inputs[3] else (2,)  # a crop changes no size: scales alone do
    if op == "DFT" and not attrs.get("onesided") and (len(inputs) < 2 or not inputs[1]):
        return ()
    return STEERED_BY.get(op, ())


def random(node: Node) -> bool:
    """True for an operator that draws random numbers, in a body too: never run once for all models."""
    if not node.domain and node.op in RANDOM:
        return True
    return any(_draws(body) for body in node.attrs.values() if isinstance(body, onnx.GraphProto))


def _draws(graph: onnx.GraphProto) -> bool:
    return any(
        inner.op_type in RANDOM or any(_draws(attr.g) for attr in inner.attribute if attr.HasField("g"))
        for inner in graph.node
    )


def bodies(node: Node) -> bool:
    return not node.domain and node.op in BODIES


def ragged(node: Node, mapped: Set[str], shapeless: Set[str]) -> bool:
    """True where a replicated node's outputs may have another shape for each model."""
    if any(v in shapeless for v in node.reads):
        return True
    if node.op in DATA_DEPENDENT or bodies(node):
        return True
    if node.domain not in READ and node.key not in SHAPES:
        return True
    return any(
        i < len(node.inputs) and node.inputs[i] in mapped for i in steers(node.op, node.inputs, node.attrs)
    )
