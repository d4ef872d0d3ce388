"""The layout ROWS: linear layers as batched products with one matrix per model, and what stands between them.

Elementwise operators pass the layout on (`elementwise`, for all layouts). These rules are tuned: they are on
offer to plans with measured costs. They are for values of rank 3 and more, since at rank 2, where a Gemm is,
ROWS is STACKED(0) under another name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.dims import reshape_target
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import ROWS, STACKED, Layout
from netfuse_onnx.rules._build import emit_same_op, need, same_op
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.rules.norm import by_ones, need_static_scale
from netfuse_onnx.types import Dim


@family("MatMul")
def linear_rows(site: Site) -> Iterator[Option]:
    """With --target, batched over all rows: M(..i)k, Mkj -> M(..i)j, with one matrix for each model."""
    need(site.mapped[0] and site.rank(0) >= 3, "its rows are one axis, of its own or of all models")
    need(site.rank(1) == 2, "its weight is not one matrix")
    takes = (ROWS, site.own_layout(1))
    yield Option("linear_rows", takes, (ROWS,), emit_same_op, tuned=True)


@family("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def norm_rows(site: Site) -> Iterator[Option]:
    """With --target, it works over the last axis of all rows; a scale that differs is M1d beside M(..i)d."""
    rank = site.rank(0)
    last = site.axis(int(site.attr("axis")), rank) == rank - 1
    need(rank >= 3 and last, "it is not over the last of at least three axes")
    affine = [i for i in (1, 2) if site.has(i)]
    need(site.mapped[0] and all(site.rank(i) == 1 for i in affine), "its scale is no vector")
    takes = (ROWS, *site.own_layouts[1:])
    gives = site.gives(ROWS)
    if not any(site.mapped[1:]):
        yield Option("norm_rows", takes, gives, same_op(axis=-1), tuned=True)
        return
    need_static_scale(site)

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        def affine(i: int) -> Tensor:
            return ROWS.aligned(emit, ins[i], takes[i], site.dims(i), site.dims(0))

        return by_ones(site, ins, -1, affine, emit)

    yield Option("norm_rows", takes, gives, body, tuned=True)


@family("Reshape")
def reshape_rows(site: Site) -> Iterator[Option]:
    """With --target, the source's own Reshape, such as one that splits heads, also makes or ends rows."""
    site.only_mapped(0)
    dims, out = site.dims(0), site.out_dims()
    need(_tells(dims, out), "the sizes of its input do not tell those of its output")
    for take, give in ((ROWS, STACKED(0)), (STACKED(0), ROWS)):
        if len(dims if take == ROWS else out) >= 3:
            yield Option("reshape_rows", (take, None), (give,), _written(give), tuned=True)


def _tells(dims: Sequence[Dim], out: Sequence[Dim]) -> bool:
    """True where the dims of the output make a target, whose -1 each model's elements tell. Where none of a
    dynamic input's sizes is left dynamic, a file may declare a size that it does not have."""
    target, static = reshape_target(out), all(isinstance(dim, int) for dim in dims)
    return target is not None and (static or -1 in target)


def _written(give: Layout) -> Body:
    """The target with the models in it; a dynamic size is -1."""

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        target = give.merged_dims(site.out_dims(), emit.models)
        return emit.reshape(ins[0], [dim if isinstance(dim, int) else -1 for dim in target])

    return body
