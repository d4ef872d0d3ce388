"""The normal form of inputs that are absent, where a constant says the same. Each form changes a Draft."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from netfuse_onnx.match.draft import SMALL, Draft, zeros
from netfuse_onnx.ops.axes import from_front
from netfuse_onnx.storage import weights

UINT8 = 2  # onnx.TensorProto.UINT8
BYTES = frozenset({2, 3, 4, 5, 6})  # UINT8, INT8, UINT16, INT16, INT32: what zero points are made of


def split(draft: Draft) -> None:
    """Equal parts are sizes, where the size of the axis is known."""
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
    """Trilu: the main diagonal where none is named."""
    diagonal = draft.integers(1) if draft.has(1) else [0]
    if diagonal is not None and len(diagonal) == 1:
        draft.put_integers(1, diagonal, scalar=True)


def dropped(draft: Draft) -> None:
    """Dropout that drops nothing: its ratio and its seed say nothing."""
    training = draft.constant(2)
    if draft.since() >= 12 and draft.has(2) and (training is None or weights.array(training).any()):
        return
    draft.drop("seed", "ratio")
    draft.ins = draft.ins[:1]


def zero_point(draft: Draft) -> None:
    """QuantizeLinear and DequantizeLinear: an absent zero point is zero."""
    scale = draft.kind(1)
    if draft.step.domain or scale.dims is None:
        return
    if scale.rank == 0 or (scale.dims == (1,) and not draft.attrs.get("block_size")):
        draft.drop("axis")
    quantises = draft.step.op == "QuantizeLinear"
    if not draft.has(2):
        sizes = tuple([dim for dim in scale.dims if isinstance(dim, int)])
        dtype = draft.attr("output_dtype", 0) or UINT8 if quantises else draft.kind(0).dtype
        small = len(sizes) == scale.rank and math.prod(sizes) <= SMALL
        zero = zeros(dtype, sizes) if small and dtype in BYTES else None
        if zero is None:
            return
        draft.put(2, zero)
    if quantises:
        draft.drop("output_dtype")


FORMS: Mapping[str, Callable[[Draft], None]] = {
    "DequantizeLinear": zero_point,
    "Dropout": dropped,
    "QuantizeLinear": zero_point,
    "Split": split,
    "Trilu": triangular,
}
"""Operator -> its form."""
