"""--partial: the tails of a family, which are what each model alone computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load.claims import resolve_claims
from netfuse_onnx.match import partial as partial_
from netfuse_onnx.match.common import LEAST, Common
from netfuse_onnx.match.edges import warnings
from netfuse_onnx.match.signature import type_text
from netfuse_onnx.ops import walk
from netfuse_onnx.types import Correspondence, Dim, Edge, Graph, Node, Source, ValueType


def refuse_little(common: Common) -> None:
    """Raise NotEquivalent where the common part is too small to be worth merging."""
    share = common.share()
    if share >= LEAST:
        return
    paths = [source.path for source in common.sources]
    told = " and ".join(paths) if len(paths) == 2 else f"{paths[0]} and the {len(paths) - 1} others"
    graph, last = common.sources[0].graph, common.last()
    if last < 0:
        raise NotEquivalent(f"{told} have no operator in common from their inputs on.", "")
    node = graph.nodes[last]
    name = node.name or next(filter(None, node.outputs), "")
    raise NotEquivalent(
        f"{told} are alike up to {node.key} '{name}' (operator {last + 1} of {len(graph.nodes)}). That is "
        f"{share:.0%} of a model, and --partial merges models that have half in common from their inputs on.",
        "",
    )


def with_tails(family: Correspondence, common: Common) -> Correspondence:
    """Return the family of the trimmed sources with the tails of the whole ones, whose outputs it has."""
    typed = [resolve_claims(source) for source in common.sources]
    cut = [_Tail(family, common, m, source, declared) for m, (source, declared) in enumerate(typed)]
    said = [{name: one.type_of(name) for name in one.source.graph.outputs} for one in cut]
    keys = _keys(said)
    types: dict[str, list[ValueType]] = {}
    for own, names in zip(said, keys, strict=True):
        for name, key in names.items():
            types.setdefault(key, []).append(own[name])
    rows = zip(common.inputs, keys, strict=True)
    order = list(types)
    edges = tuple(
        Edge(
            edge.inputs,
            dict(sorted(((key, name) for name, key in names.items()), key=lambda p: order.index(p[0]))),
        )
        for edge, names in rows
    )
    tails = tuple(one.graph(edge) for one, edge in zip(cut, edges, strict=True))
    return replace(
        family,
        sources=tuple(source for source, _ in typed),
        edges=edges,
        tails=tails,
        declared={key: partial_.common(own) for key, own in types.items()},
        warnings=(*_warnings(family, common),),
        differences=(*family.differences, *_sentences(family, common, tails)),
    )


def _warnings(family: Correspondence, common: Common) -> Iterator[str]:
    """Yield the sentences on a family, those on names of inputs in the place of those on values inside."""
    inside = set(warnings(family.names, common.edges()))
    yield from (sentence for sentence in family.warnings if sentence not in inside)
    yield from warnings(family.names, common.inputs)


def _keys(said: Sequence[Mapping[str, ValueType]]) -> list[dict[str, str]]:
    """Return the name of each output of each model in the family: one name for those of one name and type."""
    kinds: dict[str, str] = {}
    keys: list[dict[str, str]] = []
    for own in said:
        mine = {}
        for name, value_type in own.items():
            kind = type_text(value_type)
            key = name if kinds.setdefault(name, kind) == kind else f"{name} ({kind})"
            kinds.setdefault(key, kind)
            mine[name] = key
        keys.append(mine)
    return keys


def _sentences(family: Correspondence, common: Common, tails: Sequence[Graph]) -> list[str]:
    """Return a sentence on the tail of each model that has nodes of its own."""
    return [
        f"{source.path} ends in {_counted(tail)} of its own."
        for source, tail in zip(family.sources, tails, strict=True)
        if tail.nodes
    ]


def _counted(tail: Graph) -> str:
    ops = list(dict.fromkeys(node.key for node in tail.nodes))
    shown = ", ".join(ops[:4]) + (", .." if len(ops) > 4 else "")
    return f"{len(tail.nodes)} operator{'s' if len(tail.nodes) > 1 else ''} ({shown})"


@dataclass(frozen=True)
class _Tail:
    """The tail of one model, in names that neither the common part nor other tails have."""

    family: Correspondence
    common: Common
    model: int
    source: Source
    declared: Mapping[str, ValueType]

    def type_of(self, name: str) -> ValueType:
        """Return the type of a value; of an output that which may be declared."""
        return self._retyped(self.declared.get(name) or self.source.graph.types.get(name, ValueType()))

    def graph(self, edge: Edge) -> Graph:
        """Return the tail, whose outputs are those of the model in the order of `edge`."""
        graph, kept = self.source.graph, self.common.kept[self.model]
        nodes = [node for i, node in enumerate(graph.nodes) if i not in kept]
        read = {name for node in nodes for name in node.reads}.union(graph.outputs)
        names = self._names(nodes, read)
        made = {name for node in nodes for name in node.outputs if name}
        held = {names[name]: graph.weights[name] for name in graph.weights if name in read and name in names}
        typed = [name for name in made.union(graph.outputs) if name in graph.types]
        types = {names[name]: self.type_of(name) for name in typed}
        inputs = [new for name, new in names.items() if name not in made and name not in graph.weights]
        return Graph(
            name=graph.name,
            inputs=tuple(dict.fromkeys(inputs)),
            outputs=tuple(names[name] for name in edge.outputs.values()),
            nodes=tuple(_renamed(node, names) for node in nodes),
            weights=held,
            types=types,
        )

    def _names(self, nodes: Sequence[Node], read: set[str]) -> dict[str, str]:
        """Return the new names of all values and weights of the tail, by the model's own."""
        common, graph = self.common, self.source.graph
        names = {own: first for first, own in common.values[self.model].items() if own in read}
        names |= {own: first for first, own in common.inputs[self.model].inputs.items() if own in read}
        made = [name for node in nodes for name in node.outputs if name]
        taken = {*self.family.weights, *self.family.graph.types, *self.family.graph.inputs}
        for name in (*made, *(name for name in graph.weights if name in read)):
            fresh = f"{self.family.names[self.model]}/{name}"
            while fresh in taken:
                fresh += "_"
            names[name] = fresh
            taken.add(fresh)
        return names

    def _retyped(self, value_type: ValueType) -> ValueType:
        """Return a type whose symbols are those of the merged inputs, else the model's own."""
        if value_type.dims is None:
            return value_type
        sizes = self._sizes()
        return replace(value_type, dims=tuple(self._size(dim, sizes) for dim in value_type.dims))

    def _size(self, dim: Dim, sizes: Mapping[str, Dim]) -> Dim:
        if not isinstance(dim, str):
            return dim
        return sizes[dim] if dim in sizes else f"{self.family.names[self.model]}/{dim}"

    def _sizes(self) -> dict[str, Dim]:
        """Return the dims of the merged inputs by the symbols of the model's own."""
        sizes: dict[str, Dim] = {}
        for first, own in self.common.inputs[self.model].inputs.items():
            mine, its = self.family.graph.types[first].dims, self.source.graph.types[own].dims
            for merged, dim in zip(mine or (), its or (), strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, merged)
        return sizes


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    """Return a node that reads and makes values under new names, in its bodies too."""
    captured = {name: names.get(name, name) for name in node.captured}
    if captured:
        node = walk.with_bodies(node, lambda body: walk.rename(body, lambda name: captured.get(name, name)))
    inputs, outputs = (tuple(names.get(name, name) for name in some) for some in (node.inputs, node.outputs))
    return replace(node, inputs=inputs, outputs=outputs, captured=tuple(captured.values()))
