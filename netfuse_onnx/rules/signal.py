"""Small operators that are batched along axes of their own: signals, determinants, labels, caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import TensorProto

from netfuse_onnx.emit.convert import fold, unfold
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import places
from netfuse_onnx.rules._build import again, all_widths, need, per_axis, physical, shifted
from netfuse_onnx.rules._registry import Body, Option, Site, family
from netfuse_onnx.types import FOLDED, SHARED, STACKED, Layout


@family("Det")
def det(site: Site) -> Iterator[Option]:
    """the models are a batch axis"""
    rank = site.rank(0)
    for layout in places(rank):
        if layout.axis <= rank - 2 - layout.folded:
            yield Option("det", (layout,), (layout,), again)


@family("DFT")
def dft(site: Site) -> Iterator[Option]:
    """the axis is shifted past the model axis"""
    site.only_mapped(0)
    rank = site.rank(0)
    as_input = site.opset >= 20
    given = site.ints(2) if as_input else [int(site.attr("axis", 1))]
    axis = site.axis((given or [-2])[0], rank)

    def body(layout: Layout) -> Body:
        moved = physical(layout, axis)
        if not as_input:
            return lambda s, ins, emit: again(s, ins, emit, axis=moved)
        return lambda s, ins, emit: again(
            s, [*ins[:2], *[None] * (2 - len(ins[:2])), emit.const(moved)], emit
        )

    last = rank - 1
    yield from per_axis(
        site, body, lambda layout: None if layout.stacked and layout.axis > axis else layout,
        axes=[axis, last], name="dft",
    )  # fmt: skip


@family("STFT")
def stft(site: Site) -> Iterator[Option]:
    """the models join the batch; the window is the same for all models"""
    site.only_mapped(0)
    takes = (FOLDED(0),) + (SHARED,) * (len(site.node.inputs) - 1)
    yield Option("stft", takes, (FOLDED(0),), again)


@family("MeanVarianceNormalization")
def mean_variance(site: Site) -> Iterator[Option]:
    """the axes are shifted past the model axis"""
    rank = site.rank(0)
    axes = [site.axis(int(a), rank) for a in site.attr("axes", [0, 2, 3])]

    def body(layout: Layout) -> Body:
        return lambda s, ins, emit: again(s, ins, emit, axes=shifted(layout, axes))

    yield from per_axis(site, body, axes=axes, name="mean_variance")


@family("CenterCropPad")
def center_crop_pad(site: Site) -> Iterator[Option]:
    """the axes are named, and shifted past the model axis"""
    rank = site.rank(0)
    axes = [site.axis(int(a), rank) for a in site.attr("axes") or range(rank)]

    wanted = site.values[1]
    sizes = [dim for dim in (site.dims(0)[a] for a in axes) if isinstance(dim, int)]
    known = wanted is not None and len(sizes) == len(axes)

    def body(layout: Layout) -> Body:
        moved = shifted(layout, axes)
        if wanted is None or not known:
            whole = rank + layout.stacked
            return lambda s, ins, emit: _cut_and_padded_later(s, ins[0], ins[1], whole, moved, emit)
        each = list(zip(moved, sizes, (int(w) for w in wanted.reshape(-1)), strict=True))
        return lambda s, ins, emit: _cut_and_padded(ins[0], rank + layout.stacked, each, emit)

    yield from per_axis(site, body, axes=axes, name="center_crop_pad", nodes=1.0 if known else 12.0)


def _cut_and_padded(x: Tensor, rank: int, each: Sequence[tuple[int, int, int]], emit: Emitter) -> Tensor:
    """`each`: (axis, size, size wanted). Written out, because ONNX Runtime fails on CenterCropPad between two
    Transposes (ort_compat.PAD_AXES_MOVED), which a change of layout adds."""
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
    """The same for sizes that only a run knows."""
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
    """once for all models: only the shape of its input is read"""

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        attrs = dict(site.node.attrs)
        attrs.setdefault("dtype", site.inputs[0].dtype)
        return emit("EyeLike", emit("Gather", ins[0], emit.const(0), axis=0), **attrs)

    yield Option("eye_like", (STACKED(0),), (SHARED,), body, 2.0)


@family("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(site: Site) -> Iterator[Option]:
    """per sample, the models join the batch; a mean or a sum is taken model by model after"""
    reduction = site.attr("reduction", b"mean")
    # ONNX Runtime (1.32) reads on where the labels are fewer than the samples: into the next model's.
    rows = {dim for dim in (site.dims(0)[0], site.dims(1)[0]) if dim is not None}
    need(len(rows) < 2, "its samples and its labels may differ in number")
    if site.is_mapped(2):
        yield from _weighted(site)
        return
    takes = (FOLDED(0), FOLDED(0), SHARED)[: len(site.node.inputs)]
    after = FOLDED(0) if reduction == b"none" else STACKED(0)

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        if reduction == b"none":
            return again(site, ins, emit)
        each, *log_prob = again(site, ins, emit, reduction=b"none")
        total = _per_model("ReduceMean" if plain else "ReduceSum", each, emit)
        if reduction == b"mean" and not plain:
            total = emit("Div", total, _per_model("ReduceSum", _share(site, ins, emit), emit))
        return [total, *log_prob]

    # Every label counts as much. Then what ONNX Runtime (1.32) makes of no labels is 0, as it is alone.
    plain = reduction == b"mean" and not site.has(2) and site.attr("ignore_index") is None
    gives = (after, FOLDED(0))[: len(site.node.outputs)]
    yield Option("loss", takes, gives, body, 1.0 if reduction == b"none" else 3.0 if plain else 8.0)


def _weighted(site: Site) -> Iterator[Option]:
    """Class weights that differ are multiplied into the log-probabilities, whose loss then has none."""
    reduction = site.attr("reduction", b"mean")
    rank, kind = site.rank(0), site.inputs[0].dtype
    ignored = {k: v for k, v in site.node.attrs.items() if k == "ignore_index"}

    def each(x: Tensor, labels: Tensor, emit: Emitter) -> Tensor:
        """[N, B, C, ..] -> the loss of every sample, [N, ..]."""
        attrs = {**ignored, "reduction": b"none"}
        rows = fold(emit, x, 0, site.dims(0))
        losses = emit.node("NegativeLogLikelihoodLoss", [rows, labels], attrs)[0]
        return unfold(emit, losses, 0, site.dims(1))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        x, labels, weights = ins
        if site.op == "SoftmaxCrossEntropyLoss":
            x = emit("LogSoftmax", x, axis=2)
        weights = emit.unsqueeze(weights, [1, *range(3, rank + 1)])
        total = each(emit("Mul", x, weights), labels, emit)
        if reduction != b"none":
            inner = list(range(1, rank))
            total = emit.reduce("ReduceSum", total, inner)
        if reduction == b"mean":
            minus = emit("Sub", emit("Mul", x, emit.filled(0.0, kind, ())), weights)
            total = emit("Div", total, emit.reduce("ReduceSum", each(minus, labels, emit), inner))
        return [total, x][: len(site.node.outputs)]

    outs = (STACKED(0),) * len(site.node.outputs)
    yield Option("loss", (STACKED(0), FOLDED(0), STACKED(0)), outs, body, 14.0)


def _per_model(op: str, x: Tensor, emit: Emitter) -> Tensor:
    return emit.reduce(op, emit.reshape(x, [emit.models, -1]), [1])


def _share(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Tensor:
    """The weight with which each label counts, 0 where it is ignored: the loss of log-probabilities of -1."""
    x = ins[0]
    kind = site.inputs[0].dtype
    ones = emit("Sub", emit("Mul", x, emit.filled(0.0, kind, ())), emit.filled(1.0, kind, ()))
    attrs = {k: v for k, v in site.node.attrs.items() if k == "ignore_index"}
    return emit.node("NegativeLogLikelihoodLoss", [ones, *ins[1:]], {**attrs, "reduction": b"none"})[0]
