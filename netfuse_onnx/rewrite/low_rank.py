"""Weights that differ between the models by a product of low rank: W_m = W_0 + L_m R_m, as LoRA makes them.

W_0 is that of a base model, or of the first model. It is stored once, and beside each product with it stands
a branch of two small ones (load/branches.py). A weight that differs by more stays as it is, with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.factored import Factored, LowRank
from netfuse_onnx.load.branches import Branch, Form, form, with_branches
from netfuse_onnx.load.infer import infer
from netfuse_onnx.ops import kinds
from netfuse_onnx.rewrite.factors import Difference, factors
from netfuse_onnx.storage import spill
from netfuse_onnx.storage.numbers import DIGITS, HALF, array, encoded
from netfuse_onnx.types import Correspondence, Weight

Tell = Callable[[str, int, int], None]
Matrix = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Base:
    """The weights W_0: those of one of the models, or of a file with this SHA-256, by the names of the
    family's."""

    model: int | None = 0
    weights: Mapping[str, Weight] = field(default_factory=dict)
    sha256: str = ""
    given: bool = False
    """True where the user named it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The form in which all nodes that read a weight read it, and their names."""

    form: Form
    nodes: tuple[str, ...]


def find(family: Correspondence, tolerance: float, base: Base, tell: Tell) -> LowRank:
    """Return the factors of all weights that differ by a low rank. `tolerance` is relative to the largest
    absolute value of a row, 0 for the rounding of the type.

    Factors lie in a temporary file: FileFault where there is no room for it.
    """
    readings = dict(differing(family))
    factored, whole = list[Factored](), dict[str, str]()
    for done, (name, seen) in enumerate(readings.items()):
        tell("looking for low-rank differences", done, len(readings))
        found = seen if isinstance(seen, str) else _factored(family, name, seen, tolerance, base)
        if isinstance(found, str):
            whole[name] = found
        else:
            factored.append(found)
    return LowRank(tuple(factored), tolerance, base.sha256, whole)


def differing(family: Correspondence) -> Iterator[tuple[str, Reading | str]]:
    """Yield each weight that differs between the models with the form in which its nodes read it, or the
    reason why it can't be a low-rank difference."""
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(family.graph.nodes):
        for name in dict.fromkeys(node.reads):
            readers.setdefault(name, []).append(i)
    for name, parts in family.weights.items():
        if len(parts) > 1 and (name in readers or name in family.graph.outputs):
            found = _form(family, name, parts[0], readers.get(name, []))
            nodes = (family.graph.nodes[i].name for i in readers.get(name, []))
            yield name, found if isinstance(found, str) else Reading(found, tuple(nodes))


def _form(family: Correspondence, name: str, weight: Weight, readers: Sequence[int]) -> Form | str:
    if name in family.graph.outputs:
        return "it is an output"
    if weight.dtype not in DIGITS:
        return "its elements are no floats"
    opset, found = family.opsets.get("", 1), set[Form]()
    for i in readers:
        seen = form(family.graph.nodes[i], name, weight.shape, opset)
        if isinstance(seen, str):
            return seen
        if i in family.attrs:
            return "an attribute of its operator differs between the models"
        found.add(seen)
    return found.pop() if len(found) == 1 else "its nodes read it in several forms"


def most_rank(seen: Form, models: int) -> int:
    """Return the largest rank at which W_0 and the factors of all models are fewer bytes than N weights."""
    high, wide = seen.matrix
    return max(0, ((models - 1) * high * wide - 1) // (models * (high + wide)))


def _factored(
    family: Correspondence, name: str, reading: Reading, tolerance: float, base: Base
) -> Factored | str:
    parts, seen = family.weights[name], reading.form
    if parts[0].dtype in HALF and not base.given:
        return "its elements are of half precision, which needs --base"
    origin = base.weights.get(name) if base.model is None else parts[base.model]
    if origin is None or (origin.dtype, origin.shape) != (parts[0].dtype, parts[0].shape):
        return "the base has no weight in its place"
    most, store = most_rank(seen, family.models), _Store(seen, parts[0].dtype)
    found, rank, error = dict[Weight, _Stored](), 0, 0.0
    for weight in parts:
        if weight in found:
            continue
        pair = factors(Difference(weight, origin, seen.matrix[1], tolerance), most, rank)
        if pair is None:
            return f"its difference is of a rank above {most}, or not exact enough"
        rank, error = max(rank, pair.rank), max(error, pair.error)
        found[weight] = store.put(pair.left, pair.right)
    if rank == 0:
        return (
            "its differences are zeros of another sign" if error == 0 else "the base is within the tolerance"
        )
    padded = {weight: store.padded(each, rank) for weight, each in found.items()}
    a, b = zip(*(padded[weight] for weight in parts), strict=True)
    return Factored(name, seen, rank, origin, a, b, parts, base.model, error, reading.nodes)


_Stored = tuple[Weight, Weight]
"""A and B of one model, in the temporary file."""


class _Store:
    """Keeps the factors of one weight; equal ones once."""

    def __init__(self, seen: Form, dtype: int) -> None:
        self.seen, self.dtype = seen, dtype
        self._kept: dict[tuple[tuple[int, ...], bytes], Weight] = {}

    def put(self, left: Matrix, right: Matrix) -> _Stored:
        a, b = (self._one(factor) for factor in self.seen.factors(left, right))
        return a, b

    def _one(self, factor: Matrix) -> Weight:
        raw = encoded(factor, self.dtype)
        key = factor.shape, hashlib.sha256(raw).digest()
        if key not in self._kept:
            self._kept[key] = Weight(self.dtype, factor.shape, spill.store(raw))
        return self._kept[key]

    def padded(self, stored: _Stored, rank: int) -> _Stored:
        """Return factors of a larger rank, with zeros."""
        left, right = self.seen.matrices(*map(array, stored))
        more = rank - len(right)
        if not more:
            return stored
        return self.put(np.pad(left, [(0, 0), (0, more)]), np.pad(right, [(0, more), (0, 0)]))


# --------------------------------------------------------------------------- the graph


def applied(family: Correspondence, found: LowRank) -> Correspondence:
    """Return the family with a branch at each node that reads a weight which is W_0 + L R."""
    if not found.factored:
        return replace(family, low_rank=found)
    names = names_of(family, [each.weight for each in found.factored])
    weights, branches = dict(family.weights), list[Branch]()
    for each in found.factored:
        a, b = names[each.weight]
        weights |= {each.weight: (each.base,), a: _once(each.a), b: _once(each.b)}
        readers = (i for i, node in enumerate(family.graph.nodes) if each.weight in node.reads)
        branches += [Branch(i, each.weight, a, b) for i in readers]
    first = {name: parts[0] for name, parts in weights.items()}
    graph = with_branches(replace(family.graph, weights=first), branches)
    place = {id(node): i for i, node in enumerate(graph.nodes)}
    attrs = {place[id(family.graph.nodes[i])]: every for i, every in family.attrs.items()}
    types = infer(replace(family.sources[0], graph=graph, opsets=family.opsets)).graph.types
    types = {name: kinds.both(kind, graph.types.get(name)) for name, kind in types.items()}
    graph = replace(graph, types={**graph.types, **types})
    return replace(family, graph=graph, weights=weights, attrs=attrs, low_rank=replace(found, names=names))


def _once(parts: tuple[Weight, ...]) -> tuple[Weight, ...]:
    """Return one part where all are one weight."""
    return parts[:1] if all(part == parts[0] for part in parts) else parts


def names_of(family: Correspondence, weights: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return names for A and B of each weight that nothing in the graph carries."""
    taken = {*family.weights, *family.graph.inputs}
    taken.update(name for node in family.graph.nodes for name in node.outputs)
    names = {}
    for weight in sorted(weights):
        pair = []
        for factor in ("A", "B"):
            name = f"{weight}/{factor}"
            while name in taken:
                name += "-"
            taken.add(name)
            pair.append(name)
        names[weight] = (pair[0], pair[1])
    return names
