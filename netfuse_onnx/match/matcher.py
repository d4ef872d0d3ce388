"""N sources -> Correspondence, or the first thing in which they are not one architecture.

Two sources are equivalent when their graphs are one up to names, node order, dead nodes, Identity, Constant
or initializer, attributes that equal their default, and the operand order of commutative operators; load
has removed most of that. Weights must agree in type and shape, and in value where the value decides a
shape. A weight that one file ties and another has twice is no difference: weights are compared by use.

Graph inputs and outputs pair by name, else by position, else as the graphs say (pairing.py). The merged model
takes what all sources take: a dim that is static in any source is static, two different sizes are an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load import opset
from netfuse_onnx.load.infer import Complete, infer
from netfuse_onnx.match import differ, edges, pairing, signature, tied
from netfuse_onnx.match import partial as partial_
from netfuse_onnx.match.fixed import Fixed
from netfuse_onnx.match.flat import Flat, flatten
from netfuse_onnx.match.isomorph import isomorphism
from netfuse_onnx.match.positional import Miss, Pairing, walk
from netfuse_onnx.match.refine import Colours, Level, refine
from netfuse_onnx.match.sameness import TABLES
from netfuse_onnx.types import Correspondence, Edge, Source

STRICT = (Level.VALUES, Level.STEERING, Level.SHAPES)
"""What sources may be told apart by that are one architecture; they are tried in this order."""


def match(
    sources: Sequence[Source],
    names: Sequence[str],
    *,
    partial: bool = False,
    complete: Complete | None = None,
    named: Sequence[Edge] | None = None,
) -> Correspondence:
    """The correspondence of equivalent sources, in the names of the first, with all types inferred.

    `partial` also accepts attributes, weight shapes and shape-deciding values that differ. `complete` is
    passed to infer. `named`: how inputs and outputs pair, where a merged file says so. Raises NotEquivalent
    naming both files, the operators, the difference and a remedy.
    """
    sources = opset.align(sources)
    signature.counted(sources)
    graph = sources[0].graph
    proposed = pairing.recorded(sources, named) or [pairing.propose(graph, s.graph) for s in sources]
    family = _Family(sources, proposed, complete).settled(STRICT)
    if partial and None in family.answers:
        family = family.loosened().settled([*STRICT, Level.LOOSE])
    for place, answer in enumerate(family.answers):
        if answer is None:
            raise family.refusal(place, partial)
    return family.correspondence([answer for answer in family.answers if answer], names, partial)


class _Family:
    """The sources laid open, their inputs and outputs paired in one way. `answers`: how each other source
    corresponds, None where it does not. `partial`: in spite of what may differ locally."""

    def __init__(
        self,
        sources: Sequence[Source],
        pairs: Sequence[Edge],
        complete: Complete | None,
        partial: bool = False,
    ) -> None:
        first = signature.common(sources, pairs)
        self.given, self.complete, self.partial = sources, complete, partial
        self.edges = tuple(pairs)
        self.ours = flatten(first, pairs[0])
        self.first = infer(first, complete)
        self.sources = (self.first, *sources[1:])
        self.fixed = Fixed(self.ours, self.first.graph)
        self.flats = [flatten(other, edge) for other, edge in zip(sources[1:], pairs[1:], strict=True)]
        self.answers = [self._answer(flat) for flat in self.flats]

    def loosened(self) -> _Family:
        """The same, where what differs locally is accepted."""
        self.partial = True
        self.answers = [
            answer or self._answer(flat) for flat, answer in zip(self.flats, self.answers, strict=True)
        ]
        return self

    def settled(self, levels: Sequence[Level]) -> _Family:
        """The same; where an answer is missing, inputs and outputs pair as the graphs say, if they do."""
        told = list(self.edges)
        for k, answer in enumerate(self.answers):
            if answer is None:
                told[k + 1] = edges.search(*self._sides(k), self.edges[k + 1], levels) or told[k + 1]
        if tuple(told) == self.edges:
            return self
        return _Family(self.given, told, self.complete, self.partial)

    def _answer(self, flat: Flat) -> Pairing | None:
        found = _pair(self.ours, flat, self.fixed)
        return found or (_alike(self.ours, flat) if self.partial else None)

    def _sides(self, place: int) -> tuple[edges.Side, edges.Side]:
        return (self.first, self.ours), (self.sources[place + 1], self.flats[place])

    def refusal(self, place: int, partial: bool) -> NotEquivalent:
        """Why a source does not correspond, with what would help all of them."""
        a, b = self.ours, self.flats[place]
        best = _alike(a, b, Level.SHAPES)
        tried = walk(a, b)
        miss = tried.step if isinstance(tried, Miss) else len(a.steps)
        error = self.fixed.error(b, best) if best else differ.explain(a, b, miss)
        if error.hint == differ.PARTIAL:
            error.hint = (not partial and self._remedy()) or differ.SAME_CODE
        if not best:
            said = edges.crossed(*self._sides(place), self.edges[place + 1], STRICT)
            error.hint = said or error.hint
        return error

    def _remedy(self) -> str:
        """The hint on --partial, which counts what differs in all files; empty where it would not help."""
        found: list[tuple[Flat, Pairing]] = []
        for flat, answer in zip(self.flats, self.answers, strict=True):
            loose = answer or _alike(self.ours, flat)
            if loose is None or not partial_.mergeable(self.ours, flat, loose):
                return ""
            found.append((flat, loose))
        return partial_.counted(self.ours, self.fixed, found)

    def correspondence(
        self, pairings: Sequence[Pairing], names: Sequence[str], partial: bool
    ) -> Correspondence:
        graph, weights = tied.untie(self.first.graph, self.ours, self.sources, pairings)
        narrowed = signature.narrowings(self.given, names, self.edges)
        family = Correspondence(
            sources=self.sources,
            names=tuple(names),
            graph=graph,
            weights=weights,
            opsets=self.first.opsets,
            ir_version=max(source.ir_version for source in self.sources),
            warnings=(*narrowed, *pairing.told(names, self.edges)),
            edges=self.edges,
        )
        others = list(zip(self.sources[1:], self.flats, pairings, strict=True))
        if partial:
            return partial_.described(family, self.ours, self.fixed, others)
        tables = any(node.domain == TABLES for node in graph.nodes)
        return replace(family, attrs=partial_.attributes(self.ours, others)) if tables else family


def _pair(a: Flat, b: Flat, fixed: Fixed) -> Pairing | None:
    """The correspondence of one other source, or None."""
    tried = walk(a, b)
    if isinstance(tried, Pairing) and fixed.first_fault(b, tried.uses) is None:
        return tried
    for level in STRICT:
        found = _by_colours(a, b, level)
        if found is not None and fixed.first_fault(b, found.uses) is None:
            return found
    return None


def _alike(a: Flat, b: Flat, most: Level = Level.LOOSE) -> Pairing | None:
    """The correspondence that --partial would take: attributes and weight shapes count where they can."""
    tried = walk(a, b)
    if isinstance(tried, Pairing):
        return tried
    for level in Level:
        if level is Level.LOOSE and level <= most and isinstance(tried := walk(a, b, loose=True), Pairing):
            return tried
        if level <= most and (found := _by_colours(a, b, level)):
            return found
    return None


def _by_colours(a: Flat, b: Flat, level: Level) -> Pairing | None:
    colours = refine(a, b, level)
    return isomorphism(a, b, (colours.a, colours.b), level) if isinstance(colours, Colours) else None
