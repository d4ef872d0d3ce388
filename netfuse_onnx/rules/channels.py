"""The layout CHANNELS: products with weights as 1x1 convolutions, and what stands between them.

ONNX Runtime's CPU provider multiplies by a stack of matrices slowly: it packs only a constant of rank 2, and
hands the products of a batch to its threads one after the other. A grouped convolution runs all models'
products at once. So where costs are measured (plan/measured.py), linear layers may be convolutions on
[1, (N K), rows.., 1], and elementwise operators and the regrouping of heads pass that layout on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onnx import TensorProto

from netfuse_onnx.emit.channels import folded, moved, unfolded
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import same_dim
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family
from netfuse_onnx.types import CHANNELS, FOLDED, SHARED, STACKED, Became, Dim, Layout

KERNEL = "convolution_pointwise"


def channels(dims: Sequence[Dim]) -> Layout | None:
    """The last axis as channels, where it is known and not the only one. No convolution takes an empty
    image."""
    known = len(dims) >= 2 and isinstance(dims[-1], int) and 0 not in dims
    return CHANNELS(len(dims) - 1) if known else None


# --------------------------------------------------------------------------- products


@family("MatMul", "Gemm")
def pointwise(site: Site) -> Iterator[Option]:
    """a 1x1 convolution, with --target: 1(MK)r, (MO)K1 -> 1(MO)r, a group per model"""
    layout = channels(site.dims(0))
    need(layout is not None, "its input has no channels of a known number")
    need(
        site.is_mapped(0) and site.weight[1] and site.is_mapped(1), "it is no product with weights per model"
    )
    need(site.rank(1) == 2, "its weight is not one matrix")
    need(site.inputs[0].dtype == TensorProto.FLOAT, "ONNX Runtime's convolutions are for float32")
    trans_a, turned = (bool(site.attr(name, 0)) for name in ("transA", "transB"))
    plain = all(float(site.attr(name, 1.0)) == 1.0 for name in ("alpha", "beta")) and not trans_a
    need(plain, "it scales or transposes its input")
    bias = _bias(site)
    assert layout is not None
    takes = (layout, STACKED(0), *([] if bias is None else [bias]))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        w = ins[1] if turned else emit.swap_last(ins[1], 3)
        inner, outer = site.dims(1) if not turned else reversed(site.dims(1))
        ones = [1] * max(site.rank(0) - 1, 2)
        w = emit.reshape(w, [emit.models * int(str(outer)), int(str(inner)), *ones])
        given = [ins[0], w]
        if bias is not None:
            given.append(emit.reshape(ins[2], [emit.models * int(str(outer))]))
        return emit("Conv", *given, group=emit.models, kernel_shape=ones)

    given = CHANNELS(site.out_rank() - 1)
    yield Option("pointwise", takes, (given,), body, 1.0, Became.GROUPED, tuned=True, kernel=KERNEL)


def _bias(site: Site) -> Layout | None:
    """How a Gemm's C is taken, one number per channel. None where there is none."""
    if not site.has(2):
        return None
    dims = site.dims(2)
    one_each = len(dims) >= 1 and dims[-1] == site.out_dims()[-1] and all(d == 1 for d in dims[:-1])
    need(site.weight[2] and one_each, "its bias is not one stored number per channel")
    return FOLDED(len(dims) - 1)


# --------------------------------------------------------------------------- between products


def passing(site: Site) -> Iterator[Option]:
    """One input, element by element."""
    layout = channels(site.dims(0))
    if layout is not None:
        takes = (layout,) + (SHARED,) * (len(site.node.inputs) - 1)
        yield Option("channels", takes, (layout,) * len(site.node.outputs), again, tuned=True)


def broadcasting(site: Site) -> Iterator[Option]:
    """[1, (N K), r..] op the same, or op [1, (N K), 1..], a stored number per channel, or op one number."""
    out = site.out_dims()
    layout, rank = channels(out), len(out)
    if layout is None:
        return
    takes: list[Layout] = []
    for i in range(len(site.node.inputs)):
        dims = site.dims(i)
        flat = all(d == 1 for d in dims[:-1])
        if not site.mapped[i] and flat and (not dims or dims[-1] == 1):
            takes.append(SHARED)
        elif site.weight[i] and flat and dims and dims[-1] == out[-1]:
            takes.append(FOLDED(len(dims) - 1))
        elif site.mapped[i] and len(dims) == rank and dims[-1] == out[-1]:
            takes.append(CHANNELS(rank - 1))
        else:
            return
    if layout not in takes or (site.op == "PRelu" and takes[0] != layout):
        return

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        shape = [1, emit.models * int(str(out[-1])), *[1] * max(rank - 1, 2)]
        ready = [emit.reshape(x, shape) if take.folded else x for x, take in zip(ins, takes, strict=True)]
        return again(site, ready, emit)

    yield Option("channels", tuple(takes), (layout,), body, tuned=True)


# --------------------------------------------------------------------------- heads


@family("Reshape")
def heads(site: Site) -> Iterator[Option]:
    """channels in heads, with --target: (..)(h k) <-> (..)hk, where they stand in front and stay there"""
    site.only_mapped(0)
    dims, out = site.dims(0), site.out_dims()
    split, joined = _regrouped(dims, out), _regrouped(out, dims)
    need(split or joined, "it regroups more than the last axis")
    at = min(len(dims), len(out)) - 1
    rest = [0] * at

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        if split:  # an axis of 1, so that each 0 copies from its own place
            x = emit.unsqueeze(ins[0], [2])
            return emit.reshape(x, [1, emit.models * int(str(out[at])), int(str(out[at + 1])), *rest])
        x = emit.reshape(ins[0], [1, emit.models * int(str(out[at])), 1, *rest])
        return emit.squeeze(x, [2])

    yield Option("heads", (CHANNELS(at), None), (CHANNELS(at),), body, 0.5, tuned=True)


def _regrouped(whole: Sequence[Dim], parts: Sequence[Dim]) -> bool:
    """Whether [.., h*k] -> [.., h, k] with at least two axes before, which are known to stay."""
    at = len(whole) - 1
    if at < 2 or len(parts) != at + 2 or not all(map(same_dim, whole[:at], parts[:at])):
        return False
    last: list[Any] = [whole[at], *parts[at:]]
    return all(isinstance(dim, int) and dim for dim in last) and last[0] == last[1] * last[2]


@family("Transpose")
def turned_heads(site: Site) -> Iterator[Option]:
    """channels to the front or back, with --target, in the one Transpose that the source has anyway"""
    rank = site.rank(0)
    need(rank >= 3, "it moves no heads")
    perm = [int(p) for p in site.attr("perm") or reversed(range(rank))]
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
            yield Option("turned_heads", (CHANNELS(at),), (STACKED(0),), back, 1.25, tuned=True)
        if isinstance(out[at], int):
            yield Option("turned_heads", (STACKED(0),), (CHANNELS(at),), front, 1.25, tuned=True)
