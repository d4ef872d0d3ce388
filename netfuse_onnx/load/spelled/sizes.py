"""Sizes and index values of a source, as polynomials in the sizes of its inputs.

One walk over the nodes tells the dims of each value, and the values of integers that are computed from sizes.
Inputs with one symbolic dim have one size there. Sizes that no rule tells are atoms of their own, so that one
unknown size never equals another. The rules are in size_rules.py and value_rules.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.load.spelled.polynomials import Poly, of_atom, poly
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Graph, Node, Source, ValueType

Dims = tuple[Poly, ...]
Array = NDArray[Any]
"""Polynomials as elements."""
SMALL = 64
"""The largest number of elements whose values are followed."""
WHOLE = {6: 32, 7: 64, 9: 1}
"""The element types that are followed, int32, int64 and bool, with their bits."""
WIDEST = 1 << 31
"""Larger numbers are followed as int64 only."""


@dataclass(frozen=True, slots=True)
class Indices:
    """Values of any number: `base` plus the index along each axis times its step."""

    dims: Dims
    base: Poly
    steps: tuple[Poly, ...]


Values = Array | Indices
DimsRule = Callable[["Sizes", Node], "list[Dims | None]"]
ValueRule = Callable[["Sizes", Node], "Values | None"]
DIMS: dict[str, DimsRule] = {}
VALUES: dict[str, ValueRule] = {}


def dims_rule(*ops: str) -> Callable[[DimsRule], DimsRule]:
    """Register the function that gives the dims of the outputs of these operators."""

    def register(function: DimsRule) -> DimsRule:
        DIMS.update(dict.fromkeys(ops, function))
        return function

    return register


def value_rule(*ops: str) -> Callable[[ValueRule], ValueRule]:
    """Register the function that gives the values of the first output of these operators."""

    def register(function: ValueRule) -> ValueRule:
        VALUES.update(dict.fromkeys(ops, function))
        return function

    return register


class Sizes:
    """The dims and values of a graph. `typed` is the graph with the types that inference tells."""

    def __init__(self, source: Source, typed: Graph) -> None:
        self.graph, self.typed, self.opset = source.graph, typed, source.opsets.get("", 1)
        self.dims: dict[str, Dims] = {}
        self.values: dict[str, Values] = {}
        self._symbols: dict[str, Poly] = {}
        self._makers = {name: node for node in typed.nodes for name in node.outputs if name}
        for index, name in enumerate(typed.inputs):
            declared = typed.type_of(name).dims
            if declared is not None:
                self.dims[name] = tuple([self._of_input(index, k, dim) for k, dim in enumerate(declared)])
        for name, weight in typed.weights.items():
            self.dims[name] = tuple(map(poly, weight.shape))
        for node in typed.nodes:
            self._follow(node)

    def _of_input(self, index: int, axis: int, dim: int | str | None) -> Poly:
        if isinstance(dim, int):
            return poly(dim)
        size = of_atom("input", index, axis)
        return self._symbols.setdefault(dim, size) if dim else size

    def _follow(self, node: Node) -> None:
        rule = DIMS.get(node.op) if not node.domain else None
        told = _tried(rule, self, node) or [None] * len(node.outputs)
        for name, dims in zip(node.outputs, [*told, *[None] * len(node.outputs)], strict=False):
            known = self._merged(name, dims) if name else None
            if known is not None:
                self.dims[name] = known
        self._follow_values(node)

    def _follow_values(self, node: Node) -> None:
        value_rule = VALUES.get(node.op) if not node.domain else None
        if value_rule is None or self.dtype(node.outputs[0]) not in WHOLE:
            return
        values = _tried(value_rule, self, node)
        if values is not None and (isinstance(values, Indices) or values.size <= SMALL):
            self.values[node.outputs[0]] = values
            sizes = values.dims if isinstance(values, Indices) else tuple(map(poly, values.shape))
            self.dims[node.outputs[0]] = sizes

    def _merged(self, name: str, told: Dims | None) -> Dims | None:
        """Return the dims of a value by its rule, else by inference, else as atoms of their own."""
        inferred = self.typed.type_of(name).dims
        if told is None and inferred is None:
            return None
        if told is None or (inferred is not None and len(told) != len(inferred)):
            told = tuple([of_atom("of", name, k) for k in range(len(inferred or ()))])
        pairs = zip(told, inferred or [None] * len(told), strict=True)
        return tuple([self._finer(size, dim) for size, dim in pairs])

    def _finer(self, size: Poly, dim: int | str | None) -> Poly:
        if isinstance(dim, int):
            return poly(dim)
        atom = size.atom
        if isinstance(dim, str) and atom is not None and atom[0] == "of":
            return self._symbols.get(dim, size)
        return size

    # ------------------------------------------------------------------ questions

    def maker(self, name: str) -> Node | None:
        """Return the node of the default domain that gives a value."""
        node = self._makers.get(name)
        return None if node is None or node.domain else node

    def dtype(self, name: str) -> int:
        return self.typed.type_of(name).dtype

    def type_of(self, name: str) -> ValueType:
        return self.typed.type_of(name)

    def shape(self, name: str) -> Dims:
        """Return the dims. Raises LookupError where the rank is unknown."""
        return self.dims[name]

    def value(self, name: str) -> Values | None:
        """Return the values of a constant or of a computed value, as far as they are followed."""
        if name in self.values:
            return self.values[name]
        weight = self.typed.weights.get(name)
        if weight is None or weight.dtype not in WHOLE or int(np.prod(weight.shape)) > SMALL:
            return None
        if isinstance(weight.data, tuple):
            return None
        found = weights.array(weight)
        return as_polys(found)

    def array(self, name: str) -> Array:
        """Return the values of a small value. Raises LookupError where they are not known."""
        values = self.value(name) if name else None
        if values is None or isinstance(values, Indices):
            raise LookupError(name)
        return values

    def numbers(self, name: str) -> list[int]:
        """Return the values as numbers, in one row. Raises LookupError where one is no number."""
        numbers = [value.constant for value in self.array(name).reshape(-1)]
        if any(number is None for number in numbers):
            raise LookupError(name)
        return [number for number in numbers if number is not None]

    def axes(self, node: Node, place: int = 1, name: str = "axes") -> list[int] | None:
        """Return the axes of a node, an attribute or an input; None where there are none."""
        if name in node.attrs:
            return list(node.attrs[name])
        return self.numbers(node.inputs[place]) if len(node.inputs) > place and node.inputs[place] else None


def as_polys(found: Array) -> Array:
    """Return numbers as an array of polynomials."""
    result = np.empty(found.shape, object)
    for place, value in np.ndenumerate(found):
        result[place] = poly(int(value))
    return result


def unknown(name: str, axis: int) -> Poly:
    """Return the size of an axis that no rule tells."""
    return of_atom("of", name, axis)


def _tried(rule: Callable[[Sizes, Node], Any] | None, sizes: Sizes, node: Node) -> Any:
    """Return what a rule tells; None where something that it needs is unknown, or a node is not valid."""
    if rule is None:
        return None
    try:
        return rule(sizes, node)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
