"""Nodes that compute sizes, in one spelling: from the shapes of the graph's inputs, in the order of these."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.load.spelled.polynomials import Atom, Poly
from netfuse_onnx.load.spelled.sizes import Sizes
from netfuse_onnx.types import Node, Weight

INT64 = 7
NUMPY = {6: np.int32, 7: np.int64, 9: np.bool_}


class Emitted:
    """The nodes and constants of a graph that is being written. Equal sizes are computed once."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, graph = sizes, sizes.graph
        self.nodes: list[Node] = []
        self.weights: dict[str, Weight] = {}
        self._inputs = {*graph.inputs}
        self._made: dict[object, str] = {}
        self._own: dict[tuple[int, bytes, tuple[int, ...]], str] = {}

    def can(self, size: Poly) -> bool:
        """Return True where a size follows from those of inputs."""
        return all(self._can(atom) for monomial, _ in size.terms for atom in monomial)

    def _can(self, atom: Atom) -> bool:
        parts = [part for part in atom[1:] if isinstance(part, Poly)]
        return atom[0] in ("input", "min", "quotient") and all(map(self.can, parts))

    def constant(self, values: NDArray[Any]) -> str:
        """Return the name of a constant; an equal one is used again."""
        dtype = {np.dtype(kind): number for number, kind in NUMPY.items()}[values.dtype]
        key = (dtype, values.tobytes(), values.shape)
        if key not in self._own:
            self._own[key] = self._named(key, lambda name: self._same_constant(name, values, dtype))
            self.weights[self._own[key]] = Weight(dtype, values.shape, values.tobytes())
        return self._own[key]

    def value(self, values: NDArray[Any], dtype: int) -> str:
        """Return the name of a number or a row of sizes."""
        numbers = [size.constant for size in values.reshape(-1)]
        if None not in numbers:
            return self.constant(np.array(numbers, NUMPY[dtype]).reshape(values.shape))
        row = self._row(list(values.reshape(-1)))
        if values.ndim == 0:
            row = self._node("Squeeze", [row, self.constant(np.array([0], np.int64))])
        return row if dtype == INT64 else self._node("Cast", [row], to=dtype)

    def _row(self, items: Sequence[Poly]) -> str:
        """Return a row of sizes, numbers beside each other as one constant."""
        parts: list[str] = []
        run: list[int] = []
        for item in items:
            if item.constant is not None:
                run.append(item.constant)
                continue
            parts += [self.constant(np.array(run, np.int64))] if run else []
            run = []
            parts.append(self._one(item))
        parts += [self.constant(np.array(run, np.int64))] if run else []
        return parts[0] if len(parts) == 1 else self._node("Concat", parts, axis=0)

    def _one(self, size: Poly) -> str:
        """Return one size, of shape [1]."""
        total = ""
        for monomial, factor in sorted(size.terms, key=self._order):
            term = ""
            for atom in monomial:
                each = self._atom(atom)
                term = self._node("Mul", [term, each]) if term else each
            if factor != 1 or not term:
                number = self.constant(np.array([factor], np.int64))
                term = self._node("Mul", [term, number]) if term else number
            total = self._node("Add", [total, term]) if total else term
        return total

    @staticmethod
    def _order(row: tuple[tuple[Atom, ...], int]) -> tuple[int, str]:
        return len(row[0]), repr(row[0])

    def _atom(self, atom: Atom) -> str:
        kind, first, second = atom
        if kind == "input":
            assert isinstance(first, int) and isinstance(second, int)
            name = self.sizes.graph.inputs[first]
            if self.sizes.opset >= 15:
                return self._node("Shape", [name], start=second, end=second + 1)
            at = self.constant(np.array([second], np.int64))
            return self._node("Gather", [self._node("Shape", [name]), at], axis=0)
        assert isinstance(first, Poly) and isinstance(second, Poly)
        return self._node("Min" if kind == "min" else "Div", [self._one(first), self._one(second)])

    def _node(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        """Return the output of a node; an equal one is used again."""
        key = (op, tuple(inputs), tuple(sorted(attrs.items())))
        if key not in self._made:
            node = _node(op, inputs, "", attrs)
            name = self._named(key, lambda name: self._same_node(name, node))
            self.nodes.append(replace(node, name=name, outputs=(name,)))
            self._made[key] = name
        return self._made[key]

    def _named(self, key: object, mine: Callable[[str], bool]) -> str:
        """Return a name that follows from the content, so that a second pass gives the same. A value of the
        graph that has it already must be `mine`."""
        name = f"size__{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}"
        while not mine(name):
            name += "_"
        return name

    def _same_constant(self, name: str, values: NDArray[Any], dtype: int) -> bool:
        weight = self.sizes.graph.weights.get(name)
        same = weight is None or weight == Weight(dtype, values.shape, values.tobytes())
        return same and self.sizes.maker(name) is None and name not in self._inputs

    def _same_node(self, name: str, node: Node) -> bool:
        maker = self.sizes.maker(name)
        same = maker is None or replace(maker, name="", outputs=("",)) == node
        return same and name not in self.sizes.graph.weights and name not in self._inputs


def _node(op: str, inputs: Sequence[str], output: str, attrs: Mapping[str, Any]) -> Node:
    return Node(op, "", output, tuple(inputs), (output,), dict(attrs))
