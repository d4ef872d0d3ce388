"""Operators that treat each sample of a batch on its own: the models join the batch, (MN).. -> (MN).."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import TensorProto

from netfuse_onnx.dims import same_dim, same_name
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family, rule
from netfuse_onnx.types import Became


@rule("GridSample", "LinearAttention", "TensorScatter", takes=(FOLDED(0),), gives=FOLDED(0))
@rule("Col2Im", takes=(FOLDED(0), SHARED), gives=FOLDED(0))
def samples(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """the models join the batch"""
    return again(site, ins, emit)


@rule("MaxRoiPool", "RoiAlign", takes=(FOLDED(1), SHARED), gives=FOLDED(1))
def regions(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """the same regions for all models, whose channels are folded"""
    return again(site, ins, emit)


@family("ReverseSequence")
def reverse_sequence(site: Site) -> Iterator[Option]:
    """the models join the batch axis"""
    batch = int(site.attr("batch_axis", 1))
    yield Option("reverse_sequence", (FOLDED(batch), FOLDED(0)), (FOLDED(batch),), again)


@family("AffineGrid")
def affine_grid(site: Site) -> Iterator[Option]:
    """the models join the batch; the size says so"""
    site.only_mapped(0)
    size = site.ints(1) or []

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return again(site, [ins[0], emit.const([size[0] * emit.models, *size[1:]])], emit)

    yield Option("affine_grid", (FOLDED(0), SHARED), (FOLDED(0),), body)


@family("TfIdfVectorizer")
def tf_idf(site: Site) -> Iterator[Option]:
    """each row is a document: the models are more rows"""
    layout = FOLDED(0) if site.rank(0) == 2 else STACKED(0)
    yield Option("tf_idf", (layout,), (layout,), again)


@family("StringNormalizer")
def string_normalizer(site: Site) -> Iterator[Option]:
    """string by string, where none is dropped"""
    need(not site.attr("stopwords"), "it drops stop words, so the size of its output depends on its data")
    layout = FOLDED(site.rank(0) - 1)
    yield Option("string_normalizer", (layout,), (layout,), again)


@rule("DeformConv", takes=(FOLDED(1), FOLDED(0), FOLDED(1), FOLDED(0), FOLDED(1)), gives=FOLDED(1),
      became=Became.GROUPED)  # fmt: skip
def deform_conv(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """grouped: M models are M times the groups and the offset groups"""
    group, offsets = (emit.models * int(site.attr(name, 1)) for name in ("group", "offset_group"))
    return again(site, ins, emit, group=group, offset_group=offsets)


@rule("CausalConvWithState", takes=(FOLDED(1), FOLDED(0), FOLDED(0), FOLDED(1)), gives=FOLDED(1),
      became=Became.GROUPED)  # fmt: skip
def causal_conv(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """depthwise: N(MC)L, (MC)1k -> N(MC)L"""
    return again(site, ins, emit)


@family("Attention")
def attention(site: Site) -> Iterator[Option]:
    """the models join the batch; a mask without a batch is repeated for each of its samples"""
    takes: list[Layout] = [FOLDED(0)] * len(site.node.inputs)
    batch = site.dims(0)[0]
    repeated = checked = False
    if site.has(3):
        dims = site.dims(3)
        whole = len(dims) == 4 and same_name(dims[0], batch)
        repeated = site.mapped[3] and not whole
        checked = whole and not same_dim(dims[0], batch)
        if repeated:
            takes[3] = STACKED(0)
        elif not whole:
            need(len(dims) < 4 or dims[0] == 1, "the batch of its mask is unknown")
            takes[3] = SHARED
    need(not repeated or isinstance(batch, int), "its mask differs between the models and the batch is open")

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        ready = list(ins)
        if repeated and ready[3] is not None:
            ready[3] = _repeated_mask(site, ready[3], int(batch or 0), emit)
        elif checked and ready[3] is not None and ready[0] is not None:
            ready[3] = emit.require_size(ready[3], 4, ready[0])
        return again(site, ready, emit)

    wanted = tuple(take if site.has(i) else SHARED for i, take in enumerate(takes))
    gives = (FOLDED(0),) * len(site.node.outputs)
    yield Option("attention", wanted, gives, body, 1.0 + 1.5 * repeated)


def _repeated_mask(site: Site, mask: Tensor, batch: int, emit: Emitter) -> Tensor:
    """[N, (h,) q, k] -> [N, B, h|1, q, k] -> [(N B), h|1, q, k]"""
    dims = site.dims(3)
    rank = len(dims)
    mask = emit.unsqueeze(mask, range(1, 5 - rank)) if rank < 4 else mask
    mask = emit("Expand", mask, emit.const([1, batch, 1, 1, 1]))
    tail = [d if isinstance(d, int) else -1 for d in (1, 1, 1, *dims)[-3:]]
    need(tail.count(-1) <= 1, "the sizes of its mask are unknown")
    return emit.reshape(mask, [emit.models * batch, *tail])


@family("RotaryEmbedding")
def rotary(site: Site) -> Iterator[Option]:
    """the models join the batch; caches that differ are gathered per model first"""
    positions = site.has(3)
    outs = (FOLDED(0),)
    if not positions:
        yield Option("rotary", (FOLDED(0),) * 3, outs, again)
        return
    if not site.mapped[1] and not site.mapped[2]:
        yield Option("rotary", (FOLDED(0), SHARED, SHARED, FOLDED(0)), outs, again)
        return

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        where = ins[3]
        if site.inputs[3].dtype != TensorProto.INT64:
            where = emit("Cast", where, to=TensorProto.INT64)
        where = emit.unsqueeze(where, [3])
        half = site.dims(1)[1]
        found = [emit("GatherND", cache, where, batch_dims=1) for cache in ins[1:3]]
        dims = site.dims(3)
        tail = [dims[1] if isinstance(dims[1], int) else 0, half if isinstance(half, int) else 0]
        need(all(tail), "its caches differ between the models and their sizes are unknown")
        return again(site, [ins[0], *(emit.reshape(f, [-1, *tail]) for f in found)], emit)

    need(all(isinstance(d, int) for d in (site.dims(1)[1], site.dims(3)[1])),
         "its caches differ between the models and their sizes are unknown")  # fmt: skip
    yield Option("rotary", (FOLDED(0), STACKED(0), STACKED(0), STACKED(0)), outs, body, 4.0)
