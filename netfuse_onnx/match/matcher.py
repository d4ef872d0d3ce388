"""N sources -> Correspondence, or the first thing in which they are not one architecture.

Two sources are equivalent when their graphs are one up to names, node order, dead nodes, Identity, Constant
or initializer, attributes that equal their default, and the operand order of commutative operators; load
has removed most of that. Weights must agree in type and shape, and in value where the value decides a
shape. A weight that one file ties and another has twice is no difference: weights are compared by use.

Graph inputs and outputs pair by name, else by position, else as the graphs say (pairing.py). The merged model
takes what all sources take: a dim that is static in any source is static, two different sizes are an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load import forms, fused, opset  # noqa: F401  the forms register themselves
from netfuse_onnx.load.claims import Complete, settle
from netfuse_onnx.match import edges, pairing, signature, tied
from netfuse_onnx.match import partial as partial_
from netfuse_onnx.match.fixed import Fixed
from netfuse_onnx.match.flat import flatten
from netfuse_onnx.match.joined import Joined, Other, attempt, joined, loosely
from netfuse_onnx.match.refine import Level
from netfuse_onnx.ops import tables
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
    """The correspondence of equivalent sources, in the names of the first, with all types inferred. Sources
    that differ are compared again with one spelling for what exporters write in several ways.

    `partial` also accepts attributes, weight shapes and shape-deciding values that differ. `complete` is for
    claims.settle. `named`: how inputs and outputs pair, where a merged file says so. Raises NotEquivalent
    naming both files, the operators, the difference and a remedy.
    """
    aligned = opset.align(sources)
    signature.counted(aligned)
    return replace(_either(aligned, names, partial, complete, named), loaded=tuple(sources))


def _either(
    sources: Sequence[Source],
    names: Sequence[str],
    partial: bool,
    complete: Complete | None,
    named: Sequence[Edge] | None,
) -> Correspondence:
    """The correspondence of the sources as they are spelled, else of the sources in one spelling."""
    try:
        return _matched(sources, names, partial, complete, named)
    except NotEquivalent as unlike:
        others = tuple(map(forms.respelled, sources))
        if all(other is source for other, source in zip(others, sources, strict=True)):
            raise
        try:
            return _matched(others, names, partial, complete, named)
        except NotEquivalent as left:
            closer = _alike(others) and not _alike(sources)
            raise (left if closer else unlike) from None


def _alike(sources: Sequence[Source]) -> bool:
    """Whether the sources have the same operators, each as often."""
    counts = [Counter(node.key for node in source.graph.nodes) for source in sources]
    return all(count == counts[0] for count in counts)


def _matched(
    sources: Sequence[Source],
    names: Sequence[str],
    partial: bool,
    complete: Complete | None,
    named: Sequence[Edge] | None,
) -> Correspondence:
    graph = sources[0].graph
    proposed = pairing.recorded(sources, named) or [pairing.propose(graph, s.graph) for s in sources]
    family = _Family(sources, proposed, complete).settled(STRICT)
    if partial:
        family = family.settled([*STRICT, Level.LOOSE])
    return family.correspondence(family.joined(partial), names, partial)


class _Family:
    """The sources laid open, their inputs and outputs paired in one way. `tried`: the correspondence of each
    other source as the files are."""

    def __init__(self, sources: Sequence[Source], pairs: Sequence[Edge], complete: Complete | None) -> None:
        first = signature.common(sources, pairs)
        self.given, self.complete = sources, complete
        self.edges = tuple(pairs)
        self.ours = flatten(first, pairs[0])
        self.first, self.declared = settle(first, complete)
        self.sources = (self.first, *sources[1:])
        self.fixed = Fixed(self.ours, self.first.graph)
        rows = zip(sources[1:], pairs[1:], strict=True)
        self.others = [Other(source, flatten(source, edge), edge) for source, edge in rows]
        self.tried = [attempt(self.ours, other.flat, self.fixed) for other in self.others]

    def settled(self, levels: Sequence[Level]) -> _Family:
        """The same; of a source that does not correspond, inputs and outputs pair as the graphs say, if they
        do at one of the levels."""
        told = list(self.edges)
        for k, tried in enumerate(self.tried):
            loose = Level.LOOSE in levels
            other = self.others[k]
            if tried.exact or (loose and (tried.best or loosely(self.ours, other.flat))):
                continue
            told[k + 1] = edges.search(*self._sides(k), other.edge, levels) or other.edge
        return self if tuple(told) == self.edges else _Family(self.given, told, self.complete)

    def _sides(self, place: int) -> tuple[edges.Side, edges.Side]:
        other = self.others[place]
        return (self.first, self.ours), (other.source, other.flat)

    def joined(self, partial: bool) -> Joined:
        """The correspondences. Raises NotEquivalent, with the hint to rename where that would help."""
        try:
            return joined(self.first, self.ours, self.others, self.tried, partial, self.complete)
        except NotEquivalent as error:
            for k, tried in enumerate(self.tried):
                if tried.exact is None:
                    said = "" if tried.best else edges.crossed(*self._sides(k), self.others[k].edge, STRICT)
                    error.hint = said or error.hint
                    break
            raise

    def correspondence(self, found: Joined, names: Sequence[str], partial: bool) -> Correspondence:
        graph, weights = tied.untie(self.first.graph, found.ours, found.flats, found.pairings)
        narrowed = signature.narrowings(self.given, names, self.edges)
        family = Correspondence(
            sources=self.sources,
            names=tuple(names),
            graph=graph,
            weights=weights,
            opsets=self.first.opsets,
            ir_version=max(source.ir_version for source in self.sources),
            declared=self.declared,
            warnings=(*narrowed, *pairing.told(names, self.edges)),
            edges=self.edges,
        )
        others = list(zip(self.sources[1:], found.flats, found.pairings, strict=True))
        if partial:
            return partial_.described(family, found.ours, Fixed(found.ours, self.first.graph), others)
        learned = any(tables.learned(step.op, step.domain) for step in found.ours.steps)
        return replace(family, attrs=partial_.attributes(found.ours, others)) if learned else family
