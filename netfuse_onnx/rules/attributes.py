"""Attributes that differ between the models: constants with a model axis take their place.

Element-wise activations under --partial; ai.onnx.ml operators always, whose attributes are their weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from onnx import TensorProto, helper

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.rules._build import need, need_equal
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._scores import as_floats
from netfuse_onnx.rules._site import Site

Column = Callable[[str | float], Tensor]
"""Gives an attribute as one number per model, [N, 1..], and a number for itself."""


def _numbers(site: Site, emit: Emitter) -> Column:
    kind = helper.tensor_dtype_to_np_dtype(site.inputs[0].dtype)
    shape = (emit.total,) + (1,) * site.rank(0)

    def column(wanted: str | float) -> Tensor:
        each = site.attr_of_each(wanted) if isinstance(wanted, str) else [wanted] * emit.total
        return emit.of_each(np.reshape(each, shape), kind)

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


@family(*ACTIVATIONS, differing=True, chooses=True)
def activation(site: Site) -> Iterator[Option]:
    """The operator is written out, with one constant per model for each attribute that differs."""
    form, names = ACTIVATIONS[site.op]
    need_equal(site, *names)
    rank = site.rank(0)
    own_layout = site.own_layout(0)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return form(emit.pad_rank(ins[0], own_layout, rank, rank, 0), _numbers(site, emit), emit)

    yield Option("activation", (own_layout,), (STACKED(0),), body)


Columns = Callable[[Sequence[Sequence[float]], Emitter], Tensor]
"""Gives one list of numbers for each model, which has one number or one for each column, as a constant."""


def by_column(
    site: Site, widths: Collection[int], emitted: Callable[[Tensor, Columns, Emitter], Tensor]
) -> Iterator[Option]:
    """Options for an operator that treats each column of [.., C] in its own way: models stacked in front, and
    of matrices also side by side. `widths` are the lengths of the lists; 1 is one number for all columns."""
    rank, models = site.rank(0), len(site.attrs)
    name, mapped = site.op.lower(), site.is_mapped(0)

    def body(shape: Sequence[int], axes: Sequence[int]) -> Body:
        def columns(lists: Sequence[Sequence[float]], emit: Emitter) -> Tensor:
            return emit.const(np.array(lists, np.float32).reshape(shape), np.float32)

        return lambda site, ins, emit: emitted(
            emit.unsqueeze(as_floats(site, ins[0], emit), axes), columns, emit
        )

    own = body((models, *[1] * (rank - 1), -1), [])
    yield Option(name, (site.own_layout(0),), (STACKED(0),), own)
    if rank == 2 and not mapped:
        yield Option(name, (SHARED,), (STACKED(1),), body((models, -1), [1]))
    elif rank == 2 and set(widths) == {site.dims(0)[1]}:
        yield Option(name, (FOLDED(1),), (FOLDED(1),), body((-1,), []))


@family("ai.onnx.ml.Scaler", differing=True)
def scaler(site: Site) -> Iterator[Option]:
    """It becomes (x - offset) * scale, with the offsets and scales of each model."""
    need_equal(site, "offset", "scale")
    need(all({"offset", "scale"} <= attrs.keys() for attrs in site.attrs), "it has no offset or no scale")
    counts = {len(attrs[name]) for attrs in site.attrs for name in ("offset", "scale")}
    need(len(counts) == 1, "the offsets and scales are not as many in all models")
    offsets, scales = ([attrs[name] for attrs in site.attrs] for name in ("offset", "scale"))

    def emitted(x: Tensor, columns: Columns, emit: Emitter) -> Tensor:
        return emit("Mul", emit("Sub", x, columns(offsets, emit)), columns(scales, emit))

    yield from by_column(site, counts, emitted)


@family("ai.onnx.ml.Imputer", differing=True)
def imputer(site: Site) -> Iterator[Option]:
    """It becomes Where(x is missing, value, x), with the values of each model. NaN may mean missing."""
    need_equal(site, "imputed_value_floats", "replaced_value_float")
    need(site[0].dtype == TensorProto.FLOAT, "its input does not hold floats")
    width = site.dims(0)[1] if site.rank(0) == 2 else None
    values = [attrs.get("imputed_value_floats") or () for attrs in site.attrs]
    counts = {len(one) for one in values}
    need(counts in ({1}, {width}), "its values are not one for each column")
    missing = [attrs.get("replaced_value_float", 0.0) for attrs in site.attrs]
    no_number = {math.isnan(one) for one in missing}
    need(len(no_number) == 1, "NaN stands for missing in some models only")
    need(True in no_number or site.opset >= 11, "Equal takes no floats at its opset")

    def emitted(x: Tensor, columns: Columns, emit: Emitter) -> Tensor:
        numbers = [] if True in no_number else [columns([[one] for one in missing], emit)]
        return emit("Where", emit("Equal" if numbers else "IsNaN", x, *numbers), columns(values, emit), x)

    yield from by_column(site, counts if True in no_number else {1}, emitted)
