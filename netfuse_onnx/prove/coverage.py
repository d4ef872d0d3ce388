"""Inputs that show more of a model: other scales and draws, until every output has taken two values and every
threshold was passed on both sides.

A Clip whose bounds no input reaches has no effect on the comparison. To see what is reached, the first source
is run once more with the minimum and the maximum of what each such node reads as outputs: two numbers each,
however large the tensors are. The sizes are those that were chosen before; only values change. The search is
bounded in calls, and what it does not reach is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from netfuse_onnx.ops import traits
from netfuse_onnx.prove.compare import finite
from netfuse_onnx.run import observe, symbols
from netfuse_onnx.run.inputs import FLOATS, Case, InputSpec
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session, Value
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Node, Source

BENDS = dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Abs"), (0.0, 0.0))
BENDS["HardSwish"] = (-3.0, 3.0)
"""Operator -> (low, high): its inputs should lie below `low` and above `high`, on both sides of the bend."""
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
    """The sides of all thresholds of a source. `of` tells which of them some inputs reach."""

    def __init__(self, source: Source, runtime: Runtime) -> None:
        """Load the source once more, where it has thresholds."""
        self.wanted = frozenset(_sides(source))
        self._values = sorted({side.value for side in self.wanted})
        self._session: Session | None = None
        if self._values:
            try:
                self._session = Session(
                    _probe(observe.whole(source), self._values), runtime, folder=observe.home(source)
                )
            except (RunFailed, ValueError):
                self.wanted = frozenset()  # the probe can't be run, so no side is looked for

    def of(self, feeds: Mapping[str, Value]) -> frozenset[Side]:
        """The sides that these inputs reach."""
        if self._session is None:
            return frozenset()
        try:
            results = self._session.run(feeds)
        except RunFailed:
            return frozenset()
        ends = {v: (_number(results[_end(v, "Min")]), _number(results[_end(v, "Max")])) for v in self._values}
        return frozenset(side for side in self.wanted if side.reached(*ends[side.value]))


def _sides(source: Source) -> Iterator[Side]:
    """Yield both sides of every threshold on values that depend on elements of inputs, not only on shapes."""
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
    """Yield the thresholds of a node: (value, bound, True for the side above the bound)."""
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
    """Return the model with the minimum and the maximum of each of `values` as its only outputs."""
    graph, make = model.graph, onnx.helper.make_node
    graph.ClearField("output")
    old = next((o.version for o in model.opset_import if not o.domain), 1) < 18
    for value in values:
        wide = f"{value}/reach"
        graph.node.append(make("Cast", [value], [wide], to=onnx.TensorProto.FLOAT))
        graph.node.append(make("Reshape", [wide, "reach/flat"], [f"{wide}/flat"]))
        for end in ("Min", "Max"):
            ins = [f"{wide}/flat"] if old else [f"{wide}/flat", "reach/axis"]
            given: dict[str, Any] = {"axes": [0]} if old else {}
            graph.node.append(make(f"Reduce{end}", ins, [_end(value, end)], keepdims=0, **given))
            graph.output.append(onnx.helper.make_tensor_value_info(_end(value, end), 1, None))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "reach/flat"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "reach/axis"))
    data: bytes = model.SerializeToString()
    return data


def _end(value: str, end: str) -> str:
    return f"{value}/reach/{end}"


def _number(value: Value) -> float:
    """Return a scalar, or NaN, which lies on no side, where the tensor had no elements."""
    scalar = np.asarray(value, np.float64)
    return float(scalar) if scalar.ndim == 0 else float("nan")


SCALES = (3.0, 10.0, 50.0, 1000.0, 100_000.0)
"""Factors on the floats that are fed. They are drawn around 1; pixels and sensor values are larger."""
SALTS = (1, 2, 3)
"""Seeds of other draws at the usual scale."""
MOST = 4
"""At most so many cases are added: each is run by every model."""
BUDGET, LEAST = 1 << 22, 2
"""The limit on the elements drawn for all candidates, and the number of candidates beyond that limit."""


def candidates(specs: Sequence[InputSpec], base: Case) -> Iterator[Case]:
    """Yield cases with other values than `base`, the most promising first; fewer where inputs are large."""
    floats = any(spec.dtype and spec.numpy.kind in FLOATS and not spec.accepts.mask for spec in specs)
    cases = [replace(base, scale=scale) for scale in SCALES if floats]
    cases += [replace(base, salt=salt) for salt in SALTS]
    elements = sum(math.prod(symbols.sizes(spec.dims or (), base.sizes)) for spec in specs)
    yield from cases[: max(LEAST, BUDGET // max(1, elements))]


class Coverage:
    """The outputs that varied, and the sides of thresholds that were reached, in runs of the first source."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.missing = set(reach.wanted)
        self.seen: dict[str, list[Value]] = {}

    @property
    def done(self) -> bool:
        """True where every output varies and every side was reached."""
        return not self.missing and not self._constant()

    def gains(self, feeds: Mapping[str, Value], outputs: Mapping[str, Value]) -> bool:
        """Take one run into account. True where it shows something that no run before did."""
        constant, missing = self._constant(), len(self.missing)
        self.missing -= self.reach.of(feeds)
        for name, value in outputs.items():
            self.seen.setdefault(name, []).append(value)
        return len(self.missing) < missing or (bool(constant) and self._constant() < constant)

    def _constant(self) -> set[str]:
        """Return the outputs that have shown one number only, or none."""
        return {name for name, values in self.seen.items() if not varies(values)}


def varies(values: Iterable[Value]) -> bool:
    """True where an output has shown two different finite numbers. What is not a tensor counts as varying."""
    first = None
    for value in values:
        if not isinstance(value, np.ndarray):
            return True
        if not finite(value):
            continue
        flat = value.reshape(-1)
        first = flat[0] if first is None else first
        if (flat != first).any():
            return True
    return False
