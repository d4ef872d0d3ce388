"""--partial: the first part that all graphs have in common, where they are not alike to the end.

A node is common where every source has one with the same operator, arity and element types that reads common
values only. What is left of each source is its tail (tails.py). The walk proposes; the sources that are cut
where the common part ends are then matched like whole ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

from netfuse_onnx.match import edges
from netfuse_onnx.match.flat import Flat, Step, flatten
from netfuse_onnx.match.sameness import commutative, essential
from netfuse_onnx.ops.neutral import TYPING
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Edge, Graph, Source

LEAST = 0.5
"""The share of the bytes of weights, or of the operators that read some, that must be common. With less, the
graphs differ in their middle rather than at their end."""
LOOKED_AT = 64
"""The largest number of steps on the same values that are compared with one of another source. Those of one
name pair first."""


@dataclass(frozen=True, slots=True)
class Common:
    """The common part of some sources. `kept[m]` are the nodes of source m that belong to it, `values[m]` the
    source's own names of its values by the first one's, `cuts` those that something else reads, or that are
    outputs."""

    sources: tuple[Source, ...]
    inputs: tuple[Edge, ...]
    kept: tuple[frozenset[int], ...]
    values: tuple[dict[str, str], ...]
    cuts: tuple[str, ...]

    def trimmed(self) -> tuple[Source, ...]:
        """Return the sources without what is not common."""
        rows = zip(self.sources, self.kept, self.values, strict=True)
        return tuple(_trimmed(source, kept, [own[cut] for cut in self.cuts]) for source, kept, own in rows)

    def edges(self) -> tuple[Edge, ...]:
        """Return the inputs and the ends of the trimmed sources."""
        rows = zip(self.inputs, self.values, strict=True)
        return tuple(Edge(edge.inputs, {cut: own[cut] for cut in self.cuts}) for edge, own in rows)

    def share(self) -> float:
        """Return the smallest part of any source that is common: of the bytes of its weights, or of the
        operators that read weights, whichever is more."""
        rows = zip(self.sources, self.kept, strict=True)
        return min(max(_share_of_bytes(source, kept), _share_of_nodes(source, kept)) for source, kept in rows)

    def last(self) -> int:
        """Return the last node of the first source that is common, by its index; -1 where there is none."""
        return max(self.kept[0], default=-1)


def common(sources: Sequence[Source], inputs: Sequence[Edge]) -> Common:
    """Return the common part of sources whose inputs pair in this way."""
    flats = [flatten(source, edge) for source, edge in zip(sources, inputs, strict=True)]
    pairs = [_paired(flats[0], flat) for flat in flats[1:]]
    kept = _kept(flats, pairs)
    first = sources[0].graph
    values: list[dict[str, str]] = [{n: n for i in kept for n in first.nodes[i].outputs if n}]
    nodes = [frozenset(kept)]
    for flat, steps in zip(flats[1:], pairs, strict=True):
        twins = [
            (flats[0].steps[i], flat.steps[j])
            for i, j in steps.items()
            if flats[0].steps[i].main in nodes[0] and not flats[0].steps[i].scope
        ]
        nodes.append(frozenset(twin.main for _, twin in twins))
        outs = (pair for step, twin in twins for pair in zip(step.outs, twin.outs, strict=False))
        values.append({mine: its for mine, its in outs if mine and its})
    everywhere = set(values[0]).intersection(*values)
    wanted: set[str] = set()
    for source, own, mains in zip(sources, values, nodes, strict=True):
        theirs = _wanted(source.graph, mains)
        wanted |= {mine for mine, its in own.items() if its in theirs}
    cuts = [n for i in sorted(kept) for n in first.nodes[i].outputs if n in wanted & everywhere]
    return Common(tuple(sources), tuple(inputs), tuple(nodes), tuple(values), tuple(cuts))


def inputs_by_name(sources: Sequence[Source], named: Sequence[Edge] | None) -> tuple[Edge, ...]:
    """Return the pairs of inputs of sources with equally many, as a merged file recorded them or by name."""
    first = sources[0].graph
    if named is not None and len(named) == len(sources):
        rows = zip(sources, named, strict=True)
        if all(sorted(edge.inputs.values()) == sorted(source.graph.inputs) for source, edge in rows):
            return tuple(Edge(edge.inputs, {}) for edge in named)
    return tuple(Edge(edges.propose(first, source.graph).inputs, {}) for source in sources)


def equal_inputs(sources: Sequence[Source]) -> bool:
    """Return True for sources with equally many inputs."""
    return len({len(source.graph.inputs) for source in sources}) == 1


# --------------------------------------------------------------------------- pairs of steps


def _paired(a: Flat, b: Flat) -> dict[int, int]:
    """Pair the steps of two sources from their inputs on, as far as they agree."""
    waiting: dict[Hashable, list[int]] = defaultdict(list)
    for i, step in enumerate(a.steps):
        waiting[_key(step, a, step.ins)].append(i)
    named = {step.outs: i for i, step in enumerate(a.steps)}
    twins = {"": "", **dict(zip(b.inputs, a.inputs, strict=True))}
    pairs: dict[int, int] = {}
    for j, step in enumerate(b.steps):
        reads = [name if name in b.weights else twins.get(name) for name in step.ins]
        candidates = [] if None in reads else waiting.get(_key(step, b, [n or "" for n in reads]), [])
        if candidates:
            i = named.get(step.outs, -1)
            if i not in candidates:
                likeness = [_likeness(a, a.steps[k], b, step) for k in candidates[:LOOKED_AT]]
                i = candidates[likeness.index(max(likeness))]
            candidates.remove(i)
            pairs[i] = j
            outs = zip(a.steps[i].outs, step.outs, strict=False)
            twins |= {theirs: ours for ours, theirs in outs if ours and theirs}
    return pairs


def _key(step: Step, flat: Flat, reads: Sequence[str]) -> Hashable:
    """Return what must agree of two steps. `reads` are the values that it reads by the first source's names.
    Of a weight only the element type counts, and of attributes only what decides that."""
    marks: list[Hashable] = []
    for name, value in zip(step.ins, reads, strict=True):
        marks.append(("weight", flat.weights[name].dtype) if name in flat.weights else ("value", value))
    typing = sorted((key, repr(value)) for key, value in step.attrs.items() if key in TYPING)
    ordered = sorted(marks, key=repr) if commutative(step) else marks
    return step.op, step.domain, step.scope, tuple(typing), tuple(ordered)


def _likeness(a: Flat, mine: Step, b: Flat, its: Step) -> tuple[bool, bool]:
    """Return how much two steps that may be one have in common besides."""
    shapes = [
        [flat.weights[n].shape for n in step.ins if n in flat.weights] for flat, step in ((a, mine), (b, its))
    ]
    return shapes[0] == shapes[1], essential(mine, a) == essential(its, b)


def _kept(flats: Sequence[Flat], pairs: Sequence[dict[int, int]]) -> set[int]:
    """Return the nodes of the first source that all others have, with all that they depend on."""
    first = flats[0]
    steps = defaultdict(list)
    for i, step in enumerate(first.steps):
        steps[step.main].append(i)
    counts = [Counter(step.main for step in flat.steps) for flat in flats[1:]]
    kept: set[int] = set()
    made: dict[str, int] = {out: step.main for step in first.steps for out in step.outs if out}
    for main, own in steps.items():
        whole = all(
            all(i in pairing for i in own)
            and len({flat.steps[pairing[i]].main for i in own}) == 1
            and count[flat.steps[pairing[own[0]]].main] == len(own)
            for pairing, flat, count in zip(pairs, flats[1:], counts, strict=True)
        )
        above = {made[n] for i in own for n in first.steps[i].ins if n in made} - {main}
        if whole and above <= kept:
            kept.add(main)
    return kept


# --------------------------------------------------------------------------- what is left


def _wanted(graph: Graph, kept: Collection[int]) -> set[str]:
    """Return the values that are outputs, or that the other nodes read."""
    rest = (node for i, node in enumerate(graph.nodes) if i not in kept)
    return {*graph.outputs, *(name for node in rest for name in node.reads)}


def _trimmed(source: Source, kept: Collection[int], outputs: Sequence[str]) -> Source:
    """Return the source with these nodes and outputs alone."""
    nodes = tuple(node for i, node in enumerate(source.graph.nodes) if i in kept)
    read = {name for node in nodes for name in node.reads}
    held = {name: weight for name, weight in source.graph.weights.items() if name in read}
    return source.with_graph(nodes=nodes, outputs=tuple(outputs), weights=held)


def _share_of_bytes(source: Source, kept: Collection[int]) -> float:
    every = source.graph.weights
    read = {name for i in kept for name in source.graph.nodes[i].reads if name in every}
    whole = sum(map(weights.nbytes, every.values()))
    return sum(weights.nbytes(every[name]) for name in read) / whole if whole else 0.0


def _share_of_nodes(source: Source, kept: Collection[int]) -> float:
    held = source.graph.weights.keys()
    readers = {i for i, node in enumerate(source.graph.nodes) if not held.isdisjoint(node.reads)}
    return len(readers.intersection(kept)) / len(readers) if readers else 0.0
