"""Matrix products: the models are one more batch axis (NetFuse, arXiv:2009.13062, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.products import Matrices, product


@family("MatMul")
def matmul(site: Site) -> Iterator[Option]:
    """Batched: M(..ik), M(..kj) -> M(..ij)."""

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return without_vectors(site, product(*matrices(site, ins, emit), emit), emit)

    yield Option("matmul", site.own_layouts, (STACKED(0),), body)


def matrices(site: Site, ins: Sequence[Tensor], emit: Emitter) -> tuple[Matrices, Matrices]:
    """Both operands of a product, in their own layouts. A vector gains the axis that MatMul would give it,
    here, where the model axis is known."""
    a, b = (_matrix(site, i, x, emit) for i, x in enumerate(ins))
    return a, b


def _matrix(site: Site, i: int, x: Tensor, emit: Emitter) -> Matrices:
    dims = site.dims(i)
    if len(dims) == 1:
        x = emit.unsqueeze(x, [site.mapped[i] + i])
        dims = (dims[0], 1) if i else (1, dims[0])
    return Matrices(x, site.own_layout(i), dims)


def without_vectors(site: Site, y: Tensor, emit: Emitter) -> Tensor:
    """The product [N, ..] of `matrices`, without the axes that vectors gained."""
    wide = max(site.rank(0), site.rank(1), 2)
    return emit.squeeze(y, [wide - 1 + i for i in (0, 1) if site.rank(i) == 1])


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
    need(not site.is_mapped(1, 2), "its weight or bias differs between the models")
    need(not site.attr("transA"), "its rows are the second axis")
    if site.has(2):
        dims = site.dims(2)
        need(len(dims) < 2 or dims[0] == 1, "its bias differs between the rows")
    yield Option("gemm_shared_weights", site.takes({0: FOLDED(0)}), (FOLDED(0),), emit_same_op)
