"""Runs a source to learn ranks that inference can't tell, and to check sizes that a file claims.

The values in question become outputs. There are two runs with different sizes, so that a size which depends
on an input does not pass for a fixed one. What can't be run stays unknown.
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
from netfuse_onnx.storage import external, weights
from netfuse_onnx.types import Correspondence, Extent, Source, ValueType, Weight

ATTEMPTS, NEAR = 32, 8
"""The choices of inputs that are offered, at most, and those that resemble the first one that runs."""
MAX_MEMORY = 2_000_000_000
"""Bytes that a run may take, by estimate."""
DRAWING = 32
"""The bytes that drawing one element of an input takes at most, with the copies of type conversions."""
SECONDS = 60.0
"""A run that takes longer tells nothing."""
BATCHES = (2, 3)
"""The batch of the first run, and that of the second."""


def observed(source: Source, names: Sequence[str], libraries: Sequence[str] = ()) -> tuple[Run, ...]:
    """Return the types of the named values in two runs on the CPU, or in as many as are possible."""
    if refusal(source, MAX_MEMORY, fed=True):
        return ()
    try:
        session = Session(
            with_outputs(source, names), Runtime("cpu", tuple(libraries)), optimise=False, folder=home(source)
        )
    except (RunFailed, NetfuseError, ValueError):
        return ()
    alone = Correspondence.of_one(source)
    declared = inputs.describe(alone)
    if any(not spec.dtype or (spec.dims is None and not spec.sequence) for spec in declared):
        return ()  # no input of unknown rank can be drawn
    for specs in dict.fromkeys((declared, inputs.separate_symbols(declared))):
        if runs := _Runs(session, specs, Footprints(alone)).two():
            return tuple(Run(case.sizes, _types(names, results)) for case, results in runs)
    return ()


Ran = tuple[inputs.Case, Mapping[str, Value]]


class _Runs:
    """Runs a source on inputs as `specs` describe them, except those that take too much memory."""

    def __init__(self, session: Session, specs: Sequence[inputs.InputSpec], footprints: Footprints) -> None:
        self.session, self.specs, self.footprints = session, specs, footprints

    def two(self) -> list[Ran]:
        """Return two runs with sizes, or else values, that differ; or one, or none."""
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
        """Return the first of the offers that runs."""
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


def _types(names: Sequence[str], results: Mapping[str, Value]) -> dict[str, ValueType]:
    return {name: _type(results[name]) for name in names if isinstance(results.get(name), np.ndarray)}


def _type(value: Value) -> ValueType:
    array = np.asarray(value)
    try:
        dtype = int(helper.np_dtype_to_tensor_dtype(array.dtype))
    except (KeyError, ValueError):
        dtype = 0
    return ValueType(dtype, array.shape)


def home(source: Source) -> str:
    """Return the folder to which a source's references to weights are relative."""
    return os.path.dirname(os.path.abspath(source.files[0]))


def whole(source: Source) -> ModelProto:
    """Return the source in normal form as a model that runs. Large weights stay in their files."""
    model: ModelProto = rebuild.model(source)
    graph = model.graph
    large = {n: w for n, w in source.graph.weights.items() if isinstance(w.data, Extent)}
    kept = [value for value in graph.input if value.name not in large]
    del graph.input[:]
    graph.input.extend(kept)
    graph.initializer.extend(_initializer(name, weight, home(source)) for name, weight in large.items())
    return model


def with_outputs(source: Source, names: Sequence[str]) -> bytes:
    """Return the source with more outputs, serialised."""
    model = whole(source)
    model.graph.output.extend(
        kinds.declared(name, ValueType()) for name in names if name not in source.graph.outputs
    )
    data: bytes = model.SerializeToString()
    return data


def _initializer(name: str, weight: Weight, home: str) -> TensorProto:
    """Return a weight as an initializer: a reference where ONNX Runtime allows it, in the model's folder."""
    extent = weight.data
    if not isinstance(extent, Extent) or os.path.commonpath([os.path.abspath(extent.path), home]) != home:
        return weights.proto(weight, name)
    tensor = TensorProto(name=name, data_type=weight.dtype, dims=weight.shape)
    external.refer(tensor, replace(extent, path=os.path.relpath(os.path.abspath(extent.path), home)))
    return tensor
