"""The normal form of what an operator does when an attribute or an input is absent.

The schema's text says it and no default can: the padding that `auto_pad` names, the activations of recurrent
layers, a zero point of zero, equal parts of a Split. Each function here changes a Draft. What needs no rank
and no operand is in sameness.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from onnx import TensorProto

from netfuse_onnx.match.draft import SMALL, Draft, zeros
from netfuse_onnx.ops.axes import from_front
from netfuse_onnx.ops.traits import FILTER, POOLS
from netfuse_onnx.storage import weights

RECURRENT: Mapping[str, tuple[bytes, ...]] = {
    "GRU": (b"sigmoid", b"tanh"),
    "LSTM": (b"sigmoid", b"tanh", b"tanh"),
    "RNN": (b"tanh",),
}
"""Operator -> the activations of one direction where none are named."""
ZERO_POINTS = frozenset(
    {TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32}
)
"""Element types of zero points."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def recurrent(draft: Draft) -> None:
    """Drop a hidden size that the weights have, and default activations in any case of letters."""
    default = RECURRENT[draft.step.op] * (2 if draft.attr("direction") == b"bidirectional" else 1)
    named = draft.attrs.get("activations")
    if named is not None and tuple(name.lower() for name in named[: len(default)]) == default:
        draft.drop("activations")
    dims = draft.dims(2)
    if len(dims) == 3 and isinstance(dims[2], int) and draft.attrs.get("hidden_size") == dims[2]:
        draft.drop("hidden_size")


def windowed(draft: Draft) -> None:
    """Write out the padding that `auto_pad` names where the size of the input does not decide it."""
    mode = draft.attrs.get("auto_pad", b"NOTSET")
    kernel = _kernel(draft)
    if mode == b"VALID" and "output_shape" not in draft.attrs and not draft.attrs.get("ceil_mode"):
        draft.drop("auto_pad", "pads")
    elif mode in (b"SAME_UPPER", b"SAME_LOWER") and kernel and draft.step.op != "ConvTranspose":
        count = len(kernel)
        strides, dilations = (draft.attrs.get(name) or [1] * count for name in ("strides", "dilations"))
        if set(strides) <= {1} and set(dilations) <= {1} and not draft.attrs.get("ceil_mode"):
            small, large = [(size - 1) // 2 for size in kernel], [size // 2 for size in kernel]
            draft.drop("auto_pad")
            draft.attrs["pads"] = small + large if mode == b"SAME_UPPER" else large + small


def _kernel(draft: Draft) -> list[int]:
    """Return the sizes of the window; empty where they are unknown."""
    if draft.attrs.get("kernel_shape"):
        return list(draft.attrs["kernel_shape"])
    if draft.step.op not in FILTER:
        return []
    sizes = draft.dims(FILTER[draft.step.op])[2:]
    return [size for size in sizes if isinstance(size, int)]


def normalised(draft: Draft) -> None:
    """Drop the momentum of a BatchNormalization outside of training."""
    if not draft.attr("training_mode", 0) and len(draft.step.outs) == 1:
        draft.drop("momentum")


def filled(draft: Draft) -> None:
    """Drop the value of a ConstantOfShape that is a float of zero, its default."""
    value = draft.attrs.get("value")
    if not isinstance(value, TensorProto) or value.data_type != TensorProto.FLOAT:
        return
    if weights.weight_of(value).data == bytes(4):
        draft.drop("value")


def alike(draft: Draft) -> None:
    """Drop an element type of the result that is that of the input."""
    if draft.type_of(0).dtype and draft.attrs.get("dtype") == draft.type_of(0).dtype:
        draft.drop("dtype")


def empty(draft: Draft) -> None:
    """Drop the element type of a SequenceEmpty that is float, its default."""
    if draft.attrs.get("dtype") == TensorProto.FLOAT:
        draft.drop("dtype")


def lettered(draft: Draft) -> None:
    """Rename the letters of an Einsum in their order, without spaces, and write out the result."""
    equation = _text(draft.attrs.get("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow:
        once = sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    names: dict[str, str] = {}
    for letter in left + right:
        if letter.isalpha() and letter not in names:
            if len(names) == len(LETTERS):
                return
            names[letter] = LETTERS[len(names)]
    draft.attrs["equation"] = "".join(names.get(c, c) for c in f"{left}->{right}").encode()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


# --------------------------------------------------------------------------- absent inputs


def split(draft: Draft) -> None:
    """Write out the sizes of equal parts where the size of the axis is known."""
    axis, rank, count = draft.attrs.get("axis", 0), draft.rank(0), len(draft.step.outs)
    as_input = draft.since() >= 13
    if (as_input and draft.has(1)) or "split" in draft.attrs:
        draft.drop("num_outputs")
        return
    axis = axis if rank is None else from_front(axis, rank)
    size = draft.dims(0)[axis] if rank is not None and 0 <= axis < rank else None
    if not isinstance(size, int) or (draft.since() < 18 and size % count):
        return
    part = -(-size // count)
    last = size - part * (count - 1)
    if last < 0 or draft.attrs.get("num_outputs", count) != count:
        return
    sizes = [part] * (count - 1) + [last]
    draft.drop("num_outputs")
    if as_input:
        draft.put_integers(1, sizes)
    else:
        draft.attrs["split"] = sizes


def triangular(draft: Draft) -> None:
    """Write out the main diagonal where a Trilu names none."""
    diagonal = draft.integers(1) if draft.has(1) else [0]
    if diagonal is not None and len(diagonal) == 1:
        draft.put_integers(1, diagonal, scalar=True)


def dropped(draft: Draft) -> None:
    """Drop the ratio and the seed of a Dropout outside of training."""
    training = draft.constant(2)
    if draft.since() >= 12 and draft.has(2) and (training is None or weights.array(training).any()):
        return
    draft.drop("seed", "ratio")
    draft.ins = draft.ins[:1]


def zero_point(draft: Draft) -> None:
    """Write out a zero point of zero where a QuantizeLinear or DequantizeLinear has none."""
    scale = draft.type_of(1)
    if draft.step.domain or scale.dims is None:
        return
    if scale.rank == 0 or (scale.dims == (1,) and not draft.attrs.get("block_size")):
        draft.drop("axis")
    quantises = draft.step.op == "QuantizeLinear"
    if not draft.has(2):
        sizes = tuple([dim for dim in scale.dims if isinstance(dim, int)])
        dtype = draft.attr("output_dtype", 0) or TensorProto.UINT8 if quantises else draft.type_of(0).dtype
        small = len(sizes) == scale.rank and math.prod(sizes) <= SMALL
        zero = zeros(dtype, sizes) if small and dtype in ZERO_POINTS else None
        if zero is None:
            return
        draft.put(2, zero)
    if quantises:
        draft.drop("output_dtype")


FORMS: Mapping[str, Callable[[Draft], None]] = {
    **dict.fromkeys(RECURRENT, recurrent),
    **dict.fromkeys((*FILTER.keys() - {"DeformConv"}, *POOLS), windowed),
    **dict.fromkeys(("Bernoulli", "EyeLike", "RandomNormalLike", "RandomUniformLike"), alike),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), zero_point),
    "BatchNormalization": normalised,
    "ConstantOfShape": filled,
    "Dropout": dropped,
    "Einsum": lettered,
    "SequenceEmpty": empty,
    "Split": split,
    "Trilu": triangular,
}
"""Operator -> its normal form."""
