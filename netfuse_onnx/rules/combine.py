"""Combinations of the models' outputs: a mean, a sum or a majority vote, given once for all models.

The operators are this compiler's own: rewrite/combine.py puts them behind outputs, and no file holds them.
They read the values of all models and give one that is the same for all, so no option runs once per model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED
from netfuse_onnx.ops.schemas import OWN
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Operands, Site

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Types whose sums are computed in float32."""
WHOLE = frozenset({TensorProto.INT32, TensorProto.INT64})
"""Types whose sums are those of whole numbers, which wrap around."""
AXES_ARE_AN_INPUT = 13
"""The opset from which the axes of ReduceSum are an input."""
MOST_IN_FLOAT32 = 4000
"""Counts of votes, of up to the square of the number of models, are exact in float32 for fewer models."""
Reduction = Callable[[Site, Tensor, int, Emitter], Tensor]
"""Emits the combination of a tensor whose axis of models is the given one."""


@family(f"{OWN}.Mean")
def mean(site: Site) -> Iterator[Option]:
    """NB.. -> B..: a mean over the axis of models, of halves in float32."""
    yield from _ways(site, "mean", _mean, _mean_of_each, lambda site, x, emit: x)


@family(f"{OWN}.Sum")
def total(site: Site) -> Iterator[Option]:
    """NB.. -> B..: a sum over the axis of models, of halves in float32."""

    def of_equal(site: Site, x: Tensor, emit: Emitter) -> Tensor:
        return _in_float(site, x, emit, lambda wide: emit("Mul", wide, _number(site, emit)))

    whole = site.inputs[0].dtype in WHOLE
    yield from _ways(site, "sum", _sum, None if whole else _sum_of_each, of_equal)


@family(f"{OWN}.Vote")
def vote(site: Site) -> Iterator[Option]:
    """NB.. -> B..: the label that most models give; of labels with as many votes, the smallest."""
    body = _vote_of_truths if site.inputs[0].dtype == TensorProto.BOOL else _vote
    yield from _ways(site, "vote", body, None, lambda site, x, emit: x)


def _ways(
    site: Site,
    name: str,
    reduced: Reduction,
    of_each: Callable[[Site, Sequence[Tensor], Emitter], Tensor] | None,
    of_equal: Callable[[Site, Tensor, Emitter], Tensor],
) -> Iterator[Option]:
    """The options of a combination: of a value that is equal in all models, along the axis of models wherever
    it stands, and of the tensor of each model where all are known to have one shape. Else an operator that
    broadcasts would combine rows that do not belong together; the join compares shapes."""
    if not site.mapped[0]:
        yield Option(name, (SHARED,), (SHARED,), lambda s, ins, emit: of_equal(s, ins[0], emit))
        return
    for axis in range(site.rank(0) + 1):
        yield Option(name, (STACKED(axis),), (SHARED,), _along(axis, reduced))
    alike = bool(site.node.attrs["alike"]) or all(isinstance(dim, int) for dim in site.dims(0))
    if of_each is not None and alike:

        def each(site: Site, ins: Operands, emit: Emitter) -> Tensor:
            return of_each(site, [*ins[0]], emit)

        yield Option(name, (PER_MODEL,), (SHARED,), each)


def _along(axis: int, reduced: Reduction) -> Body:
    return lambda site, ins, emit: reduced(site, ins[0], axis, emit)


# --------------------------------------------------------------------------- mean and sum


def _mean(site: Site, x: Tensor, axis: int, emit: Emitter) -> Tensor:
    """The parts of the mean are added: a sum of large values may leave the range in which their mean is."""
    return _in_float(site, x, emit, lambda wide: _added(emit("Div", wide, _number(site, emit)), axis, emit))


def _sum(site: Site, x: Tensor, axis: int, emit: Emitter) -> Tensor:
    if site.inputs[0].dtype in WHOLE:
        return _sum_of_whole(site, x, axis, emit)
    return _in_float(site, x, emit, lambda wide: _added(wide, axis, emit))


def _sum_of_whole(site: Site, x: Tensor, axis: int, emit: Emitter) -> Tensor:
    """The sum of the two halves of the models, of their halves, and so on. Kernels of ReduceSum count in
    floats, which are exact up to 2^53 (CPU) or 2^24 (CUDA)."""
    count = site.models
    while count > 1:
        half, odd = divmod(count, 2)
        low, high, *rest = emit.split(x, [half, half, *[1] * odd], axis)
        x = emit("Add", low, high)
        x = emit("Concat", x, *rest, axis=axis) if odd else x
        count = half + odd
    return emit.squeeze(x, [axis])


def _mean_of_each(site: Site, each: Sequence[Tensor], emit: Emitter) -> Tensor:
    parts = (emit("Div", _wide(site, x, emit), _number(site, emit)) for x in each)
    return _narrow(site, emit("Sum", *parts), emit)


def _sum_of_each(site: Site, each: Sequence[Tensor], emit: Emitter) -> Tensor:
    """The sum of tensors of one shape, halves in float32."""
    return _narrow(site, emit("Sum", *(_wide(site, x, emit) for x in each)), emit)


def _number(site: Site, emit: Emitter) -> Tensor:
    """The number of models, as a scalar of the type in which the values are added."""
    dtype = TensorProto.FLOAT if site.inputs[0].dtype in HALVES else site.inputs[0].dtype
    return emit.filled(site.models, dtype, [])


def _in_float(site: Site, x: Tensor, emit: Emitter, body: Callable[[Tensor], Tensor]) -> Tensor:
    return _narrow(site, body(_wide(site, x, emit)), emit)


def _wide(site: Site, x: Tensor, emit: Emitter) -> Tensor:
    return emit("Cast", x, to=TensorProto.FLOAT) if site.inputs[0].dtype in HALVES else x


def _narrow(site: Site, x: Tensor, emit: Emitter) -> Tensor:
    dtype = site.inputs[0].dtype
    return emit("Cast", x, to=dtype) if dtype in HALVES else x


# --------------------------------------------------------------------------- vote


def _vote(site: Site, x: Tensor, axis: int, emit: Emitter) -> Tensor:
    """The votes for the label of a model count N + 1 each, and each model with a smaller label takes off 1.
    So the highest count is that of the label with the most votes, of several the smallest. The label itself
    is taken as it is. No integers are reduced: CUDA's kernels do that in float32."""
    models = site.models
    dtype = np.float32 if models < MOST_IN_FLOAT32 else np.float64
    wide = x if site.inputs[0].dtype == TensorProto.INT64 else emit("Cast", x, to=TensorProto.INT64)
    mine, theirs = emit.unsqueeze(wide, [axis + 1]), emit.unsqueeze(wide, [axis])
    smaller = emit("Where", emit("Less", theirs, mine), emit.const(-1, dtype), emit.const(0, dtype))
    each = emit("Where", emit("Equal", theirs, mine), emit.const(models + 1, dtype), smaller)
    count = _added(each, axis + 1, emit)
    place = emit("ArgMax", count, axis=axis, keepdims=1)
    return emit.squeeze(emit("GatherElements", x, place, axis=axis), [axis])


def _vote_of_truths(site: Site, x: Tensor, axis: int, emit: Emitter) -> Tensor:
    """True where more than half of the models say so."""
    votes = _added(emit("Cast", x, to=TensorProto.FLOAT), axis, emit)
    return emit("Greater", votes, emit.const(site.models / 2, np.float32))


def _added(x: Tensor, axis: int, emit: Emitter) -> Tensor:
    """The sum over one axis, which is dropped."""
    if emit.opset >= AXES_ARE_AN_INPUT:
        return emit("ReduceSum", x, emit.const([axis]), keepdims=0)
    return emit("ReduceSum", x, axes=[axis], keepdims=0)
