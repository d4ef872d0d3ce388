"""Operators that write at indices: the model number becomes one more coordinate, or the axis is shifted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.rules._build import along, emit_same_op, if_stacked, need, per_axis
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site


@family("ScatterElements", "Scatter")
def scatter_elements(site: Site) -> Iterator[Option]:
    """The axis is shifted past the model axis; data, indices and updates are all stacked."""
    yield from per_axis(site, along(site.named_axis), if_stacked, name="scatter_elements", every_input=True)


@family("ScatterND")
def scatter_nd(site: Site) -> Iterator[Option]:
    """The model's number is the first coordinate: an index out of range stays an error."""
    need(site.rank(1) >= 1, "its indices are a scalar")

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return emit_same_op(site, [ins[0], with_model(site, ins[1], emit), ins[2]], emit)[0]

    yield Option("scatter_nd", (STACKED(0),) * 3, (STACKED(0),), body)


def with_model(site: Site, indices: Tensor, emit: Emitter) -> Tensor:
    """[N, .., k] -> [N, .., k + 1]: the number of the model before each tuple of coordinates."""
    dims = site.dims(1)
    lead = dims[:-1]
    if not isinstance(emit.count, int):
        zeros = emit("Mul", emit("Gather", indices, emit.const([0]), axis=len(dims)), emit.const(0))
        return emit("Concat", emit("Add", zeros, emit.places(len(dims))), indices, axis=-1)
    ids = np.arange(emit.count).reshape(-1, *[1] * len(dims))
    if all(isinstance(d, int) for d in lead):
        shape = (emit.count, *(d for d in lead if isinstance(d, int)), 1)
        return emit("Concat", emit.const(np.broadcast_to(ids, shape)), indices, axis=-1)
    (size,) = dims[-1:]
    if isinstance(size, int):  # a column of zeros in front, to which the number is added
        front = [0] * len(dims) + [1] + [0] * (len(dims) + 1)
        column = np.concatenate([ids, np.zeros((*ids.shape[:-1], size), np.int64)], -1)
        return emit("Add", emit("Pad", indices, emit.const(front)), emit.const(column))
    zeros = emit("Mul", emit("Gather", indices, emit.const([0]), axis=len(dims)), emit.const(0))
    return emit("Concat", emit("Add", zeros, emit.const(ids)), indices, axis=-1)
