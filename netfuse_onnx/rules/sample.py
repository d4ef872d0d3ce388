"""Operators that treat each sample of a batch on its own: the models join the batch, (MN).. -> (MN).."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.dims import same_dim, same_name, static_size
from netfuse_onnx.emit.chosen import NeedsCount
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.rules._build import emit_same_op, need, rows_of_each
from netfuse_onnx.rules._registry import Option, family, rule
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.types import Became


@rule("GridSample", "LinearAttention", "TensorScatter", takes=(FOLDED(0),), gives=FOLDED(0))
@rule("Col2Im", "STFT", takes=(FOLDED(0), SHARED), gives=FOLDED(0))
def samples(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """The models join the batch."""
    return emit_same_op(site, ins, emit)


@rule("MaxRoiPool", "RoiAlign", takes=(FOLDED(1), SHARED), gives=FOLDED(1))
def regions(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """The regions are the same for all models, whose channels are folded."""
    return emit_same_op(site, ins, emit)


@family("ReverseSequence")
def reverse_sequence(site: Site) -> Iterator[Option]:
    """The models join the batch axis."""
    batch = int(site.attr("batch_axis"))
    yield Option("reverse_sequence", (FOLDED(batch), FOLDED(0)), (FOLDED(batch),), emit_same_op)


@family("AffineGrid")
def affine_grid(site: Site) -> Iterator[Option]:
    """The models join the batch, and the size input counts them."""
    site.only_mapped(0)
    size = site.ints(1) or []

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return emit_same_op(site, [ins[0], emit.const([size[0] * emit.models, *size[1:]])], emit)

    yield Option("affine_grid", (FOLDED(0), SHARED), (FOLDED(0),), body)


@family("TfIdfVectorizer")
def tf_idf(site: Site) -> Iterator[Option]:
    """Each row is a document, so the models are more rows."""
    layout = FOLDED(0) if site.rank(0) == 2 else STACKED(0)
    yield Option("tf_idf", (layout,), (layout,), emit_same_op)


@family("StringNormalizer")
def string_normalizer(site: Site) -> Iterator[Option]:
    """Each string is normalised on its own, where none is dropped."""
    need(not site.attr("stopwords"), "it drops stop words, so the size of its output depends on its data")
    layout = FOLDED(site.rank(0) - 1)
    yield Option("string_normalizer", (layout,), (layout,), emit_same_op)


@rule("DeformConv", takes=(FOLDED(1), FOLDED(0), FOLDED(1), FOLDED(0), FOLDED(1)), gives=FOLDED(1),
      became=Became.GROUPED)  # fmt: skip
def deform_conv(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """Grouped: M models are M times the groups and M times the offset groups."""
    group, offsets = (emit.models * int(site.attr(name)) for name in ("group", "offset_group"))
    return emit_same_op(site, ins, emit, group=group, offset_group=offsets)


@rule("CausalConvWithState", takes=(FOLDED(1), FOLDED(0), FOLDED(0), FOLDED(1)), gives=FOLDED(1),
      became=Became.GROUPED)  # fmt: skip
def causal_conv(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """Depthwise: N(MC)L, (MC)1k -> N(MC)L."""
    return emit_same_op(site, ins, emit)


@family("Attention")
def attention(site: Site) -> Iterator[Option]:
    """The models join the batch; a mask without a batch is repeated for each sample."""
    batch, mask = site.dims(0)[0], site["attn_mask"]
    takes = dict.fromkeys(site.names, FOLDED(0))
    batched = mask.present and mask.rank == 4 and same_name(mask.dims[0], batch)
    repeated = mask.mapped and not batched
    if repeated:
        takes["attn_mask"] = STACKED(0)
    elif mask.present and not batched:
        need(mask.rank < 4 or mask.dims[0] == 1, "the batch of its mask is unknown")
        takes["attn_mask"] = SHARED
    need(not repeated or isinstance(batch, int), "its mask differs between the models and the batch is open")

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        if repeated:
            ins |= {"attn_mask": _repeated_mask(site, ins["attn_mask"], static_size(batch), emit)}
        elif batched and not same_dim(mask.dims[0], batch):
            ins |= {"attn_mask": emit.require_size(ins["attn_mask"], 4, ins[0])}
        return emit_same_op(site, ins, emit)

    yield Option("attention", site.takes(takes), site.gives(FOLDED(0)), body)


def _repeated_mask(site: Site, mask: Tensor, batch: int, emit: Emitter) -> Tensor:
    """[N, (h,) q, k] -> [N, B, h|1, q, k] -> [(N B), h|1, q, k]"""
    dims = site.dims("attn_mask")
    mask = emit.unsqueeze(mask, range(1, 5 - len(dims))) if len(dims) < 4 else mask
    mask = emit("Expand", mask, emit.const([1, batch, 1, 1, 1]))
    tail = [d if isinstance(d, int) else -1 for d in (1, 1, 1, *dims)[-3:]]
    need(tail.count(-1) <= 1, "the sizes of its mask are unknown")
    return emit.reshape(mask, _joined(batch, tail, emit))


def _joined(batch: int, tail: Sequence[int], emit: Emitter) -> list[int]:
    """The target of a mask that joins the batch."""
    if emit.chosen is not None and -1 in tail:
        raise NeedsCount
    return [emit.times(batch), *tail]


@family("RotaryEmbedding")
def rotary(site: Site) -> Iterator[Option]:
    """The models join the batch; caches that differ are gathered per model first."""
    caches, positions = ("cos_cache", "sin_cache"), site["position_ids"]
    takes = dict.fromkeys(site.names, FOLDED(0))
    if not positions.present or not site.is_mapped(*caches):
        takes |= dict.fromkeys(caches, SHARED) if positions.present else {}
        yield Option("rotary", site.takes(takes), (FOLDED(0),), emit_same_op)
        return
    tail = [positions.dims[1], site.dims("cos_cache")[1]]
    sizes = [d for d in tail if isinstance(d, int) and d]
    need(len(sizes) == 2, "its caches differ between the models and their sizes are unknown")

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        where = ins["position_ids"]
        gathered = [rows_of_each(ins[cache], positions, where, site.dims(cache)[0], emit) for cache in caches]
        return emit_same_op(site, [ins[0], *(emit.reshape(rows, [-1, *sizes]) for rows in gathered)], emit)

    takes |= dict.fromkeys((*caches, "position_ids"), STACKED(0))
    yield Option("rotary", site.takes(takes), (FOLDED(0),), body)
