"""Operators along axes: reductions, softmax, cumulative sums, sorting. The axis is shifted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import Layout
from netfuse_onnx.ops.axes import REDUCERS
from netfuse_onnx.rules._build import along, emit_same_op, need, per_axis
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Site


@family(*sorted(REDUCERS))
def reduce(site: Site) -> Iterator[Option]:
    """The axes are shifted past the model axis."""
    rank = site.rank(0)
    given = site.ints(1, "axes")
    if not given and site.attr("noop_with_empty_axes"):
        yield from per_axis(site, name="reduce")
        return
    axes = sorted(site.own_axis(a, rank) for a in given) if given else list(range(rank))
    keep = bool(site.attr("keepdims"))

    def body(layout: Layout) -> Body:
        return lambda site, ins, emit: _over(site, ins[0], layout.shifted(axes), emit)

    if not axes:  # a scalar: nothing to reduce, and no axes would mean all of them
        yield from per_axis(site, lambda layout: _scalar, name="reduce")
        return
    yield from per_axis(
        site, body, lambda layout: layout if keep else dropped(layout, axes), axes=axes, name="reduce"
    )


def _scalar(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
    """A scalar is reduced over an axis of size 1 that is added for it."""
    return _over(site, emit.unsqueeze(ins[0], [1]), [1], emit, keepdims=0)


def _over(site: Site, x: Tensor, axes: Sequence[int], emit: Emitter, **attrs: Any) -> Sequence[Held]:
    """The reduction of `x` over `axes`, which are an input or, in older opsets, an attribute."""
    if site.position("axes") >= 0:
        return emit_same_op(site, [x, emit.const(axes)], emit, **attrs)
    return emit_same_op(site, [x], emit, axes=axes, **attrs)


def dropped(layout: Layout, axes: Sequence[int]) -> Layout:
    """The layout once `axes` of each model are dropped."""
    return layout.with_axis(layout.axis - sum(axis < layout.axis for axis in axes))


def one_axis(site: Site, *, name: str, drops: bool = False) -> Iterator[Option]:
    """Options for an operator with one `axis` attribute, which is shifted; `drops`: the axis disappears."""
    need(site.rank(0) > 0, "its input is a scalar")
    axis = site.named_axis
    gives = (lambda layout: dropped(layout, [axis])) if drops else (lambda layout: layout)
    yield from per_axis(site, along(axis), gives, axes=[axis], name=name)


@family("Softmax", "LogSoftmax", "Hardmax")
def softmax(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis."""
    if site.opset >= 13:
        yield from one_axis(site, name="softmax")
        return
    axis = site.named_axis

    def before(layout: Layout) -> Layout | None:
        """It works on all axes from `axis` on at once, so the model axis may not stand among them."""
        return layout if layout.axis <= axis else None

    yield from per_axis(site, along(axis), before, axes=range(axis, site.rank(0)), name="softmax")


@family("ArgMax", "ArgMin")
def arg(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis."""
    yield from one_axis(site, name="arg", drops=not site.attr("keepdims"))


@family("LpNormalization", "TopK")
def shifted(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis; other inputs, such as k, are the same for all models."""
    yield from one_axis(site, name="shifted")


@family("CumSum", "CumProd")
def cumulative(site: Site) -> Iterator[Option]:
    """The axis, which is an input, is shifted past the model axis."""
    site.only_mapped(0)
    rank = site.rank(0)
    axis = site.own_axis((site.ints(1) or [0])[0], rank)

    def body(layout: Layout) -> Body:
        return lambda s, ins, emit: emit_same_op(s, [ins[0], emit.const(layout.physical(axis))], emit)

    yield from per_axis(site, body, axes=[axis], name="cumulative")


@family("Trilu")
def trilu(site: Site) -> Iterator[Option]:
    """It works on the last two axes, so the models are one more batch axis."""
    rank = site.rank(0)

    def gives(layout: Layout) -> Layout | None:
        return None if layout.stacked and layout.axis > rank - 2 else layout

    yield from per_axis(site, gives=gives, axes=range(rank - 2, rank))
