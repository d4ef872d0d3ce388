"""Small helpers that rule bodies share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.layouts import Layout, places
from netfuse_onnx.rules._registry import Body, Option
from netfuse_onnx.rules._site import Input, Key, Operands, Refuse, Site
from netfuse_onnx.types import Dim


def emit_same_op(site: Site, ins: Sequence[Tensor | None], emit: Emitter, **attrs: Any) -> list[Tensor]:
    """Emit the source's own operator on other inputs, with some attributes changed. An attribute given
    as None is dropped."""
    merged = {k: v for k, v in {**site.node.attrs, **attrs}.items() if v is not None}
    if site.emits:
        return site.emits(ins, merged)
    outs = [name != "" for name in site.node.outputs]
    return emit.node(site.op, ins, merged, outs=outs, domain=site.node.domain)


def same_op(**attrs: Any) -> Body:
    """The body that emits the source's own operator with some attributes changed."""
    return lambda site, ins, emit: emit_same_op(site, ins, emit, **attrs)


def along(axis: int) -> Callable[[Layout], Body]:
    """The bodies of an operator whose `axis` is shifted past the model axis."""
    return lambda layout: same_op(axis=layout.physical(axis))


def times_models(name: str) -> Body:
    """The body that emits the source's own operator with N times attribute `name`."""
    return lambda site, ins, emit: emit_same_op(site, ins, emit, **{name: emit.models * int(site.attr(name))})


def if_folded(layout: Layout) -> Layout | None:
    return layout if layout.folded else None


def if_stacked(layout: Layout) -> Layout | None:
    return layout if layout.stacked else None


def seen_as(site: Site, op: str, which: Sequence[Key], attrs: Mapping[str, Any] | None = None) -> Site:
    """The site as if its node were another operator of the default domain on some of its inputs, with one
    output: so rules of fused operators ask those of the operators that they are made of."""

    def some(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[site.position(key)] for key in which)

    node = replace(
        site.node, op=op, domain="", inputs=some(site.node.inputs), outputs=site.node.outputs[:1],
        attrs=dict(attrs or {}),
    )  # fmt: skip
    return replace(
        site, node=node, inputs=some(site.inputs), outputs=site.outputs[:1], mapped=some(site.mapped),
        weight=some(site.weight), values=some(site.values),
    )  # fmt: skip


def aligned(site: Site, ins: Operands, key: Key, rank: int, emit: Emitter) -> Tensor:
    """An input, taken in its own layout, so that it broadcasts against [N, ..] of `rank` axes per model."""
    return emit.pad_rank(ins[key], site.own_layout(key), site.rank(key), rank, 0)


def as_int64(given: Input, x: Tensor, emit: Emitter) -> Tensor:
    """`x`, which holds an input of whole numbers, in int64."""
    return x if given.dtype == TensorProto.INT64 else emit("Cast", x, to=TensorProto.INT64)


def within(indices: Tensor, given: Input, rows: Dim, emit: Emitter) -> Tensor:
    """Indices, input `given`, into so many rows, in int64. CUDA's GatherND does not look whether they are in
    range (gaps.GATHER_GIVES_ZEROS), and would read the next model's; a Gather of 0, 1, 2, .. fails, or gives
    0."""
    if emit.provider == "cpu" or not isinstance(rows, int) or not rows:
        return as_int64(given, indices, emit)
    return emit("Gather", emit.const(np.arange(rows)), indices, axis=0)


def rows_of_each(table: Tensor, given: Input, indices: Tensor, rows: Dim, emit: Emitter) -> Tensor:
    """The rows [N, i.., d..] of each model's table [N, rows, d..] at its indices [N, i..], input `given`."""
    where = emit.unsqueeze(within(indices, given, rows, emit), [given.rank + 1])
    return emit("GatherND", table, where, batch_dims=1)


def per_axis(
    site: Site,
    body: Callable[[Layout], Body] = lambda layout: emit_same_op,
    gives: Callable[[Layout], Layout | None] = lambda layout: layout,
    *,
    axes: Sequence[int] = (),
    name: str = "",
    layouts: Sequence[Layout] | None = None,
    every_input: bool = False,
) -> Iterator[Option]:
    """Options for an operator on input 0, or on `every_input`, along `axes`: one for every place of the model
    axis, or each of `layouts`, that the operator leaves alone. `gives` maps the layout taken to the layout
    given, None to skip it."""
    if not every_input:
        site.only_mapped(0)
    for layout in places(site.rank(0)) if layouts is None else layouts:
        given = None if layout.touches(axes) else gives(layout)
        if given is not None:
            taken = range(len(site.node.inputs)) if every_input else [0]
            takes, outs = site.takes(dict.fromkeys(taken, layout)), site.gives(given)
            yield Option(
                name or site.op.lower(), takes, outs, body(layout), tuned=layout.tuned, only=layout.only
            )


def need(condition: bool, reason: str) -> None:
    """Refuse, with the reason, unless the condition holds."""
    if not condition:
        raise Refuse(reason)


def need_equal(site: Site, *names: str) -> None:
    """Refuse where an attribute differs that no constant stands for."""
    for name in {name for attrs in site.attrs for name in attrs} - set(names):
        values = [attrs.get(name) for attrs in site.attrs]
        need(
            all(value == values[0] for value in values), f"its attribute {name!r} differs between the models"
        )


def all_widths(
    pads: Tensor, values: np.ndarray[Any, Any] | None, axes: Sequence[int], rank: int, emit: Emitter
) -> Tensor:
    """Widths [2*rank] for Pad, from `pads`, the widths of some `axes`, whose `values` may be known. Pad's own
    axes are never used: gaps.PAD_AXES_MOVED."""
    if values is not None:
        flat, merged = values.reshape(-1).tolist(), [0] * (2 * rank)
        for k, axis in enumerate(axes):
            merged[axis], merged[axis + rank] = flat[k], flat[k + len(axes)]
        return emit.const(merged)
    both = emit("Reshape", pads, emit.const([2, len(axes)]))
    both = emit("Concat", emit.const([[0], [0]]), both, axis=1)
    order = [axes.index(axis) + 1 if axis in axes else 0 for axis in range(rank)]
    if order != list(range(len(axes) + 1)):
        both = emit("Gather", both, emit.const(order), axis=1)
    return emit("Reshape", both, emit.const([-1]))
