"""Merged files without a graph, and what they would compute, for the tests of contracts and packing.

A `Spec` says what the models are like. `PretendSession` is what ONNX Runtime would show of the merged file, by
the names that the compiler gives; `run` computes a merged call in numpy, model by model, as the documentation
of the I/O modes says it. Model m turns each input x into an output of the same shape and type: `computed(m, x)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.labels import Labels
from netfuse_onnx.runtime.types import Request
from netfuse_onnx.types import Edge

Array = np.ndarray[Any, Any]
TYPES = {
    "float": np.float32, "double": np.float64, "float16": np.float16, "bfloat16": np.uint16,
    "int32": np.int32, "int64": np.int64, "uint8": np.uint8, "bool": np.bool_, "string": np.object_,
}  # fmt: skip
"""ONNX Runtime's words for types, and the arrays that hold them."""


@dataclass(frozen=True)
class Spec:
    """Models: each input has a type and a shape, in which 'B' is the batch. `own[m]` maps the first model's
    names of inputs and outputs to those of model m. The output of input x is called y_x."""

    models: tuple[str, ...]
    io: str
    types: Mapping[str, str]
    shapes: Mapping[str, tuple[int | str, ...]]
    share: frozenset[str] = frozenset()
    combined: frozenset[str] = frozenset()
    own: tuple[Mapping[str, str], ...] = ()
    rename: bool = field(default=True)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The own names of each model."""
        names = [self.own[m] if self.own else {} for m in range(len(self.models))]
        inputs, outputs = list(self.types), [f"y_{name}" for name in self.outs]
        return tuple(
            Edge({n: own.get(n, n) for n in inputs}, {n: own.get(n, n) for n in outputs}) for own in names
        )

    @property
    def outs(self) -> list[str]:
        """The inputs that have an output."""
        return [name for name in self.types if name not in self.share]

    @property
    def labels(self) -> Labels:
        """The merged names, as the compiler makes them."""
        return Labels(self.models, self.edges, self.io, self.share, self.combined)


class PretendSession:
    """The session of a merged file, as far as a contract looks at it."""

    def __init__(self, spec: Spec) -> None:
        labels, every = spec.labels, range(len(spec.models))
        inputs: dict[str, tuple[str, Any]] = {}
        outputs: dict[str, tuple[str, Any]] = {}
        for name, kind in spec.types.items():
            for m in every:
                inputs[labels.input(m, name)] = (kind, _merged(spec, name, once=name in spec.share))
        for name in spec.outs:
            for m in every:
                once = f"y_{name}" in spec.combined
                outputs[labels.output(m, f"y_{name}")] = (spec.types[name], _merged(spec, name, once=once))
        if labels.ids:
            inputs[labels.ids] = ("int64", ["rows" if edges.is_routed(spec.io) else "K"])
        self._inputs, self._outputs = _arguments(inputs), _arguments(outputs)
        facts: dict[str, Any] = {"format": 1, "version": "0", "models": spec.models, "io": spec.io}
        facts |= {"share": sorted(spec.share), "combined": dict.fromkeys(spec.combined, "mean")}
        if spec.own:
            facts["names"] = [[[*e.inputs.values()], [*e.outputs.values()]] for e in spec.edges]
        self.facts = facts

    def get_inputs(self) -> list[Any]:
        return self._inputs

    def get_outputs(self) -> list[Any]:
        return self._outputs

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={"netfuse_onnx": json.dumps(self.facts)})


class OwnSession:
    """A session of the first model's own file."""

    def __init__(self, spec: Spec) -> None:
        edge = spec.edges[0]
        self._inputs = _arguments({edge.inputs[n]: (t, list(spec.shapes[n])) for n, t in spec.types.items()})
        outputs = {edge.outputs[f"y_{n}"]: (spec.types[n], list(spec.shapes[n])) for n in spec.outs}
        self._outputs = _arguments(outputs)

    def get_inputs(self) -> list[Any]:
        return self._inputs

    def get_outputs(self) -> list[Any]:
        return self._outputs


def _merged(spec: Spec, name: str, *, once: bool) -> list[int | str]:
    shape = list(spec.shapes[name])
    if edges.is_routed(spec.io):
        return [(1 if once else "rows") if dim == "B" else dim for dim in shape]
    if once or edges.is_separate(spec.io):
        return shape
    return ["K" if edges.is_selected(spec.io) else len(spec.models), *shape]


def _arguments(ports: Mapping[str, tuple[str, Sequence[int | str]]]) -> list[Any]:
    return [SimpleNamespace(name=n, type=f"tensor({t})", shape=s) for n, (t, s) in ports.items()]


# --------------------------------------------------------------------------- what the models compute


def computed(model: int, value: Array, salt: int = 0) -> Array:
    """Return what a model makes of an input: element by element, and another thing than each other model."""
    step = model + 1 + 16 * salt
    if value.dtype == np.object_:
        return np.array([f"{step}:{one}" for one in value.ravel()], np.object_).reshape(value.shape)
    if value.dtype == np.bool_:
        return value ^ np.bool_(step % 2)
    return np.asarray(value + value.dtype.type(step))


def salt_of(spec: Spec, shared: Mapping[str, Array]) -> int:
    """Return a number that depends on the inputs that a call takes once."""
    return sum(len(str(np.asarray(shared[name]).ravel().tolist())) for name in sorted(spec.share)) % 7


def run(spec: Spec, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Compute a merged call, from feeds by merged names to outputs by merged names."""
    labels, every = spec.labels, range(len(spec.models))
    salt = salt_of(spec, {name: feeds[name] for name in spec.share})
    results: dict[str, Array] = {}
    ids = feeds[labels.ids].tolist() if labels.ids else list(every)
    for name in spec.outs:
        if edges.is_separate(spec.io):
            each = [computed(m, feeds[labels.input(m, name)], salt) for m in every]
        elif edges.is_routed(spec.io):
            assert len(ids) == len(feeds[name])
            each = [computed(m, feeds[name][r : r + 1], salt) for r, m in enumerate(ids)]
        else:
            assert len(ids) == len(feeds[name])
            each = [computed(m, feeds[name][k], salt) for k, m in enumerate(ids)]
        if f"y_{name}" in spec.combined:
            results[f"y_{name}"] = each[0]
        elif edges.is_separate(spec.io):
            results |= {labels.output(m, f"y_{name}"): value for m, value in enumerate(each)}
        else:
            results[f"y_{name}"] = np.concatenate(each) if edges.is_routed(spec.io) else np.stack(each)
    return results


def alone(spec: Spec, request: Request) -> dict[str, Array]:
    """Compute a request by itself, from its inputs to outputs by its model's own names."""
    edge, inputs = spec.edges[request.model], dict(zip(spec.types, request.inputs, strict=True))
    salt = salt_of(spec, {name: _fed_once(spec, name, inputs[name]) for name in spec.share})
    return {
        edge.outputs[f"y_{name}"]: computed(request.model, inputs[name], salt)
        for name in spec.outs
        if f"y_{name}" not in spec.combined
    }


def _fed_once(spec: Spec, name: str, value: Array) -> Array:
    return value[:1] if edges.is_routed(spec.io) and spec.shapes[name][:1] == ("B",) else value


def draw(spec: Spec, sizes: Mapping[str, int], seed: int, once: int = 0) -> dict[str, Array]:
    """Draw the inputs of a request, by the first model's names. Inputs that are fed once depend on `once`."""
    values: dict[str, Array] = {}
    for k, name in enumerate(spec.types):
        shared = name in spec.share
        rng = np.random.default_rng([once if shared else seed, k])
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shapes[name]]
        if shared and edges.is_routed(spec.io) and spec.shapes[name][:1] == ("B",):
            values[name] = np.repeat(_values(rng, [1, *shape[1:]], spec.types[name]), shape[0], axis=0)
        else:
            values[name] = _values(rng, shape, spec.types[name])
    return values


def _values(rng: np.random.Generator, shape: Sequence[int], kind: str) -> Array:
    whole = rng.integers(0, 60, shape)
    if kind == "string":
        return np.array([f"s{one}" for one in np.ravel(whole)], np.object_).reshape(shape)
    return np.asarray(whole % 2 if kind == "bool" else whole).astype(TYPES[kind])
