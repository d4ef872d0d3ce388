"""Operators that move, add, drop or regroup axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from netfuse_onnx.dims import product, same_dim, volume
from netfuse_onnx.emit.chosen import NeedsCount
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, PER_MODEL, SHARED, STACKED, Layout, places
from netfuse_onnx.rules._build import all_widths, emit_same_op, need, per_axis
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.reduce import dropped
from netfuse_onnx.types import Dim


@family("Transpose")
def transpose(site: Site) -> Iterator[Option]:
    """The Transpose may move the model axis, too, at no cost: STACKED(a) -> STACKED(b)."""
    rank = site.rank(0)
    perm = [int(p) for p in site.attr("perm") or reversed(range(rank))]
    need(sorted(perm) == list(range(rank)), "its perm is no order of its axes")

    def body(take: Layout, give: Layout) -> Body:
        def emit_transpose(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
            if take.folded:
                return emit_same_op(site, ins, emit, perm=perm)[0]
            moved = take.shifted(perm)
            moved.insert(give.axis, take.axis)
            return emit.transpose(ins[0], moved)

        return emit_transpose

    stacked = [place for place in places(rank) if place.stacked]
    for take in places(rank):
        for give in [FOLDED(perm.index(take.axis))] if take.folded else stacked:
            yield Option("transpose", (take,), (give,), body(take, give))


@family("Unsqueeze")
def unsqueeze(site: Site) -> Iterator[Option]:
    """The new axes are shifted past the model axis, which may end on either side of them."""
    rank = site.out_rank()
    axes = sorted(site.own_axis(a, rank) for a in site.ints(1, "axes") or [])
    kept = [a for a in range(rank) if a not in axes]  # where each axis of the input ends up

    def body(give: Layout) -> Body:
        return lambda site, ins, emit: emit.unsqueeze(ins[0], give.shifted(axes))

    for take in places(site.rank(0)):
        if take.folded:
            give = FOLDED(kept[take.axis])
            yield Option("unsqueeze", site.takes({0: take}), (give,), body(give))
            continue
        low = kept[take.axis - 1] + 1 if take.axis else 0
        high = kept[take.axis] if take.axis < len(kept) else rank
        for at in range(low, high + 1):
            if at in (0, 1, low, high):
                yield Option("unsqueeze", site.takes({0: take}), (STACKED(at),), body(STACKED(at)))


@family("Squeeze")
def squeeze(site: Site) -> Iterator[Option]:
    """The axes are shifted past the model axis."""
    site.only_mapped(0)
    rank = site.rank(0)
    given = site.ints(1, "axes")
    # gaps.NO_AXES_ARE_ALL
    need(given != [], "an empty list of axes means none to onnx and all of size 1 to ONNX Runtime")
    if given is None:
        dims = site.dims(0)
        need(all(isinstance(d, int) for d in dims), "the axes that it drops depend on a size that is unknown")
        given = [a for a, d in enumerate(dims) if d == 1]
    axes = sorted(site.own_axis(a, rank) for a in given)

    def body(layout: Layout) -> Body:
        return lambda site, ins, emit: emit.squeeze(ins[0], layout.shifted(axes))

    yield from per_axis(site, body, lambda layout: dropped(layout, axes), axes=axes, name="squeeze")


@family("Flatten")
def flatten(site: Site) -> Iterator[Option]:
    """Each model is flattened to two axes of its own."""
    dims = site.dims(0)
    axis = site.axis(int(site.attr("axis")), len(dims))
    rows, cols = _product(dims[:axis]), _product(dims[axis:])
    if axis >= 1:
        yield Option("flatten", (FOLDED(0),), (FOLDED(0),), emit_same_op)
    if axis == 1 and len(dims) >= 2:
        yield Option("flatten", (FOLDED(1),), (FOLDED(1),), emit_same_op)
    if rows is None and cols is None:  # -1 is undefined where the other turns out 0
        return
    target = [0, -1 if rows is None else rows, -1 if cols is None else cols]
    yield Option("flatten", (STACKED(0),), (STACKED(0),), lambda s, ins, emit: emit.reshape(ins[0], target))


def _product(dims: Sequence[Dim]) -> int | None:
    """The product of the dims; None for 0 as well, which cannot be written in a target: there 0 copies."""
    return product(dims) or None


@family("Reshape")
def reshape(site: Site) -> Iterator[Option]:
    """The model axis is written into the target, in which 0 and -1 keep their meaning."""
    site.only_mapped(0)
    inferred = _inferred_target(site) if site.values[1] is None else None
    target = site.values[1] if inferred is None else inferred
    read = SHARED if inferred is None else None
    attrs: dict[str, Any] = {} if inferred is None else {"allowzero": None}

    def head(emit: Emitter) -> Dim:
        """The models, which a 0 copies where it does not mean a size."""
        return emit.count if site.attr("allowzero") and inferred is None else emit.kept

    def stacked_first(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return emit_same_op(site, [ins[0], emit.prepend(head(emit), ins[1], target)], emit, **attrs)[0]

    yield Option("reshape", (STACKED(0), read), (STACKED(0),), stacked_first)
    sizes = [] if target is None else [int(t) for t in target.reshape(-1)]
    if 0 in sizes and inferred is None and site.attr("allowzero"):
        return
    dims = site.dims(0)
    for take in places(len(dims)):
        if take == STACKED(0) or take.axis >= len(sizes) or not _keeps(dims, sizes, take.axis):
            continue
        if take.stacked or sizes[take.axis] != -1 or _divides(dims, sizes, take.axis):
            yield Option("reshape", (take, read), (take,), _with_target(take, sizes))


def _inferred_target(site: Site) -> np.ndarray[Any, Any] | None:
    """A target that is computed at run time, where the dims of the output tell it: a 0 copies a dim that
    keeps its place, and one may be -1, unless another may turn out empty. Where open dims of the input come
    to nothing in the output, a file declares a size that it does not have."""
    dims, wanted = site.dims(0), list[int]()
    for i, dim in enumerate(site.out_dims()):
        copied = not isinstance(dim, int) and same_dim(dim, _copied(dims, i))
        wanted.append(dim if isinstance(dim, int) and dim else 0 if copied else -1)
    unclear = -1 in wanted and (0 in wanted or wanted.count(-1) > 1)
    lost = any(not isinstance(d, int) and wanted[i : i + 1] != [0] for i, d in enumerate(dims))
    if unclear or 0 in site.out_dims() or (lost and -1 not in wanted):
        return None
    return np.array(wanted, np.int64)


def _with_target(layout: Layout, sizes: list[int]) -> Body:
    """N stands before target[a], or multiplies it. A 0 after a STACKED axis copies from its own place."""

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        merged = list(sizes)
        if layout.stacked:
            merged.insert(layout.axis, emit.kept)
        elif merged[layout.axis] > 0:
            merged[layout.axis] = _folded(merged, layout.axis, emit)
        return emit_same_op(site, [ins[0], emit.const(merged)], emit, allowzero=None)[0]

    return body


def _folded(target: Sequence[int], axis: int, emit: Emitter) -> int:
    """The target of a folded axis. Where only a call tells the number of models it is -1, if no other is."""
    if emit.chosen is not None and -1 in target:
        raise NeedsCount
    return emit.times(target[axis])


def _keeps(dims: Sequence[Dim], target: Sequence[int], axis: int) -> bool:
    """True where the axes before `axis` come out as they went in, so that a model axis there survives."""
    tail, wanted = _product(dims[axis:]), [t or _copied(dims, i) for i, t in enumerate(target)]
    if axis == 1 and target[0] == -1:
        rest = _product(wanted[1:])
        return tail is not None and tail == rest
    return all(target[i] == 0 or same_dim(dims[i], target[i]) for i in range(axis))


def _divides(dims: Sequence[Dim], target: Sequence[int], axis: int) -> bool:
    """True where the -1 at `axis` must come out whole for each model, and not only for all N together."""
    left = [dim for dim in dims[axis:] if not isinstance(dim, int)]
    for i in range(axis + 1, len(target)):
        copied = _copied(dims, i)
        if target[i] == 0 and copied in left:
            left.remove(copied)
        elif target[i] == 0 and not isinstance(copied, int):
            return False
    needed = volume([target[i] or _copied(dims, i) for i in range(axis + 1, len(target))], 1)
    return needed > 0 and volume(dims[axis:], 1) % needed == 0


def _copied(dims: Sequence[Dim], i: int) -> Dim:
    return dims[i] if i < len(dims) else None


def _pad_per_model(site: Site) -> Iterator[Option]:
    """A value per model: pad with a zero, and put the value where a mask, padded alike, says so."""
    need(site.attr("mode") == b"constant", "its value differs between the models")
    rank = site.rank(0)
    axes = STACKED(0).shifted(_pad_axes(site, rank))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        widths = all_widths(ins[1], site.values[1], axes, rank + 1, emit)
        one = numpy_helper.from_array(np.array([1], np.int32))
        same = emit("ConstantOfShape", emit("Shape", ins[0]), value=one)
        mask = emit("Cast", emit("Pad", same, widths), to=TensorProto.BOOL)
        value = emit.pad_rank(emit.reshape(ins[2], [emit.count]), STACKED(0), 0, rank, 0)
        return emit("Where", mask, emit("Pad", ins[0], widths), value)

    yield Option("pad", site.takes({0: STACKED(0), 2: STACKED(0)}), (STACKED(0),), body)


def _pad_axes(site: Site, rank: int) -> list[int]:
    named = site.ints(3)
    return [site.own_axis(a, rank) for a in named] if named is not None else list(range(rank))


@family("Pad")
def pad(site: Site) -> Iterator[Option]:
    """Nothing is padded along the model axis."""
    if site.is_mapped(2):
        yield from _pad_per_model(site)
        return
    site.only_mapped(0)
    rank = site.rank(0)
    axes = _pad_axes(site, rank)
    computed = site.has(1) and site.values[1] is None
    pads = [] if computed else site.ints(1, "pads") or []
    half = len(axes)
    padded = axes if computed else [a for k, a in enumerate(axes) if pads[k] or pads[half + k]]

    def body(layout: Layout) -> Body:
        def emit_pad(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Sequence[Held]:
            moved, whole = layout.shifted(axes), rank + layout.stacked
            if not site.has(1):
                merged = [0] * (2 * whole)
                for k, axis in enumerate(moved):
                    merged[axis], merged[axis + whole] = pads[k], pads[half + k]
                return emit_same_op(site, [ins[0]], emit, pads=merged)
            widths = all_widths(ins[1], site.values[1], moved, whole, emit)
            return emit_same_op(site, [ins[0], widths, *ins[2:3]], emit)

        return emit_pad

    yield from per_axis(site, body, axes=padded, name="pad")


@family("Shape", "Size")
def shape_of(site: Site) -> Iterator[Option]:
    """It runs once, because the joins have already checked that the models' shapes are equal."""
    dims = site.dims(0)
    rank = len(dims)
    if all(isinstance(d, int) for d in dims):  # else sizes could differ unseen where no join compares them
        yield Option(
            "shape_of", (PER_MODEL,), (SHARED,), lambda s, ins, emit: emit_same_op(s, [ins[0][0]], emit)
        )
    start, end = site.attr("start") or 0, site.attr("end")
    start, end = (site.axis(int(a), rank) for a in (start, rank if end is None else end))
    axes = list(range(max(start, 0), min(end, rank)))
    for layout in places(rank):
        if site.op == "Size":
            yield Option("shape_of", (layout,), (SHARED,), _size)
        elif axes:
            yield Option("shape_of", (layout,), (SHARED,), _shape(layout, axes))


def _size(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
    return emit("Div", emit("Size", ins[0]), emit.number_of_models())


def _shape(layout: Layout, axes: list[int]) -> Body:
    """The per-model sizes of `axes`: the model axis is left out, or divided out of a folded one."""

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        wanted = layout.shifted(axes)
        low, high = 0, site.rank(0) + layout.stacked
        if emit.opset >= 15:
            low, high = wanted[0], wanted[-1] + 1
            shape = emit("Shape", ins[0], start=low, end=high)
        else:
            shape = emit("Shape", ins[0])
        if high - low > len(wanted):
            shape = emit("Gather", shape, emit.const([axis - low for axis in wanted]), axis=0)
        if layout.touches(axes):
            return emit("Div", shape, emit.shape([emit.count if a == layout.axis else 1 for a in axes]))
        return shape

    return body
