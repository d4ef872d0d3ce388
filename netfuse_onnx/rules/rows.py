"""The layout ROWS: linear layers as batched products, one matrix a model, and what stands between them.

Elementwise operators pass the layout on (`elementwise`, for all layouts). These rules are for values of rank
3 and more, since at rank 2, where a Gemm is, ROWS is STACKED(0) under another name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from netfuse_onnx.dims import reshape_target, same_dim, static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import ROWS, SHARED, STACKED, Layout
from netfuse_onnx.layouts.rows import apart, together, told_by
from netfuse_onnx.rules._build import emit_same_op, need, same_op
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.rules.einsum import FLOATS, linear
from netfuse_onnx.rules.norm import by_ones, need_static_scale
from netfuse_onnx.rules.products import one_matrix
from netfuse_onnx.types import Dim


@family("MatMul")
def linear_rows(site: Site) -> Iterator[Option]:
    """Batched over all rows: M(..i)k, Mkj -> M(..i)j, with one matrix for each model."""
    need(site.rank(0) >= 3, "its rows are one axis, of its own or of all models")
    need(site.rank(1) == 2, "its weight is not one matrix")
    weight, inner = site.own_layout(1), site.dims(1)[0]
    yield Option("linear_rows", (ROWS, weight), (ROWS,), emit_same_op, unmeasured=not site.mapped[0])
    if not site.mapped[0] and isinstance(inner, int) and inner and ROWS.fits(site.out_dims()):

        def of_one_input(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
            return emit("MatMul", one_matrix(ins[0], static_size(inner), emit), ins[1])

        yield Option("linear_rows", (SHARED, weight), (ROWS,), of_one_input)
    if not isinstance(site.dims(0)[-1], int) and isinstance(inner, int) and inner:

        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
            return emit("MatMul", together(emit, ins[0], static_size(inner)), ins[1])

        yield Option("linear_rows", (STACKED(0), weight), (ROWS,), body, unmeasured=True)


@family("Einsum")
def einsum_rows(site: Site) -> Iterator[Option]:
    """With weights it becomes a MatMul on rows: ibh,hnd->ibnd is M(ib)h, Mh(nd) -> M(ib)(nd)."""
    product = linear(site.attr("equation").decode().replace(" ", ""))
    need(product is not None and len(site.node.inputs) == 2, "it is no product with weights")
    assert product is not None
    rows, inner, outer, turned = product
    need(site.is_mapped(1) and site.inputs[0].dtype in FLOATS, "it has no weights per model")
    x, w = site.dims(0), site.dims(1)
    need(0 not in w and all(isinstance(dim, int) for dim in w), "the size of its weights is unknown")
    summed, made = (w[outer:], w[:outer]) if turned else (w[:inner], w[inner:])
    need(rows >= 1 and all(map(same_dim, x[rows:], summed)), "its inner axes may differ")
    into, out = (math.prod(map(static_size, dims)) for dims in (summed, made))
    sizes = told_by((*x[:rows], *made), x)
    target = reshape_target(sizes)
    need(
        outer == 1 or target is not None or (None not in sizes and site.opset >= 14), "its sizes are unknown"
    )

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        left = ins[0] if inner == 1 else together(emit, ins[0], into)
        matrices = [emit.count, into, out]
        right = emit.swap_at(ins[1], outer, out, into) if turned else emit.reshape(ins[1], matrices)
        y = emit("MatMul", left, right)
        if outer == 1:
            return y
        return emit.reshape(y, [emit.kept, *target]) if target else apart(emit, y, sizes)

    takes = (ROWS if inner == 1 else STACKED(0), STACKED(0))
    yield Option("einsum_rows", takes, (ROWS if outer == 1 else STACKED(0),), body, unmeasured=True)


@family("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def norm_rows(site: Site) -> Iterator[Option]:
    """It works over the last axis of all rows; a scale that differs is M1d beside M(..i)d."""
    _need_rows(site, 3)
    takes = (ROWS, *site.own_layouts[1:])
    gives = site.gives(ROWS)
    if not any(site.mapped[1:]):
        yield Option("norm_rows", takes, gives, same_op(axis=-1))
        return
    need_static_scale(site)

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        def affine(i: int) -> Tensor:
            return ROWS.aligned(emit, ins[i], takes[i], site.dims(i), site.dims(0))

        return by_ones(site, ins, -1, affine, emit)

    yield Option("norm_rows", takes, gives, body)


@family("LayerNormalization")
def norm_scaled(site: Site) -> Iterator[Option]:
    """With --target cuda, one kernel scales each model's rows: M(..i)d with a scale M1d.

    ONNX Runtime's CUDA provider is right for exactly this rank (gaps.SCALE_PER_MODEL). OpenVINO refuses a
    scale that is no vector, so other targets do without. The Reshape in front is part of the body: it keeps
    an Add before it from being fused to SkipLayerNormalization, which takes one vector for all rows and fails
    (issue 27455).
    """
    _need_rows(site, 2)
    need(site.is_mapped(1, 2), "its scale is equal in all models")
    need(not any(site.has_output(k) for k in (1, 2)), "its statistics are read")
    need_static_scale(site)
    width = site.dims(0)[-1] if site.dims(1) == (1,) else site.dims(1)[0]
    need(all(site.dims(i) == (width,) for i in (1, 2) if site.has(i)), "its scale or bias is one number")

    def body(site: Site, ins: Operands, emit: Emitter) -> Held:
        x, *affine = ins
        rows = together(emit, x, static_size(site.dims(1)[0]))
        vectors = [emit.unsqueeze(v, [1]) if v is not None else None for v in affine]
        return emit_same_op(site, [rows, *vectors], emit, axis=-1)[0]

    takes = (STACKED(0), *(STACKED(0) if site.has(i) else SHARED for i in range(1, len(site.node.inputs))))
    gives = site.gives(ROWS if site.rank(0) > 2 else STACKED(0))
    yield Option("norm_scaled", takes, gives, body, only="cuda")


def _need_rows(site: Site, least: int) -> None:
    """Refuse a normalisation that is not over the last of at least so many axes, or whose scale is no
    vector."""
    rank = site.rank(0)
    last = site.axis(int(site.attr("axis")), rank) == rank - 1
    need(rank >= least and last, f"it is not over the last of at least {least} axes")
    affine = [i for i in (1, 2) if site.has(i)]
    need(site.mapped[0] and all(site.rank(i) == 1 for i in affine), "its scale is no vector")


@family("Reshape")
def reshape_rows(site: Site) -> Iterator[Option]:
    """The source's own Reshape, such as one that splits heads, also makes or ends rows."""
    site.only_mapped(0)
    dims, out = site.dims(0), site.out_dims()
    told, named = _tells(dims, out), _named(site, told_by(out, dims))
    for take, give in ((ROWS, STACKED(0)), (STACKED(0), ROWS)):
        if len(dims if take == ROWS else out) >= 3 and (told or _sizes_known(named, give)):
            body = _written(give) if told else _sized(give, named)
            yield Option("reshape_rows", (take, None), (give,), body, unmeasured=not told)
    need(told or _sizes_known(named, STACKED(0)), "the sizes of its input do not tell those of its output")


def _tells(dims: Sequence[Dim], out: Sequence[Dim]) -> bool:
    """True where the dims of the output make a target, whose -1 each model's elements tell. Where none of a
    dynamic input's sizes is left dynamic, a file may declare a size that it does not have."""
    target, static = reshape_target(out), all(isinstance(dim, int) for dim in dims)
    return target is not None and (static or -1 in target)


def _named(site: Site, out: Sequence[Dim]) -> Sequence[Dim]:
    """The dims of the output, with -1 for one that the source's target leaves to Reshape."""
    target = None if site.values[1] is None else site.values[1].reshape(-1).tolist()
    return [-1 if dim is None and target and target[i] == -1 else dim for i, dim in enumerate(out)]


def _sizes_known(out: Sequence[Dim], give: Layout) -> bool:
    """True where other tensors tell the open sizes of the output."""
    if all(isinstance(dim, int) for dim in out):
        return False
    return None not in out if give == STACKED(0) else isinstance(out[-1], int) and out[-1] > 0


def _written(give: Layout) -> Body:
    """The target with the models in it; a dynamic size is -1."""

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        first, *others = give.merged_dims(site.out_dims(), emit.count)
        kept = first if isinstance(first, int) else emit.kept
        return emit.reshape(ins[0], [kept, *(dim if isinstance(dim, int) else -1 for dim in others)])

    return body


def _sized(give: Layout, out: Sequence[Dim]) -> Body:
    """A target of sizes that other tensors tell."""
    if give == ROWS:
        return lambda site, ins, emit: together(emit, ins[0], static_size(out[-1]))
    return lambda site, ins, emit: apart(emit, ins[0], out)
