"""Attributes that say what the operator does anyway, where the schema's text tells it and no default can.

Strides of ones, a kernel shape that the weight has, activations of a recurrent layer that are the usual ones,
padding that `auto_pad` names, the letters of an Einsum. Each form here changes a Draft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onnx import TensorProto

from netfuse_onnx.match.draft import Draft
from netfuse_onnx.ops.traits import FILTER, POOLS
from netfuse_onnx.storage import weights

RECURRENT: Mapping[str, tuple[bytes, ...]] = {
    "GRU": (b"sigmoid", b"tanh"),
    "LSTM": (b"sigmoid", b"tanh", b"tanh"),
    "RNN": (b"tanh",),
}
"""Operator -> the activations of one direction where none are named."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def recurrent(draft: Draft) -> None:
    """A hidden size that the weights have, and the usual activations in any case of letters."""
    usual = RECURRENT[draft.step.op] * (2 if draft.attr("direction") == b"bidirectional" else 1)
    named = draft.attrs.get("activations")
    if named is not None and tuple(name.lower() for name in named[: len(usual)]) == usual:
        draft.drop("activations")
    dims = draft.dims(2)
    if len(dims) == 3 and isinstance(dims[2], int) and draft.attrs.get("hidden_size") == dims[2]:
        draft.drop("hidden_size")


def windowed(draft: Draft) -> None:
    """Padding that `auto_pad` names, written out where no size of the input decides it."""
    how = draft.attrs.get("auto_pad", b"NOTSET")
    kernel, count = _kernel(draft), 0
    if how == b"VALID" and "output_shape" not in draft.attrs and not draft.attrs.get("ceil_mode"):
        draft.drop("auto_pad", "pads")
    elif how in (b"SAME_UPPER", b"SAME_LOWER") and kernel and draft.step.op != "ConvTranspose":
        count = len(kernel)
        strides, dilations = (draft.attrs.get(name) or [1] * count for name in ("strides", "dilations"))
        if set(strides) <= {1} and set(dilations) <= {1} and not draft.attrs.get("ceil_mode"):
            small, large = [(size - 1) // 2 for size in kernel], [size // 2 for size in kernel]
            draft.drop("auto_pad")
            draft.attrs["pads"] = small + large if how == b"SAME_UPPER" else large + small


def _kernel(draft: Draft) -> list[int]:
    if draft.attrs.get("kernel_shape"):
        return list(draft.attrs["kernel_shape"])
    if draft.step.op not in FILTER:
        return []
    sizes = draft.dims(FILTER[draft.step.op])[2:]
    return [size for size in sizes if isinstance(size, int)]


def normalised(draft: Draft) -> None:
    """The momentum of a batch normalisation says nothing where it does not learn."""
    if not draft.attr("training_mode", 0) and len(draft.step.outs) == 1:
        draft.drop("momentum")


def filled(draft: Draft) -> None:
    """ConstantOfShape: a float of zero where no value is named."""
    value = draft.attrs.get("value")
    if isinstance(value, TensorProto) and value.data_type == TensorProto.FLOAT:
        held = weights.weight_of(value)
        if held.data == bytes(4):
            draft.drop("value")


def alike(draft: Draft) -> None:
    """A type of the result that is that of the input."""
    if draft.kind(0).dtype and draft.attrs.get("dtype") == draft.kind(0).dtype:
        draft.drop("dtype")


def empty(draft: Draft) -> None:
    """SequenceEmpty: of floats where no type is named."""
    if draft.attrs.get("dtype") == TensorProto.FLOAT:
        draft.drop("dtype")


def lettered(draft: Draft) -> None:
    """Einsum: letters in the order in which they come, no spaces, and the result written out."""
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


FORMS: Mapping[str, Callable[[Draft], None]] = {
    **dict.fromkeys(RECURRENT, recurrent),
    **dict.fromkeys((*FILTER.keys() - {"DeformConv"}, *POOLS), windowed),
    **dict.fromkeys(("Bernoulli", "EyeLike", "RandomNormalLike", "RandomUniformLike"), alike),
    "BatchNormalization": normalised,
    "ConstantOfShape": filled,
    "Einsum": lettered,
    "SequenceEmpty": empty,
}
"""Operator -> its form. What holds without a look at ranks or operands is in sameness.py."""
