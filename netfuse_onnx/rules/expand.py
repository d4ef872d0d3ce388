"""Operators that repeat: a broadcast to a shape, and tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.dims import same_dim
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import SHARED, STACKED, Layout, places
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Site


@family("Expand")
def expand(site: Site) -> Iterator[Option]:
    """The shape gains an axis of 1 for the models."""
    site.only_mapped(0)
    rank, wide = site.rank(0), site.out_rank()
    shape = _expanded(site)
    if shape is None:
        yield Option("expand", (STACKED(0), SHARED), (STACKED(0),), _expand_computed)
        return

    def body(layout: Layout) -> Body:
        def emit_expand(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
            merged = list(shape)
            if layout.stacked:
                merged.insert(layout.axis, 1)
            else:
                merged[layout.axis] = 1
            return emit("Expand", emit.pad_rank(ins[0], layout, rank, wide, 0), emit.const(merged))

        return emit_expand

    for layout in places(wide) if rank == wide else (STACKED(0),):
        if layout.stacked or shape[layout.axis] in (1, site.dims(0)[layout.axis]):
            yield Option("expand", (layout, None), (layout,), body(layout))


def _expanded(site: Site) -> list[int] | None:
    """The shape, of the rank of the output; 1 keeps a dim. None where only the run tells."""
    wide, target = site.out_rank(), site[1].value
    if target is not None:
        flat = [int(v) for v in target.reshape(-1)]
        return [1] * (wide - len(flat)) + flat
    dims = (*[1] * (wide - site.rank(0)), *site.dims(0))
    out = site.out_dims()
    if any(
        not same_dim(o, d) and not (isinstance(o, int) and d == 1) for o, d in zip(out, dims, strict=True)
    ):
        return None
    return [o if isinstance(o, int) else 1 for o in out]


def _expand_computed(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
    """The target is computed. One that is shorter than the input is padded with 1 from the left."""
    rank, wide = site.rank(0), site.out_rank()
    length = site.dims(1)[0]
    short = wide - length if isinstance(length, int) else 0
    shape = emit("Concat", emit.const([1] * (short + 1)), ins[1], axis=0)
    return emit("Expand", emit.pad_rank(ins[0], STACKED(0), rank, wide, 0), shape)


@family("Tile")
def tile(site: Site) -> Iterator[Option]:
    """The model axis is repeated once."""
    site.only_mapped(0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return emit("Tile", ins[0], emit.prepend(1, ins[1], site.values[1]))

    yield Option("tile", (STACKED(0), SHARED), (STACKED(0),), body)
