"""The ranks that nothing but a run can tell: one run of a source with the unknown values as outputs.

For contrib and custom operators, which onnx's inference doesn't know. What can't be run stays unknown.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper

from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.load import rebuild
from netfuse_onnx.run import inputs
from netfuse_onnx.run.bounds import refusal
from netfuse_onnx.run.offers import Offers
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session, Value
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Extent, Source, ValueType, Weight

ATTEMPTS = 32
"""How many choices of inputs are offered."""
MEMORY = 2_000_000_000
"""Bytes that such a run may take, by estimate."""
SECONDS = 60.0
"""A run that takes longer tells nothing."""


def observed(source: Source, names: Sequence[str], libraries: Sequence[str] = ()) -> dict[str, ValueType]:
    """Element types and ranks of the named values, as far as a run on the CPU shows them.

    Sizes are left open: they are those of the inputs that happened to be drawn. For infer's `complete`.
    """
    if refusal(source, MEMORY, fed=True):
        return {}
    try:
        session = Session(
            _model(source, names), Runtime("cpu", tuple(libraries)), optimise=False, folder=home(source)
        )
    except (RunFailed, NetfuseError, ValueError):
        return {}
    graph = source.graph
    held = {name: (weight,) for name, weight in graph.weights.items()}
    alone = Correspondence((source,), ("",), graph, held, source.opsets, source.ir_version)
    specs = inputs.describe(alone)
    offers = Offers(specs, 2, {})
    for case in itertools.islice(offers, ATTEMPTS):
        if 8 * sum(map(math.prod, inputs.shapes(specs, case.sizes).values())) > MEMORY // 4:
            continue
        try:
            results = session.run(inputs.draw(specs, case, 0, frozenset(), 0), SECONDS)
        except RunFailed as error:
            offers.refused(str(error))
            continue
        return {name: _kind(results[name]) for name in names if isinstance(results.get(name), np.ndarray)}
    return {}


def _kind(value: Value) -> ValueType:
    array = np.asarray(value)
    try:
        dtype = int(helper.np_dtype_to_tensor_dtype(array.dtype))
    except (KeyError, ValueError):
        dtype = 0
    return ValueType(dtype, (None,) * array.ndim)


def home(source: Source) -> str:
    """The folder that a source's weights are referred to from."""
    return os.path.dirname(os.path.abspath(source.path))


def whole(source: Source) -> ModelProto:
    """The source in normal form as a model that runs. Large weights stay in their files, see `home`."""
    model: ModelProto = rebuild.model(source)
    graph = model.graph
    large = {n: w for n, w in source.graph.weights.items() if isinstance(w.data, Extent)}
    kept = [value for value in graph.input if value.name not in large]
    del graph.input[:]
    graph.input.extend(kept)
    graph.initializer.extend(_initializer(name, weight, home(source)) for name, weight in large.items())
    return model


def _model(source: Source, names: Sequence[str]) -> bytes:
    """The source with more outputs."""
    model = whole(source)
    model.graph.output.extend(
        rebuild.declared(name, ValueType()) for name in names if name not in source.graph.outputs
    )
    data: bytes = model.SerializeToString()
    return data


def _initializer(name: str, weight: Weight, home: str) -> TensorProto:
    """By reference where ONNX Runtime lets it: inside of the model's own folder."""
    extent = weight.data
    if not isinstance(extent, Extent) or os.path.commonpath([os.path.abspath(extent.path), home]) != home:
        return weights.proto(weight, name)
    tensor = TensorProto(name=name, data_type=weight.dtype, dims=weight.shape)
    tensor.data_location = TensorProto.EXTERNAL
    place: Mapping[str, str] = {
        "location": os.path.relpath(os.path.abspath(extent.path), home),
        "offset": str(extent.offset),
        "length": str(extent.length),
    }
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return tensor
