"""ONNX Runtime's attention operators. Without weights of their own the models join the batch; those with
weights become a batched product and the operator without weights, MultiHeadAttention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from netfuse_onnx.dims import known, same_dim, same_name
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.layouts.folded import fold
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family
from netfuse_onnx.types import Dim

Takes = list[Layout | None]
BATCH, OTHER_BATCH = FOLDED(0), "the batch of its input {!r} is not known to be that of the others"


def _name(site: Site, i: int) -> str:
    return OTHER_BATCH.format(site.node.inputs[i])


def _mask(site: Site, i: int, *, wide: bool) -> Layout | None:
    """How a mask is taken, None where it masks nothing. `wide`: the operator takes one of rank 4."""
    if not site.has(i):
        return SHARED
    dims, batch = site.dims(i), site.dims(0)[0]
    if len(dims) == 2 and dims[1] == 1:  # one value for all keys
        return None
    need(len(dims) > 1 or same_name(dims[0], batch), _name(site, i))  # it may be [2 B] or [3 B + 2]
    need(len(dims) < 4 or wide, "its mask has four axes")
    return BATCH


def _bias(site: Site, i: int) -> Layout:
    """The layout of a bias of the scores [B or 1, heads or 1, S, T]; `_repeated` repeats STACKED(0)."""
    if not site.has(i):
        return SHARED
    first = site.dims(i)[0]
    if same_name(first, site.dims(0)[0]):
        return BATCH
    if not site.mapped[i]:
        need(first == 1, _name(site, i))
        return SHARED
    return STACKED(0)


def _repeated(site: Site, i: int, held: Tensor, batch: Tensor, emit: Emitter) -> Tensor:
    """[N, B or 1, h, S, T] -> [(N B), h, S, T]; `batch` is [B], int64."""
    dims = site.dims(i)
    shape = emit("Concat", emit.const([1]), batch, emit.const([1] * (len(dims) - 1)), axis=0)
    whole: list[Dim] = [site.dims(0)[0], *dims[1:]]
    return fold(emit, emit("Expand", held, shape), 0, whole)


def _check(site: Site, ins: list[Any], which: Sequence[int], query: Tensor, emit: Emitter) -> None:
    """Let the run fail where one of these inputs, with the models in its batch, has another batch than the
    query. A mask of [2 B] or [3 B + 2] numbers means something else."""
    for i in which:
        ins[i] = emit.require_size(ins[i], site.rank(i), query)


def _batch(site: Site, query: Tensor, emit: Emitter) -> Tensor:
    """The batch of one model, [1], from a tensor that has all models in its batch."""
    size = site.dims(0)[0]
    if isinstance(size, int):
        return emit.const([size])
    whole = emit("Gather", emit("Shape", query), emit.const([0]), axis=0)
    return emit("Div", whole, emit.const([emit.models]))


def _joined(
    site: Site, takes: Takes, bias: int, gives: Sequence[Layout], name: str, mask: int | None = None
) -> Option:
    """The operator itself on models in the batch."""
    checked = _open(site, takes, mask, bias)

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        ready = list(ins)
        if site.has(bias) and takes[bias] == STACKED(0):
            ready[bias] = _repeated(site, bias, ready[bias], _batch(site, ready[0], emit), emit)
        _check(site, ready, checked, ready[0], emit)
        return again(site, ready, emit)

    wanted = tuple(take if site.has(i) else SHARED for i, take in enumerate(takes))
    nodes = 1.0 + 4.0 * (site.has(bias) and takes[bias] == STACKED(0))
    return Option(name, wanted, tuple(gives[: len(site.node.outputs)]), body, nodes)


def _open(site: Site, takes: Takes, *which: int | None) -> list[int]:
    """Those of the inputs that join the batch although only a name says that theirs is the query's."""
    return [
        i
        for i in which
        if i is not None
        and site.has(i)
        and takes[i] == BATCH
        and (site.rank(i) == 1 or site.rank(i) == 4)
        and not same_dim(site.dims(i)[0], site.dims(0)[0])
    ]


# --------------------------------------------------------------------------- without weights


@family(f"{DOMAIN}.MultiHeadAttention")
def multi_head(site: Site) -> Iterator[Option]:
    """the models join the batch; a bias that differs between them is added to query, key and value first"""
    takes: Takes = [BATCH] * len(site.node.inputs)
    for i in (3, 8, 9):
        if site.has(i):
            takes[i] = SHARED
    for i, take in ((4, _mask(site, 4, wide=False)), (5, _bias(site, 5))):
        if site.has(i):
            takes[i] = take
    site_only(site, 8, 9)
    if not site.is_mapped(3):
        yield _joined(site, takes, 5, (BATCH,) * 4, "multi_head", mask=4)
        return
    three = all(site.has(i) and site.rank(i) == 3 for i in (0, 1, 2))
    sizes = [site.dims(i)[2] for i in (0, 1, 2)] if three else []
    known = [size for size in sizes if isinstance(size, int)]
    need(len(known) == 3, "its bias differs between the models, and its inputs are packed")
    for i in (0, 1, 2):
        takes[i] = STACKED(0) if site.mapped[i] else SHARED
    takes[3] = STACKED(0)
    checked = _open(site, takes, 4, 5)

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        ready = list(ins)
        for i, part in enumerate(emit.split(ins[3], known, 1)):
            biased = emit("Add", ins[i], emit.unsqueeze(part, [1, 2]))
            ready[i] = fold(emit, biased, 0, site.dims(i))
        ready[3] = None
        if site.has(5) and takes[5] == STACKED(0):
            ready[5] = _repeated(site, 5, ready[5], _batch(site, ready[0], emit), emit)
        _check(site, ready, checked, ready[0], emit)
        return again(site, ready, emit)

    wanted = tuple(take if site.has(i) else SHARED for i, take in enumerate(takes))
    yield Option("multi_head", wanted, (BATCH,) * len(site.node.outputs), body, 9.0)


def site_only(site: Site, *which: int) -> None:
    """Refuse where one of these inputs differs between the models."""
    for i in which:
        need(
            not site.is_mapped(i),
            f"its input {site.node.inputs[i] if site.has(i) else ''!r} differs between the models",
        )


PROMPT = (
    "beside a cache ONNX Runtime takes several tokens of one sequence only, so models in its batch could not "
    "be given part of a prompt"
)


@family(f"{DOMAIN}.GroupQueryAttention")
def grouped_queries(site: Site) -> Iterator[Option]:
    """without a cache the models join the batch; lengths and rotary caches are the same for all models"""
    need(not site.has(3), PROMPT)
    each, same = (0, 1, 2, 3, 4, 5, 9), (6, 7, 8, 11, 12, 13, 14, 15)
    site_only(site, *same, 16)
    takes: Takes = [BATCH if i in each else SHARED for i in range(len(site.node.inputs))]
    if site.has(10):
        takes[10] = _bias(site, 10)
    yield _joined(site, takes, 10, (BATCH,) * 4, "grouped_queries")


@family(f"{DOMAIN}.RotaryEmbedding")
def rotary(site: Site) -> Iterator[Option]:
    """the models join the batch; the caches are the same for all models"""
    site_only(site, 2, 3)
    positions = BATCH if site.rank(1) == 2 else SHARED
    need(positions == BATCH or not site.mapped[1], "its offset differs between the models")
    yield Option("rotary", (BATCH, positions, SHARED, SHARED), (BATCH,), again)


# --------------------------------------------------------------------------- with weights

KEPT = ("num_heads", "mask_filter_value", "scale", "unidirectional")
"""Attributes that Attention and MultiHeadAttention share."""


@family(f"{DOMAIN}.Attention")
def attention(site: Site) -> Iterator[Option]:
    """weights that differ: a batched product, then MultiHeadAttention on the models in the batch"""
    takes: Takes = [SHARED] * len(site.node.inputs)
    takes[0] = BATCH
    for i, take in ((3, _mask(site, 3, wide=True)), (4, FOLDED(1)), (5, _bias(site, 5))):
        if site.has(i):
            takes[i] = take
    site_only(site, 6)
    if not site.is_mapped(1) and not site.is_mapped(2):
        yield _joined(site, takes, 5, (BATCH, FOLDED(1)), "attention", mask=3)
        return
    yield projected(site, takes, Parts(site, past=4), _product, (0, 1, 2))


class Parts:
    """Where an attention operator with weights keeps what MultiHeadAttention wants."""

    def __init__(self, site: Site, *, past: int, mask: int = 3, bias: int = 5) -> None:
        for flag in ("do_rotary", "past_present_share_buffer"):
            need(not site.attr(flag, 0), f"its weights differ between the models and it has {flag}")
        self.past, self.mask, self.bias = past, mask, bias
        _mask(site, mask, wide=False)
        wide = site.dims(1)[1]
        given = [int(v) for v in site.attr("qkv_hidden_sizes", [])]
        need(bool(given) or isinstance(wide, int), "the size of its weights is unknown")
        self.sizes = given or [known(wide) // 3] * 3


def _product(site: Site, ins: Sequence[Tensor | None], takes: Takes, emit: Emitter) -> Tensor:
    """[N, B, S, D] x [N, 1, D, 3H] + [N, 1, 1, 3H]"""
    x, w = (emit.pad_rank(ins[i], takes[i] or SHARED, 3 - i, 3, 0) for i in (0, 1))
    y = emit("MatMul", x, w)
    if site.has(2):
        y = emit("Add", y, emit.pad_rank(ins[2], takes[2] or SHARED, 1, 3, 0))
    return y


def projected(site: Site, takes: Takes, parts: Parts, product: Any, operands: Sequence[int]) -> Option:
    """A batched product of `operands` whose parts are query, key and value of MultiHeadAttention."""
    for i in operands:
        if i < len(takes):
            takes[i] = STACKED(0) if site.is_mapped(i) else SHARED
    past, mask, bias = parts.past, parts.mask, parts.bias
    checked = _open(site, takes, mask, bias)

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        qkv = product(site, ins, takes, emit)
        batch, length, _ = site.dims(0)
        qkv = fold(emit, qkv, 0, (batch, length, sum(parts.sizes)))
        query, key, value = emit.split(qkv, parts.sizes, 2)
        ready = list(ins)
        _check(site, ready, checked, query, emit)
        given: list[Tensor | None] = [query, key, value, None, ready[mask] if site.has(mask) else None]
        scores = ready[bias] if site.has(bias) else None
        if scores is not None and takes[bias] == STACKED(0):
            scores = _repeated(site, bias, scores, _batch(site, query, emit), emit)
        states = _states(site, ins, past, emit)
        attrs = {k: site.attr(k) for k in KEPT if k in site.node.attrs}
        present = not site.gone(1)
        y, *cache = emit.node(
            "MultiHeadAttention",
            [*given, scores, *states],
            attrs,
            outs=[True, present, present],
            domain=DOMAIN,
        )
        if not present:
            return [y, y][: len(site.node.outputs)]
        return [y, emit("Concat", *(emit.unsqueeze(c, [0]) for c in cache), axis=0)]

    wanted = tuple(take if site.has(i) else SHARED for i, take in enumerate(takes))
    gives = (BATCH, FOLDED(1))[: len(site.node.outputs)]
    return Option("attention", wanted, gives, body, 4.5 + 3.5 * site.has(past) + site.has(2))


def _states(site: Site, ins: Sequence[Tensor | None], past: int, emit: Emitter) -> list[Tensor | None]:
    """[2, (N B), heads, P, size] -> key and value"""
    if not site.has(past):
        return [None, None]
    return [emit.squeeze(part, [0]) for part in emit.split(ins[past], [1, 1], 0)]
