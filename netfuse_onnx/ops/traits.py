"""The facts about operators that are not in their schemas, one row for each operator.

A new operator gets one line in `TRAITS`. Every stage reads this table and has none of its own. Names of
inputs and defaults of attributes are in schemas.py, shape functions in shapes.py and shapes_contrib.py,
attributes that count axes in axes.py.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.ops import walk
from netfuse_onnx.ops.axes import REDUCERS
from netfuse_onnx.ops.schemas import MICROSOFT, ML
from netfuse_onnx.ops.shapes_contrib import SHAPES
from netfuse_onnx.types import Node


class Carries(enum.Enum):
    """The elements of inputs that an output holds, their values seen as numbers: a Cast keeps them."""

    NOTHING = 0
    MOST = 1
    """Elements of the first input, and hardly any other."""
    SOME = 2
    """Elements of the first input, but perhaps few of them, or rounded, or others as well."""
    ALL_INPUTS = 3
    """Elements of all inputs but a condition."""


AXIS_ATTRIBUTE, TUPLES = "axis", "tuples"


@dataclass(frozen=True, slots=True)
class Indices:
    """Input `place` holds indices into input `table`, counted along `axis`: a number, an attribute's name, or
    TUPLES for rows of indices along several axes."""

    place: int
    table: int
    axis: int | str


@dataclass(frozen=True, slots=True)
class Traits:
    """The facts about one operator; what is left out is what most operators are."""

    random: bool = False
    """It draws random numbers."""
    bodies: bool = False
    """It has bodies and runs them as often, and on the branch, that its data says."""
    data_sized: bool = False
    """The size of an output depends on the values of its inputs, even where those that steer it are equal."""
    steered: tuple[int, ...] = ()
    """The inputs whose values, not only their shapes, may decide the shape of an output."""
    sizes: tuple[int, ...] = ()
    """Those of them that a proof feeds 1 or more: a 0 is not worth a run, or not valid."""
    shape_input: int | None = None
    """The input that is the shape of the output."""
    indices: tuple[Indices, ...] = ()
    """The inputs that hold indices of another input."""
    moves: bool = False
    """Its outputs hold elements of its first input as they are, in any order, any number of times."""
    view: bool = False
    """It copies no elements."""
    carries: Carries = Carries.NOTHING
    """The elements that a number can be followed through: for `moves` and beyond."""
    same_scale: bool = False
    """ONNX Runtime lets it work on quantised bytes where the scale before it is the scale behind it."""
    grows: bool = False
    """Its outputs may be larger than its inputs together."""


_MOST, _SOME, _ALL = Carries.MOST, Carries.SOME, Carries.ALL_INPUTS
_INTO_AXIS = (Indices(1, 0, AXIS_ATTRIBUTE),)

TRAITS: Mapping[str, Traits] = {
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"), Traits(random=True)),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), Traits(random=True)),
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), Traits(bodies=True)),
    **dict.fromkeys(("NonMaxSuppression", "NonZero", "StringNormalizer"), Traits(data_sized=True)),
    **dict.fromkeys(("ConcatFromSequence", "ImageDecoder", "OptionalGetElement"), Traits(data_sized=True)),
    **dict.fromkeys(("SequenceAt", "StringSplit", "Unique"), Traits(data_sized=True)),
    **dict.fromkeys(REDUCERS - {"ReduceMax", "ReduceMin"}, Traits(steered=(1,))),
    **dict.fromkeys(("Abs", "CastLike", "Ceil", "Floor", "Round", "Trilu"), Traits(carries=_SOME)),
    **dict.fromkeys(("Concat", "Max", "Min", "Where"), Traits(carries=_ALL)),
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), Traits(steered=(0,), grows=True)),
    **dict.fromkeys(("DepthToSpace", "ReverseSequence", "SpaceToDepth"), Traits(moves=True)),
    "AffineGrid": Traits(steered=(1,), grows=True),
    "ArrayFeatureExtractor": Traits(indices=(Indices(1, 0, -1),)),
    "Cast": Traits(carries=_MOST),
    "CenterCropPad": Traits(steered=(1,), grows=True),
    "Clip": Traits(carries=_MOST),
    "Col2Im": Traits(steered=(1, 2), grows=True),
    "Compress": Traits(data_sized=True, moves=True),
    "ConstantOfShape": Traits(steered=(0,), shape_input=0, grows=True),
    "DFT": Traits(steered=(1, 2), grows=True),
    "Expand": Traits(steered=(1,), sizes=(1,), moves=True, carries=_MOST, same_scale=True, grows=True),
    "EyeLike": Traits(grows=True),
    "Flatten": Traits(moves=True, view=True, carries=_MOST, same_scale=True),
    "Gather": Traits(indices=_INTO_AXIS, moves=True, carries=_SOME, same_scale=True),
    "GatherElements": Traits(indices=_INTO_AXIS, moves=True, carries=_SOME),
    "GatherND": Traits(indices=(Indices(1, 0, TUPLES),), moves=True, carries=_SOME),
    "GridSample": Traits(grows=True),
    "Identity": Traits(moves=True, view=True, carries=_MOST),
    "MaxPool": Traits(same_scale=True),
    "MaxUnpool": Traits(steered=(2,), grows=True),
    "MelWeightMatrix": Traits(steered=(0, 1), grows=True),
    "NegativeLogLikelihoodLoss": Traits(indices=(Indices(1, 0, 1),)),
    "OneHot": Traits(steered=(1,), grows=True),
    "Pad": Traits(steered=(1, 3), carries=_MOST, grows=True),
    "Range": Traits(steered=(0, 1, 2), sizes=(1, 2), grows=True),
    "ReduceMax": Traits(steered=(1,), carries=_SOME),
    "ReduceMin": Traits(steered=(1,), carries=_SOME),
    "Reshape": Traits(
        steered=(1,), sizes=(1,), shape_input=1, moves=True, view=True, carries=_MOST, same_scale=True
    ),
    "Resize": Traits(steered=(1, 2, 3), sizes=(1, 2, 3), grows=True),
    "RoiAlign": Traits(indices=(Indices(2, 0, 0),)),
    "RotaryEmbedding": Traits(indices=(Indices(3, 1, 0),)),
    "STFT": Traits(steered=(1, 3), grows=True),
    "Scatter": Traits(indices=_INTO_AXIS),
    "ScatterElements": Traits(indices=_INTO_AXIS, carries=_SOME),
    "ScatterND": Traits(indices=(Indices(1, 0, TUPLES),), carries=_SOME),
    "Shape": Traits(view=True),
    "Size": Traits(view=True),
    "Slice": Traits(steered=(1, 2, 3, 4), sizes=(1, 2, 3, 4), moves=True, carries=_MOST, same_scale=True),
    "SoftmaxCrossEntropyLoss": Traits(indices=(Indices(1, 0, 1),)),
    "Split": Traits(steered=(1,), moves=True, carries=_MOST),
    "SplitToSequence": Traits(steered=(1,)),
    "Squeeze": Traits(steered=(1,), moves=True, view=True, carries=_MOST, same_scale=True),
    "Tile": Traits(steered=(1,), sizes=(1,), moves=True, carries=_MOST, same_scale=True, grows=True),
    "TopK": Traits(steered=(1,), sizes=(1,), grows=True),
    "Transpose": Traits(moves=True, carries=_MOST, same_scale=True),
    "Unsqueeze": Traits(steered=(1,), moves=True, view=True, carries=_MOST, same_scale=True),
    "Upsample": Traits(steered=(1,), grows=True),
    **{f"{MICROSOFT}.{op}": row for op, row in {
        **dict.fromkeys(("BeamSearch", "BifurcationDetector", "DynamicTimeWarping"), Traits(data_sized=True)),
        **dict.fromkeys(("EPContext", "GreedySearch", "RemovePadding", "Sampling"), Traits(data_sized=True)),
        **dict.fromkeys(("Snpe", "SpeculativePrefixCommit", "Tokenizer"), Traits(data_sized=True)),
        "ConvTransposeWithDynamicPads": Traits(steered=(2,)),
        "CropAndResize": Traits(steered=(3,), indices=(Indices(2, 0, 0),)),
        "DecoderAttention": Traits(steered=(8, 9, 10)),
        "DequantizeBFP": Traits(steered=(1, 2)),
        "DynamicSparseAttention": Traits(steered=(10,)),
        "EmbedLayerNormalization": Traits(indices=(Indices(0, 2, 0), Indices(1, 4, 0), Indices(8, 3, 0))),
        "ExpandDims": Traits(steered=(1,)),
        "GatherBlockQuantized": Traits(indices=(Indices(1, 0, "gather_axis"),)),
        "GroupQueryAttention": Traits(steered=(6,)),
        "MatMulFpQ4": Traits(steered=(2,)),
        "QEmbedLayerNormalization": Traits(indices=(Indices(0, 2, 0), Indices(1, 4, 0))),
        "RelativePositionBias": Traits(steered=(1, 2)),
        "RotaryEmbedding": Traits(indices=(Indices(1, 2, 0),)),
        "SparseAttention": Traits(steered=(7,)),
        "WhisperBeamSearch": Traits(data_sized=True),
    }.items()},
}  # fmt: skip
"""The rows, by key. A row without a domain holds for operators of that name in every domain, unless they have
a row of their own."""

READ = ("", ML, MICROSOFT)
"""The domains all of whose operators were looked at: one of theirs without a row has none of the traits. Of
other domains nothing is known."""

POOLS = ("AveragePool", "LpPool", "MaxPool")
"""The pools with a window, in the default domain."""

FILTER: Mapping[str, int] = {
    **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose", "DeformConv"), 1), "QLinearConv": 3
}  # fmt: skip
"""The convolutions of the default domain, and the input of each that is the filter: its axes from 2 on are
the kernel."""


@functools.cache
def of(key: str) -> Traits:
    """The traits of the operator `Conv`, or `com.microsoft.FusedConv`."""
    return TRAITS.get(key) or TRAITS.get(key.rpartition(".")[2]) or Traits()


def keys(trait: str) -> Iterator[str]:
    """The keys of all operators that have a trait."""
    return (key for key, row in TRAITS.items() if getattr(row, trait))


def steers(key: str, inputs: Sequence[str], attrs: Mapping[str, Any]) -> tuple[int, ...]:
    """The inputs of a node whose values decide the shape of an output."""
    if key == "Resize" and len(inputs) > 2:
        return (3,) if len(inputs) > 3 and inputs[3] else (2,)  # a crop changes no size: scales alone do
    if key == "DFT" and not attrs.get("onesided") and (len(inputs) < 2 or not inputs[1]):
        return ()
    return of(key).steered


def random(node: Node) -> bool:
    """True for an operator that draws random numbers, in a body too: never run once for all models."""
    bodies = walk.bodies_of(node.attrs).values()
    inner = (walk.key(part) for body in bodies for part in walk.nodes(body))
    return any(of(key).random for key in (node.key, *inner))


def has_bodies(node: Node) -> bool:
    """True for control flow, which runs its bodies as its data says."""
    return not node.domain and of(node.op).bodies


def ragged(node: Node, mapped: Set[str], shapeless: Set[str]) -> bool:
    """True where a replicated node's outputs may have another shape for each model.

    Such values stay PER_MODEL, and so does what reads them, because a join of unequal shapes would fail, or
    worse, succeed.
    """
    if any(v in shapeless for v in node.reads):
        return True
    if of(node.key).data_sized or has_bodies(node):
        return True
    if node.domain not in READ and node.key not in SHAPES:
        return True
    return any(
        i < len(node.inputs) and node.inputs[i] in mapped for i in steers(node.key, node.inputs, node.attrs)
    )
