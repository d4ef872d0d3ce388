"""Reads the integers that a graph input takes off its consumers: the rows of the table that a Gather looks
up, the depth of a one-hot, the constants it is compared with. Every model takes these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from netfuse_onnx.match.flat import Step, flatten
from netfuse_onnx.ops import traits
from netfuse_onnx.ops.kinds import FLOATS
from netfuse_onnx.ops.traits import TUPLES, Carries, Indices
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Dim, ValueType

ALPHABET = 4096
"""Most elements of a constant that is read, such as the classes of a one-hot."""
CHOICES = 8
"""Constants that an input is compared with: up to so many are drawn from, more are taken for a range."""
PATHS = 10_000
"""Most values that are followed from one input."""


@dataclass(frozen=True, slots=True)
class Accepts:
    """Integers within [low, high), or one of `values`; a mask holds zeros and ones."""

    low: int = 0
    high: int | None = None
    values: tuple[int, ...] = ()
    mask: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    """A value as the input tells it: `scale` times an element, plus something between `least` and `most`.
    `whole`: all elements are there, as they are."""

    name: str
    whole: bool = True
    scale: Fraction = Fraction(1)
    least: Fraction = Fraction(0)
    most: Fraction = Fraction(0)

    def within(self, rows: float) -> tuple[float, float]:
        """The elements, from the first to before the second, for which the value is in [0, rows)."""
        if rows == math.inf or not self.scale:
            return -math.inf, math.inf
        ends = (-self.least / self.scale, (Fraction(int(rows)) - 1 - self.most) / self.scale)
        return math.ceil(min(ends)), math.floor(max(ends)) + 1

    def equal_to(self, constants: set[int]) -> set[int]:
        """The elements for which the value is one of the constants."""
        if self.least != self.most or not self.scale:
            return set()
        found = {(Fraction(constant) - self.least) / self.scale for constant in constants}
        return {int(element) for element in found if element.denominator == 1}


class Domains:
    """The domains of the inputs of a family, by the first source's names."""

    def __init__(self, family: Correspondence) -> None:
        self.family = family
        graph, self.weights = family.graph, family.every_weight
        own = [node for tail in family.tails for node in tail.nodes]
        graph = replace(graph, nodes=(*graph.nodes, *own)) if own else graph
        steps = flatten(replace(family.sources[0], graph=graph)).steps
        self.made = {out: step for step in steps for out in step.outs}
        self.readers: dict[str, list[tuple[Step, int]]] = {}
        for step in steps:
            for i, value in enumerate(step.ins):
                self.readers.setdefault(value, []).append((step, i))

    def of(self, name: str) -> Accepts:
        """Follow an input through what keeps or shifts its elements to the operators that bound them."""
        called = [self.family.edge(m).inputs.get(name, name).lower() for m in range(self.family.models)]
        if any("mask" in own for own in called):
            return Accepts(mask=True)
        low, high, values = int(any("len" in own for own in called)), math.inf, set[int]()
        floats = self.family.graph.types.get(name, ValueType()).dtype in FLOATS
        queue, seen = [_Line(name)], {_Line(name)}
        while queue:
            line = queue.pop()
            for step, i in self.readers.get(line.name, ()):
                first, end = line.within(self._rows(step, i))
                low, high = max(low, int(first)) if first > 0 else low, min(high, end)
                if step.op == "Equal" and (line.whole or not floats):
                    values |= line.equal_to(self._constants(step.ins[1 - i]))
                if i in traits.of(step.op).sizes:
                    low = max(low, 1)
                fresh = [ahead for ahead in self._ahead(line, step, i) if ahead not in seen]
                if len(seen) < PATHS:
                    queue += fresh
                    seen.update(fresh)
        if len(values) > CHOICES:
            high = min(high, max(values) + 1)
        if high < math.inf:
            return Accepts(min(low, max(0, int(high) - 1)), max(1, int(high)))
        return Accepts(low, None, (*sorted(values), max(values) + 1) if values else ())

    # ------------------------------------------------------------------ on the way

    def _ahead(self, line: _Line, step: Step, i: int) -> Iterator[_Line]:
        """The outputs of a step that hold elements of its input `i`, maybe shifted or scaled."""
        line = replace(line, name="")
        carries = traits.of(step.op).carries
        if carries is Carries.ALL_INPUTS or (i == 0 and carries is not Carries.NOTHING):
            whole = line.whole and carries is not Carries.SOME
            shifted = None if (step.op, i) == ("Where", 0) else replace(line, whole=whole)
        else:
            shifted = self._shifted(replace(line, whole=False), step, i)
        if shifted is not None:
            yield from (replace(shifted, name=out) for out in step.outs if out)

    def _shifted(self, line: _Line, step: Step, i: int) -> _Line | None:
        """Return the value after arithmetic with a constant; None where it is not followed."""
        if step.op == "Neg":
            return replace(line, scale=-line.scale, least=-line.most, most=-line.least)
        if step.op not in ("Add", "Sub", "Mul", "Div") or len(step.ins) != 2:
            return None
        found = self._constants(step.ins[1 - i])
        if step.op == "Add" and not found:
            return line  # beside another value, which is taken for zero
        if not found:
            return None
        small, large = Fraction(min(found)), Fraction(max(found))
        if step.op == "Add":
            return replace(line, least=line.least + small, most=line.most + large)
        if step.op == "Sub" and i == 0:
            return replace(line, least=line.least - large, most=line.most - small)
        if step.op == "Sub":
            return replace(line, scale=-line.scale, least=small - line.most, most=large - line.least)
        factor = large if step.op == "Mul" else 1 / small if small > 0 and i == 0 else Fraction(0)
        if small <= 0 or factor <= 0:
            return None
        ends = line.least * factor, line.most * factor
        return _Line("", False, line.scale * factor, *ends)

    # ------------------------------------------------------------------ what bounds

    def _rows(self, step: Step, i: int) -> float:
        """Return the rows of the smallest table, in all models, that input `i` of the step indexes; infinity
        when it indexes none."""
        if step.op == "OneHot":
            depth = self._constants(step.ins[1]) if i == 0 else ()
            return min(depth, default=math.inf)
        for indices in traits.of(step.key).indices:
            if i == indices.place and indices.table < len(step.ins):
                return min(self._along(step, attrs, indices) for attrs in self._attributes(step))
        return math.inf

    def _attributes(self, step: Step) -> Sequence[Mapping[str, Any]]:
        """The attributes of a step: of every model, where they differ."""
        return (step.attrs,) if step.scope else self.family.attrs.get(step.main, (step.attrs,))

    def _along(self, step: Step, attrs: Mapping[str, Any], indices: Indices) -> float:
        dims, axis = self._dims(step.ins[indices.table]), indices.axis
        if axis == TUPLES:
            first = int(attrs.get("batch_dims", 0))
            long = (self._dims(step.ins[1]) or (None,))[-1]
            some = (dims or ())[first : first + long if isinstance(long, int) else None]
            return min((size for size in some if isinstance(size, int)), default=math.inf)
        at = int(attrs.get(axis, 0)) if isinstance(axis, str) else axis
        if dims is None or not -len(dims) <= at < len(dims):
            return math.inf
        size = dims[at]
        return size if isinstance(size, int) else math.inf

    def _dims(self, name: str) -> Sequence[Dim] | None:
        """The sizes of a value, the smallest of all models where they differ."""
        held = self.weights.get(name)
        if held and len({len(part.shape) for part in held}) == 1:
            return tuple(map(min, zip(*(part.shape for part in held), strict=True)))
        return self.family.least.get(name) or self.family.graph.types.get(name, ValueType()).dims

    def _constants(self, name: str) -> set[int]:
        """The elements of an integer constant, seen through reshaping and broadcasting, in all models."""
        while name in self.made and traits.of(self.made[name].op).carries is Carries.MOST:
            name = self.made[name].ins[0]
        found = set[int]()
        for weight in self.weights.get(name, ()):
            if math.prod(weight.shape) <= ALPHABET:
                array = weights.array(weight)
                if array.dtype.kind in "iuf":
                    found |= {int(v) for v in array.reshape(-1) if abs(float(v)) < 2**31}
        return found
