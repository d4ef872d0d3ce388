"""Small operators that are batched along axes of their own: signals, determinants, crops, eyes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import SHARED, STACKED, Layout, places
from netfuse_onnx.rules._build import all_widths, emit_same_op, need, per_axis, same_op
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Site


@family("Det")
def det(site: Site) -> Iterator[Option]:
    """The models are one more batch axis."""
    rank = site.rank(0)
    for layout in places(rank):
        if layout.axis <= rank - 2 - layout.folded:
            yield Option("det", (layout,), (layout,), emit_same_op)


@family("DFT")
def dft(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis."""
    site.only_mapped(0)
    rank = site.rank(0)
    as_input = site.opset >= 20
    given = site.ints(2) if as_input else [int(site.attr("axis"))]
    axis = site.own_axis((given or [-2])[0], rank)

    def body(layout: Layout) -> Body:
        moved = layout.physical(axis)
        if not as_input:
            return same_op(axis=moved)
        return lambda s, ins, emit: emit_same_op(
            s, [*ins[:2], *[None] * (2 - len(ins[:2])), emit.const(moved)], emit
        )

    last = rank - 1
    yield from per_axis(
        site, body, lambda layout: None if layout.stacked and layout.axis > axis else layout,
        axes=[axis, last], name="dft",
    )  # fmt: skip


@family("MeanVarianceNormalization")
def mean_variance(site: Site) -> Iterator[Option]:
    """The axes are shifted past the model axis."""
    rank = site.rank(0)
    need(site.attr("axes") is not None, "it has no axes before opset 9")
    axes = [site.own_axis(int(a), rank) for a in site.attr("axes")]

    def body(layout: Layout) -> Body:
        return same_op(axes=layout.shifted(axes))

    yield from per_axis(site, body, axes=axes, name="mean_variance")


@family("CenterCropPad")
def center_crop_pad(site: Site) -> Iterator[Option]:
    """The axes are named, and shifted past the model axis."""
    rank = site.rank(0)
    axes = [site.own_axis(int(a), rank) for a in site.attr("axes") or range(rank)]

    wanted = site.values[1]
    sizes = [dim for dim in (site.dims(0)[a] for a in axes) if isinstance(dim, int)]
    known = wanted is not None and len(sizes) == len(axes)

    def body(layout: Layout) -> Body:
        moved = layout.shifted(axes)
        if wanted is None or not known:
            whole = rank + layout.stacked
            return lambda s, ins, emit: _cut_and_padded_later(s, ins[0], ins[1], whole, moved, emit)
        each = list(zip(moved, sizes, (int(w) for w in wanted.reshape(-1)), strict=True))
        return lambda s, ins, emit: _cut_and_padded(ins[0], rank + layout.stacked, each, emit)

    yield from per_axis(site, body, axes=axes, name="center_crop_pad")


def _cut_and_padded(x: Tensor, rank: int, each: Sequence[tuple[int, int, int]], emit: Emitter) -> Tensor:
    """`each`: (axis, size, size wanted). Written out, because ONNX Runtime fails on CenterCropPad between two
    Transposes (gaps.PAD_AXES_MOVED), which a change of layout adds."""
    cut = [(axis, (size - want) // 2, want) for axis, size, want in each if size > want]
    pads = [0] * (2 * rank)
    for axis, size, want in each:
        if size < want:
            pads[axis] = (want - size) // 2
            pads[axis + rank] = want - size - pads[axis]
    if cut:
        starts, ends = [start for _, start, _ in cut], [start + want for _, start, want in cut]
        x = emit("Slice", x, emit.const(starts), emit.const(ends), emit.const([axis for axis, *_ in cut]))
    return emit("Pad", x, emit.const(pads)) if any(pads) or not cut else x


def _cut_and_padded_later(
    site: Site, x: Tensor, wanted: Tensor, rank: int, axes: Sequence[int], emit: Emitter
) -> Tensor:
    """Cut and pad to sizes that only a run knows."""
    at, zero, two = emit.const(list(axes)), emit.const([0]), emit.const([2])
    if site.inputs[1].dtype != TensorProto.INT64:
        wanted = emit("Cast", wanted, to=TensorProto.INT64)
    size = emit("Gather", emit("Shape", x), at, axis=0)
    start = emit("Div", emit("Max", emit("Sub", size, wanted), zero), two)
    x = emit("Slice", x, start, emit("Add", start, wanted), at)
    short = emit("Max", emit("Sub", wanted, size), zero)
    before = emit("Div", short, two)
    widths = emit("Concat", before, emit("Sub", short, before), axis=0)
    return emit("Pad", x, all_widths(widths, None, axes, rank, emit))


@family("EyeLike")
def eye_like(site: Site) -> Iterator[Option]:
    """It runs once for all models, because it reads only the shape of its input."""

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        attrs = dict(site.node.attrs)
        attrs.setdefault("dtype", site.inputs[0].dtype)
        return emit("EyeLike", emit("Gather", ins[0], emit.const(0), axis=0), **attrs)

    yield Option("eye_like", (STACKED(0),), (SHARED,), body)
