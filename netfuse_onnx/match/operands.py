"""The normal form of operators whose axes, bounds and sizes stand in constant inputs, or do in some opsets.

Axes are counted from the front and sorted where their order means nothing, together with the bounds or pads
that belong to them. What an operator takes for an absent input is written down. Each form here is one
function of a Draft, which it changes; it leaves alone what it can't tell.
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
"""Attributes that are understood together with an operand."""
FAR = (1 << 31) - 1
"""Bounds from this on mean the end of an axis: exporters write the largest int32 or int64."""


def front(axes: Sequence[int], rank: int | None) -> list[int] | None:
    """The axes counted from the front; None where that needs a rank that is not known."""
    if rank is None:
        return list(axes) if all(axis >= 0 for axis in axes) else None
    return [from_front(axis, rank) for axis in axes]


def unordered(axes: Sequence[int], rank: int | None) -> list[int] | None:
    """The axes counted from the front and sorted; without a rank, sorted where all count from one end."""
    found = front(axes, rank)
    if found is None and all(axis < 0 for axis in axes):
        found = list(axes)
    return None if found is None else sorted(found)


# --------------------------------------------------------------------------- sets of axes


def reduced(draft: Draft) -> None:
    """Absent or no axes are all of them, or none where `noop_with_empty_axes` says so."""
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
    found = unordered(axes, rank) if axes or rank is not None else None
    if found is not None:
        draft.put_integers(1, found)
    elif not axes:
        draft.put(1, "")


def squeezed(draft: Draft) -> None:
    """Absent axes are those of size 1, where all sizes are known."""
    dims, rank = draft.dims(0), draft.rank(0)
    static = rank is not None and all(isinstance(dim, int) for dim in dims)
    every = [axis for axis, dim in enumerate(dims) if dim == 1] if static else None
    if draft.since() < 13:
        _attribute(draft, rank, every)
        return
    axes = draft.integers(1) if draft.has(1) else []
    found = unordered(axes, rank) if axes else every if axes is not None else None
    if found is not None:
        draft.put_integers(1, found)
    elif axes is not None and not axes:
        draft.put(1, "")


def unsqueezed(draft: Draft) -> None:
    """Axes of the output, whose rank is larger by their count."""
    rank = draft.rank(0)
    if draft.since() < 13:
        axes = draft.attrs.get("axes")
        _attribute(draft, None if rank is None or axes is None else rank + len(axes), None)
    elif (axes := draft.integers(1)) is not None:
        found = unordered(axes, None if rank is None else rank + len(axes))
        if found is not None:
            draft.put_integers(1, found)


def _attribute(draft: Draft, rank: int | None, every: Sequence[int] | None) -> None:
    """Axes as an attribute. `every`: what their absence means, where that is known."""
    axes = draft.attrs.get("axes")
    found = unordered(axes, rank) if axes else every
    if found is not None:
        draft.attrs["axes"] = list(found)


# --------------------------------------------------------------------------- one axis


def scanned(draft: Draft) -> None:
    """CumSum and CumProd: the axis is one element."""
    _one(draft, 1, draft.rank(0))


def transformed(draft: Draft) -> None:
    """DFT: the axis is an input from opset 20 on, and the last but one where it is absent."""
    rank = draft.rank(0)
    if draft.since() >= 20 and not draft.has(2) and rank is not None:
        draft.put_integers(2, [from_front(-2, rank)], scalar=True)
    _one(draft, 2, rank)


def expanded(draft: Draft) -> None:
    """com.microsoft.ExpandDims: an axis of the output."""
    rank = draft.rank(0)
    _one(draft, 1, None if rank is None else rank + 1)


def _one(draft: Draft, k: int, rank: int | None) -> None:
    axes = draft.integers(k)
    found = front(axes, rank) if axes is not None and len(axes) == 1 else None
    if found is not None:
        draft.put_integers(k, found, scalar=True)


# --------------------------------------------------------------------------- rows


def sliced(draft: Draft) -> None:
    """Rows of (axis, start, end, step), sorted; those that keep a whole axis go."""
    if draft.since() < 10:
        starts, ends = draft.attrs["starts"], draft.attrs["ends"]
        rows = _slices(draft, starts, ends, draft.attrs.get("axes", range(len(starts))), [1] * len(starts))
        if rows is not None:
            names = ("axes", "starts", "ends")
            draft.attrs |= {name: [row[k] for row in rows] for k, name in enumerate(names)}
        return
    starts, ends = draft.integers(1), draft.integers(2)
    if starts is None or ends is None:
        _axes_alone(draft, 3)
        return
    axes = draft.integers(3) if draft.has(3) else list(range(len(starts)))
    steps = draft.integers(4) if draft.has(4) else [1] * len(starts)
    rows = None if axes is None or steps is None else _slices(draft, starts, ends, axes, steps)
    if rows is None:
        _axes_alone(draft, 3)
        return
    for k, column in ((3, 0), (1, 1), (2, 2), (4, 3)):
        draft.put_integers(k, [row[column] for row in rows])


def _slices(
    draft: Draft, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> list[tuple[int, int, int, int]] | None:
    counted = _distinct(axes, draft.rank(0))
    if counted is None or not len(counted) == len(starts) == len(ends) == len(steps):
        return None
    rows = sorted(
        (axis, *_bounds(start, end, step), step)
        for axis, start, end, step in zip(counted, starts, ends, steps, strict=True)
    )
    return [row for row in rows if row[1:] != (0, END, 1)]


def _bounds(start: int, end: int, step: int) -> tuple[int, int]:
    """One spelling for what lies beyond either end."""

    def far(bound: int) -> int:
        return END if bound >= FAR else START if bound <= -FAR else bound

    start, end = far(start), far(end)
    return (0 if start == START and step > 0 else start), end


def padded(draft: Draft) -> None:
    """Rows of (axis, before, after), sorted; those that pad nothing go. An absent value is zero."""
    if draft.since() < 11:
        return
    _fill(draft)
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


def _fill(draft: Draft) -> None:
    """The value of Pad: zero where it is absent, nothing where the mode reads none."""
    value = draft.constant(2)
    if draft.attr("mode", b"constant") != b"constant":
        draft.put(2, "")
    elif not draft.has(2):
        draft.put(2, zeros(draft.kind(0).dtype, ()) or "")
    elif value is not None and value.shape == (1,):
        draft.put(2, Weight(value.dtype, (), value.data))


def cropped(draft: Draft) -> None:
    """CenterCropPad: rows of (axis, size), sorted; all axes where they are absent."""
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
    """An empty constant is an absent input, and a region that no mode reads is none. Scales are those of all
    axes, sizes are sorted with theirs."""
    if draft.since() < 11:
        return
    for k in (1, 2, 3):
        held = draft.constant(k)
        if held is not None and 0 in held.shape:
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
    """The axes after the scales or the sizes that go with them were sorted."""
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
    """Axes in their order, where what goes with them is computed."""
    axes = draft.integers(k)
    found = None if axes is None else front(axes, draft.rank(0))
    if found is not None:
        draft.put_integers(k, found)


def _distinct(axes: Sequence[int], rank: int | None) -> list[int] | None:
    """The axes counted from the front; None where one is named twice, or can't be told."""
    found = front(axes, rank)
    return found if found is not None and len(set(found)) == len(found) else None


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
"""Operator -> its form. Those whose axes are plain attributes are in spelling.py."""
