"""The normal form of operators whose axes, bounds and sizes stand in constant inputs, at least in some
opsets.

Axes are counted from the front, and sorted where their order has no meaning, together with the bounds or pads
that belong to them. The default of an absent input is written down. Each function here changes a Draft and
leaves alone what it can't decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from netfuse_onnx.match.draft import Draft, zeros
from netfuse_onnx.ops.axes import REDUCERS, from_front
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Weight

END, START = (1 << 63) - 1, -(1 << 63)
WITH_OPERANDS = ("axes", "noop_with_empty_axes", "num_outputs", "output_dtype")
"""Attributes whose meaning depends on an operand of the same node."""
FAR = (1 << 31) - 1
"""Bounds from this on mean the end of an axis: exporters write the largest int32 or int64."""


def front(axes: Sequence[int], rank: int | None) -> list[int] | None:
    """Count the axes from the front. Returns None where that needs a rank that is unknown."""
    if rank is None:
        return list(axes) if all(axis >= 0 for axis in axes) else None
    return [from_front(axis, rank) for axis in axes]


def unordered(axes: Sequence[int], rank: int | None) -> list[int] | None:
    """Count the axes from the front and sort them; without a rank only if all count from one end."""
    counted = front(axes, rank)
    if counted is None and all(axis < 0 for axis in axes):
        counted = list(axes)
    return None if counted is None else sorted(counted)


# --------------------------------------------------------------------------- sets of axes


def reduced(draft: Draft) -> None:
    """Absent or empty axes mean all axes, or none where `noop_with_empty_axes` is set."""
    rank = draft.rank(0)
    if draft.since() < (13 if draft.step.op == "ReduceSum" else 18):
        _attribute(draft, rank, None if rank is None else range(rank))
        return
    axes = draft.integers(1) if draft.has(1) else []
    if axes is None:
        return
    if not axes and draft.attr("noop_with_empty_axes", 0):
        draft.put(1, "")
        return
    draft.drop("noop_with_empty_axes")
    if not axes and rank is not None:
        axes = list(range(rank))
    counted = unordered(axes, rank) if axes or rank is not None else None
    if counted is not None:
        draft.put_integers(1, counted)
    elif not axes:
        draft.put(1, "")


def squeezed(draft: Draft) -> None:
    """Absent axes mean those of size 1, if all sizes are known."""
    dims, rank = draft.dims(0), draft.rank(0)
    static = rank is not None and all(isinstance(dim, int) for dim in dims)
    every = [axis for axis, dim in enumerate(dims) if dim == 1] if static else None
    if draft.since() < 13:
        _attribute(draft, rank, every)
        return
    axes = draft.integers(1) if draft.has(1) else []
    counted = unordered(axes, rank) if axes else every if axes is not None else None
    if counted is not None:
        draft.put_integers(1, counted)
    elif axes is not None and not axes:
        draft.put(1, "")


def unsqueezed(draft: Draft) -> None:
    """The axes count in the output, whose rank is larger by their number."""
    rank = draft.rank(0)
    if draft.since() < 13:
        axes = draft.attrs.get("axes")
        _attribute(draft, None if rank is None or axes is None else rank + len(axes), None)
    elif (axes := draft.integers(1)) is not None:
        counted = unordered(axes, None if rank is None else rank + len(axes))
        if counted is not None:
            draft.put_integers(1, counted)


def _attribute(draft: Draft, rank: int | None, every: Sequence[int] | None) -> None:
    """Write down axes that are an attribute. `every` is the meaning of absent axes, if known."""
    axes = draft.attrs.get("axes")
    counted = unordered(axes, rank) if axes else every
    if counted is not None:
        draft.attrs["axes"] = list(counted)


# --------------------------------------------------------------------------- one axis


def scanned(draft: Draft) -> None:
    """CumSum and CumProd have one axis, a scalar."""
    _one_axis(draft, 1, draft.rank(0))


def transformed(draft: Draft) -> None:
    """The axis of a DFT is an input from opset 20 on; absent, it is the last but one."""
    rank = draft.rank(0)
    if draft.since() >= 20 and not draft.has(2) and rank is not None:
        draft.put_integers(2, [from_front(-2, rank)], scalar=True)
    _one_axis(draft, 2, rank)


def expanded(draft: Draft) -> None:
    """The axis of com.microsoft.ExpandDims counts in the output."""
    rank = draft.rank(0)
    _one_axis(draft, 1, None if rank is None else rank + 1)


def _one_axis(draft: Draft, k: int, rank: int | None) -> None:
    """Count the one axis in operand k from the front."""
    axes = draft.integers(k)
    counted = front(axes, rank) if axes is not None and len(axes) == 1 else None
    if counted is not None:
        draft.put_integers(k, counted, scalar=True)


# --------------------------------------------------------------------------- rows


def sliced(draft: Draft) -> None:
    """Slices are rows of (axis, start, end, step), sorted; rows that keep a whole axis are dropped."""
    if draft.since() < 10:
        starts, ends = draft.attrs["starts"], draft.attrs["ends"]
        rows = _slices(draft, starts, ends, draft.attrs.get("axes", range(len(starts))), [1] * len(starts))
        if rows is not None:
            names = ("axes", "starts", "ends")
            draft.attrs |= {name: [row[k] for row in rows] for k, name in enumerate(names)}
        return
    starts, ends = draft.integers(1), draft.integers(2)
    if starts is None or ends is None:
        _computed_bounds(draft)
        return
    axes = draft.integers(3) if draft.has(3) else list(range(len(starts)))
    steps = draft.integers(4) if draft.has(4) else [1] * len(starts)
    rows = None if axes is None or steps is None else _slices(draft, starts, ends, axes, steps)
    if rows is None:
        _computed_bounds(draft)
        return
    for k, column in ((3, 0), (1, 1), (2, 2), (4, 3)):
        draft.put_integers(k, [row[column] for row in rows])


def _computed_bounds(draft: Draft) -> None:
    """Write down the axes and the steps of a Slice whose bounds are computed, in their order."""
    count = next((dims[0] for dims in (draft.dims(1), draft.dims(2)) if dims), None)
    if not draft.has(3) and isinstance(count, int):
        draft.put_integers(3, range(count))
    else:
        _axes_alone(draft, 3)
        count = len(draft.integers(3) or ())
    if count and not draft.has(4):
        draft.put_integers(4, [1] * count)


def _slices(
    draft: Draft, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> list[tuple[int, int, int, int]] | None:
    """Return the sorted rows; None where the axes are unknown or the lengths differ."""
    counted = _distinct(axes, draft.rank(0))
    if counted is None or not len(counted) == len(starts) == len(ends) == len(steps):
        return None
    rows = sorted(
        (axis, *_bounds(start, end, step), step)
        for axis, start, end, step in zip(counted, starts, ends, steps, strict=True)
    )
    return [row for row in rows if row[1:] != (0, END, 1)]


def _bounds(start: int, end: int, step: int) -> tuple[int, int]:
    """Return one spelling for bounds beyond either end of the axis."""

    def far(bound: int) -> int:
        return END if bound >= FAR else START if bound <= -FAR else bound

    start, end = far(start), far(end)
    return (0 if start == START and step > 0 else start), end


def padded(draft: Draft) -> None:
    """Pads are rows of (axis, before, after), sorted; rows of zeros are dropped. An absent value is zero."""
    if draft.since() < 11:
        return
    _pad_value(draft)
    pads, axes = draft.integers(1), draft.integers(3)
    if pads is None or len(pads) % 2 or (axes is None and draft.has(3)):
        _axes_alone(draft, 3)
        return
    half = len(pads) // 2
    counted = _distinct(axes if axes is not None else range(half), draft.rank(0))
    if counted is None or len(counted) != half:
        return
    rows = sorted(row for row in zip(counted, pads[:half], pads[half:], strict=True) if row[1:] != (0, 0))
    draft.put_integers(1, [row[1] for row in rows] + [row[2] for row in rows])
    draft.put_integers(3, [row[0] for row in rows])


def _pad_value(draft: Draft) -> None:
    """Write down a zero for the absent value of a Pad, and drop a value that the mode does not read."""
    value = draft.constant(2)
    if draft.attr("mode", b"constant") != b"constant":
        draft.put(2, "")
    elif not draft.has(2):
        draft.put(2, zeros(draft.type_of(0).dtype, ()) or "")
    elif value is not None and not draft.type_of(0).dtype and not weights.array(value).any():
        draft.put(2, "")
    elif value is not None and value.shape == (1,):
        draft.put(2, Weight(value.dtype, (), value.data))


def cropped(draft: Draft) -> None:
    """CenterCropPad has rows of (axis, size), sorted; absent axes mean all."""
    sizes, axes, rank = draft.integers(1), draft.attrs.get("axes"), draft.rank(0)
    if axes is None and rank is not None:
        axes = list(range(rank))
    counted = None if axes is None else _distinct(axes, rank)
    if counted is None:
        return
    if sizes is None or len(sizes) != len(counted):
        draft.attrs["axes"] = counted
        return
    rows = sorted(zip(counted, sizes, strict=True))
    draft.attrs["axes"] = [axis for axis, _ in rows]
    draft.put_integers(1, [size for _, size in rows])


def resized(draft: Draft) -> None:
    """An empty constant is an absent input, and a region that the mode does not read is dropped. Scales are
    written for all axes, sizes are sorted with their axes."""
    if draft.since() < 11:
        return
    for k in (1, 2, 3):
        constant = draft.constant(k)
        if constant is not None and 0 in constant.shape:
            draft.put(k, "")
    cropping = draft.attr("coordinate_transformation_mode") == b"tf_crop_and_resize"
    if not cropping and len(draft.ins) > 1:
        draft.put(1, "")
    axes, rank = draft.attrs.get("axes"), draft.rank(0)
    counted = _distinct(axes, rank) if axes and rank is not None else None
    if counted is None or rank is None or not set(counted) <= set(range(rank)):
        return
    if cropping and counted != sorted(counted):
        return
    if not cropping:
        counted = _with_their_sizes(draft, counted, rank)
    draft.attrs["axes"] = counted
    if counted == list(range(rank)):
        draft.drop("axes")


def _with_their_sizes(draft: Draft, axes: list[int], rank: int) -> list[int]:
    """Sort the scales or sizes by their axes and return the axes that they then have."""
    order = sorted(range(len(axes)), key=lambda place: axes[place])
    scales, sizes = draft.constant(2), draft.integers(3)
    if scales is not None and scales.shape == (len(axes),):
        values = weights.array(scales)
        full = np.ones(rank, values.dtype)
        full[axes] = values
        draft.put(2, Weight(scales.dtype, (rank,), full.tobytes()))
        return list(range(rank))
    if sizes is not None and len(sizes) == len(axes):
        draft.put_integers(3, [sizes[place] for place in order])
        return sorted(axes)
    return axes


def _axes_alone(draft: Draft, k: int) -> None:
    """Count the axes in operand k from the front and keep their order: what belongs to them is computed."""
    axes = draft.integers(k)
    counted = None if axes is None else front(axes, draft.rank(0))
    if counted is not None:
        draft.put_integers(k, counted)


def _distinct(axes: Sequence[int], rank: int | None) -> list[int] | None:
    """Count the axes from the front. Returns None where one occurs twice, or the rank is unknown."""
    counted = front(axes, rank)
    return counted if counted is not None and len(set(counted)) == len(counted) else None


FORMS: Mapping[str, Callable[[Draft], None]] = {
    **dict.fromkeys(REDUCERS, reduced),
    "CenterCropPad": cropped,
    "CumProd": scanned,
    "CumSum": scanned,
    "DFT": transformed,
    "Pad": padded,
    "Resize": resized,
    "Slice": sliced,
    "Squeeze": squeezed,
    "Unsqueeze": unsqueezed,
    "com.microsoft.ExpandDims": expanded,
}
"""Operator -> its normal form. Operators whose axes are plain attributes are in spelling.py."""
