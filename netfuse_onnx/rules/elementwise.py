"""Operators that act on each element: one input (any layout passes through) or several that broadcast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import helper

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import places, same_dim
from netfuse_onnx.rules import channels
from netfuse_onnx.rules._build import emit_same_op, need, per_axis
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.run import ort_compat
from netfuse_onnx.types import FOLDED, SHARED, STACKED, Layout

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
    """element by element, in whatever layout the input has"""
    yield from per_axis(site, lambda layout: emit_same_op, name="unary")
    yield from channels.passing(site)


@family("Dropout")
def dropout(site: Site) -> Iterator[Option]:
    """element by element; nothing is dropped at inference, whatever the ratio"""
    training = site.values[2] if site.has(2) else None
    idle = not site.has(2) or (training is not None and not training.any())
    need(idle, "Dropout in training mode draws random numbers")
    for layout in places(site.rank(0)):
        takes = (layout, None, None)[: len(site.node.inputs)]
        gives = (layout,) * len(site.node.outputs)
        yield Option("dropout", takes, gives, lambda s, ins, emit: emit_same_op(s, ins[:1], emit))


@family("CastLike")
def cast_like(site: Site) -> Iterator[Option]:
    """element by element; only the type of the second input matters, and it is known"""
    target = site.inputs[1].dtype
    need(target != 0, "the type of its second input is unknown")

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return emit("Cast", ins[0], **{**site.node.attrs, "to": target})

    for layout in places(site.rank(0)) if site.mapped[0] else (SHARED,):
        yield Option("cast_like", (layout, None), (layout,), body)


@family("SwiGLU")
def same_shapes(site: Site) -> Iterator[Option]:
    """element by element, without broadcasting: all inputs in one layout"""
    for layout in places(site.rank(0)):
        yield Option("same_shapes", (layout,) * len(site.node.inputs), (layout,), emit_same_op)


@family("Clip")
def clip_per_model(site: Site) -> Iterator[Option]:
    """bounds that differ between the models become Max and Min"""
    need(site.is_mapped(1) or site.is_mapped(2), "its bounds are equal")
    need(site.inputs[0].dtype not in ort_compat.NO_MAX, "ONNX Runtime has no Max and Min for its type")
    rank = site.rank(0)
    takes = tuple(STACKED(0) if site.is_mapped(i) else SHARED for i in range(len(site.node.inputs)))

    def body(site: Site, ins: Sequence[Tensor | None], emit: Emitter) -> Held:
        x = ins[0]
        need(x is not None, "")
        padded = [
            None if v is None else emit.pad_rank(v, takes[i], site.rank(i), rank, 0)
            for i, v in enumerate(ins)
        ]
        result = padded[0]
        for i, op in ((1, "Max"), (2, "Min")):
            bound = _bound(site, i, padded[i] if site.has(i) else None, emit)
            if bound is not None:
                result = emit(op, result, bound)
        return result

    yield Option("clip_per_model", takes, (STACKED(0),), body, nodes=2)


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
    """element by element with broadcasting; ranks are padded just after the model axis"""
    rank = max(site.rank(i) for i in range(len(site.node.inputs)))
    for layout in places(rank):
        if layout.stacked:
            yield _stacked(site, layout.axis, rank)
        else:
            yield from folded_at(site, layout.axis, rank)
    yield from channels.broadcasting(site)


def _stacked(site: Site, at: int, rank: int) -> Option:
    """[.., N, d_a, ..] op [N, 1.., d..] -> [.., N, d_a, ..]"""
    count = len(site.node.inputs)
    # PRelu broadcasts one way: its first input has the shape of the output, model axis included.
    held = [mapped or (site.op == "PRelu" and i == 0) for i, mapped in enumerate(site.mapped)]
    takes = tuple(STACKED(max(0, at - (rank - site.rank(i)))) if held[i] else SHARED for i in range(count))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        padded = [emit.pad_rank(x, takes[i], site.rank(i), rank, at) for i, x in enumerate(ins)]
        return emit_same_op(site, padded, emit)[0]

    pads = sum(not site.weight[i] and held[i] and at < rank - site.rank(i) for i in range(count))
    return Option("broadcasting", takes, (STACKED(at),), body, 1 + 0.25 * pads)


def folded_at(site: Site, at: int, rank: int) -> Iterator[Option]:
    """[.., N*d_a, ..] op [.., N*d_a, ..]: right only where no operand broadcasts along the folded axis,
    or where one is the same for all models there."""
    takes: list[Layout] = []
    spread: dict[int, int] = {}
    width = _width(site, at, rank)
    for i in range(len(site.node.inputs)):
        own = at - (rank - site.rank(i))
        dim = site.dims(i)[own] if own >= 0 else 1
        if not site.mapped[i]:
            if dim == 1 and width != 1:
                takes.append(SHARED)
                continue
            if own < 0 or not same_dim(dim, width):
                return
            takes.append(FOLDED(own))
        elif own >= 0 and same_dim(dim, width):
            takes.append(FOLDED(own))
        elif site.weight[i] and isinstance(width, int) and width and all(d == 1 for d in site.dims(i)):
            takes.append(STACKED(0))  # one number per model: each is written d_a times
            spread[i] = width
        else:
            return

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        ready = list(ins)
        for i, times in spread.items():
            shape = (1,) * at + (emit.models * times,) + (1,) * (rank - at - 1)
            ready[i] = emit.reform(ins[i], shape=shape, transform=f"x{times}")
        return emit_same_op(site, ready, emit)[0]

    yield Option("broadcasting", tuple(takes), (FOLDED(at),), body)


def _width(site: Site, at: int, rank: int) -> int | str | None:
    """Size of the output along axis `at`, where the operands make it certain."""
    dims = [
        site.dims(i)[at - (rank - site.rank(i))]
        for i in range(len(site.node.inputs))
        if at >= rank - site.rank(i)
    ]
    wide = [dim for dim in dims if dim != 1]
    if not wide:
        return 1
    return wide[0] if all(same_dim(dim, wide[0]) for dim in wide) else None
