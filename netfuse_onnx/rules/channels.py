"""The layout CHANNELS: products with weights as 1x1 convolutions, and what stands between them.

ONNX Runtime's CPU provider multiplies by a stack of matrices slowly: it packs only a constant of rank 2, and
hands the products of a batch to its threads one after the other. A grouped convolution runs all models'
products at once. So where costs are measured (plan/measured.py), linear layers may be convolutions on
[1, (N K), rows.., 1], and elementwise operators and the regrouping of heads pass that layout on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from onnx import TensorProto

from netfuse_onnx.dims import same_dim, static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import CHANNELS, FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.layouts.channels import folded, image, last_as_channels, moved, unfolded
from netfuse_onnx.rules._build import need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.einsum import linear
from netfuse_onnx.types import Became, Dim

# --------------------------------------------------------------------------- products


@family("MatMul", "Gemm")
def pointwise(site: Site) -> Iterator[Option]:
    """With --target, a 1x1 convolution, a group per model: 1(MK)r, (MO)K1 -> 1(MO)r; or of one input, 1Kr."""
    layout = last_as_channels(site.dims(0))
    need(layout is not None, "its input has no channels of a known number")
    need(site.is_mapped(1) and site.weight[1], "it has no weights per model")
    need(site.rank(1) == 2, "its weight is not one matrix")
    need(site.inputs[0].dtype == TensorProto.FLOAT, "ONNX Runtime's convolutions are for float32")
    unscaled = all(site.attr(name) in (None, 1.0) for name in ("alpha", "beta"))
    need(unscaled and not site.attr("transA"), "it scales or transposes its input")
    turned = bool(site.attr("transB"))
    bias = _bias(site)
    assert layout is not None
    own = site.mapped[0]
    takes = (layout if own else SHARED, STACKED(0), *([] if bias is None else [bias]))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        w = ins[1] if turned else emit.swap_last(ins[1], 3)
        inner, outer = site.dims(1) if not turned else reversed(site.dims(1))
        ones = [1] * max(site.rank(0) - 1, 2)
        w = emit.reshape(w, [emit.models * static_size(outer), static_size(inner), *ones])
        given = [ins[0] if own else image(emit, ins[0], site.rank(0)), w]
        if bias is not None:
            given.append(emit.reshape(ins[2], [emit.models * static_size(outer)]))
        return emit("Conv", *given, group=emit.models if own else 1, kernel_shape=ones)

    gives = (CHANNELS(site.out_rank() - 1),)
    yield Option("pointwise", takes, gives, body, Became.GROUPED, tuned=True)


@family("Einsum")
def einsum_pointwise(site: Site) -> Iterator[Option]:
    """With --target, a product with weights becomes a 1x1 convolution: ibh,hnd->ibnd."""
    product = linear(site.attr("equation").decode().replace(" ", ""))
    need(product is not None and len(site.node.inputs) == 2, "it is no product with weights")
    assert product is not None
    rows, inner, outer, turned = product
    own = site.mapped[0]
    need(site.is_mapped(1) and site.weight[1], "it has no weights per model")
    need(own or inner == 1, "its input is equal in all models, with several inner axes")
    need(site.inputs[0].dtype == TensorProto.FLOAT, "ONNX Runtime's convolutions are for float32")
    dims, weight = site.dims(0), site.dims(1)
    k = [int(d) for d in dims[rows:] if isinstance(d, int)]
    n = [static_size(d) for d in (weight[:outer] if turned else weight[inner:])]
    need(len(k) == inner and rows >= 2 and 0 not in (*k, *n, *dims), "its channels are of unknown number")

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        ones, rest = [1] * rows, [0] * rows
        x = ins[0] if own else image(emit, ins[0], rows + 1)
        into, out = math.prod(k), math.prod(n)
        if inner > 1:  # at equal rank, so that each 0 copies from its own place
            x = emit.reshape(x, [1, emit.models * into, *[1] * (inner - 1), *rest])
            x = emit.squeeze(x, range(2, inner + 1))
        w = ins[1] if turned else emit.swap_at(ins[1], inner, into, out)
        w = emit.reshape(w, [emit.models * out, into, *ones])
        y = emit("Conv", x, w, group=emit.models if own else 1, kernel_shape=ones)
        if outer == 1:
            return y
        y = emit.unsqueeze(y, range(2, outer + 1))
        return emit.reshape(y, [1, emit.models * n[0], *n[1:], *rest])

    takes, gives = (CHANNELS(rows) if own else SHARED, STACKED(0)), (CHANNELS(rows),)
    yield Option("einsum_pointwise", takes, gives, body, Became.GROUPED, tuned=True)


def _bias(site: Site) -> Layout | None:
    """The layout of a Gemm's C, which holds one number per channel; None where there is none."""
    if not site.has(2):
        return None
    dims = site.dims(2)
    one_each = len(dims) >= 1 and dims[-1] == site.out_dims()[-1] and all(d == 1 for d in dims[:-1])
    need(site.weight[2] and one_each, "its bias is not one stored number per channel")
    return FOLDED(len(dims) - 1)


# --------------------------------------------------------------------------- heads


@family("Reshape")
def heads(site: Site) -> Iterator[Option]:
    """With --target, channels in front are split into heads or joined, and stay: (..)(h k) <-> (..)hk."""
    site.only_mapped(0)
    dims, out = site.dims(0), site.out_dims()
    split, joined = _regrouped(dims, out), _regrouped(out, dims)
    need(split or joined, "it regroups more than the last axis")
    at = min(len(dims), len(out)) - 1
    rest = [0] * at

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        if split:  # an axis of 1, so that each 0 copies from its own place
            x = emit.unsqueeze(ins[0], [2])
            return emit.reshape(x, [1, emit.models * static_size(out[at]), static_size(out[at + 1]), *rest])
        x = emit.reshape(ins[0], [1, emit.models * static_size(out[at]), 1, *rest])
        return emit.squeeze(x, [2])

    yield Option("heads", (CHANNELS(at), None), (CHANNELS(at),), body, tuned=True)


def _regrouped(whole: Sequence[Dim], parts: Sequence[Dim]) -> bool:
    """True for [.., h*k] -> [.., h, k] with at least two axes before, which are known to stay."""
    at = len(whole) - 1
    if at < 2 or len(parts) != at + 2 or not all(map(same_dim, whole[:at], parts[:at])):
        return False
    last: list[Any] = [whole[at], *parts[at:]]
    return all(isinstance(dim, int) and dim for dim in last) and last[0] == last[1] * last[2]


@family("Transpose")
def turned_heads(site: Site) -> Iterator[Option]:
    """With --target, the source's own Transpose also moves channels to the front or back."""
    rank = site.rank(0)
    need(rank >= 3, "it moves no heads")
    perm = [int(p) for p in site.attr("perm") or reversed(range(rank))]
    need(sorted(perm) == list(range(rank)), "its perm is no order of its axes")
    need(len(site.out_dims()) == rank, "its output has another rank")
    for at in (rank - 2, rank - 1):
        dims, out = site.dims(0), site.out_dims()

        def back(site: Site, ins: Sequence[Tensor], emit: Emitter, at: int = at) -> Held:
            order = moved(at, rank)
            x = unfolded(emit, ins[0], at, site.dims(0))
            return emit.transpose(x, [0, *(1 + order.index(p) for p in perm)])

        def front(site: Site, ins: Sequence[Tensor], emit: Emitter, at: int = at) -> Held:
            x = emit.transpose(ins[0], [0, *(1 + perm[axis] for axis in moved(at, rank))])
            return folded(emit, x, at, site.out_dims())

        if isinstance(dims[at], int):
            yield Option("turned_heads", (CHANNELS(at),), (STACKED(0),), back, tuned=True)
        if isinstance(out[at], int):
            yield Option("turned_heads", (STACKED(0),), (CHANNELS(at),), front, tuned=True)
