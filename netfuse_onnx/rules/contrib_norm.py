"""ONNX Runtime's normalisations that begin with a sum: skip connections and embeddings.

What differs between the models (scale, bias, tables) leaves the fused operator, which is left with ones, or
the standard's operator where the opset has one; Mul and Add by [N, 1.., D] follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.dims import known, same_dim
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.layouts.folded import fold as folded
from netfuse_onnx.layouts.folded import unfold
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family

EPSILON = 1e-12
"""The default of all of them, which is not that of LayerNormalization."""

LN, SIMPLIFIED = f"{DOMAIN}.SkipLayerNormalization", f"{DOMAIN}.SkipSimplifiedLayerNormalization"
BETA, BIAS = {LN: 3}, {LN: 4, SIMPLIFIED: 3}
STANDARD = {LN: ("LayerNormalization", 17), SIMPLIFIED: ("RMSNormalization", 23)}
"""The standard's operator without the skip, and the opset that brought it."""


@family(LN, SIMPLIFIED)
def skip_norm(site: Site) -> Iterator[Option]:
    """the models join the batch; a scale or bias that differs between them becomes Mul and Add"""
    count, outs = len(site.node.inputs), len(site.node.outputs)
    alike = _alike(site)
    if not any(site.mapped[2:]) and (alike or (not site.mapped[1] and _narrower(site))):
        skip = FOLDED(0) if alike else SHARED
        takes = (FOLDED(0), skip, *(SHARED,) * (count - 2))
        yield Option("skip_norm", takes, (FOLDED(0),) * outs, again)
        if site.rank(0) == 2 and alike:  # [N, tokens, D] is what it takes as well
            takes = (STACKED(0), STACKED(0), *(SHARED,) * (count - 2))
            yield Option("skip_norm", takes, (STACKED(0),) * outs, again)
        return
    need(site.gone(1) and site.gone(2), "it gives the statistics of its input")
    yield _standard(site) if site.opset >= STANDARD[site.node.key][1] else _fused(site, alike)


def _alike(site: Site) -> bool:
    same = all(map(same_dim, site.dims(0), site.dims(1)))
    return same and site.rank(1) == site.rank(0)


def _narrower(site: Site) -> bool:
    """True where Add broadcasts the skip to the input, and never the input to the skip."""
    wide, skip = site.dims(0), site.dims(1)
    aligned = wide[len(wide) - len(skip) :]
    return len(skip) <= len(wide) and all(
        b == 1 or same_dim(a, b) for a, b in zip(aligned, skip, strict=True)
    )


def _summed(site: Site) -> bool:
    """True where the sum differs between the models, and not only what it is scaled with."""
    return any(site.is_mapped(i) for i in (0, 1, BIAS[site.node.key]))


def _size(site: Site, i: int) -> int:
    size = site.dims(i)[-1]
    need(isinstance(size, int), "the size of its last axis is unknown")
    return known(size)


def _standard(site: Site) -> Option:
    """Add, the standard's normalisation by ones, Mul and Add."""
    key, size = site.node.key, _size(site, 2)
    takes = tuple(STACKED(0) if mapped else SHARED for mapped in site.mapped)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        wide = _padded(site, ins, takes, emit)
        total = _sum(site, ins, wide, emit)
        if site.has(BIAS[key]):
            total = emit("Add", total, wide(BIAS[key]))
        ones = emit.filled(1.0, site.inputs[2].dtype, [size])
        y = emit(STANDARD[key][0], total, ones, axis=-1, epsilon=float(site.attr("epsilon", EPSILON)))
        y = _affine(site, y, wide, emit)
        return [y, y, y, total][: len(site.node.outputs)]

    return Option("skip_norm", takes, _gives(site, STACKED(0)), body, 2.0 + _added(site, 2, BIAS[key]))


def _fused(site: Site, alike: bool) -> Option:
    """The operator itself with ones, on models folded into the batch; then Mul and Add."""
    key, size, summed = site.node.key, _size(site, 2), _summed(site)
    first = summed and (
        site.is_mapped(BIAS[key]) or not alike
    )  # what is not the same for all is added before
    takes = [STACKED(0) if mapped else SHARED for mapped in site.mapped]
    if summed and not first:
        takes[:2] = FOLDED(0), FOLDED(0)

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
        wide = _padded(site, ins, takes, emit)
        ready = [*ins[:2], emit.filled(1.0, site.inputs[2].dtype, [size])]
        if first:
            total = _sum(site, ins, wide, emit)
            total = emit("Add", total, wide(BIAS[key])) if site.has(BIAS[key]) else total
            total = folded(emit, total, 0, site.dims(0))
            none = numpy_helper.from_array(np.zeros(1, helper.tensor_dtype_to_np_dtype(site.inputs[0].dtype)))
            ready[:2] = total, emit("ConstantOfShape", emit("Shape", total), value=none)
        elif site.has(BIAS[key]):
            ready += [None] * (BIAS[key] - 3) + [ins[BIAS[key]]]
        y, *rest = again(site, ready, emit)
        if summed:
            y = unfold(emit, y, 0, site.dims(0))
        return [_affine(site, y, wide, emit), *rest]

    gives = _gives(site, FOLDED(0))
    return Option("skip_norm", tuple(takes), gives, body, 1.5 + 3 * first + _added(site, 2))


def _sum(site: Site, ins: Sequence[Tensor | None], wide: Callable[[int], Tensor], emit: Emitter) -> Tensor:
    """The input and the skip, in the shape of the input: gaps.SKIP_CUT."""
    total = emit("Add", wide(0), wide(1))
    if _narrower(site):
        return total
    shape = emit("Shape", ins[0])
    if site.mapped[1] and not site.mapped[0]:
        shape = emit.prepend(emit.models, shape, None)
    return emit("Reshape", total, shape, **({"allowzero": 1} if emit.opset >= 14 else {}))


def _padded(
    site: Site, ins: Sequence[Tensor | None], takes: Sequence[Layout], emit: Emitter
) -> Callable[[int], Tensor]:
    """Input i, so that it broadcasts against [N, .., D]."""
    return lambda i: emit.pad_rank(ins[i], takes[i], site.rank(i), site.rank(0), 0)


def _affine(site: Site, y: Tensor, wide: Callable[[int], Tensor], emit: Emitter) -> Tensor:
    y = emit("Mul", y, wide(2))
    beta = BETA.get(site.node.key, -1)
    return emit("Add", y, wide(beta)) if beta > 0 and site.has(beta) else y


def _added(site: Site, *more: int) -> int:
    """How many of the scale, the offset and the inputs `more` are there."""
    return sum(site.has(i) for i in {BETA.get(site.node.key, 2), *more})


def _gives(site: Site, total: Layout) -> tuple[Layout, ...]:
    gives = (STACKED(0), SHARED, SHARED, total if _summed(site) else SHARED)
    return gives[: len(site.node.outputs)]


# --------------------------------------------------------------------------- embeddings

WORD, POSITION, SEGMENT, GAMMA, BETA_, MASK, IDS = 2, 3, 4, 5, 6, 7, 8


@family(f"{DOMAIN}.EmbedLayerNormalization")
def embed_norm(site: Site) -> Iterator[Option]:
    """tables that all models share: the models join the batch; else lookups, sums and a normalisation"""
    outs, tables = len(site.node.outputs), (WORD, POSITION, SEGMENT, GAMMA, BETA_)
    whole = not site.has(IDS) or same_dim(site.dims(IDS)[0], site.dims(0)[0])
    if not any(site.is_mapped(i) for i in tables) and (whole or not site.is_mapped(IDS)):
        each = (0, 1, MASK, IDS) if whole else (0, 1, MASK)
        takes = tuple(
            FOLDED(0) if i in each and site.has(i) else SHARED for i in range(len(site.node.inputs))
        )
        yield Option("embed_norm", takes, (FOLDED(0),) * outs, again)
        return
    need(site.opset >= 13, "its tables differ between the models, and GatherND is too old before opset 13")
    takes = tuple(STACKED(0) if mapped else SHARED for mapped in site.mapped)
    counted = _of(site, MASK if site.has(MASK) else 0)
    gives = (STACKED(0), counted, _of(site, 0, 1, WORD, POSITION, SEGMENT, IDS))
    _size(site, WORD)
    yield Option("embed_norm", takes, gives[:outs], _embed, 9.0)


def _of(site: Site, *which: int) -> Layout:
    return STACKED(0) if any(site.is_mapped(i) for i in which) else SHARED


def _embed(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
    """word[ids] + position[0..S-1 or ids] + segment[ids], normalised, * gamma + beta; and the mask's sums"""
    takes = [STACKED(0) if mapped else SHARED for mapped in site.mapped]
    total = _looked_up(site, ins, WORD, 0, emit)
    if site.has(IDS):
        total = emit("Add", total, _looked_up(site, ins, POSITION, IDS, emit))
    else:
        total = emit("Add", total, _first_rows(site, ins, emit))
    if site.has(SEGMENT) and site.has(1):
        total = emit("Add", total, _looked_up(site, ins, SEGMENT, 1, emit))
    wide = _of(site, 0, 1, WORD, POSITION, SEGMENT, IDS) == STACKED(0)
    y = _normalised(total, site, wide, emit)
    for op, i in (("Mul", GAMMA), ("Add", BETA_)):
        y = emit(op, y, emit.pad_rank(ins[i], takes[i], 1, 3, 0))
    outs: list[Held] = [y]
    if len(site.node.outputs) > 1:
        outs.append(y if site.gone(1) else _counted(site, ins, emit))
    return [*outs, total][: len(site.node.outputs)]


def _looked_up(site: Site, ins: Sequence[Tensor | None], table: int, ids: int, emit: Emitter) -> Tensor:
    """The rows of a table: [N, B, S, D], or [B, S, D] where neither table nor ids differ."""
    if not site.mapped[table]:
        return emit("Gather", ins[table], ins[ids], axis=0)
    if not site.mapped[ids]:
        return emit("Gather", ins[table], ins[ids], axis=1)
    where = ins[ids]
    if site.inputs[ids].dtype != TensorProto.INT64:
        where = emit("Cast", where, to=TensorProto.INT64)
    return emit("GatherND", ins[table], emit.unsqueeze(where, [3]), batch_dims=1)


def _first_rows(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Tensor:
    """position[:S], which broadcasts over the batch: [N, 1, S, D] or [S, D]"""
    length = site.dims(0)[1]
    stacked = int(site.mapped[POSITION])
    if isinstance(length, int):
        end: Tensor = emit.const([length])
    else:
        end = emit("Gather", emit("Shape", ins[0]), emit.const([1 + site.mapped[0]]), axis=0)
    rows = emit("Slice", ins[POSITION], emit.const([0]), end, emit.const([stacked]))
    return emit.unsqueeze(rows, [1]) if stacked else rows


def _normalised(x: Tensor, site: Site, stacked: bool, emit: Emitter) -> Tensor:
    """Mean and variance over the last axis taken out; written out before opset 17."""
    epsilon = float(site.attr("epsilon", EPSILON))
    dtype = site.inputs[WORD].dtype
    if site.opset >= 17:
        return emit("LayerNormalization", x, emit.filled(1.0, dtype, [_size(site, WORD)]), epsilon=epsilon)
    centred = emit("Sub", x, emit.reduce("ReduceMean", x, [-1], keepdims=1))
    variance = emit.reduce("ReduceMean", emit("Mul", centred, centred), [-1], keepdims=1)
    return emit("Div", centred, emit("Sqrt", emit("Add", variance, emit.filled(epsilon, dtype, ()))))


def _counted(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Tensor:
    """Ones per row of the mask, zeros where there is none."""
    if site.has(MASK):
        ones = emit("Cast", emit("Equal", ins[MASK], emit.const(1, "int32")), to=TensorProto.INT32)
        return emit.reduce("ReduceSum", ones, [1 + site.mapped[MASK]])
    zeros = emit("Sub", ins[0], ins[0])
    counts = emit.reduce("ReduceSum", zeros, [1 + site.mapped[0]])
    return emit("Cast", counts, to=TensorProto.INT32)
