"""ONNX Runtime's fused operators: products, convolutions and activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.ops.schemas import MICROSOFT as DOMAIN
from netfuse_onnx.rules import conv, elementwise, matmul
from netfuse_onnx.rules._build import emit_same_op, need, per_axis, seen_as
from netfuse_onnx.rules._registry import REGISTRY, Option, family, rule
from netfuse_onnx.rules._site import Site
from netfuse_onnx.types import Became


def fused(emit: Emitter, op: str, *ins: Tensor | None, **attrs: Any) -> Tensor:
    """Emit one of ONNX Runtime's own operators with one output."""
    return emit.node(op, ins, attrs, domain=DOMAIN)[0]


# --------------------------------------------------------------------------- activations


@family(f"{DOMAIN}.Gelu", f"{DOMAIN}.QuickGelu")
def activation(site: Site) -> Iterator[Option]:
    """Each element is computed on its own, in whatever layout the input has."""
    yield from per_axis(site, lambda layout: emit_same_op, name="activation")


GELU = {"BiasGelu": "Gelu", "FastGelu": "FastGelu"}
"""Operator with a bias -> the one that is left when the bias has been added."""


@family(*(f"{DOMAIN}.{op}" for op in GELU))
def biased_activation(site: Site) -> Iterator[Option]:
    """Each element is computed on its own; a bias that differs between the models is added first."""
    rank = site.rank(0)
    if not site.is_mapped(1):
        yield from per_axis(site, lambda layout: emit_same_op, axes=[rank - 1], name="biased_activation")
        return
    for option in elementwise.broadcasting(seen_as(site, "Add", (0, 1))):

        def body(site: Site, ins: Sequence[Tensor], emit: Emitter, inner: Option = option) -> Held:
            return fused(emit, GELU[site.op], *inner.emit(seen_as(site, "Add", (0, 1)), ins, emit))

        yield replace(option, rule="biased_activation", body=body)


# --------------------------------------------------------------------------- convolutions


def _group(site: Site) -> int:
    return int(site.attr("group"))


@rule(f"{DOMAIN}.FusedConv", takes=(FOLDED(1), FOLDED(0), FOLDED(0), FOLDED(1)), gives=FOLDED(1),
      became=Became.GROUPED)  # fmt: skip
def fused_conv(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """Grouped: N(MC)HW, (MO)Ckk -> N(MO)HW, with the sum and the activation that it has."""
    return emit_same_op(site, ins, emit, group=emit.models * _group(site))


def _wide(site: Site) -> str:
    return conv.wide_possible(seen_as(site, "Conv", range(min(len(site.node.inputs), 3)), site.node.attrs))


@rule(f"{DOMAIN}.FusedConv", takes=(SHARED, FOLDED(0), FOLDED(0), FOLDED(1)), gives=FOLDED(1), when=_wide)
def fused_conv_shared_input(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """Wide: NCHW, (MO)Ckk -> N(MO)HW. One image for all models meets every model's filters."""
    return emit_same_op(site, ins, emit)


@rule(f"{DOMAIN}.FusedConv", takes=(FOLDED(0), SHARED, SHARED, FOLDED(0)), gives=FOLDED(0))
def fused_conv_shared_weights(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """With one set of filters the models join the batch: (MN)CHW, OCkk -> (MN)OHW."""
    return emit_same_op(site, ins, emit)


# --------------------------------------------------------------------------- products


@family(f"{DOMAIN}.FusedGemm")
def fused_gemm(site: Site) -> Iterator[Option]:
    """Batched: it becomes MatMul, Add and the activation."""
    given = ("transA", "transB", "alpha", "beta")
    plain = seen_as(
        site, "Gemm", range(len(site.node.inputs)), {k: site.attr(k) for k in given if k in site.node.attrs}
    )
    name = (site.attr("activation") or b"").decode(errors="replace")
    need(name != "", "it names no activation")
    attrs = {
        k: site.attr(f"activation_{k}")
        for k in ("alpha", "beta", "gamma")
        if f"activation_{k}" in site.node.attrs and k in TAKES.get(name, ())
    }

    for option in matmul.gemm(plain):

        def body(site: Site, ins: Sequence[Tensor], emit: Emitter, inner: Option = option) -> Held:
            return emit(name, *inner.emit(plain, ins, emit), **attrs)

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
    takes = site.own_layouts
    wide = max(*ranks, 2)
    vector = ranks[1] == 1 and bool(site.attr("transA"))
    need(  # gaps.VECTOR_UNTRANSPOSED
        not vector,
        "ONNX Runtime reads a transposed matrix beside a vector as if it were not transposed",
    )
    batch_moved = [bool(site.attr(f"transBatch{side}")) and ranks[i] > 2 for i, side in enumerate("AB")]

    def operand(i: int, x: Tensor, site: Site, emit: Emitter) -> Tensor:
        lead = int(site.mapped[i])
        if batch_moved[i]:  # [i, .., k] -> [.., i, k]
            rank = ranks[i]
            inner = [*range(1, rank - 1), 0, rank - 1]
            x = emit.transpose(x, [*range(lead), *(a + lead for a in inner)])
        if ranks[i] == 1:
            x = emit.unsqueeze(x, [lead + i])
        return emit.pad_rank(x, takes[i], max(ranks[i], 2), wide, 0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        ready = [operand(i, x, site, emit) for i, x in enumerate(ins)]
        # A vector is never transposed; it gained its second axis above.
        changes = {f"trans{side}": site.attr(f"trans{side}") if ranks[i] > 1 else 0
                   for i, side in enumerate("AB")}  # fmt: skip
        dropped = dict.fromkeys(("transBatchA", "transBatchB"))
        (y,) = emit_same_op(site, ready, emit, **changes, **dropped)
        return emit.squeeze(y, [wide - 1] * (ranks[0] == 1) + [wide] * (ranks[1] == 1))

    yield Option("fused_matmul", takes, (STACKED(0),), body)


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
        yield from per_axis(site, lambda layout: emit_same_op, axes=[rank - 1], name="packed")
        return
    need(not site.is_mapped("a") and site.op == "MatMulNBits" and not site.has("g_idx"), PACKED)
    columns = int(site.attr("N"))

    def wide(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        return emit_same_op(site, ins, emit, N=columns * emit.models)

    yield Option("packed", site.takes(dict.fromkeys(weights, FOLDED(0))), (FOLDED(rank - 1),), wide)
