"""Attributes that differ between the models: constants with a model axis take their place.

Element-wise activations under --partial; ai.onnx.ml operators always, whose attributes are their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import helper

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.rules._build import need, need_equal
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._scores import as_floats
from netfuse_onnx.rules._site import Site

Column = Callable[[str | float], Tensor]
"""Gives an attribute as one number per model, [N, 1..], and a number for itself."""


def _numbers(site: Site, emit: Emitter) -> Column:
    kind = helper.tensor_dtype_to_np_dtype(site.inputs[0].dtype)
    shape = (emit.models,) + (1,) * site.rank(0)

    def column(wanted: str | float) -> Tensor:
        each = site.attr_of_each(wanted) if isinstance(wanted, str) else [wanted] * emit.models
        return emit.const(np.reshape(each, shape), kind)

    return column


Form = Callable[[Tensor, Column, Emitter], Tensor]


def _leaky_relu(x: Tensor, number: Column, emit: Emitter) -> Tensor:
    slope = emit("Mul", x, number("alpha"))
    return emit("Where", emit("Less", x, number(0.0)), slope, x)


def _elu(x: Tensor, number: Column, emit: Emitter) -> Tensor:
    curve = emit("Mul", emit("Elu", x), number("alpha"))
    return emit("Where", emit("Less", x, number(0.0)), curve, x)


def _thresholded_relu(x: Tensor, number: Column, emit: Emitter) -> Tensor:
    return emit("Where", emit("Greater", x, number("alpha")), x, number(0.0))


def _hard_sigmoid(x: Tensor, number: Column, emit: Emitter) -> Tensor:
    line = emit("Add", emit("Mul", x, number("alpha")), number("beta"))
    return emit("Max", number(0.0), emit("Min", number(1.0), line))


ACTIVATIONS: dict[str, tuple[Form, tuple[str, ...]]] = {
    "Elu": (_elu, ("alpha",)),
    "HardSigmoid": (_hard_sigmoid, ("alpha", "beta")),
    "LeakyRelu": (_leaky_relu, ("alpha",)),
    "ThresholdedRelu": (_thresholded_relu, ("alpha",)),
}


@family(*ACTIVATIONS, differing=True)
def activation(site: Site) -> Iterator[Option]:
    """The operator is written out, with one constant per model for each attribute that differs."""
    form, names = ACTIVATIONS[site.op]
    need_equal(site, *names)
    rank = site.rank(0)
    own_layout = site.own_layout(0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return form(emit.pad_rank(ins[0], own_layout, rank, rank, 0), _numbers(site, emit), emit)

    yield Option("activation", (own_layout,), (STACKED(0),), body)


@family("ai.onnx.ml.Scaler", differing=True)
def scaler(site: Site) -> Iterator[Option]:
    """It becomes (x - offset) * scale, with the offsets and scales of each model."""
    need_equal(site, "offset", "scale")
    need(all({"offset", "scale"} <= attrs.keys() for attrs in site.attrs), "it has no offset or no scale")
    counts = {len(attrs[name]) for attrs in site.attrs for name in ("offset", "scale")}
    need(len(counts) == 1, "the offsets and scales are not as many in all models")
    rank = site.rank(0)
    own_layout = site.own_layout(0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        x = as_floats(site, ins[0], emit)
        tables = [np.array([attrs[name] for attrs in site.attrs], np.float32) for name in ("offset", "scale")]
        offset, scale = (emit.const(t.reshape(len(t), *[1] * (rank - 1), -1), np.float32) for t in tables)
        return emit("Mul", emit("Sub", x, offset), scale)

    yield Option("scaler", (own_layout,), (STACKED(0),), body)
