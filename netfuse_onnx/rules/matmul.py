"""Matrix products: the models are one more batch axis (NetFuse, arXiv:2009.13062, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site


@family("MatMul")
def matmul(site: Site) -> Iterator[Option]:
    """Batched: M(..ik), M(..kj) -> M(..ij)."""
    left, right = site.rank(0), site.rank(1)
    takes = site.own_layouts
    wide = max(left, right, 2)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        x, w = ins
        # A vector gains the axis that MatMul would give it, here, where the model axis is known.
        if left == 1:
            x = emit.unsqueeze(x, [1 if site.mapped[0] else 0])
        if right == 1:
            w = emit.unsqueeze(w, [2 if site.mapped[1] else 1])
        x = emit.pad_rank(x, takes[0], max(left, 2), wide, 0)
        w = emit.pad_rank(w, takes[1], max(right, 2), wide, 0)
        y = emit("MatMul", x, w)
        added = ([wide - 1] if left == 1 else []) + ([wide] if right == 1 else [])
        return emit.squeeze(y, added)

    yield Option("matmul", takes, (STACKED(0),), body)


@family("MatMul")
def matmul_shared_weights(site: Site) -> Iterator[Option]:
    """With one weight the models join the rows: (M..)ik, kj -> (M..)ij."""
    need(site.mapped == (True, False) and site.rank(1) == 2, "its weight is not one shared matrix")
    rank = site.rank(0)
    for layout in (FOLDED(0), STACKED(1), FOLDED(1)):
        if rank >= 2 and layout.axis <= rank - 2:
            yield Option("matmul_shared_weights", (layout, SHARED), (layout,), emit_same_op)


@family("Gemm")
def gemm(site: Site) -> Iterator[Option]:
    """Batched, as MatMul and Add: M(ik), M(kj) + M(..j) -> M(ij). transB is undone in the written weight."""
    takes = site.own_layouts
    trans = [bool(site.attr("transA")), bool(site.attr("transB"))]
    alpha, beta = float(site.attr("alpha")), float(site.attr("beta"))
    with_c = site.has(2) and beta != 0.0

    def scaled(x: Tensor, by: float, emit: Emitter) -> Tensor:
        return x if by == 1.0 else emit("Mul", x, emit.filled(by, site.inputs[0].dtype, ()))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        a, b = (
            emit.swap_last(x, 3 if site.mapped[i] else 2) if trans[i] else x for i, x in enumerate(ins[:2])
        )
        y = scaled(emit("MatMul", a, b), alpha, emit)
        if not with_c:
            return y
        c = emit.pad_rank(scaled(ins[2], beta, emit), takes[2], site.rank(2), 2, 0)
        return emit("Add", y, c)

    yield Option("gemm", takes, (STACKED(0),), body)


@family("Gemm")
def gemm_shared_weights(site: Site) -> Iterator[Option]:
    """With one weight the models join the rows: (Mi)k, kj -> (Mi)j."""
    need(not site.is_mapped(1) and not site.is_mapped(2), "its weight or bias differs between the models")
    need(not site.attr("transA"), "its rows are the second axis")
    if site.has(2):
        dims = site.dims(2)
        need(len(dims) < 2 or dims[0] == 1, "its bias differs between the rows")
    yield Option("gemm_shared_weights", site.takes({0: FOLDED(0)}), (FOLDED(0),), emit_same_op)
