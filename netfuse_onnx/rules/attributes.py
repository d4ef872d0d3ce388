"""Attributes that differ between the models: constants with a model axis take their place.

Element-wise activations under --partial; ai.onnx.ml operators always, whose attributes are their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import TensorProto, helper

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.rules._build import need
from netfuse_onnx.rules._registry import Option, family
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


def _only(site: Site, *names: str) -> None:
    """Refuse where an attribute differs that no constant stands for."""
    for name in {name for attrs in site.attrs for name in attrs} - set(names):
        values = [attrs.get(name) for attrs in site.attrs]
        need(
            all(value == values[0] for value in values), f"its attribute {name!r} differs between the models"
        )


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
    _only(site, *names)
    rank = site.rank(0)
    own_layout = site.own_layout(0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return form(emit.pad_rank(ins[0], own_layout, rank, rank, 0), _numbers(site, emit), emit)

    yield Option("activation", (own_layout,), (STACKED(0),), body)


def _as_floats(site: Site, x: Tensor, emit: Emitter) -> Tensor:
    return x if site[0].dtype == TensorProto.FLOAT else emit("Cast", x, to=TensorProto.FLOAT)


@family("ai.onnx.ml.Scaler", differing=True)
def scaler(site: Site) -> Iterator[Option]:
    """It becomes (x - offset) * scale, with the offsets and scales of each model."""
    _only(site, "offset", "scale")
    need(all({"offset", "scale"} <= attrs.keys() for attrs in site.attrs), "it has no offset or no scale")
    counts = {len(attrs[name]) for attrs in site.attrs for name in ("offset", "scale")}
    need(len(counts) == 1, "the offsets and scales are not as many in all models")
    rank = site.rank(0)
    own_layout = site.own_layout(0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        x = _as_floats(site, ins[0], emit)
        tables = [np.array([attrs[name] for attrs in site.attrs], np.float32) for name in ("offset", "scale")]
        offset, scale = (emit.const(t.reshape(len(t), *[1] * (rank - 1), -1), np.float32) for t in tables)
        return emit("Mul", emit("Sub", x, offset), scale)

    yield Option("scaler", (own_layout,), (STACKED(0),), body)


@family("ai.onnx.ml.LinearRegressor", differing=True)
def linear_regressor(site: Site) -> Iterator[Option]:
    """Batched: M(bc), M(ct) + M(t) -> M(bt), with the coefficients of each model."""
    _only(site, "coefficients", "intercepts")
    need(site.attr("post_transform") == b"NONE", "it transforms its scores")
    need(site.rank(0) == 2, "its input is not a matrix")
    targets = int(site.attr("targets"))
    counts = {len(attrs.get("coefficients", ())) for attrs in site.attrs}
    need(len(counts) == 1 and targets > 0, "the coefficients are not as many in all models")
    need(min(counts) > 0 and min(counts) % targets == 0, "the coefficients are not as many for each target")
    added = {len(attrs["intercepts"]) for attrs in site.attrs if "intercepts" in attrs}
    need(added <= {targets}, "the intercepts are not one for each target")
    own_layout = site.own_layout(0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        x = _as_floats(site, ins[0], emit)
        weights = np.array([attrs["coefficients"] for attrs in site.attrs], np.float32)
        weights = weights.reshape(emit.models, targets, -1).swapaxes(1, 2)
        y = emit("MatMul", x, emit.const(weights, np.float32))
        if not any("intercepts" in attrs for attrs in site.attrs):
            return y
        none = [0.0] * targets
        bias = np.array([attrs.get("intercepts", none) for attrs in site.attrs], np.float32)
        return emit("Add", y, emit.const(bias.reshape(emit.models, 1, targets), np.float32))

    yield Option("linear_regressor", (own_layout,), (STACKED(0),), body)
