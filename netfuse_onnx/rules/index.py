"""Operators that select and join along an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import TensorProto, helper

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import SHARED, STACKED, Layout, places
from netfuse_onnx.rules._build import emit_same_op, need, per_axis
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.reduce import one_axis


@family("Concat")
def concat(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis."""
    rank = site.rank(0)
    axis = site.own_axis(int(site.attr("axis")), rank)
    count = len(site.node.inputs)
    for layout in places(rank):
        if not layout.touches([axis]):
            body: Body = _axis(layout.physical(axis))
            yield Option("concat", (layout,) * count, (layout,), body)


def _axis(axis: int) -> Body:
    return lambda site, ins, emit: emit_same_op(site, ins, emit, axis=axis)


@family("Split")
def split(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis."""
    rank, count = site.rank(0), len(site.node.outputs)
    size = site.dims(0)[site.own_axis(int(site.attr("axis")), rank)] if rank else None
    sized = site.has(1) or site.attr("split") or site.attr("num_outputs")
    if sized or not isinstance(size, int):
        yield from one_axis(site, name="split")
        return
    # gaps.SPLITS_JOINED
    sizes = [size // count] * count
    axis = site.own_axis(int(site.attr("axis")), rank)

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
            moved_axes = emit.const(moved)
            if site.inputs[1].dtype == TensorProto.INT32:
                moved_axes = emit.const(moved, "int32")
            return emit_same_op(site, [*ins[:3], moved_axes, *ins[4:5]], emit)

        return emit_slice

    yield from per_axis(site, body, axes=axes, name="slice")


@family("Gather")
def gather(site: Site) -> Iterator[Option]:
    """If either data or indices differ, the axis is shifted past the model axis."""
    need(site.mapped != (True, True), "both its data and its indices differ between the models")
    data, indices = site.rank(0), site.rank(1)
    axis = site.own_axis(int(site.attr("axis")), data)
    if site.mapped[0]:
        for layout in places(data):
            if not layout.touches([axis]):
                at = layout.axis + (indices - 1 if layout.axis > axis else 0)
                yield Option(
                    "gather", (layout, SHARED), (layout.with_axis(at),), _axis(layout.physical(axis))
                )
        return
    for layout in places(indices):
        yield Option("gather", (SHARED, layout), (layout.with_axis(axis + layout.axis),), _axis(axis))


@family("Gather")
def gather_per_model(site: Site) -> Iterator[Option]:
    """If both differ, it becomes GatherND with the models as batch. An index out of range stays an error."""
    need(site.mapped == (True, True), "one form of Gather fits")
    need(site.opset >= 12, "GatherND has batch_dims from opset 12 on")
    data, indices = site.rank(0), site.rank(1)
    axis = site.own_axis(int(site.attr("axis")), data)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        # [N, ..axis.., rest] -> [N, axis, .., rest]; GatherND; then the axes before `axis` go back.
        table = emit.transpose(ins[0], [0, axis + 1, *(a + 1 for a in range(data) if a != axis)])
        where = ins[1]
        if site.inputs[1].dtype != TensorProto.INT64:
            where = emit("Cast", where, to=TensorProto.INT64)
        where = emit.unsqueeze(where, [indices + 1])
        gathered = emit("GatherND", table, where, batch_dims=1)
        before = range(1 + indices, 1 + indices + axis)
        inner = range(1, 1 + indices)
        after = range(1 + indices + axis, indices + data)
        return emit.transpose(gathered, [0, *before, *inner, *after])

    yield Option("gather_per_model", (STACKED(0), STACKED(0)), (STACKED(0),), body)


@family("GatherElements")
def gather_elements(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis; data and indices are both stacked."""
    rank = site.rank(0)
    axis = site.own_axis(int(site.attr("axis")), rank)
    for layout in places(rank):
        if layout.stacked:
            yield Option("gather_elements", (layout, layout), (layout,), _axis(layout.physical(axis)))


@family("GatherND")
def gather_nd(site: Site) -> Iterator[Option]:
    """The models are one more batch axis."""
    need(site.opset >= 12, "GatherND has batch_dims from opset 12 on")
    batch = int(site.attr("batch_dims")) + 1

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return emit_same_op(site, ins, emit, batch_dims=batch)

    yield Option("gather_nd", (STACKED(0), STACKED(0)), (STACKED(0),), body)


@family("OneHot")
def one_hot(site: Site) -> Iterator[Option]:
    """The new axis is shifted past the model axis."""
    site.only_mapped(0, 2)
    rank = site.out_rank()
    axis = site.own_axis(int(site.attr("axis")), rank)
    if not site.mapped[2]:
        yield Option("one_hot", (STACKED(0), SHARED, SHARED), (STACKED(0),), _axis(axis + 1))
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
