"""One shape for all models: told operator by operator, where the types of whole graphs leave it open.

onnx's inference numbers what it does not know, so that no two unknown sizes are one. Here a single operator
is inferred for each model with names for the sizes that it reads: one name for all models where the value has
one shape. Its output has one shape where all answers are equal, or where the models differ in nothing that
shapes follow.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from netfuse_onnx.load.infer import infer
from netfuse_onnx.match.sameness import frozen
from netfuse_onnx.ops import neutral, tables, traits, walk
from netfuse_onnx.ops.kinds import INDEX_TYPES
from netfuse_onnx.types import Dim, Graph, Node, Source, ValueType, Weight

"""INT32 and INT64 of onnx.TensorProto, in which sizes, axes and bounds are given."""

Dims = tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class Twins:
    """One operator of all models, in the first one's names: their attributes, and what it reads. `groups`: of
    each value whose shape may differ, by model, the first model that is known to have the same. `symbols`
    are names of sizes that are equal wherever they stand; any other name says nothing."""

    node: Node
    attrs: Sequence[Mapping[str, Any]]
    kinds: Mapping[str, Sequence[ValueType]]
    weights: Mapping[str, tuple[Weight, ...]]
    groups: Mapping[str, Sequence[int]]
    symbols: set[str]

    def weight(self, name: str, model: int) -> Weight:
        parts = self.weights[name]
        return parts[model] if len(parts) > 1 else parts[0]


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of one output: its shape in each model, the first model that has the same, and whether
    all have one shape."""

    dims: Sequence[Dims]
    group: Sequence[int]
    uniform: bool


def shapes(twins: Twins, first: Source) -> tuple[Told, ...]:
    """The shapes of the outputs. Sizes that get a name here are added to the symbols."""
    node, models = twins.node, range(len(twins.attrs))
    if walk.bodies_of(node.attrs):
        return (Told([None for _ in models], models, uniform=False),) * len(node.outputs)
    fed = {name for name in node.inputs if name not in twins.weights}
    if traits.ragged(node, fed, frozenset()):  # by values that nothing here knows
        group = list(models)
    else:
        keys = [_key(twins, model) for model in models]
        group = [keys.index(key) for key in keys]
    told = {model: _inferred(twins, model, first) for model in sorted(set(group))}
    alike = len(told) == 1 or _alike(twins, first.opsets) or _one_window(twins)
    rows = [[told[model][k] for model in group] for k in range(len(node.outputs))]
    return tuple([Told(row, group, alike or (_known(row) and len(set(row)) == 1)) for row in rows])


def _key(twins: Twins, model: int) -> Hashable:
    """All that the shapes of a model's outputs follow from."""
    node = twins.node
    reads: list[Hashable] = []
    for k, name in enumerate(node.inputs):
        if name in twins.weights:
            weight = twins.weight(name, model)
            steers = weight.dtype in INDEX_TYPES or k in traits.steers(
                node.key, node.inputs, twins.attrs[model]
            )
            reads.append((weight.dtype, weight.shape, weight.data if steers else None))
        else:
            reads.append(_named(twins, name, model).dims if name else None)
    return (frozen(sorted(twins.attrs[model].items())), *reads)


def _alike(twins: Twins, opsets: Mapping[str, int]) -> bool:
    """True where the models differ in nothing that a shape follows."""
    node = twins.node
    if any(name in twins.groups or _unlike(twins, name) for name in node.inputs):
        return False
    found = [_deciding(node, attrs, opsets.get(node.domain, 1)) for attrs in twins.attrs]
    if any(other != found[0] for other in found[1:]):
        return False
    steers = {i for attrs in twins.attrs for i in traits.steers(node.key, node.inputs, attrs)}
    read = [node.inputs[i] for i in steers if i < len(node.inputs)]
    return not any(len(twins.weights.get(name, ())) > 1 for name in read)


def _deciding(node: Node, attrs: Mapping[str, Any], version: int) -> Hashable:
    """The attributes that decide a shape."""
    found = tables.signature(node.op, node.domain, version, attrs) if _learned(node) else None
    if found is None:
        found = dict(attrs) if _learned(node) else neutral.deciding(node, attrs)
    return frozen(sorted(found.items()))


def _learned(node: Node) -> bool:
    return tables.learned(node.op, node.domain)


def _unlike(twins: Twins, name: str) -> bool:
    """True for a weight whose shapes differ."""
    return len({weight.shape for weight in twins.weights.get(name, ())}) > 1


def _one_window(twins: Twins) -> bool:
    """True for a convolution or a pool whose window moves alike in all models."""
    node = twins.node
    values = [name for name in node.inputs if name and name not in twins.weights]
    if values != [node.inputs[0]] or values[0] in twins.groups:
        return False
    filters = node.inputs[1] if node.op == "Conv" else ""
    seen = {
        neutral.window(node, attrs, twins.weight(filters, model).shape if filters else None)
        for model, attrs in enumerate(twins.attrs)
    }
    return len(seen) == 1 and None not in seen


def _inferred(twins: Twins, model: int, first: Source) -> list[Dims]:
    """The shapes of the outputs in one model, as onnx's inference tells them for this operator alone."""
    node = replace(twins.node, attrs=twins.attrs[model], captured=())
    reads = dict.fromkeys(filter(None, node.inputs))
    held = {name: twins.weight(name, model) for name in reads if name in twins.weights}
    types = {name: _named(twins, name, model) for name in reads if name not in held}
    graph = Graph(first.graph.name, tuple(types), tuple(filter(None, node.outputs)), (node,), held, types)
    found = infer(replace(first, graph=graph)).graph.types
    return [_trusted(found[name].dims, twins) if name in found else None for name in node.outputs]


def _named(twins: Twins, name: str, model: int) -> ValueType:
    """The type of a value that is read. A size that is unknown gets a name: one in all models, or its own."""
    kind = twins.kinds[name][model]
    mark = f" of model {twins.groups[name][model]}" if name in twins.groups else ""

    def called(axis: int, dim: Dim) -> Dim:
        if isinstance(dim, int) or dim in twins.symbols:
            return dim
        fresh = f"axis {axis} of {name}{mark}"
        twins.symbols.add(fresh)
        return fresh

    if kind.dims is None:
        return kind
    return replace(kind, dims=tuple(called(axis, dim) for axis, dim in enumerate(kind.dims)))


def _trusted(dims: Dims, twins: Twins) -> Dims:
    """The sizes, None where one has a name that onnx made up."""
    return dims and tuple([dim if isinstance(dim, int) or dim in twins.symbols else None for dim in dims])


def _known(shapes: Sequence[Dims]) -> bool:
    return all(dims is not None and None not in dims for dims in shapes)
