"""Integers that are computed from the size of the batch, B: shapes, as exporters write them out.

A value of B * k, for a k that is the same for any batch, is a Size with `rows`. Others are the same for any
batch; their number is given where it is known. What is computed in any other way is not known.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx.types import Dim, Node

LAST = 2**31 - 1
"""An end of a Slice from here on means the end of the axis."""


@dataclass(frozen=True, slots=True)
class Size:
    """`value` is a number, or the name of a size that is the same for any batch; None is unknown. With `rows`
    it is multiplied by the batch."""

    rows: bool
    value: Dim | bool = None


FREE = Size(False)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A tensor of integers or truth values, of rank 0 or 1."""

    entries: tuple[Size, ...]
    rank: int = 1

    @property
    def free(self) -> bool:
        """True where nothing in it depends on the batch."""
        return not any(size.rows for size in self.entries)


def compute(
    node: Node, ins: Sequence[Sizes | None], constants: Sequence[np.ndarray[Any, Any] | None]
) -> Sizes | None:
    """Compute a node whose inputs depend on the batch alone. None where the result is not known."""
    made = RULES.get(node.op) if not node.domain else None
    if made is None or not ins or ins[0] is None:
        return None
    return made(node, [i for i in ins if i is not None], constants)


def of_constant(array: np.ndarray[Any, Any]) -> Sizes | None:
    """The sizes in a small constant."""
    if array.ndim > 1 or array.dtype.kind not in "iub":
        return None
    cast = bool if array.dtype.kind == "b" else int
    return Sizes(tuple(Size(False, cast(v)) for v in array.reshape(-1)), array.ndim)


def unknown(dims: tuple[Dim, ...] | None) -> Sizes | None:
    """The sizes in a tensor of these dims that is the same for any batch."""
    if dims is None or len(dims) > 1 or not all(isinstance(dim, int) for dim in dims):
        return None
    count = dims[0] if dims else 1
    return Sizes((FREE,) * count, len(dims)) if isinstance(count, int) and count < 64 else None


Constants = Sequence[np.ndarray[Any, Any] | None]
Rule = Callable[[Node, Sequence[Sizes], Constants], Sizes | None]


def _same(node: Node, ins: Sequence[Sizes], constants: Constants) -> Sizes | None:
    return ins[0]


def _vector(node: Node, ins: Sequence[Sizes], constants: Constants) -> Sizes | None:
    """Unsqueeze, Squeeze and Reshape of one number or a list."""
    rank = {"Unsqueeze": ins[0].rank + 1, "Squeeze": ins[0].rank - 1}.get(node.op, -1)
    if node.op == "Reshape" and len(constants) > 1 and constants[1] is not None:
        rank = constants[1].size
    return Sizes(ins[0].entries, rank) if rank in (0, 1) and (rank or len(ins[0].entries) == 1) else None


def _concat(node: Node, ins: Sequence[Sizes], constants: Constants) -> Sizes | None:
    if len(ins) < len(node.inputs):
        return None
    return Sizes(tuple(size for own in ins for size in own.entries))


def _gather(node: Node, ins: Sequence[Sizes], constants: Constants) -> Sizes | None:
    where = constants[1]
    if where is None or where.ndim > 1 or ins[0].rank != 1:
        return None
    places = [int(i) for i in where.reshape(-1)]
    if any(not -len(ins[0].entries) <= i < len(ins[0].entries) for i in places):
        return None
    return Sizes(tuple(ins[0].entries[i] for i in places), where.ndim)


def _slice(node: Node, ins: Sequence[Sizes], constants: Constants) -> Sizes | None:
    given = [None if array is None else array.reshape(-1) for array in constants[1:]]
    if len(given) < 2 or any(array is None or array.size != 1 for array in given) or ins[0].rank != 1:
        return None
    start, end, *others = (int(array[0]) for array in given if array is not None)
    step = others[1] if len(others) > 1 else 1
    return Sizes(ins[0].entries[start:end:step])


def _elementwise(compute: Callable[[Size, Size], Size]) -> Rule:
    def rule(node: Node, ins: Sequence[Sizes], constants: Constants) -> Sizes | None:
        if len(ins) != 2 or len(node.inputs) != 2:
            return None
        one, two = ins
        count = max(len(one.entries), len(two.entries))
        pairs = [(x.entries * count if len(x.entries) == 1 else x.entries) for x in (one, two)]
        if any(len(entries) != count for entries in pairs):
            return None
        made = tuple(compute(a, b) for a, b in zip(*pairs, strict=True))
        return None if any(size.rows and size.value == -1 for size in made) else Sizes(
            made, max(one.rank, two.rank)
        )  # fmt: skip

    return rule


UNCLEAR = Size(True, -1)
"""What depends on the batch in another way than as its multiple."""


def _product(one: Size, two: Size) -> Size:
    if one.rows and two.rows:
        return UNCLEAR
    rows = one.rows or two.rows
    if isinstance(one.value, int) and isinstance(two.value, int):
        return UNCLEAR if rows and one.value * two.value <= 0 else Size(rows, one.value * two.value)
    value = one.value if two.value == 1 else two.value if one.value == 1 else None
    return Size(rows, value)


def _quotient(one: Size, two: Size) -> Size:
    if two.rows:
        return UNCLEAR
    if not one.rows:
        known = isinstance(one.value, int) and isinstance(two.value, int) and two.value > 0 <= one.value
        return Size(False, one.value // two.value) if known else FREE  # type: ignore[operator]
    exact = isinstance(one.value, int) and isinstance(two.value, int) and two.value > 0
    if exact and one.value % two.value == 0:  # type: ignore[operator]
        return Size(True, one.value // two.value)  # type: ignore[operator]
    return UNCLEAR


def _sum(compute: Callable[[int, int], int]) -> Callable[[Size, Size], Size]:
    def rule(one: Size, two: Size) -> Size:
        if one.rows or two.rows:
            return one if two.value == 0 and not two.rows else UNCLEAR
        known = isinstance(one.value, int) and isinstance(two.value, int)
        return Size(False, compute(one.value, two.value)) if known else FREE  # type: ignore[arg-type]

    return rule


def _equal(one: Size, two: Size) -> Size:
    """A size is never negative."""
    if one.rows or two.rows:
        other = two if one.rows else one
        negative = not other.rows and isinstance(other.value, int) and other.value < 0
        return Size(False, False) if negative else UNCLEAR
    known = isinstance(one.value, int) and isinstance(two.value, int)
    return Size(False, one.value == two.value) if known else FREE


def _largest(one: Size, two: Size) -> Size:
    """A batch has at least one row."""
    if one.rows != two.rows and isinstance(one.value, int) and isinstance(two.value, int):
        rows, other = (one, two) if one.rows else (two, one)
        return rows if other.value <= rows.value else UNCLEAR  # type: ignore[operator]
    if one.rows or two.rows:
        return one if one == two and one.value is not None else UNCLEAR
    known = isinstance(one.value, int) and isinstance(two.value, int)
    return Size(False, max(one.value, two.value)) if known else FREE  # type: ignore[type-var]


def _max(node: Node, ins: Sequence[Sizes], constants: Constants) -> Sizes | None:
    if len(ins) < len(node.inputs):
        return None
    made: Sizes | None = ins[0]
    pair = dataclasses.replace(node, inputs=node.inputs[:2])
    for own in ins[1:]:
        made = made and _elementwise(_largest)(pair, [made, own], constants)
    return made


def _where(node: Node, ins: Sequence[Sizes], constants: Constants) -> Sizes | None:
    count = max(len(own.entries) for own in ins)
    if len(ins) != 3:
        return None
    every = [own.entries * count if len(own.entries) == 1 else own.entries for own in ins]
    if any(len(entries) != count for entries in every):
        return None
    made = []
    for which, yes, no in zip(*every, strict=True):
        if isinstance(which.value, bool) and not which.rows:
            made.append(yes if which.value else no)
        elif yes == no or not (yes.rows or no.rows or which.rows):
            made.append(yes if yes == no else FREE)
        else:
            return None
    return Sizes(tuple(made), max(own.rank for own in ins))


RULES: Mapping[str, Rule] = {
    "Cast": _same, "Identity": _same, "Unsqueeze": _vector, "Squeeze": _vector, "Reshape": _vector,
    "Concat": _concat, "Gather": _gather, "Slice": _slice, "Mul": _elementwise(_product),
    "Div": _elementwise(_quotient), "Add": _elementwise(_sum(operator.add)),
    "Sub": _elementwise(_sum(operator.sub)), "Equal": _elementwise(_equal), "Where": _where, "Max": _max,
}  # fmt: skip
