"""The weights of a family, by use: a weight that one file ties and another file has twice is kept twice.

Weights that are bit-identical in all models become one entry (equal.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx import GraphProto

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.match.equal import collapsed
from netfuse_onnx.match.flat import Flat
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.ops import walk
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Graph, Node, Weight

Family = tuple[Weight, ...]


def untie(
    graph: Graph, flat: Flat, others: Sequence[Flat], pairings: Sequence[Pairing]
) -> tuple[Graph, dict[str, Family]]:
    """Return the first source's graph with a name for each family of weights, and these families."""
    weights = [other.weights for other in others]
    names: dict[str, dict[tuple[str, ...], str]] = {}
    families: dict[str, Family] = {}
    renamed: dict[tuple[int, int], str] = {}
    taken = set(graph.weights) | set(graph.types) | set(graph.inputs)
    for j, (i, k) in enumerate(flat.uses):
        name = flat.steps[i].ins[k]
        key = tuple([pairing.uses[j] for pairing in pairings])
        own = names.setdefault(name, {})
        if key not in own:
            family = (graph.weights[name], *(h[n] for h, n in zip(weights, key, strict=True)))
            own[key] = _named(name, family, own, families, taken)
        if own[key] != name:
            renamed[i, k] = own[key]
    if renamed:
        graph = _renamed(graph, flat, renamed)
        graph = replace(graph, weights={name: families[name][0] for name in families})
    return graph, {name: collapsed(family) for name, family in families.items()}


def _named(
    name: str,
    family: Family,
    own: Mapping[tuple[str, ...], str],
    families: dict[str, Family],
    taken: set[str],
) -> str:
    """Return the name under which the family is kept: that of an equal family, or a new one."""
    if not own:
        families[name] = family
        return name
    for other in dict.fromkeys(own.values()):
        if all(weights.same(a, b) for a, b in zip(families[other], family, strict=True)):
            return other
    i = 2
    while f"{name}__{i}" in taken:
        i += 1
    fresh = f"{name}__{i}"
    taken.add(fresh)
    families[fresh] = family
    return fresh


def _renamed(graph: Graph, flat: Flat, renamed: Mapping[tuple[int, int], str]) -> Graph:
    """Return the graph with other weights at the given operands of steps."""
    nodes = list(graph.nodes)
    inner: dict[int, dict[str, set[str]]] = {}
    for i, step in enumerate(flat.steps):
        node = nodes[step.main]
        for k, name in enumerate(step.ins):
            if name not in graph.weights:
                continue
            fresh = renamed.get((i, k), name)
            if step.scope:
                inner.setdefault(step.main, {}).setdefault(name, set()).add(fresh)
            elif fresh != name:
                inputs = (*node.inputs[:k], fresh, *node.inputs[k + 1 :])
                nodes[step.main] = node = replace(node, inputs=inputs)
    for main, names in inner.items():
        if any(fresh != {name} for name, fresh in names.items()):
            nodes[main] = _recaptured(nodes[main], flat, names)
    return replace(graph, nodes=tuple(nodes))


def _recaptured(node: Node, flat: Flat, names: Mapping[str, set[str]]) -> Node:
    """Return a node whose bodies read other weights. In a body, two uses of one name can't be told apart."""
    for name, fresh in names.items():
        if len(fresh) > 1:
            raise NotEquivalent(
                f"{flat.path} uses weight '{name}' in several places inside of {node.key} '{node.name}', "
                "where another model has different weights.",
                "Export the models so that they either all tie these weights, or none does.",
            )
    to = {name: next(iter(fresh)) for name, fresh in names.items()}
    node = walk.with_bodies(node, lambda body: _rewire(body, to))
    return replace(node, captured=tuple(to.get(name, name) for name in node.captured))


def _rewire(body: GraphProto, to: Mapping[str, str]) -> None:
    """Let a body read other outer values. Bodies in normal form don't shadow names."""
    for node in walk.nodes(body):
        node.input[:] = [to.get(name, name) for name in node.input]
