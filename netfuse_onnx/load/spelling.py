"""One spelling for what exporters write in several ways, from one opset to the next.

Only files that differ otherwise are respelled. Each form computes what the spelling of the file does: the
same numbers, but for layer normalisation and Gelu, which are one operator from opset 17 and 20 on and round
as ONNX Runtime rounds when it fuses them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from netfuse_onnx.load.infer import infer
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Dim, Graph, Node, Source, ValueType, Weight

SMALL = 64
"""Most elements of a constant that a form asks for."""

INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 9, 12, 13})
"""Element types that hold no NaN."""

Values = np.ndarray[Any, Any]
Form = Callable[["_Forms", Node], Node | None]
FORMS: dict[str, list[Form]] = {}
"""Operator -> the forms that end in it."""


def respelled(source: Source) -> Source:
    """The source with each form in its one spelling; itself where there is nothing to change."""
    graph = source.graph
    while (changed := _Forms(source, graph).run()) is not graph:
        graph = changed
    return source if graph is source.graph else replace(source, graph=graph)


def form(*ops: str) -> Callable[[Form], Form]:
    """Register a form that is looked for at these operators."""

    def register(function: Form) -> Form:
        for op in ops:
            FORMS.setdefault(op, []).append(function)
        return function

    return register


class _Forms:
    """One pass over a graph."""

    def __init__(self, source: Source, graph: Graph) -> None:
        self.graph, self.opset = graph, source.opsets.get("", 1)
        self.source = source
        self.makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self.fresh: dict[str, Weight] = {}

    def run(self) -> Graph:
        nodes, changed = [], False
        for node in self.graph.nodes:
            new = None
            for each in FORMS.get(node.op, ()) if not node.domain else ():
                new = new or each(self, node)
            nodes.append(new or node)
            changed |= new is not None
        if not changed:
            return self.graph
        return _live(replace(self.graph, nodes=tuple(nodes), weights={**self.graph.weights, **self.fresh}))

    @functools.cached_property
    def types(self) -> Mapping[str, ValueType]:
        """The types of all values; most files that differ ask for none."""
        return infer(replace(self.source, graph=self.graph)).graph.types

    def maker(self, name: str, op: str) -> Node | None:
        """The node that gives a value, where it is of this operator."""
        node = self.makers.get(name)
        return node if node is not None and node.op == op and not node.domain else None

    def const(self, name: str) -> Values | None:
        """A small constant."""
        weight = self.graph.weights.get(name)
        if weight is None or isinstance(weight.data, tuple) or np.prod(weight.shape) > SMALL:
            return None
        return weights.array(weight)

    def scalar(self, name: str) -> float | None:
        values = self.const(name)
        return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None

    def dims(self, name: str) -> tuple[Dim, ...] | None:
        if name in self.graph.weights:
            return self.graph.weights[name].shape
        return self.types.get(name, ValueType()).dims

    def dtype(self, name: str) -> int:
        if name in self.graph.weights:
            return self.graph.weights[name].dtype
        return self.types.get(name, ValueType()).dtype

    def axes(self, node: Node) -> list[int] | None:
        """The axes of a reduction or a Squeeze, an attribute or an input; None where they are not known."""
        if "axes" in node.attrs:
            return list(node.attrs["axes"])
        values = self.const(node.inputs[1]) if len(node.inputs) > 1 else None
        return None if values is None else [int(value) for value in values.reshape(-1)]

    def scalar_weight(self, value: int) -> str:
        """A new constant: an index."""
        name = f"index__{value}"
        while name in self.graph.weights or name in self.makers or name in self.graph.inputs:
            name += "_"
        self.fresh[name] = Weight(7, (), np.int64(value).tobytes())
        return name

    def pair(self, node: Node, op: str) -> tuple[Node, str] | None:
        """The operand of a binary operator that `op` gives, and the other one."""
        for one, other in (node.inputs, node.inputs[::-1]):
            if (maker := self.maker(one, op)) is not None:
                return maker, other
        return None

    def with_scalar(self, node: Node) -> tuple[str, float] | None:
        """An operand that is computed, and the other one, a constant number."""
        for one, other in (node.inputs, node.inputs[::-1]):
            if (value := self.scalar(other)) is not None and one not in self.graph.weights:
                return one, value
        return None


def _live(graph: Graph) -> Graph:
    """Without the nodes and weights that nothing reads any more."""
    needed, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node.reads)
    held = {name: weight for name, weight in graph.weights.items() if name in needed}
    return replace(graph, nodes=tuple(kept[::-1]), weights=held)


# ------------------------------------------------------------------ what says nothing


@form("Slice")
def _steps_of_one(forms: _Forms, node: Node) -> Node | None:
    if len(node.inputs) < 5:
        return None
    steps = forms.const(node.inputs[4])
    return replace(node, inputs=node.inputs[:4]) if steps is not None and (steps == 1).all() else None


@form("Slice")
def _all_axes(forms: _Forms, node: Node) -> Node | None:
    """Axes from the first one on, in order, are the default."""
    if len(node.inputs) != 4:
        return None
    axes = forms.const(node.inputs[3])
    plain = axes is not None and axes.tolist() == list(range(axes.size))
    return replace(node, inputs=node.inputs[:3]) if plain else None


@form("Pad")
def _padded_with_nothing(forms: _Forms, node: Node) -> Node | None:
    if len(node.inputs) != 3 or not node.inputs[2] or forms.dtype(node.inputs[2]) == 8:
        return None
    return replace(node, inputs=node.inputs[:2]) if forms.scalar(node.inputs[2]) == 0 else None


@form("Dropout")
def _ratio_of_nothing(forms: _Forms, node: Node) -> Node | None:
    """Outside of training the ratio says nothing."""
    if len(node.inputs) == 3 and forms.const(node.inputs[2]) is not None and not forms.scalar(node.inputs[2]):
        return replace(node, inputs=node.inputs[:2])
    return replace(node, inputs=node.inputs[:1]) if len(node.inputs) == 2 else None


@form("Resize")
def _no_region(forms: _Forms, node: Node) -> Node | None:
    """Empty regions, and empty scales beside sizes."""

    def empty(k: int, name: str) -> bool:
        return k > 0 and forms.dims(name) == (0,) and name in forms.graph.weights

    inputs = tuple("" if empty(k, name) else name for k, name in enumerate(node.inputs))
    return replace(node, inputs=inputs) if inputs != node.inputs and forms.opset >= 13 else None


# ------------------------------------------------------------------ one operator for several


@form("Not")
def _not_less(forms: _Forms, node: Node) -> Node | None:
    """Not(a < b) is a >= b where there is no NaN."""
    for op, reverse in (("Less", "GreaterOrEqual"), ("Greater", "LessOrEqual")):
        maker = forms.maker(node.inputs[0], op)
        if maker is not None and forms.opset >= 12 and forms.dtype(maker.inputs[0]) in INTEGERS:
            return replace(node, op=reverse, inputs=maker.inputs)
    return None


@form("Squeeze")
def _one_of_an_axis(forms: _Forms, node: Node) -> Node | None:
    """A slice of one element without its axis is a Gather."""
    cut = forms.maker(node.inputs[0], "Slice")
    axes = forms.axes(node)
    if cut is None or axes is None or len(axes) != 1 or len(cut.inputs) not in (3, 4):
        return None
    bounds = [forms.const(name) for name in cut.inputs[1:]]
    if any(values is None or values.size != 1 for values in bounds):
        return None
    start, end, *along = [int(values.reshape(-1)[0]) for values in bounds if values is not None]
    axis, (squeezed,), dims = (along or [0])[0], axes, forms.dims(cut.inputs[0])
    if axis != squeezed and (dims is None or axis % len(dims) != squeezed % len(dims)):
        return None
    size = dims[axis] if dims is not None else None
    last = start == -1 and end >= (size if isinstance(size, int) else 1 << 31) - 1 and end > 0
    if end - start != 1 and not last:
        return None
    if start == -1 and not last:
        return None
    inputs = (cut.inputs[0], forms.scalar_weight(start))
    return replace(node, op="Gather", inputs=inputs, attrs={"axis": axis})


@form("Hardmax", "LogSoftmax", "Softmax")
def _of_the_last_axis(forms: _Forms, node: Node) -> Node | None:
    dims, axis = forms.dims(node.inputs[0]), node.attrs.get("axis", -1)
    if dims is None or forms.opset < 13 or axis < 0 or axis != len(dims) - 1:
        return None
    return replace(node, attrs={**node.attrs, "axis": -1})


@form("Transpose")
def _softmax_of_an_axis(forms: _Forms, node: Node) -> Node | None:
    """The last axis of a transposed value, moved back: an axis of the value itself."""
    soft = forms.makers.get(node.inputs[0])
    if soft is None or soft.op not in ("Softmax", "LogSoftmax", "Hardmax") or forms.opset < 13:
        return None
    moved = forms.maker(soft.inputs[0], "Transpose")
    if moved is None or "perm" not in moved.attrs or "perm" not in node.attrs:
        return None
    there, back = moved.attrs["perm"], node.attrs["perm"]
    if [there[k] for k in back] != list(range(len(there))):
        return None
    axis = there[soft.attrs.get("axis", -1)]
    return replace(node, op=soft.op, inputs=moved.inputs, attrs={"axis": axis}, name=soft.name)


@form("Add")
def _layer_norm(forms: _Forms, node: Node) -> Node | None:
    """(x - mean) / sqrt(variance + epsilon) * w + b along the last axes."""
    scaled = forms.pair(node, "Mul")
    normal = forms.pair(scaled[0], "Div") if scaled else None
    if forms.opset < 17 or scaled is None or normal is None:
        return None
    bias, scale = scaled[1], normal[1]
    held = [forms.graph.weights.get(name) for name in (scale, bias)]
    found = _normalised(forms, normal[0])
    if found is None or any(each is None for each in held):
        return None
    x, axes, epsilon = found
    dims, shapes = forms.dims(x), {each.shape for each in held if each is not None}
    if dims is None or {tuple(dims[-len(axes) :])} != shapes or forms.dtype(x) != 1:
        return None
    if [axis % len(dims) for axis in axes] != list(range(len(dims)))[-len(axes) :]:
        return None
    attrs = {"axis": -len(axes), "epsilon": float(np.float32(epsilon))}
    return replace(node, op="LayerNormalization", inputs=(x, scale, bias), attrs=attrs)


def _normalised(forms: _Forms, quotient: Node) -> tuple[str, list[int], float] | None:
    """What (x - mean) / sqrt(variance + epsilon) normalises, along which axes, and epsilon."""
    centred = forms.maker(quotient.inputs[0], "Sub")
    root = forms.maker(quotient.inputs[1], "Sqrt")
    shifted = forms.maker(root.inputs[0], "Add") if root else None
    numbers = forms.with_scalar(shifted) if shifted else None
    variance = forms.maker(numbers[0], "ReduceMean") if numbers else None
    mean = forms.maker(centred.inputs[1], "ReduceMean") if centred else None
    if centred is None or numbers is None or variance is None or mean is None:
        return None
    x, axes = centred.inputs[0], forms.axes(mean)
    kept = all(each.attrs.get("keepdims", 1) for each in (mean, variance))
    if mean.inputs[0] != x or not axes or not kept or forms.axes(variance) != axes:
        return None
    squared = forms.makers.get(variance.inputs[0])
    if squared is None or squared.domain or not _square(forms, squared):
        return None
    base = forms.maker(squared.inputs[0], "Sub")
    return (x, axes, numbers[1]) if base is not None and base.inputs == centred.inputs else None


def _square(forms: _Forms, node: Node) -> bool:
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    return node.op == "Pow" and forms.scalar(node.inputs[1]) == 2


@form("Mul")
def _gelu(forms: _Forms, node: Node) -> Node | None:
    """0.5 * x * (1 + erf(x / sqrt(2))), the factors in any order."""
    if forms.opset < 20 or len(node.inputs) != 2:
        return None
    factors = [*node.inputs]
    for k, name in enumerate(node.inputs):
        if (inner := forms.maker(name, "Mul")) is not None:
            factors[k : k + 1] = inner.inputs
            break
    halves = [name for name in factors if forms.scalar(name) == 0.5]
    waves = [name for name in factors if (x := _one_plus_erf(forms, name)) is not None and x in factors]
    if len(factors) != 3 or len(halves) != 1 or len(waves) != 1:
        return None
    (rest,) = [name for name in factors if name not in (halves[0], waves[0])] or [""]
    if _one_plus_erf(forms, waves[0]) != rest:
        return None
    return replace(node, op="Gelu", inputs=(rest,), attrs={"approximate": b"none"})


def _one_plus_erf(forms: _Forms, name: str) -> str | None:
    """x where the value is 1 + erf(x / sqrt(2))."""
    total = forms.maker(name, "Add")
    found = forms.with_scalar(total) if total else None
    erf = forms.maker(found[0], "Erf") if found and found[1] == 1 else None
    if erf is None:
        return None
    for op, wanted in (("Div", 2**0.5), ("Mul", 0.5**0.5)):
        inner = forms.maker(erf.inputs[0], op)
        scaled = forms.with_scalar(inner) if inner else None
        if (
            scaled
            and abs(scaled[1] - wanted) < 1e-6
            and inner
            and (op == "Mul" or inner.inputs[0] == scaled[0])
        ):
            return scaled[0]
    return None
