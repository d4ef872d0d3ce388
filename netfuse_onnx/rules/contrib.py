"""ONNX Runtime's fused operators: products, convolutions and activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, STACKED
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules import elementwise, matmul
from netfuse_onnx.rules._build import emit_same_op, need, per_axis, seen_as, times_models
from netfuse_onnx.rules._registry import REGISTRY, Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.products import as_rows, beside

# --------------------------------------------------------------------------- activations


@family(f"{DOMAIN}.Gelu", f"{DOMAIN}.QuickGelu")
def activation(site: Site) -> Iterator[Option]:
    """Each element is computed on its own, in whatever layout the input has."""
    yield from per_axis(site, name="activation")


GELU = {"BiasGelu": "Gelu", "FastGelu": "FastGelu"}
"""Operator with a bias -> the one that is left when the bias has been added."""


@family(*(f"{DOMAIN}.{op}" for op in GELU))
def biased_activation(site: Site) -> Iterator[Option]:
    """Each element is computed on its own; a bias that differs between the models is added first."""
    rank = site.rank(0)
    if not site.is_mapped(1):
        yield from per_axis(site, axes=[rank - 1], name="biased_activation")
        return
    for option in elementwise.broadcasting(seen_as(site, "Add", (0, 1))):

        def body(site: Site, ins: Sequence[Tensor], emit: Emitter, inner: Option = option) -> Held:
            total = inner.emit(seen_as(site, "Add", (0, 1)), ins, emit)
            return emit.node(GELU[site.op], total, domain=DOMAIN)

        yield replace(option, rule="biased_activation", body=body)


# --------------------------------------------------------------------------- products


@family(f"{DOMAIN}.FusedGemm")
def fused_gemm(site: Site) -> Iterator[Option]:
    """Batched: it becomes MatMul, Add and the activation."""
    attrs = {k: v for k, v in site.node.attrs.items() if k in ("transA", "transB", "alpha", "beta")}
    plain = seen_as(site, "Gemm", range(len(site.node.inputs)), attrs)
    name = (site.attr("activation") or b"").decode(errors="replace")
    need(name != "", "it names no activation")
    activation = {k: site.node.attrs.get(f"activation_{k}") for k in TAKES.get(name, ())}
    given = {k: v for k, v in activation.items() if v is not None}
    for option in matmul.gemm(plain):

        def body(site: Site, ins: Sequence[Tensor], emit: Emitter, inner: Option = option) -> Held:
            return emit(name, *inner.emit(plain, ins, emit), **given)

        yield replace(option, rule="fused_gemm", body=body)


TAKES = {
    "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",), "Selu": ("alpha", "gamma"),
    "ThresholdedRelu": ("alpha",),
}  # fmt: skip
"""The parameters of an activation."""

REGISTRY[f"{DOMAIN}.FusedGemm"] += [
    entry for entry in REGISTRY["Gemm"] if entry.name == "gemm_shared_weights"
]


@family(f"{DOMAIN}.FusedMatMul", f"{DOMAIN}.TransposeMatMul")
def fused_matmul(site: Site) -> Iterator[Option]:
    """Batched: M(..ik), M(..kj) -> M(..ij), transposed and scaled as before."""
    ranks = [site.rank(0), site.rank(1)]
    vector = ranks[1] == 1 and bool(site.attr("transA"))
    need(  # gaps.VECTOR_UNTRANSPOSED
        not vector,
        "ONNX Runtime reads a transposed matrix beside a vector as if it were not transposed",
    )
    batch_moved = [bool(site.attr(f"transBatch{side}")) and ranks[i] > 2 for i, side in enumerate("AB")]

    moved = [[*range(1, ranks[i] - 1), 0, ranks[i] - 1] for i in (0, 1)]  # [i, .., k] -> [.., i, k]
    seen = _with_batches_first(site, [moved[i] if batch_moved[i] else None for i in (0, 1)])

    def operand(i: int, x: Tensor, emit: Emitter) -> Tensor:
        if not batch_moved[i]:
            return x
        lead = int(site.mapped[i])
        return emit.transpose(x, [*range(lead), *(a + lead for a in moved[i])])

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        a, b = matmul.matrices(seen, [operand(i, x, emit) for i, x in enumerate(ins)], emit)
        # A vector is never transposed; it gained its second axis above.
        trans = [site.attr(f"trans{side}") if ranks[i] > 1 else 0 for i, side in enumerate("AB")]
        if trans[1]:
            b = replace(b, dims=(*b.dims[:-2], b.dims[-1], b.dims[-2]))
        rows, finish = (a, None) if trans[0] else as_rows(a, b, emit)
        changes = {"transA": trans[0], "transB": trans[1], "transBatchA": None, "transBatchB": None}
        (y,) = emit_same_op(site, beside(rows, b, emit), emit, **changes)
        return matmul.without_vectors(site, finish(y) if finish else y, emit)

    yield Option("fused_matmul", site.own_layouts, (STACKED(0),), body)


def _with_batches_first(site: Site, orders: Sequence[Sequence[int] | None]) -> Site:
    """The site with the axes of its inputs in other orders."""
    kinds = [
        replace(kind, dims=tuple(kind.dims[axis] for axis in order)) if order and kind.dims else kind
        for kind, order in zip(site.inputs, orders, strict=True)
    ]
    return replace(site, inputs=tuple(kinds))


@family(f"{DOMAIN}.FusedMatMul", f"{DOMAIN}.TransposeMatMul")
def fused_matmul_shared_weights(site: Site) -> Iterator[Option]:
    """With one weight the models join the rows: (M..)ik, kj -> (M..)ij."""
    need(not site.attr("transA") and not site.attr("transBatchA"), "its rows are not where models join")
    yield from matmul.matmul_shared_weights(site)


# --------------------------------------------------------------------------- packed weights

PACKED = (
    "its weights are packed, a few bits each, for one model: batched, they would be unpacked to floats at "
    "every run"
)


@family(f"{DOMAIN}.MatMulNBits", f"{DOMAIN}.MatMulBnb4")
def packed(site: Site) -> Iterator[Option]:
    """With one weight the models join the rows; with one input their weights are more columns."""
    rank, weights = site.rank(0), site.names[1:]
    if not site.is_mapped(*weights):
        yield from per_axis(site, axes=[rank - 1], name="packed")
        return
    need(not site.is_mapped("a") and site.op == "MatMulNBits" and not site.has("g_idx"), PACKED)
    takes = site.takes(dict.fromkeys(weights, FOLDED(0)))
    yield Option("packed", takes, (FOLDED(rank - 1),), times_models("N"))
