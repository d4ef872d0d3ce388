"""The arithmetic of an operator, as products of matrices, and the kind of kernel that does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netfuse_onnx.layouts import SHARED
from netfuse_onnx.ops.shapes_contrib import CHANNEL_BLOCK as BLOCK
from netfuse_onnx.rules import Option, Site
from netfuse_onnx.types import Became, Dim, Lowering

FEW = 4
"""Up to so many input channels, an ungrouped convolution reads a plain image into blocks."""

Size = Callable[[Sequence[Dim]], Sequence[int]]
"""Dims with sizes in the place of those that are open."""


@dataclass(frozen=True)
class Work:
    """`count` products [m,k] x [k,n] in one launch, by one kind of kernel."""

    kernel: str
    count: int
    m: int
    n: int
    k: int


def work(site: Site, offer: Lowering | None, sizes: Size) -> Work | None:
    """What a node does in this lowering, or, without one, in one model alone. None where it does no
    products."""
    if any(v.dims is None for v in (*site.inputs[:2], *site.outputs[:1])):
        return None
    if site.op in ("Conv", "FusedConv", "ConvTranspose"):
        return _convolution(site, offer, sizes)
    if site.op in ("MatMul", "Gemm", "FusedMatMul"):
        return _product(site, offer, sizes)
    return _einsum(site, offer, sizes) if site.op == "Einsum" and len(site.inputs) == 2 else None


def _einsum(site: Site, offer: Lowering | None, sizes: Size) -> Work | None:
    """Of two operands. ONNX Runtime turns them into stacks of matrices, which it copies, and packs none."""
    left, _, result = site.attr("equation").decode().replace(" ", "").partition("->")
    x, _, w = left.partition(",")
    if not (x + w + result).isalpha() or any(v.dims is None for v in site.inputs):
        return None
    each = (*sizes(site.inputs[0].dims or ()), *sizes(site.inputs[1].dims or ()))
    if len(x + w) != len(each) or not set(result) <= set(x + w):
        return None  # it is not valid
    size = dict(zip(x + w, each, strict=True))

    def product(letters: set[str]) -> int:
        return math.prod(size[c] for c in letters)

    both, out = set(x) & set(w), set(result)
    k, count = product(both - out), product(both & out)
    m, n = product((set(x) - both) & out), product((set(w) - both) & out)
    if offer is None or offer.became is Became.REPLICATED:
        return Work("einsum", count, m, n, k)
    if offer.became is Became.GROUPED:
        return _pointwise(offer, site.models, m, n, k)
    kernel = offer.option.kernel if isinstance(offer.option, Option) else ""
    return Work(kernel or "einsum", count * site.models, m, n, k)


def _product(site: Site, offer: Lowering | None, sizes: Size) -> Work | None:
    x, w, y = (
        tuple(sizes(dims or ())) for dims in (site.inputs[0].dims, site.inputs[1].dims, site.outputs[0].dims)
    )
    if not x or not w:
        return None
    k = x[-2] if site.attr("transA") and len(x) >= 2 else x[-1]
    n = y[-1] if len(w) >= 2 and y else 1
    rows = math.prod(y) // max(n, 1)
    batch = math.prod(w[:-2])
    batched = offer is not None and offer.became is not Became.REPLICATED
    if batch == 1 and site.weight[1]:  # one matrix for all rows
        if not batched:
            return Work("product", 1, rows, n, k)
        if not site.mapped[1]:
            return Work("product", 1, rows * site.models, n, k)
        if offer is not None and offer.became is Became.GROUPED:
            return _pointwise(offer, site.models, rows, n, k)
        return Work("product_stacked", site.models, rows, n, k)
    count = math.prod(y[:-2]) if len(y) > 2 else 1
    m = max(rows // max(count, 1), 1)
    return Work("product_values", count * (site.models if batched else 1), m, n, k)


def _pointwise(offer: Lowering, models: int, m: int, n: int, k: int) -> Work:
    """A group per model, or, where all read one input, as many more columns."""
    if offer.takes[0] == SHARED:
        return Work(pointwise_kernel(k, models * n), 1, m, models * n, k)
    return Work(pointwise_kernel(k, n), models, m, n, k)


def _convolution(site: Site, offer: Lowering | None, sizes: Size) -> Work | None:
    x, w, y = (
        tuple(sizes(dims or ())) for dims in (site.inputs[0].dims, site.inputs[1].dims, site.outputs[0].dims)
    )
    if len(w) < 3:
        return None
    groups = int(site.attr("group"))
    batched = offer is not None and offer.became is not Became.REPLICATED
    wide = batched and offer is not None and offer.takes[0] == SHARED
    once = batched and offer is not None and offer.takes[1] == SHARED  # and the models are in the batch
    every = site.models if batched and not once and not wide else 1
    batch = y[0] * (site.models if once else 1)
    if site.op == "ConvTranspose":
        into, out, k = w[0] // groups, w[1], w[1] * math.prod(w[2:])
        return Work("convolution_plain", every * groups, batch * math.prod(x[2:]), k, into)
    into, out = w[1], w[0] // groups * (site.models if wide else 1)
    kernel = convolution_kernel(into, out, every * groups)
    return Work(kernel, every * groups, batch * math.prod(y[2:]), out, into * math.prod(w[2:]))


def convolution_kernel(into: int, out: int, groups: int) -> str:
    """Of a convolution with so many channels in and out of each group."""
    if into == 1 and out == 1:
        return "convolution_depthwise"
    if out % BLOCK == 0 and (into % BLOCK == 0 or (groups == 1 and into < FEW)):
        return "convolution_blocked"
    return "convolution_plain"


def pointwise_kernel(k: int, n: int) -> str:
    """Of a linear layer from k to n channels that runs as a 1x1 convolution."""
    return "pointwise_blocked" if k % BLOCK == 0 and n % BLOCK == 0 else "pointwise_plain"
