"""The demands on the weights of a family: equal types and shapes, and equal values where these decide a
shape.

A value decides a shape as an operand that the operator reads as sizes, axes or bounds, or on the way there:
an integer that is concatenated, sliced or computed into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.match import differ
from netfuse_onnx.match.differ import Difference
from netfuse_onnx.match.flat import Flat, Step
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.match.uniform import Dims, infer_alone
from netfuse_onnx.ops import traits
from netfuse_onnx.ops.axes import INPUTS
from netfuse_onnx.ops.kinds import INDEX_TYPES
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Graph, Node, ValueType, Weight

ARITHMETIC = frozenset(
    {"Concat", "Unsqueeze", "Squeeze", "Gather", "Slice", "Cast", "Add", "Sub", "Mul", "Div", "Mod", "Neg"}
    | {"Abs", "Min", "Max", "Floor", "Ceil", "Where", "Equal", "Expand", "Reshape", "Range", "ReduceProd"}
)
"""Operators by which shapes are computed, on scalars and vectors."""


class Demands:
    """The demands on the weights of a family whose first source has these steps."""

    def __init__(self, flat: Flat, graph: Graph) -> None:
        self.flat, self.graph = flat, graph
        self._steering = _steering(flat, graph)
        self._of_step: dict[int, list[int]] = {}
        for j, (i, _) in enumerate(flat.uses):
            self._of_step.setdefault(i, []).append(j)
        self.value: list[bool] = []  # for each use of a weight, True where its value must be equal
        for i, k in flat.uses:
            step = flat.steps[i]
            direct = not step.domain and k in traits.steers(step.op, step.ins, step.attrs)
            integer = flat.weights[step.ins[k]].dtype in INDEX_TYPES
            on_the_way = integer and step.op in ARITHMETIC and not self._steering.isdisjoint(step.outs)
            absent = not flat.file_name(step.ins[k])  # in the file
            self.value.append(direct or absent or (on_the_way and not step.domain))

    def first_fault(self, other: Flat, uses: Sequence[str]) -> int | None:
        """Return the first use of a weight for which the other source's weight can't stand, or None."""
        flat = self.flat
        for j, ((i, k), name) in enumerate(zip(flat.uses, uses, strict=True)):
            mine, theirs = flat.weights[flat.steps[i].ins[k]], other.weights[name]
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                return j
            if self._must_equal(j, other, name) and not weights.same(mine, theirs):
                in_files = flat.file_name(flat.steps[i].ins[k]) and other.file_name(name)
                if not in_files or not self._same_shapes(i, other, uses):
                    return j
        return None

    def _must_equal(self, j: int, other: Flat, name: str) -> bool:
        """Return True where the value must be equal. That also holds for a value the other's file lacks."""
        return self.value[j] or not other.file_name(name)

    def _same_shapes(self, i: int, other: Flat, uses: Sequence[str]) -> bool:
        """Return True where step i gives the same shapes with the other's weights, whatever its inputs are,
        and no output decides a later shape: a window that starts elsewhere, a range of the same length."""
        step = self.flat.steps[i]
        if step.scope or not any(step.outs) or not self._steering.isdisjoint(step.outs):
            return False
        theirs = {self.flat.uses[j][1]: other.weights[uses[j]] for j in self._of_step[i]}
        mine = {k: self.flat.weights[step.ins[k]] for k in theirs}
        shapes = self._shapes(step, mine)
        return shapes is not None and shapes == self._shapes(step, theirs)

    def _shapes(self, step: Step, operands: Mapping[int, Weight]) -> list[Dims] | None:
        """Return the shapes of the outputs of a step of the main graph that reads these weights; None where a
        size is neither a number nor a symbol of the graph's inputs."""
        names = [f"weight {k}" if k in operands else name for k, name in enumerate(step.ins)]
        types = {name: self.graph.types.get(name, ValueType()) for name in names if name in step.ins and name}
        values = {f"weight {k}": weight for k, weight in operands.items()}
        node = Node(step.op, step.domain, "", tuple(names), tuple(filter(None, step.outs)), step.attrs)
        shapes = infer_alone(node, values, types, self.flat.opsets)
        sizes = [size for shape in shapes for size in ((None,) if shape is None else shape)]
        inputs = [self.graph.types.get(name, ValueType()) for name in self.graph.inputs]
        symbols = {dim for value_type in inputs for dim in value_type.dims or () if dim}
        return shapes if all(isinstance(size, int) or size in symbols for size in sizes) else None

    def difference(self, step: int, other: Flat, pairing: Pairing) -> str:
        """Describe the first weight of a step that differs in shape or shape-deciding value; else ''."""
        uses = (j for j in self._of_step.get(step, ()) if self._is_unlike(j, other, pairing))
        j = next(uses, None)
        return "" if j is None else self._unequal(j, other, pairing).what

    def unlike(self, other: Flat, pairing: Pairing) -> list[tuple[int, int]]:
        """Return all uses of weights, as (step, operand), that differ in shape or shape-deciding value."""
        uses = self.flat.uses
        return [uses[j] for j in range(len(uses)) if self._is_unlike(j, other, pairing)]

    def _is_unlike(self, j: int, other: Flat, pairing: Pairing) -> bool:
        i, k = self.flat.uses[j]
        name = pairing.uses[j]
        mine, theirs = self.flat.weights[self.flat.steps[i].ins[k]], other.weights[name]
        unequal = self._must_equal(j, other, name) and not weights.same(mine, theirs)
        return mine.shape != theirs.shape or unequal

    def error(self, other: Flat, pairing: Pairing) -> NotEquivalent:
        """Return the error for the first fault."""
        j = self.first_fault(other, pairing.uses) or 0
        i, _ = self.flat.uses[j]
        return differ.error(self.flat, i, other, pairing.steps[i], self._unequal(j, other, pairing))

    def _unequal(self, j: int, other: Flat, pairing: Pairing) -> Difference:
        """Return the difference in one use of a weight."""
        i, k = self.flat.uses[j]
        name, twin = self.flat.steps[i].ins[k], pairing.uses[j]
        ours, theirs = self.flat.file_name(name), other.file_name(twin)
        mine, its = self.flat.weights.get(ours), other.weights.get(theirs)
        if mine is None or its is None:
            pairs = ((ours, mine), (theirs, its))
            left, right = (f"weight '{n}' {_values(w)}" if w else "absent" for n, w in pairs)
            what = f"input {k} is {left} and {right}"
            return Difference(what, differ.PARTIAL, "size", value=ours or theirs, left=left, right=right)
        if differ.unequal_weights_text(ours, mine, theirs, its):
            return differ.weights_differ(f"input {k}: ", ours, mine, theirs, its)
        left, right = _values(mine), _values(its)
        what = (
            f"input {k}: weight '{ours}' decides a shape, so it must be equal, and it is {left} and {right}"
        )
        if INPUTS.get(self.flat.steps[i].node.key) == k:
            normal = [weights.array(w).tolist() for w in (self.flat.weights[name], other.weights[twin])]
            what += differ.unranked_text(*normal)
        return Difference(what, differ.PARTIAL, "size", value=ours, left=left, right=right)


def _values(weight: Weight) -> str:
    """Return the values of a weight as text; its type and shape where they are many."""
    if weights.nbytes(weight) > 256:
        return differ.weight_text(weight)
    return str(weights.array(weight).tolist())


def _steering(flat: Flat, graph: Graph) -> set[str]:
    """Return the computed values that end up as sizes, axes or bounds."""
    names: set[str] = set()
    for step in reversed(flat.steps):
        if step.domain:
            continue
        names.update(step.ins[k] for k in traits.steers(step.op, step.ins, step.attrs) if k < len(step.ins))
        if step.op in ARITHMETIC and any(n in names and _flat_shape(graph, n) for n in step.outs):
            names.update(step.ins)
    names.discard("")
    return names


def _flat_shape(graph: Graph, name: str) -> bool:
    """Return True where the value is a scalar or a vector, or of unknown rank."""
    rank = graph.types.get(name, ValueType()).rank
    return rank is None or rank <= 1
