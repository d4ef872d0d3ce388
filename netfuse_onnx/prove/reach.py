"""Thresholds that inputs reach: a Clip whose bounds nothing reaches is, for the proof, not there.

The first source is run once more with the least and the largest element of what each such node reads as
outputs: two numbers each, however large the tensors are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from netfuse_onnx.ops import traits
from netfuse_onnx.run import observe
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session, Value
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Node, Source

BENDS = dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Abs"), (0.0, 0.0))
BENDS["HardSwish"] = (-3.0, 3.0)
"""Operator -> where it bends: inputs should lie below the one and above the other."""
COMPARISONS = ("Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal")

Constant = Callable[[str], float | None]
"""The value of a constant of one element, by name."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a threshold: some element of `value` is below (or above) `bound`."""

    label: str
    value: str
    bound: float
    above: bool

    def reached(self, low: float, high: float) -> bool:
        """True where elements between `low` and `high` are on this side."""
        return high > self.bound if self.above else low < self.bound

    def __str__(self) -> str:
        return f"{self.label} {'above' if self.above else 'below'} {self.bound:g}"


class Reach:
    """The sides of all thresholds of a source, and which of them inputs reach."""

    def __init__(self, source: Source, runtime: Runtime) -> None:
        """Loads the source once more where it has thresholds."""
        self.wanted = frozenset(_sides(source))
        self._values = sorted({side.value for side in self.wanted})
        self._session: Session | None = None
        if self._values:
            try:
                self._session = Session(
                    _probe(observe.whole(source), self._values), runtime, folder=observe.home(source)
                )
            except (RunFailed, ValueError):
                self.wanted = frozenset()  # then nothing is known

    def of(self, feeds: Mapping[str, Value]) -> frozenset[Side]:
        """The sides that these inputs reach."""
        if self._session is None:
            return frozenset()
        try:
            found = self._session.run(feeds)
        except RunFailed:
            return frozenset()
        ends = {v: (_number(found[_end(v, "Min")]), _number(found[_end(v, "Max")])) for v in self._values}
        return frozenset(side for side in self.wanted if side.reached(*ends[side.value]))


def _sides(source: Source) -> Iterator[Side]:
    """Both sides of every threshold on values that depend on what is fed, not only on its shape."""
    graph = source.graph
    fed = set(graph.inputs)

    def constant(name: str) -> float | None:
        weight = graph.weights.get(name)
        if weight is None or np.prod(weight.shape) != 1:
            return None
        return float(weights.array(weight).reshape(-1)[0])

    for node in graph.nodes:
        if traits.of(node.op).shape_only or fed.isdisjoint(node.reads):
            continue
        fed.update(node.outputs)
        label = f"{node.op} {node.name or node.outputs[0]!r}"
        for value, bound, above in _thresholds(node, constant):
            if value in fed and not np.isnan(bound) and np.isfinite(bound):
                yield Side(label, value, bound, above)


def _thresholds(node: Node, constant: Constant) -> Iterator[tuple[str, float, bool]]:
    """The thresholds of a node: (value, bound, whether above it)."""
    if node.domain or not node.inputs:
        return
    if node.op in BENDS:
        low, high = BENDS[node.op]
        yield from ((node.inputs[0], low, False), (node.inputs[0], high, True))
    elif node.op in COMPARISONS:
        yield from ((node.outputs[0], 0.5, False), (node.outputs[0], 0.5, True))
    elif node.op in ATTRIBUTES:
        for bound, above in ATTRIBUTES[node.op](node.attrs):
            yield node.inputs[0], bound, above
    elif node.op == "Clip":
        yield from _clip(node, constant)
    elif node.op in ("Max", "Min") and len(node.inputs) == 2:
        for value, other in (node.inputs, node.inputs[::-1]):
            at = constant(other)
            if at is not None:
                yield from ((value, at, False), (value, at, True))


def _clip(node: Node, constant: Constant) -> Iterator[tuple[str, float, bool]]:
    for i, key, above in ((1, "min", False), (2, "max", True)):
        at = constant(node.inputs[i]) if len(node.inputs) > i else node.attrs.get(key)
        if at is not None:
            yield node.inputs[0], float(at), above


def _hard_sigmoid(attrs: Mapping[str, Any]) -> Iterator[tuple[float, bool]]:
    slope, shift = float(attrs.get("alpha", 0.2)), float(attrs.get("beta", 0.5))
    if slope > 0:
        yield from ((-shift / slope, False), ((1 - shift) / slope, True))


def _thresholded(attrs: Mapping[str, Any]) -> Iterator[tuple[float, bool]]:
    bound = float(attrs.get("alpha", 1.0))
    yield from ((bound, False), (bound, True))


ATTRIBUTES = {"HardSigmoid": _hard_sigmoid, "ThresholdedRelu": _thresholded}
"""Operators whose thresholds follow from their attributes."""


def _probe(model: onnx.ModelProto, values: list[str]) -> bytes:
    """The model with two numbers for each of the values as its only outputs."""
    graph = model.graph
    graph.ClearField("output")
    old = next((o.version for o in model.opset_import if not o.domain), 1) < 18
    for value in values:
        wide = f"{value}/reach"
        graph.node.append(onnx.helper.make_node("Cast", [value], [wide], to=onnx.TensorProto.FLOAT))
        graph.node.append(onnx.helper.make_node("Reshape", [wide, "reach/flat"], [f"{wide}/flat"]))
        for end in ("Min", "Max"):
            ins = [f"{wide}/flat"] if old else [f"{wide}/flat", "reach/axis"]
            given: dict[str, Any] = {"axes": [0]} if old else {}
            graph.node.append(
                onnx.helper.make_node(f"Reduce{end}", ins, [_end(value, end)], keepdims=0, **given)
            )
            graph.output.append(onnx.helper.make_tensor_value_info(_end(value, end), 1, None))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "reach/flat"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "reach/axis"))
    data: bytes = model.SerializeToString()
    return data


def _end(value: str, end: str) -> str:
    return f"{value}/reach/{end}"


def _number(value: Value) -> float:
    """NaN where there is none: it is on no side."""
    found = np.asarray(value, np.float64)
    return float(found) if found.ndim == 0 else float("nan")
