"""What weights must have in common: type and shape, and the value where it decides a shape.

A value decides a shape as an operand that the operator takes for sizes, axes or bounds, or on the way
there: an integer that is concatenated, sliced or computed into one.
"""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.match import differ
from netfuse_onnx.match.differ import Difference
from netfuse_onnx.match.flat import Flat
from netfuse_onnx.match.outcome import outcome
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.ops import traits
from netfuse_onnx.ops.axes import INPUTS
from netfuse_onnx.ops.kinds import INDEX_TYPES
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Graph, Weight

ARITHMETIC = frozenset(
    {"Concat", "Unsqueeze", "Squeeze", "Gather", "Slice", "Cast", "Add", "Sub", "Mul", "Div", "Mod", "Neg"}
    | {"Abs", "Min", "Max", "Floor", "Ceil", "Where", "Equal", "Expand", "Reshape", "Range", "ReduceProd"}
)
"""Operators that shapes are computed with, on scalars and vectors."""


class Fixed:
    """The demands on the weights of a family whose first source is `flat`."""

    def __init__(self, flat: Flat, graph: Graph) -> None:
        self.flat, self.graph = flat, graph
        self._steering = _steering(flat, graph)
        self._of_step: dict[int, list[int]] = {}
        for j, (i, _) in enumerate(flat.uses):
            self._of_step.setdefault(i, []).append(j)
        self.value: list[bool] = []  # for each use of a weight: whether its value must be equal
        for i, k in flat.uses:
            step = flat.steps[i]
            direct = not step.domain and k in traits.steers(step.op, step.ins, step.attrs)
            integer = flat.weights[step.ins[k]].dtype in INDEX_TYPES
            on_the_way = integer and step.op in ARITHMETIC and not self._steering.isdisjoint(step.outs)
            absent = not flat.said(step.ins[k])  # in the file
            self.value.append(direct or absent or (on_the_way and not step.domain))

    def first_fault(self, other: Flat, uses: Sequence[str]) -> int | None:
        """The first use of a weight that the other source's can't stand for."""
        flat = self.flat
        for j, ((i, k), name) in enumerate(zip(flat.uses, uses, strict=True)):
            mine, theirs = flat.weights[flat.steps[i].ins[k]], other.weights[name]
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                return j
            if self._must_equal(j, other, name) and not weights.same(mine, theirs):
                said = flat.said(flat.steps[i].ins[k]) and other.said(name)
                if not said or not self._same_shapes(i, other, uses):
                    return j
        return None

    def _must_equal(self, j: int, other: Flat, name: str) -> bool:
        """Whether a value must be the same, one that is absent in the other's file included."""
        return self.value[j] or not other.said(name)

    def _same_shapes(self, i: int, other: Flat, uses: Sequence[str]) -> bool:
        """Whether step i gives the same shapes with the other's weights, whatever it is fed, and nothing that
        decides a later one: a window that starts elsewhere, or another range of one length."""
        step = self.flat.steps[i]
        if step.scope or not any(step.outs) or not self._steering.isdisjoint(step.outs):
            return False
        theirs = {self.flat.uses[j][1]: other.weights[uses[j]] for j in self._of_step[i]}
        mine = {k: self.flat.weights[step.ins[k]] for k in theirs}
        found = [outcome(step, held, self.graph, self.flat.opsets) for held in (mine, theirs)]
        return found[0] is not None and found[0] == found[1]

    def differs(self, step: int, other: Flat, pairing: Pairing) -> bool:
        """Whether the step reads a weight whose shape, or shape-deciding value, the other doesn't share."""
        return self._unlike(step, other, pairing) is not None

    def difference(self, step: int, other: Flat, pairing: Pairing) -> str:
        """Which weight that is, in words; empty where there is none."""
        j = self._unlike(step, other, pairing)
        return "" if j is None else self._unequal(j, other, pairing).what

    def unlike(self, other: Flat, pairing: Pairing) -> list[tuple[int, int]]:
        """All uses of weights, as (step, operand), whose shape, or shape-deciding value, the other doesn't
        share."""
        uses = self.flat.uses
        return [uses[j] for j in range(len(uses)) if self._is_unlike(j, other, pairing)]

    def _unlike(self, step: int, other: Flat, pairing: Pairing) -> int | None:
        uses = self._of_step.get(step, ())
        return next((j for j in uses if self._is_unlike(j, other, pairing)), None)

    def _is_unlike(self, j: int, other: Flat, pairing: Pairing) -> bool:
        i, k = self.flat.uses[j]
        name = pairing.uses[j]
        mine, theirs = self.flat.weights[self.flat.steps[i].ins[k]], other.weights[name]
        unequal = self._must_equal(j, other, name) and not weights.same(mine, theirs)
        return mine.shape != theirs.shape or unequal

    def error(self, other: Flat, pairing: Pairing) -> NotEquivalent:
        """The first fault in words."""
        j = self.first_fault(other, pairing.uses) or 0
        i, _ = self.flat.uses[j]
        return differ.error(self.flat, i, other, pairing.steps[i], self._unequal(j, other, pairing))

    def _unequal(self, j: int, other: Flat, pairing: Pairing) -> Difference:
        """The difference in a use of a weight."""
        i, k = self.flat.uses[j]
        name, twin = self.flat.steps[i].ins[k], pairing.uses[j]
        ours, theirs = self.flat.said(name), other.said(twin)
        mine, its = self.flat.weights.get(ours), other.weights.get(theirs)
        if mine is None or its is None:
            pairs = ((ours, mine), (theirs, its))
            left, right = (f"weight '{n}' {_values(w)}" if w else "absent" for n, w in pairs)
            what = f"input {k} is {left} and {right}"
            return Difference(what, differ.PARTIAL, "size", value=ours or theirs, left=left, right=right)
        if differ.weight_difference(ours, mine, theirs, its):
            return differ.of_weights(f"input {k}: ", ours, mine, theirs, its)
        left, right = _values(mine), _values(its)
        what = (
            f"input {k}: weight '{ours}' decides a shape, so it must be equal, and it is {left} and {right}"
        )
        if INPUTS.get(self.flat.steps[i].node.key) == k:
            normal = [weights.array(w).tolist() for w in (self.flat.weights[name], other.weights[twin])]
            what += differ.unranked(*normal)
        return Difference(what, differ.PARTIAL, "size", value=ours, left=left, right=right)


def _values(weight: Weight) -> str:
    if weights.nbytes(weight) > 256:
        return differ.weight_text(weight)
    return str(weights.array(weight).tolist())


def _steering(flat: Flat, graph: Graph) -> set[str]:
    """Computed values that end up as sizes, axes or bounds."""
    found: set[str] = set()
    for step in reversed(flat.steps):
        if step.domain:
            continue
        found.update(step.ins[k] for k in traits.steers(step.op, step.ins, step.attrs) if k < len(step.ins))
        if step.op in ARITHMETIC and any(n in found and _flat_shape(graph, n) for n in step.outs):
            found.update(step.ins)
    found.discard("")
    return found


def _flat_shape(graph: Graph, name: str) -> bool:
    """Whether it is a scalar or a vector as far as is known."""
    kind = graph.types.get(name)
    return kind is None or kind.rank is None or kind.rank <= 1
