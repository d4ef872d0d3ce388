"""Proof (a) for what is learned and lies in attributes: coefficients, trees, tables, slopes.

They are the attributes of ai.onnx.ml operators, and all that differ between the models. A merged node keeps
them as they are, or they stand in a constant with a row for each model. The sources' values are looked for in
the file, whatever emitted them: a node by its operator and its name, else by what it holds; a constant by
its values. Which reader gets which constant is the matter of proof (c).
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto

from netfuse_onnx.ops import schemas, tables, walk
from netfuse_onnx.ops.kinds import FLOATS
from netfuse_onnx.prove.bits import value_bits, value_nbytes
from netfuse_onnx.prove.ensembles import ENSEMBLES, is_one_ensemble
from netfuse_onnx.storage.weights import array, weight_of
from netfuse_onnx.types import Correspondence, Node

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Learned:
    """A node of the family whose attributes are compared. `each` holds those of every model, or one entry
    where all models share them; `scope` is the name from which merged nodes derive theirs."""

    node: Node
    scope: str
    each: tuple[Attributes, ...]

    @property
    def numbers(self) -> list[str]:
        """The names of the attributes of floats, but for one that is NaN in all models, for which IsNaN
        stands."""
        named = {name for attrs in self.each for name, value in attrs.items() if _numeric(value)}
        return sorted(name for name in named if not all(_no_number(attrs.get(name)) for attrs in self.each))


@dataclass(frozen=True)
class Compared:
    """The outcome: how many attributes were compared in all models, their bytes, and what is wrong.
    `elsewhere` counts attributes whose operator was written as others, which only the graph and the values
    prove."""

    count: int
    bytes: int
    elsewhere: int
    problems: tuple[str, ...]


def prove_attributes(model: ModelProto, family: Correspondence, weights: frozenset[str]) -> Compared:
    """Compare the learned attributes of a family with a merged model, given as a skeleton. `weights` names
    the initializers that hold weights; all others are constants. Raises FileFault where bytes can't be
    read."""
    file = _File(model, weights)
    count = size = elsewhere = 0
    problems: list[str] = []
    for learned in _learned(family):
        differences = list(file.differences(learned, family))
        if differences == [LOST]:
            elsewhere += sum(map(len, learned.each))
            continue
        problems += differences
        count += sum(map(len, learned.each))
        size += sum(value_nbytes(value) for attrs in learned.each for value in attrs.values())
    return Compared(count, size, elsewhere, (*problems, *file.strange()))


LOST = "lost"
"""The answer for a node that was written as others, such as a DequantizeLinear in terms of Sub and Mul."""


def _learned(family: Correspondence) -> Iterator[Learned]:
    """Yield the nodes that hold something learned, those in bodies too. Bodies may differ by model."""
    for index, node in enumerate(family.graph.nodes):
        each = family.attrs.get(index, (node.attrs,))
        if index in family.attrs or (tables.learned(node.op, node.domain) and node.attrs):
            yield Learned(node, node.name or f"{node.op}_{index}", tuple(map(walk.without_bodies, each)))
        for attrs in each:
            for body in walk.bodies_of(attrs).values():
                yield from _in_body(body)
    for model, tail in zip(family.names, family.tails, strict=False):
        for index, node in enumerate(tail.nodes):
            if tables.learned(node.op, node.domain) and node.attrs:
                scope = f"{model}/{node.name or f'{node.op}_{index}'}"
                yield Learned(node, scope, (walk.without_bodies(node.attrs),))
            for body in walk.bodies_of(node.attrs).values():
                yield from _in_body(body)


def _in_body(body: GraphProto) -> Iterator[Learned]:
    for node in map(walk.node_of, walk.nodes(body)):
        attrs = walk.without_bodies(node.attrs)
        if tables.learned(node.op, node.domain) and attrs:
            yield Learned(node, "", (attrs,))


@dataclass
class _MergedNode:
    """A node of the merged file. `claimed` is True once it was compared with a source."""

    name: str
    attrs: dict[str, Any]
    bits: Hashable
    claimed: bool = False


def _bits(attrs: Attributes) -> Hashable:
    return tuple(sorted((name, value_bits(value)) for name, value in attrs.items()))


class _File:
    """The nodes and constants of a merged model."""

    def __init__(self, model: ModelProto, weights: frozenset[str]) -> None:
        self.nodes: dict[str, list[_MergedNode]] = {}
        for node in walk.nodes(model.graph):
            attrs = walk.without_bodies(walk.node_of(node).attrs)
            self.nodes.setdefault(walk.key(node), []).append(_MergedNode(node.name, attrs, _bits(attrs)))
        constants = (t for t in model.graph.initializer if t.name not in weights)
        self._floats = [t for t in constants if t.data_type in FLOATS]

    def differences(self, learned: Learned, family: Correspondence) -> Iterator[str]:
        """Yield a sentence for each model whose attributes the file does not hold, or LOST."""
        models = ("",) if len(learned.each) == 1 else family.names
        named = [self._named(learned, model, family.names) for model in models]
        if not any(named) and self._as_constants(learned):
            return
        if learned.node.op in ENSEMBLES and self._as_one_ensemble(learned):
            return
        present = [
            self._has_attributes(attrs, some, learned.node.key)
            for attrs, some in zip(learned.each, named, strict=True)
        ]
        node = learned.node
        in_file = any(named) or all(present)
        if not (in_file or tables.learned(node.op, node.domain) or _differing_numbers(learned)):
            yield LOST
            return
        for model, attrs, some, ok in zip(models, learned.each, named, present, strict=True):
            if not ok:
                title = f"Node {node.name or node.outputs[0]!r} ({node.key})"
                yield f"{title} of {model or 'all models'}: {_said(attrs, some)}"

    def strange(self) -> Iterator[str]:
        """Yield a sentence for each node of ai.onnx.ml whose attributes no source has."""
        for key, nodes in self.nodes.items():
            if key.startswith(f"{schemas.ML}."):
                for node in nodes:
                    if node.attrs and not node.claimed:
                        yield f"Node {node.name!r} ({key}) of the merged model holds attributes of no source."

    def _named(self, learned: Learned, model: str, models: Sequence[str]) -> list[_MergedNode]:
        """Return the nodes with the name that a merge gives: `a/node`, or `node` where it runs once."""
        if not learned.scope:
            return []
        fronts = (model,) if model else ("", *models)
        names = "|".join(
            re.escape(f"{front}/{learned.scope}" if front else learned.scope) for front in fronts
        )
        form = re.compile(rf"(?:{names})(?:-\d+)?")
        return [node for node in self.nodes.get(learned.node.key, ()) if form.fullmatch(node.name)]

    def _has_attributes(self, attrs: Attributes, named: Sequence[_MergedNode], key: str) -> bool:
        """True where a node has exactly these attributes. Nodes of the right name count, if any, else all."""
        wanted = _bits(attrs)
        equal = [node for node in named or self.nodes.get(key, ()) if node.bits == wanted]
        for node in equal or named[:1]:
            node.claimed = True
        return bool(equal)

    def _as_one_ensemble(self, learned: Learned) -> bool:
        """True where one node has the trees of all models."""
        op = learned.node.op
        for node in self.nodes.get(f"{schemas.ML}.{ENSEMBLES[op]}", ()) if len(learned.each) > 1 else ():
            if not node.claimed and is_one_ensemble(op, node.attrs, learned.each):
                node.claimed = True
                return True
        return False

    # ------------------------------------------------------------------ constants

    def _as_constants(self, learned: Learned) -> bool:
        """True where some constant holds every attribute of floats, with a row for each model."""
        return bool(learned.numbers) and all(self._stacked(learned, name) for name in learned.numbers)

    def _stacked(self, learned: Learned, name: str) -> bool:
        """True where a constant [N, ..] has the attribute of model m as its row m, as it is or transposed, or
        a constant [N*k, ..] as its k rows from m*k on. An attribute that a model lacks is the default of the
        operator, or zeros where it has none."""
        given = next(attrs[name] for attrs in learned.each if name in attrs)
        default = _default(learned.node, name, np.zeros_like(given).tolist())
        rows = [attrs.get(name, default) for attrs in learned.each]
        count = len(rows) * np.size(given)
        some = [
            t for t in self._floats if math.prod(t.dims) == count and t.dims and t.dims[0] % len(rows) == 0
        ]
        return any(_holds(_by_model(array(weight_of(tensor)), len(rows)), rows) for tensor in some)


def _said(attrs: Attributes, named: Sequence[_MergedNode]) -> str:
    """Name the first attribute that differs, for a message."""
    if not named:
        return "no node or constant of the merged model holds its attributes."
    other = named[0].attrs
    for name in sorted(attrs.keys() | other.keys()):
        if name not in attrs or name not in other or value_bits(attrs[name]) != value_bits(other[name]):
            where = _where(attrs.get(name), other.get(name))
            return f"attribute {name!r} of node {named[0].name!r} of the merged model differs{where}."
    return "its attributes differ."


def _by_model(values: NDArray[Any], models: int) -> NDArray[Any]:
    return values if len(values) == models else values.reshape(models, -1)


def _holds(values: NDArray[Any], rows: Sequence[Any]) -> bool:
    return all(_row(values[m], np.asarray(row).reshape(-1)) for m, row in enumerate(rows))


def _row(values: NDArray[Any], wanted: NDArray[Any]) -> bool:
    if values.size != wanted.size:
        return False
    target = wanted.astype(values.dtype).tobytes()
    forms = [values, values.T] if values.ndim == 2 else [values]
    return any(np.ascontiguousarray(form).tobytes() == target for form in forms)


def _differing_numbers(learned: Learned) -> bool:
    """True where a float differs between the models: not axes, pads or modes, but something learned."""
    return any(len({value_bits(attrs.get(name)) for attrs in learned.each}) > 1 for name in learned.numbers)


def _numeric(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(item, float) for item in value)
    )


def _no_number(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _default(node: Node, name: str, otherwise: Any) -> Any:
    """Return the value of an attribute that is absent. No default here depends on the operator's version."""
    schema = schemas.facts(node.op, node.domain, 1 << 10)
    return schema.defaults.get(name, otherwise) if schema else otherwise


def _where(want: Any, have: Any) -> str:
    """Name the first element that differs between two lists of one length."""
    if not isinstance(want, list | tuple) or not isinstance(have, list | tuple) or len(want) != len(have):
        return ""
    unlike = (i for i, (a, b) in enumerate(zip(want, have, strict=True)) if value_bits(a) != value_bits(b))
    at = next(unlike, None)
    return "" if at is None else f": element {at} is {have[at]}, not {want[at]}"
