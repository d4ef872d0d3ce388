"""ONNX Runtime's normalisations that begin with a sum: skip connections and embeddings.

A scale, bias or table that differs between the models leaves the fused operator, which is left with ones, or
the standard's operator where the opset has one; Mul and Add by [N, 1.., D] follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.dims import same_dim, static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.layouts.folded import fold as folded
from netfuse_onnx.layouts.folded import unfold
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules._build import aligned, emit_same_op, need, rows_of_each
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Operands, Site

STANDARD = {
    "SkipLayerNormalization": ("LayerNormalization", 17),
    "SkipSimplifiedLayerNormalization": ("RMSNormalization", 23),
}
"""The standard's operator without the skip, and the opset that brought it."""


@family(*(f"{DOMAIN}.{op}" for op in STANDARD))
def skip_norm(site: Site) -> Iterator[Option]:
    """The models join the batch; a scale or bias that differs between them becomes Mul and Add."""
    same_shape = _same_shape(site)
    affine = site.is_mapped("gamma", "beta", "bias")
    if not affine and (same_shape or (not site.is_mapped("skip") and _narrower(site))):
        takes = {"input": FOLDED(0), "skip": FOLDED(0) if same_shape else SHARED}
        yield Option("skip_norm", site.takes(takes), site.gives(FOLDED(0)), emit_same_op)
        if site.rank("input") == 2 and same_shape:  # [N, tokens, D] is what it takes as well
            takes = {"input": STACKED(0), "skip": STACKED(0)}
            yield Option("skip_norm", site.takes(takes), site.gives(STACKED(0)), emit_same_op)
        return
    need(not site.has_output(1) and not site.has_output(2), "it gives the statistics of its input")
    yield _standard(site) if site.opset >= STANDARD[site.op][1] else _fused(site, same_shape)


def _same_shape(site: Site) -> bool:
    """True where input and skip have the same shape."""
    same = all(map(same_dim, site.dims("input"), site.dims("skip")))
    return same and site.rank("skip") == site.rank("input")


def _narrower(site: Site) -> bool:
    """True where Add broadcasts the skip to the input, and never the input to the skip."""
    wide, skip = site.dims("input"), site.dims("skip")
    ends = wide[len(wide) - len(skip) :]
    return len(skip) <= len(wide) and all(b == 1 or same_dim(a, b) for a, b in zip(ends, skip, strict=True))


def _sum_differs(site: Site) -> bool:
    """True where the sum differs between the models, and not only what it is scaled with."""
    return site.is_mapped("input", "skip", "bias")


def _size(site: Site, key: str) -> int:
    """The size of an input's last axis."""
    size = site.dims(key)[-1]
    need(isinstance(size, int), "the size of its last axis is unknown")
    return static_size(size)


def _standard(site: Site) -> Option:
    """Add, the standard's normalisation by ones, Mul and Add."""
    op, size = STANDARD[site.op][0], _size(site, "gamma")

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        total = _sum(site, ins, emit)
        ones = emit.filled(1.0, site["gamma"].dtype, [size])
        y = emit(op, total, ones, axis=-1, epsilon=site.attr("epsilon"))
        y = _affine(site, y, site.rank(0), ins, emit)
        return [y, y, y, total][: len(site.node.outputs)]

    return Option("skip_norm", site.own_layouts, _gives(site, STACKED(0)), body)


def _fused(site: Site, same_shape: bool) -> Option:
    """The operator itself with ones, on models folded into the batch; then Mul and Add."""
    size, differs = _size(site, "gamma"), _sum_differs(site)
    added_first = differs and (site.is_mapped("bias") or not same_shape)
    takes = list(site.own_layouts)
    if differs and not added_first:
        takes[:2] = FOLDED(0), FOLDED(0)

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        plain = ins | {"gamma": emit.filled(1.0, site["gamma"].dtype, [size])}
        if site.has("beta"):
            plain |= {"beta": None}
        if added_first:
            total = folded(emit, _sum(site, ins, emit), 0, site.dims("input"))
            none = numpy_helper.from_array(np.zeros(1, helper.tensor_dtype_to_np_dtype(site["input"].dtype)))
            zeros = emit("ConstantOfShape", emit("Shape", total), value=none)
            plain |= {"input": total, "skip": zeros, "bias": None}
        y, *rest = emit_same_op(site, plain, emit)
        if differs:
            y = unfold(emit, y, 0, site.dims("input"))
        return [_affine(site, y, site.rank(0), ins, emit), *rest]

    return Option("skip_norm", tuple(takes), _gives(site, FOLDED(0)), body)


def _sum(site: Site, ins: Operands, emit: Emitter) -> Tensor:
    """The input, the skip and the bias, in the shape of the input: gaps.SKIP_CUT."""
    rank = site.rank("input")
    total = emit("Add", aligned(site, ins, "input", rank, emit), aligned(site, ins, "skip", rank, emit))
    if not _narrower(site):
        shape = emit("Shape", ins["input"])
        if site.is_mapped("skip") and not site.is_mapped("input"):
            shape = emit.prepend(emit.count, shape, None)
        total = emit("Reshape", total, shape, **({"allowzero": 1} if emit.opset >= 14 else {}))
    return emit("Add", total, aligned(site, ins, "bias", rank, emit)) if site.has("bias") else total


def _affine(site: Site, y: Tensor, rank: int, ins: Operands, emit: Emitter) -> Tensor:
    """y * gamma + beta"""
    y = emit("Mul", y, aligned(site, ins, "gamma", rank, emit))
    return emit("Add", y, aligned(site, ins, "beta", rank, emit)) if site.has("beta") else y


def _gives(site: Site, total: Layout) -> tuple[Layout, ...]:
    return site.gives(STACKED(0), SHARED, SHARED, total if _sum_differs(site) else SHARED)


# --------------------------------------------------------------------------- embeddings

TABLES = ("word_embedding", "position_embedding", "segment_embedding")


@family(f"{DOMAIN}.EmbedLayerNormalization")
def embed_norm(site: Site) -> Iterator[Option]:
    """With shared tables the models join the batch; else it becomes lookups, sums and a normalisation."""
    whole = not site.has("position_ids") or same_dim(site.dims("position_ids")[0], site.dims("input_ids")[0])
    if not site.is_mapped(*TABLES, "gamma", "beta") and (whole or not site.is_mapped("position_ids")):
        joined = ("input_ids", "segment_ids", "mask", *(["position_ids"] if whole else []))
        takes = site.takes(dict.fromkeys(joined, FOLDED(0)))
        yield Option("embed_norm", takes, site.gives(FOLDED(0)), emit_same_op)
        return
    need(site.opset >= 13, "its tables differ between the models, and GatherND is too old before opset 13")
    counted = site.own_layout("mask" if site.has("mask") else "input_ids")
    _size(site, "word_embedding")
    total = site.own_layout(*TABLES, "input_ids", "segment_ids", "position_ids")
    yield Option("embed_norm", site.own_layouts, site.gives(STACKED(0), counted, total), _embed)


def _embed(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
    """word[ids] + position[0..S-1 or ids] + segment[ids], normalised, * gamma + beta; and the mask's sums"""
    total = _looked_up(site, ins, "word_embedding", "input_ids", emit)
    if site.has("position_ids"):
        total = emit("Add", total, _looked_up(site, ins, "position_embedding", "position_ids", emit))
    else:
        total = emit("Add", total, _first_rows(site, ins, emit))
    if site.has("segment_embedding") and site.has("segment_ids"):
        total = emit("Add", total, _looked_up(site, ins, "segment_embedding", "segment_ids", emit))
    y = _affine(site, _normalised(total, site, emit), 3, ins, emit)
    counted = _counted(site, ins, emit) if site.has_output(1) else y
    return [y, counted, total][: len(site.node.outputs)]


def _looked_up(site: Site, ins: Operands, table: str, ids: str, emit: Emitter) -> Tensor:
    """The rows of a table: [N, B, S, D], or [B, S, D] where neither table nor ids differ."""
    if not site.is_mapped(table):
        return emit("Gather", ins[table], ins[ids], axis=0)
    if not site.is_mapped(ids):
        return emit("Gather", ins[table], ins[ids], axis=1)
    return rows_of_each(ins[table], site[ids], ins[ids], site.dims(table)[0], emit)


def _first_rows(site: Site, ins: Operands, emit: Emitter) -> Tensor:
    """position[:S], which broadcasts over the batch: [N, 1, S, D] or [S, D]"""
    length = site.dims("input_ids")[1]
    stacked = int(site.is_mapped("position_embedding"))
    if isinstance(length, int):
        end: Tensor = emit.const([length])
    else:
        axis = 1 + site.is_mapped("input_ids")
        end = emit("Gather", emit("Shape", ins["input_ids"]), emit.const([axis]), axis=0)
    rows = emit("Slice", ins["position_embedding"], emit.const([0]), end, emit.const([stacked]))
    return emit.unsqueeze(rows, [1]) if stacked else rows


def _normalised(x: Tensor, site: Site, emit: Emitter) -> Tensor:
    """Mean and variance over the last axis taken out; written out before opset 17."""
    epsilon, dtype = site.attr("epsilon"), site["word_embedding"].dtype
    if site.opset >= 17:
        ones = emit.filled(1.0, dtype, [_size(site, "word_embedding")])
        return emit("LayerNormalization", x, ones, epsilon=epsilon)
    centred = emit("Sub", x, emit.reduce("ReduceMean", x, [-1], keepdims=1))
    variance = emit.reduce("ReduceMean", emit("Mul", centred, centred), [-1], keepdims=1)
    return emit("Div", centred, emit("Sqrt", emit("Add", variance, emit.filled(epsilon, dtype, ()))))


def _counted(site: Site, ins: Operands, emit: Emitter) -> Tensor:
    """Ones per row of the mask, zeros where there is none."""
    if site.has("mask"):
        ones = emit("Cast", emit("Equal", ins["mask"], emit.const(1, "int32")), to=TensorProto.INT32)
        return emit.reduce("ReduceSum", ones, [1 + site.is_mapped("mask")])
    zeros = emit("Sub", ins["input_ids"], ins["input_ids"])
    counts = emit.reduce("ReduceSum", zeros, [1 + site.is_mapped("input_ids")])
    return emit("Cast", counts, to=TensorProto.INT32)
