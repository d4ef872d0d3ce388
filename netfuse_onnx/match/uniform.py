"""Shapes of one operator in all models, where the types of whole graphs leave open if they are equal.

onnx's inference numbers unknown sizes, so no two of them are equal. Here a single operator is inferred for
each model, with names for the sizes that it reads: one name for all models where the value has one shape. Its
output has one shape where all answers are equal, or where the models differ in nothing that shapes depend
on.
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

Dims = tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class Twins:
    """One operator as all models have it, in the first one's names: attributes and inputs. `groups` maps each
    value whose shape may differ to, by model, the first model that is known to have the same. `symbols` are
    names of sizes that are equal wherever they stand; other names say nothing."""

    node: Node
    attrs: Sequence[Mapping[str, Any]]
    types: Mapping[str, Sequence[ValueType]]
    weights: Mapping[str, tuple[Weight, ...]]
    groups: Mapping[str, Sequence[int]]
    symbols: set[str]

    def weight(self, name: str, model: int) -> Weight:
        parts = self.weights[name]
        return parts[model] if len(parts) > 1 else parts[0]


@dataclass(frozen=True, slots=True)
class OutputShapes:
    """The shapes of one output: `dims` in each model, `group` the first model that has the same, `uniform`
    True where all have one shape."""

    dims: Sequence[Dims]
    group: Sequence[int]
    uniform: bool


def shapes(twins: Twins, first: Source) -> tuple[OutputShapes, ...]:
    """Return the shapes of the outputs. Sizes that get a name here are added to the symbols."""
    node, models = twins.node, range(len(twins.attrs))
    if walk.bodies_of(node.attrs):
        return (OutputShapes([None for _ in models], models, uniform=False),) * len(node.outputs)
    values = {name for name in node.inputs if name not in twins.weights}
    if traits.ragged(node, values, frozenset()):  # by values that nothing here knows
        group = list(models)
    else:
        keys = [_key(twins, model) for model in models]
        group = [keys.index(key) for key in keys]
    inferred = {model: _inferred(twins, model, first) for model in sorted(set(group))}
    alike = len(inferred) == 1 or _alike(twins, first.opsets) or _one_window(twins)
    rows = [[inferred[model][k] for model in group] for k in range(len(node.outputs))]
    equal = [len(set(row)) == 1 and row[0] is not None and None not in row[0] for row in rows]
    return tuple([OutputShapes(row, group, alike or same) for row, same in zip(rows, equal, strict=True)])


def _key(twins: Twins, model: int) -> Hashable:
    """Return everything that the shapes of a model's outputs depend on."""
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
            reads.append(_type_read(twins, name, model).dims if name else None)
    return (frozen(sorted(twins.attrs[model].items())), *reads)


def _alike(twins: Twins, opsets: Mapping[str, int]) -> bool:
    """Return True where the models differ in nothing that a shape depends on."""
    node = twins.node
    if any(
        name in twins.groups or len({w.shape for w in twins.weights.get(name, ())}) > 1
        for name in node.inputs
    ):
        return False
    attributes = [_deciding(node, attrs, opsets.get(node.domain, 1)) for attrs in twins.attrs]
    if any(other != attributes[0] for other in attributes[1:]):
        return False
    steers = {i for attrs in twins.attrs for i in traits.steers(node.key, node.inputs, attrs)}
    read = [node.inputs[i] for i in steers if i < len(node.inputs)]
    return not any(len(twins.weights.get(name, ())) > 1 for name in read)


def _deciding(node: Node, attrs: Mapping[str, Any], version: int) -> Hashable:
    """Return the attributes that decide a shape."""
    if tables.learned(node.op, node.domain):
        signature = tables.signature(node.op, node.domain, version, attrs)
        return frozen(sorted((attrs if signature is None else signature).items()))
    return frozen(sorted(neutral.deciding(node, attrs).items()))


def _one_window(twins: Twins) -> bool:
    """Return True for a convolution or a pool whose window moves the same way in all models."""
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
    """Infer the shapes of the outputs in one model from this operator alone."""
    node = replace(twins.node, attrs=twins.attrs[model], captured=())
    reads = dict.fromkeys(filter(None, node.inputs))
    weights = {name: twins.weight(name, model) for name in reads if name in twins.weights}
    types = {name: _type_read(twins, name, model) for name in reads if name not in weights}
    shapes = infer_alone(node, weights, types, first.opsets)
    named = twins.symbols  # other names are made up by onnx
    return [
        dims and tuple([d if isinstance(d, int) or d in named else None for d in dims]) for dims in shapes
    ]


def infer_alone(
    node: Node, weights: Mapping[str, Weight], types: Mapping[str, ValueType], opsets: Mapping[str, int]
) -> list[Dims]:
    """Infer the shapes of a node's outputs, None for each that is unknown or absent, as if it were the only
    node of a graph. `types` are those of its inputs, `weights` the values of the others."""
    outputs = tuple(filter(None, node.outputs))
    graph = Graph("alone", tuple(types), outputs, (node,), weights, types)
    typed = infer(Source("", graph, opsets, ir_version=8, metadata={}, files=())).graph.types
    return [typed.get(name, ValueType()).dims for name in node.outputs]


def _type_read(twins: Twins, name: str, model: int) -> ValueType:
    """Return the type of a value that is read. An unknown size gets a name: one in all models, or its own."""
    declared = twins.types[name][model]
    mark = f" of model {twins.groups[name][model]}" if name in twins.groups else ""

    def called(axis: int, dim: Dim) -> Dim:
        if isinstance(dim, int) or dim in twins.symbols:
            return dim
        fresh = f"axis {axis} of {name}{mark}"
        twins.symbols.add(fresh)
        return fresh

    if declared.dims is None:
        return declared
    return replace(declared, dims=tuple(called(axis, dim) for axis, dim in enumerate(declared.dims)))
