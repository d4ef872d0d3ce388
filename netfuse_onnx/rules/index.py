"""Operators that select and join along an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import TensorProto, helper

from netfuse_onnx.dims import static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout, places
from netfuse_onnx.rules._build import (
    along,
    emit_same_op,
    if_stacked,
    need,
    per_axis,
    rows_of_each,
    same_op,
    within,
)  # fmt: skip
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.reduce import one_axis


@family("Concat")
def concat(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis."""
    axis = site.named_axis
    yield from per_axis(site, along(axis), axes=[axis], every_input=True)


@family("Split")
def split(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis."""
    count = len(site.node.outputs)
    size = site.dims(0)[site.named_axis] if site.rank(0) else None
    sized = site.has(1) or site.attr("split") or site.attr("num_outputs")
    if sized or not isinstance(size, int):
        yield from one_axis(site, name="split")
        return
    # gaps.SPLITS_JOINED
    sizes, axis = [size // count] * count, site.named_axis

    def body(layout: Layout) -> Body:
        return lambda s, ins, emit: emit.split(ins[0], sizes, layout.physical(axis))

    yield from per_axis(site, body, axes=[axis], name="split")


@family("Slice")
def slices(site: Site) -> Iterator[Option]:
    """The axes are shifted past the model axis."""
    site.only_mapped(0)
    rank = site.rank(0)
    axes = site.ints(3, "axes")
    if axes is None:
        starts = site.attr("starts")
        length = site.dims(1)[0] if starts is None else len(starts)
        need(isinstance(length, int), "the number of its axes is unknown")
        axes = list(range(int(length or 0)))
    axes = [site.own_axis(a, rank) for a in axes]

    def body(layout: Layout) -> Body:
        def emit_slice(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
            moved = layout.shifted(axes)
            if not site.has(1):
                return emit_same_op(site, [ins[0]], emit, axes=moved)
            dtype = "int32" if site[1].dtype == TensorProto.INT32 else "int64"
            return emit_same_op(site, [*ins[:3], emit.const(moved, dtype), *ins[4:5]], emit)

        return emit_slice

    yield from per_axis(site, body, axes=axes, name="slice")


WHOLE = "the tables of all models are one where a call chooses the models"


def _of_all(site: Site) -> bool:
    """True where the table is a weight of which a call chooses models: their tables would be copied."""
    return site[0].gathered and site.named_axis == 0 and all(site.dims(0))


@family("Gather")
def gather(site: Site) -> Iterator[Option]:
    """If either data or indices differ, the axis is shifted past the model axis."""
    need(site.mapped != (True, True), "both its data and its indices differ between the models")
    need(not _of_all(site), WHOLE)
    indices, axis = site.rank(1), site.named_axis

    def gives(layout: Layout) -> Layout:
        return layout.with_axis(layout.axis + (indices - 1 if layout.axis > axis else 0))

    if site.mapped[0]:
        yield from per_axis(site, along(axis), gives, axes=[axis])
        return
    for layout in places(indices):
        yield Option("gather", (SHARED, layout), (layout.with_axis(axis + layout.axis),), same_op(axis=axis))


@family("Gather")
def gather_per_model(site: Site) -> Iterator[Option]:
    """If both differ, it becomes GatherND with the models as batch. An index out of range stays an error."""
    need(site.mapped == (True, True) and not _of_all(site), "one form of Gather fits")
    need(site.opset >= 12, "GatherND has batch_dims from opset 12 on")
    data, indices, axis = site.rank(0), site.rank(1), site.named_axis

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        # [N, ..axis.., rest] -> [N, axis, .., rest]; GatherND; then the axes before `axis` go back.
        table = emit.transpose(ins[0], [0, axis + 1, *(a + 1 for a in range(data) if a != axis)])
        gathered = rows_of_each(table, site[1], ins[1], site.dims(0)[axis], emit)
        before = range(1 + indices, 1 + indices + axis)
        inner = range(1, 1 + indices)
        after = range(1 + indices + axis, indices + data)
        return emit.transpose(gathered, [0, *before, *inner, *after])

    yield Option("gather_per_model", (STACKED(0), STACKED(0)), (STACKED(0),), body)


@family("Gather")
def gather_bytes_per_model(site: Site) -> Iterator[Option]:
    """With --target cuda, whose GatherND takes no bytes: the tables of all models are one, (MR)d."""
    need(site.mapped == (True, True), "one form of Gather fits")
    need(site.inputs[0].dtype in (TensorProto.INT8, TensorProto.UINT8), "its table holds no bytes")
    need(site.named_axis == 0 and isinstance(site.dims(0)[0], int), "its table has no known number of rows")
    rows, rank = static_size(site.dims(0)[0]), site.rank(1)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        # A Gather of 0, 1, 2, .. counts from the front. What is out of range for one table is so for all of
        # them, too: where that is no error it gives 0, which is moved behind the last (GATHER_GIVES_ZEROS).
        whole = emit.models * rows
        index = emit("Gather", emit.const(np.arange(rows) - whole), ins[1], axis=0)
        first = np.arange(emit.models, dtype=np.int64).reshape(-1, *[1] * rank) * rows + whole
        return emit("Gather", ins[0], emit("Add", index, emit.const(first)), axis=0)

    takes, gives = (FOLDED(0), STACKED(0)), (STACKED(0),)
    yield Option("gather_bytes_per_model", takes, gives, body, only="cuda")


@family("Gather")
def gather_chosen(site: Site) -> Iterator[Option]:
    """With --select, the tables of all models are one, (MR)d, and only the rows that are asked are read."""
    need(_of_all(site), "its table is no weight of which a call chooses rows")
    rows, rank = static_size(site.dims(0)[0]), site.rank(1)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        # As in gather_bytes_per_model: what is out of range for one table is so for all of them.
        whole = emit.total * rows
        index = emit("Gather", emit.const(np.arange(rows) - whole), ins[1], axis=0)
        first = emit.of_each(np.arange(emit.total).reshape(-1, *[1] * rank) * rows + whole)
        return emit("Gather", emit.of_all(ins[0]), emit("Add", index, first), axis=0)

    yield Option("gather_chosen", (STACKED(0), site.own_layout(1)), (STACKED(0),), body)


@family("GatherElements")
def gather_elements(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis; data and indices are both stacked."""
    yield from per_axis(site, along(site.named_axis), if_stacked, name="gather_elements", every_input=True)


@family("GatherND")
def gather_nd(site: Site) -> Iterator[Option]:
    """The models are one more batch axis."""
    need(site.opset >= 12, "GatherND has batch_dims from opset 12 on")
    batch, depth = int(site.attr("batch_dims")), site.dims(1)[-1]
    axes = site.dims(0)[batch : batch + depth] if isinstance(depth, int) else ()

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        where = ins[1]
        if len(axes) == 1:
            where = within(where, site[1], axes[0], emit)
        elif axes:
            parts = zip(emit.split(where, [1] * len(axes), -1), axes, strict=True)
            where = emit("Concat", *(within(part, site[1], size, emit) for part, size in parts), axis=-1)
        return emit_same_op(site, [ins[0], where], emit, batch_dims=batch + 1)

    yield Option("gather_nd", (STACKED(0), STACKED(0)), (STACKED(0),), body)


@family("OneHot")
def one_hot(site: Site) -> Iterator[Option]:
    """The new axis is shifted past the model axis."""
    site.only_mapped(0, 2)
    rank = site.out_rank()
    axis = site.own_axis(int(site.attr("axis")), rank)
    if not site.mapped[2]:
        yield Option("one_hot", (STACKED(0), SHARED, SHARED), (STACKED(0),), same_op(axis=axis + 1))
        return
    at = STACKED(0) if site.mapped[0] else SHARED

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        """The result is Where(hot, on, off). The two values are [N, 2]."""
        moved = axis + 1 if site.mapped[0] else axis
        marks = emit.const([0, 1], helper.tensor_dtype_to_np_dtype(site.inputs[2].dtype))
        hot = emit("Cast", emit("OneHot", *ins[:2], marks, axis=moved), to=TensorProto.BOOL)
        each = [emit("Gather", ins[2], emit.const(k), axis=1) for k in (0, 1)]
        off, on = (emit.pad_rank(value, STACKED(0), 0, rank, 0) for value in each)
        return emit("Where", hot, on, off)

    yield Option("one_hot", (at, SHARED, STACKED(0)), (STACKED(0),), body)
