"""ONNX Runtime's attention operators. Without weights of their own the models join the batch; those with
weights become a batched product and the operator without weights, MultiHeadAttention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from netfuse_onnx.dims import same_dim, same_name, static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.layouts.folded import fold
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules._build import aligned, emit_same_op, need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Input, Operands, Site
from netfuse_onnx.rules.products import Matrices, product
from netfuse_onnx.types import Dim

Takes: TypeAlias = Mapping[str, Layout | None]
"""Layouts of inputs by name."""

Product: TypeAlias = Callable[[Site, Operands, Takes, Emitter], Tensor]

BATCH, OTHER_BATCH = FOLDED(0), "the batch of its input {!r} is not known to be that of the others"

# --------------------------------------------------------------------------- masks and biases of scores


def mask_layout(site: Site, mask: Input, *, four_axes: bool) -> Layout | None:
    """The layout of a mask; None where it masks nothing. `four_axes`: the operator takes one of rank 4."""
    if not mask.present:
        return SHARED
    dims, batch = mask.dims, site.dims(0)[0]
    if len(dims) == 2 and dims[1] == 1:  # one value for all keys
        return None
    need(len(dims) > 1 or same_name(dims[0], batch), OTHER_BATCH.format(mask.name))
    need(len(dims) < 4 or four_axes, "its mask has four axes")
    return BATCH


def scores_bias(site: Site, key: str = "attention_bias") -> Layout:
    """The layout of a bias of the scores [B or 1, heads or 1, S, T]. STACKED(0) asks for `repeated`."""
    bias = site[key]
    if not bias.present:
        return SHARED
    if same_name(bias.dims[0], site.dims(0)[0]):
        return BATCH
    need(bias.mapped or bias.dims[0] == 1, OTHER_BATCH.format(bias.name))
    return STACKED(0) if bias.mapped else SHARED


def repeated(site: Site, bias: Tensor, dims: Sequence[Dim], query: Tensor, emit: Emitter) -> Tensor:
    """A bias of the scores [N, B or 1, h, S, T] -> [(N B), h, S, T]. `query` has all models in its batch, and
    `dims` are those of the bias in one model."""
    size = site.dims(0)[0]
    if isinstance(size, int):
        batch: Tensor = emit.const([size])
    else:
        whole = emit("Gather", emit("Shape", query), emit.const([0]), axis=0)
        batch = emit("Div", whole, emit.shape([emit.count]))
    shape = emit("Concat", emit.const([1]), batch, emit.const([1] * (len(dims) - 1)), axis=0)
    return fold(emit, emit("Expand", bias, shape), 0, [size, *dims[1:]])


def _checked(site: Site, ins: Operands, takes: Takes, query: Tensor, emit: Emitter) -> Operands:
    """The inputs as they join the batch. Where only a name says that theirs is the query's, the run fails
    where it is another: a mask of [2 B] or [3 B + 2] numbers means something else."""
    if takes.get("attention_bias") == STACKED(0):
        bias = repeated(site, ins["attention_bias"], site.dims("attention_bias"), query, emit)
        ins |= {"attention_bias": bias}
    for name in ("key_padding_mask", "mask_index", "attention_bias"):
        given = site[name]
        named = takes.get(name) == BATCH and given.present and given.rank in (1, 4)
        if named and not same_dim(given.dims[0], site.dims(0)[0]):
            ins |= {name: emit.require_size(ins[name], given.rank, query)}
    return ins


def joined(site: Site, name: str, takes: Takes, gives: Sequence[Layout]) -> Option:
    """The operator itself on models in the batch."""

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        return emit_same_op(site, _checked(site, ins, takes, ins[0], emit), emit)

    return Option(name, site.takes(takes), site.gives(*gives), body)


# --------------------------------------------------------------------------- without weights


@family(f"{DOMAIN}.MultiHeadAttention")
def multi_head(site: Site) -> Iterator[Option]:
    """The models join the batch; a bias that differs between them is added to query, key and value first."""
    operands = ("query", "key", "value")
    mask = mask_layout(site, site["key_padding_mask"], four_axes=False)
    takes: dict[str, Layout | None] = dict.fromkeys((*operands, "past_key", "past_value"), BATCH)
    takes |= {"key_padding_mask": mask, "attention_bias": scores_bias(site)}
    if not site.is_mapped("bias"):
        yield joined(site, "multi_head", takes, (BATCH,))
        return
    three = all(site.has(name) and site.rank(name) == 3 for name in operands)
    sizes = [size for name in operands if three and isinstance(size := site.dims(name)[2], int)]
    need(len(sizes) == 3, "its bias differs between the models, and its inputs are packed")
    takes |= {name: site.own_layout(name) for name in (*operands, "bias")}

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        ready = ins | {"bias": None}
        for name, part in zip(operands, emit.split(ins["bias"], sizes, 1), strict=True):
            biased = emit("Add", ins[name], emit.unsqueeze(part, [1, 2]))
            ready |= {name: fold(emit, biased, 0, site.dims(name))}
        return emit_same_op(site, _checked(site, ready, takes, ready["query"], emit), emit)

    yield Option("multi_head", site.takes(takes), site.gives(BATCH), body)


PROMPT = (
    "beside a cache ONNX Runtime takes several tokens of one sequence only, so models in its batch could not "
    "be given part of a prompt"
)


@family(f"{DOMAIN}.GroupQueryAttention")
def grouped_queries(site: Site) -> Iterator[Option]:
    """Without a cache of keys the models join the batch; they share lengths and rotary caches."""
    need(not site.has("past_key"), PROMPT)
    batched = ("query", "key", "value", "past_value", "seqlens_k", "position_ids")
    takes = {**dict.fromkeys(batched, BATCH), "attention_bias": scores_bias(site)}
    yield joined(site, "grouped_queries", takes, (BATCH,))


@family(f"{DOMAIN}.RotaryEmbedding")
def rotary(site: Site) -> Iterator[Option]:
    """The models join the batch; the caches are the same for all models."""
    positions = BATCH if site.rank("position_ids") == 2 else SHARED
    takes = site.takes({"input": BATCH, "position_ids": positions})
    yield Option("rotary", takes, (BATCH,), emit_same_op)


# --------------------------------------------------------------------------- with weights

KEPT = ("num_heads", "mask_filter_value", "scale", "unidirectional")
"""Attributes that Attention and MultiHeadAttention share."""


@family(f"{DOMAIN}.Attention")
def attention(site: Site) -> Iterator[Option]:
    """Weights that differ become a batched product; MultiHeadAttention follows, the models in its batch."""
    mask = mask_layout(site, site["mask_index"], four_axes=True)
    takes: dict[str, Layout | None] = {"input": BATCH, "mask_index": mask, "past": FOLDED(1)}
    takes["attention_bias"] = scores_bias(site)
    if not site.is_mapped("weights", "bias"):
        yield joined(site, "attention", takes, (BATCH, FOLDED(1)))
        return
    takes |= {name: site.own_layout(name) for name in ("input", "weights", "bias")}
    yield projected(site, "attention", takes, _product)


def _product(site: Site, ins: Operands, takes: Takes, emit: Emitter) -> Tensor:
    """[N, B, S, D] x [N, 1, D, 3H] + [N, 1, 1, 3H]"""
    x, w = (Matrices(ins[name], site.own_layout(name), site.dims(name)) for name in ("input", "weights"))
    y = product(x, w, emit)
    return emit("Add", y, aligned(site, ins, "bias", 3, emit)) if site.has("bias") else y


def projected(site: Site, rule: str, takes: Takes, product: Product) -> Option:
    """A batched product whose parts are query, key and value of MultiHeadAttention."""
    for flag in ("do_rotary", "past_present_share_buffer"):
        need(not site.attr(flag), f"its weights differ between the models and it has {flag}")
    mask_layout(site, site["mask_index"], four_axes=False)
    sizes = _hidden_sizes(site)

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        batch, length, _ = site.dims("input")
        qkv = fold(emit, product(site, ins, takes, emit), 0, (batch, length, sum(sizes)))
        query, key, value = emit.split(qkv, sizes, 2)
        ins = _checked(site, ins, takes, query, emit)
        given = [query, key, value, None, ins["mask_index"], ins["attention_bias"]]
        attrs = {k: site.attr(k) for k in KEPT if k in site.node.attrs}
        outs = [True, *[site.has_output(1)] * 2]
        if ins["past"] is not None:  # [2, (N B), heads, P, size], key and value
            given += [emit.squeeze(part, [0]) for part in emit.split(ins["past"], [1, 1], 0)]
        y, *cache = emit.node("MultiHeadAttention", given, attrs, outs=outs, domain=DOMAIN)
        if not site.has_output(1):
            return [y, y][: len(site.node.outputs)]
        return [y, emit("Concat", *(emit.unsqueeze(c, [0]) for c in cache), axis=0)]

    return Option(rule, site.takes(takes), site.gives(BATCH, FOLDED(1)), body)


def _hidden_sizes(site: Site) -> list[int]:
    """The sizes of query, key and value."""
    whole = site.dims(1)[1]
    given = [int(v) for v in site.attr("qkv_hidden_sizes") or []]
    need(bool(given) or isinstance(whole, int), "the size of its weights is unknown")
    return given or [static_size(whole) // 3] * 3
