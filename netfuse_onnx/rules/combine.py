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
AXES_ARE_AN_INPUT = {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18, "ReduceMin": 18}
"""The opset from which the axes of a reduction are an input."""
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

    whole = site.inputs[0].dtype in (TensorProto.INT32, TensorProto.INT64)
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
    return _in_float(site, x, emit, lambda wide: _over("ReduceMean", wide, axis, emit))


def _sum(site: Site, x: Tensor, axis: int, emit: Emitter) -> Tensor:
    return _in_float(site, x, emit, lambda wide: _over("ReduceSum", wide, axis, emit))


def _mean_of_each(site: Site, each: Sequence[Tensor], emit: Emitter) -> Tensor:
    added = _added(site, each, emit)
    return _narrow(site, emit("Div", added, _number(site, emit)), emit)


def _sum_of_each(site: Site, each: Sequence[Tensor], emit: Emitter) -> Tensor:
    return _narrow(site, _added(site, each, emit), emit)


def _added(site: Site, each: Sequence[Tensor], emit: Emitter) -> Tensor:
    """The sum of tensors of one shape, halves in float32."""
    return emit("Sum", *(_wide(site, x, emit) for x in each))


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
    """Each label gets the number of models that give the same one. Of those with the most, the smallest
    remains: the others are replaced by the largest number of the type, which is a winner itself or larger."""
    dtype, most = site.inputs[0].dtype, np.iinfo(np.int64).max
    x = x if dtype == TensorProto.INT64 else emit("Cast", x, to=TensorProto.INT64)
    same = emit("Equal", emit.unsqueeze(x, [axis]), emit.unsqueeze(x, [axis + 1]))
    votes = _over("ReduceSum", emit("Cast", same, to=TensorProto.FLOAT), axis, emit)
    wins = emit("Equal", votes, _over("ReduceMax", votes, axis, emit, keep=True))
    label = _over("ReduceMin", emit("Where", wins, x, emit.const(most)), axis, emit)
    return label if dtype == TensorProto.INT64 else emit("Cast", label, to=dtype)


def _vote_of_truths(site: Site, x: Tensor, axis: int, emit: Emitter) -> Tensor:
    """True where more than half of the models say so."""
    votes = _over("ReduceSum", emit("Cast", x, to=TensorProto.FLOAT), axis, emit)
    return emit("Greater", votes, emit.const(site.models / 2, np.float32))


def _over(op: str, x: Tensor, axis: int, emit: Emitter, *, keep: bool = False) -> Tensor:
    """A reduction over one axis."""
    if emit.opset >= AXES_ARE_AN_INPUT[op]:
        return emit(op, x, emit.const([axis]), keepdims=int(keep))
    return emit(op, x, axes=[axis], keepdims=int(keep))
