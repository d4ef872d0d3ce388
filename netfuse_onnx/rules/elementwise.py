"""Operators that act on each element: one input (any layout passes through) or several that broadcast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
from onnx import helper

from netfuse_onnx.dims import broadcast, same_dim
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import SHARED, STACKED, Layout, Operand, further_places, places
from netfuse_onnx.rules._build import aligned, emit_same_op, need, per_axis
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.run import gaps
from netfuse_onnx.types import Dim

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitCast", "BitwiseNot", "Cast", "Ceil",
    "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal",
    "RegexFullMatch", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip

BROADCAST = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow",
    "StringConcat", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip


@family(*UNARY)
def unary(site: Site) -> Iterator[Option]:
    """Each element is computed on its own, in whatever layout the input has."""
    layouts = (*places(site.rank(0)), *further_places(site.dims(0)))
    yield from per_axis(site, name="unary", layouts=layouts)


@family("Dropout")
def dropout(site: Site) -> Iterator[Option]:
    """Each element is passed on: nothing is dropped at inference, whatever the ratio."""
    training = site.values[2] if site.has(2) else None
    idle = not site.has(2) or (training is not None and not training.any())
    need(idle, "Dropout in training mode draws random numbers")
    for layout in places(site.rank(0)):
        takes = (layout, None, None)[: len(site.node.inputs)]
        yield Option(
            "dropout", takes, site.gives(layout), lambda s, ins, emit: emit_same_op(s, ins[:1], emit)
        )


@family("CastLike")
def cast_like(site: Site) -> Iterator[Option]:
    """It becomes a Cast, because only the type of the second input matters."""
    target = site.inputs[1].dtype
    need(target != 0, "the type of its second input is unknown")

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return emit("Cast", ins[0], **{**site.node.attrs, "to": target})

    for layout in places(site.rank(0)) if site.mapped[0] else (SHARED,):
        yield Option("cast_like", (layout, None), (layout,), body)


@family("SwiGLU")
def same_shapes(site: Site) -> Iterator[Option]:
    """Each element is computed on its own, with all inputs in one layout."""
    yield from per_axis(site, name="same_shapes", every_input=True)


@family("Clip")
def clip_per_model(site: Site) -> Iterator[Option]:
    """Bounds that differ between the models become Max and Min."""
    need(site.is_mapped(1, 2), "its bounds are equal")
    need(site.inputs[0].dtype not in gaps.NO_MAX_TYPES, "ONNX Runtime has no Max and Min for its type")
    rank = site.rank(0)

    def body(site: Site, ins: Operands, emit: Emitter) -> Held:
        padded = [aligned(site, ins, i, rank, emit) if site.has(i) else None for i in range(3)]
        result = padded[0]
        for i, op in ((1, "Max"), (2, "Min")):
            bound = _bound(site, i, padded[i], emit)
            if bound is not None:
                result = emit(op, result, bound)
        return result

    yield Option("clip_per_model", site.own_layouts, (STACKED(0),), body)


def _bound(site: Site, i: int, given: Tensor | None, emit: Emitter) -> Tensor | None:
    """A bound as ONNX Runtime's Clip takes it: the largest finite number where none is given, and none at all
    where it is NaN, as one that is computed may be."""
    dtype, sign = site.inputs[0].dtype, -1.0 if i == 1 else 1.0
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    if kind not in (np.float16, np.float32, np.float64):
        return given
    if given is None:
        return emit.filled(sign * float(np.finfo(kind).max), dtype, ())
    if site.weight[i] or kind == np.float16:
        return given
    return emit("Where", emit("IsNaN", given), emit.filled(sign * np.inf, dtype, ()), given)


@family(*BROADCAST)
def broadcasting(site: Site) -> Iterator[Option]:
    """Each element is computed on its own; shorter shapes get axes of 1 just after the model axis."""
    dims = broadcast([site.dims(i) for i in range(len(site.node.inputs))])
    yield from broadcasting_in(site, (*places(len(dims)), *further_places(dims)))


def broadcasting_in(site: Site, layouts: Sequence[Layout]) -> Iterator[Option]:
    """The operator with its result in each of `layouts` in which its operands can be taken."""
    given = [
        # PRelu broadcasts one way: its first input has the shape of the output, model axis included.
        Operand(site.dims(i), site.mapped[i], site.weight[i], whole=site.op == "PRelu" and i == 0)
        for i in range(len(site.node.inputs))
    ]
    out = broadcast([v.dims for v in given])
    for layout in layouts:
        takes = layout.operands(given, out)
        if takes is not None:
            body = _aligned(site.op, layout, takes, given, out)
            yield Option("broadcasting", takes, (layout,), body, tuned=layout.tuned, only=layout.only)


PAIRWISE = {"Sum": "Add", "Max": "Max", "Min": "Min"}
"""Operators of any number of inputs -> those of two that they are made of: gaps.BROADCAST_OF_SEVERAL."""


def _aligned(
    op: str, layout: Layout, takes: Sequence[Layout], given: Sequence[Operand], out: Sequence[Dim]
) -> Body:
    """The body of an operator on operands that broadcast; those of several that may be unequal are taken two
    at a time."""
    each_whole = all(take == layout for take in takes) and all(_same_dims(v.dims, out) for v in given)
    pairwise = "" if each_whole or len(given) < 3 else PAIRWISE.get(op, "")

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        each = zip(ins, takes, given, strict=True)
        aligned = [layout.aligned(emit, x, take, v.dims, out) for x, take, v in each]
        if pairwise and site.opset >= 8:
            return reduce(lambda a, b: emit(pairwise, a, b), aligned)
        return emit_same_op(site, aligned, emit)[0]

    return body


def _same_dims(dims: Sequence[Dim], out: Sequence[Dim]) -> bool:
    return len(dims) == len(out) and all(map(same_dim, dims, out))
