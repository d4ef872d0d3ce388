"""Ranks that nothing but a run can tell, and sizes that a file claims: runs of a source with those values as
outputs.

Two runs with different sizes, so that a size which is that of an input does not pass for one that is always
so. What can't be run stays unknown.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto, TensorProto, helper

from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.load import rebuild
from netfuse_onnx.load.claims import Run
from netfuse_onnx.ops import kinds
from netfuse_onnx.run import inputs
from netfuse_onnx.run.bounds import refusal
from netfuse_onnx.run.footprint import Footprints
from netfuse_onnx.run.offers import Offers, Seen
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session, Value
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Extent, Source, ValueType, Weight

ATTEMPTS, NEAR = 32, 8
"""So many choices of inputs are offered, and so many that are near to the first that runs."""
MAX_MEMORY = 2_000_000_000
"""Bytes that a run may take, by estimate."""
DRAWING = 32
"""Bytes that drawing an element of an input takes at most, with copies on the way to its type."""
SECONDS = 60.0
"""A run that takes longer tells nothing."""
BATCHES = (2, 3)
"""The batch of the first run, and that of the second."""


def observed(source: Source, names: Sequence[str], libraries: Sequence[str] = ()) -> tuple[Run, ...]:
    """The types of the named values in two runs on the CPU, or in as many as there can be: for claims.py."""
    if refusal(source, MAX_MEMORY, fed=True):
        return ()
    try:
        session = Session(
            _model(source, names), Runtime("cpu", tuple(libraries)), optimise=False, folder=home(source)
        )
    except (RunFailed, NetfuseError, ValueError):
        return ()
    graph = source.graph
    held = {name: (weight,) for name, weight in graph.weights.items()}
    alone = Correspondence((source,), ("",), graph, held, source.opsets, source.ir_version)
    named = inputs.describe(alone)
    if any(not spec.dtype or (spec.dims is None and not spec.sequence) for spec in named):
        return ()  # nothing can be made up for an input of unknown rank
    for specs in dict.fromkeys((named, inputs.apart(named))):
        if runs := _Runs(session, specs, Footprints(alone)).two():
            return tuple(Run(case.sizes, _kinds(names, results)) for case, results in runs)
    return ()


Ran = tuple[inputs.Case, Mapping[str, Value]]


class _Runs:
    """Runs of a source on inputs as `specs` describe them, those that take too much memory left out."""

    def __init__(self, session: Session, specs: Sequence[inputs.InputSpec], footprints: Footprints) -> None:
        self.session, self.specs, self.footprints = session, specs, footprints

    def two(self) -> list[Ran]:
        """Two runs with sizes that differ, or with values that do, or one, or none."""
        first = self._first(Offers(self.specs, BATCHES[0], {}), ATTEMPTS)
        if first is None:
            return []
        case = first[0]
        larger = Offers(self.specs, BATCHES[1], {}, begin=(1, 1))
        near = Offers(self.specs, BATCHES[1], {}, seen=Seen(case, BATCHES[0]))
        other = Offers(self.specs, BATCHES[1], {}, only=replace(case, salt=1))
        for offers, most in ((larger, ATTEMPTS), (near, NEAR), (other, 1)):
            second = self._first(offers, most)
            if second and (second[0].sizes != case.sizes or second[0].salt):
                return [first, second]
        return [first]

    def _first(self, offers: Offers, most: int) -> Ran | None:
        """The first of the offers that runs."""
        for case in itertools.islice(offers, most):
            if self._needed(case) > MAX_MEMORY:
                continue
            try:
                return case, self.session.run(inputs.draw(self.specs, case, 0, frozenset(), 0), SECONDS)
            except RunFailed as error:
                offers.refused(str(error))
        return None

    def _needed(self, case: inputs.Case) -> int:
        shapes = inputs.shapes([spec for spec in self.specs if not spec.sequence], case.sizes)
        drawn = DRAWING * sum(map(math.prod, shapes.values()))
        if drawn > MAX_MEMORY:
            return drawn
        bound = self.footprints.bounding(shapes) or self.footprints.of(shapes, case.sizes)
        return bound.needed(1, 1)


def _kinds(names: Sequence[str], results: Mapping[str, Value]) -> dict[str, ValueType]:
    return {name: _kind(results[name]) for name in names if isinstance(results.get(name), np.ndarray)}


def _kind(value: Value) -> ValueType:
    array = np.asarray(value)
    try:
        dtype = int(helper.np_dtype_to_tensor_dtype(array.dtype))
    except (KeyError, ValueError):
        dtype = 0
    return ValueType(dtype, array.shape)


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
        kinds.declared(name, ValueType()) for name in names if name not in source.graph.outputs
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
