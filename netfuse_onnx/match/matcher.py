"""N sources -> Correspondence, or the first difference because of which they are not one architecture.

Two sources are equivalent when their graphs are equal up to names, node order, dead nodes, Identity, Constant
or initializer, attributes that equal their default, and the operand order of commutative operators; load has
removed most of that. Weights must agree in type and shape, and in value where the value decides a shape. A
weight that one file ties and another has twice is no difference: weights are compared by use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load import opset, spelled
from netfuse_onnx.load.claims import Complete, resolve_claims
from netfuse_onnx.match import attributes, common, edges, signature, tails, tied
from netfuse_onnx.match import partial as partial_
from netfuse_onnx.match.demands import Demands
from netfuse_onnx.match.flat import flatten
from netfuse_onnx.match.paired import Other, PairedFamily, attempt, pair_family, pair_loosely
from netfuse_onnx.match.refine import STRICT, Level
from netfuse_onnx.ops import tables
from netfuse_onnx.types import Correspondence, Edge, Source

Matched = Callable[[Sequence[Source]], Correspondence]
ONLY = "--partial can't merge them: "
"""The beginning of the hint on models that --partial refuses."""


def match(
    sources: Sequence[Source],
    names: Sequence[str],
    *,
    partial: bool = False,
    complete: Complete | None = None,
    named: Sequence[Edge] | None = None,
    keep_opset: bool = False,
) -> Correspondence:
    """Return the correspondence of equivalent sources, in the names of the first, with all types inferred.
    Sources that differ are compared again with one spelling for what exporters write in several ways.

    `partial` also accepts differing attributes, weight shapes and values that decide shapes. `complete` is
    for resolve_claims. `named` are the pairs of inputs and outputs that a merged file recorded. `keep_opset`
    raises no source above the highest opset of all. Raises NotEquivalent, which names both files, the
    operators, the difference and a remedy.
    """

    def matched(sources: Sequence[Source]) -> Correspondence:
        graph = sources[0].graph
        proposed = edges.recorded(sources, named) or [edges.propose(graph, s.graph) for s in sources]
        family = _Family(sources, proposed, complete).paired_by_graphs(STRICT)
        if partial:
            family = family.paired_by_graphs([*STRICT, Level.LOOSE])
        return family.correspondence(family.pair(partial), names, partial)

    def with_tails(sources: Sequence[Source]) -> Correspondence:
        part = common.common(sources, common.inputs_by_name(sources, named))
        tails.refuse_little(part)
        cut = _Family(part.trimmed(), part.edges(), complete)
        return tails.with_tails(cut.correspondence(cut.pair(partial=True), names, partial=True), part)

    aligned = opset.align(sources, keep=keep_opset)
    try:
        signature.check_counts(aligned)
        return replace(_either(matched, aligned, names), loaded=tuple(sources))
    except NotEquivalent as error:
        if not partial or not common.equal_inputs(aligned):
            raise
        try:
            return replace(_either(with_tails, aligned, names), loaded=tuple(sources))
        except NotEquivalent as fault:
            error.hint = f"{ONLY}{fault.message}"
            raise error from None


def _either(matched: Matched, given: Sequence[Source], names: Sequence[str]) -> Correspondence:
    """Return the family of the sources as they are, else in one spelling. Raises NotEquivalent."""
    try:
        return matched(given)
    except NotEquivalent as error:
        return _in_one_spelling(given, names, matched, error)


def _in_one_spelling(
    given: Sequence[Source], names: Sequence[str], matched: Matched, fault: NotEquivalent
) -> Correspondence:
    """Return the family of sources that do not match as they are given, by the forms that change no bit of a
    result, or else by all. Raises the NotEquivalent that says more: `fault`, or one of later."""
    nearest = fault
    for chosen in (spelled.EXACT, spelled.ALL):
        spellings = spelled.of_family(given, chosen)
        if not any(spelling.counts for spelling in spellings):
            continue
        respelled = [spelling.source for spelling in spellings]
        try:
            family = matched(respelled)
        except NotEquivalent as error:
            if _same_operators(respelled) and not _same_operators(given):
                nearest = error
            continue
        family, spellings = _with_fewer_forms(given, matched, family, spellings)
        record = spelled.record(spellings, names, given)
        return replace(family, respelled=replace(record, weights=_computed(family, spellings)))
    raise nearest from None


def _with_fewer_forms(
    given: Sequence[Source], matched: Matched, family: Correspondence, spellings: list[spelled.Spelling]
) -> tuple[Correspondence, list[spelled.Spelling]]:
    """Return the family by those forms alone that were not applied equally often to all models, where they
    are enough: what all files spell alike stays as it is."""
    chosen = spelled.needed(spellings)
    if all(spelling.counts.keys() <= chosen for spelling in spellings):
        return family, spellings
    fewer = spelled.of_family(given, chosen)
    try:
        return matched([spelling.source for spelling in fewer]), fewer
    except NotEquivalent:
        return family, spellings


def _computed(family: Correspondence, spellings: Sequence[spelled.Spelling]) -> frozenset[str]:
    """Return the names of the weights that forms computed, for one model at least."""
    made = [spelling.made for spelling in spellings]
    names = {
        name
        for name, parts in family.weights.items()
        if any(part.own in some for part, some in zip(parts, made, strict=False))
    }
    for tail, some in zip(family.tails, made, strict=False):
        names |= {name for name, weight in tail.weights.items() if weight.own in some}
    return frozenset(names)


def _same_operators(sources: Sequence[Source]) -> bool:
    """Return True where the sources have the same operators, each equally often."""
    counts = list(map(signature.operators, sources))
    return all(count == counts[0] for count in counts)


class _Family:
    """The steps of the sources, their inputs and outputs paired in one way."""

    def __init__(self, sources: Sequence[Source], pairs: Sequence[Edge], complete: Complete | None) -> None:
        first = signature.common(sources, pairs)
        self.given, self.complete = sources, complete
        self.edges = tuple(pairs)
        self.ours = flatten(first, pairs[0])
        self.first, self.declared = resolve_claims(first, complete)
        self.sources = (self.first, *sources[1:])
        self.demands = Demands(self.ours, self.first.graph)
        rows = zip(sources[1:], pairs[1:], strict=True)
        self.others = [self._other(source, edge) for source, edge in rows]

    def _other(self, source: Source, edge: Edge) -> Other:
        """Return another source, compared with the first as its file is."""
        flat = flatten(source, edge)
        return Other(source, flat, edge, attempt(self.ours, flat, self.demands))

    def paired_by_graphs(self, levels: Sequence[Level]) -> _Family:
        """Return the family in which inputs and outputs of the sources that do not correspond pair as the
        graphs say, if the graphs correspond at one of the levels."""
        pairs = list(self.edges)
        loose = Level.LOOSE in levels
        for k, other in enumerate(self.others):
            tried = other.as_filed
            if tried.exact or (loose and (tried.best or pair_loosely(self.ours, other.flat))):
                continue
            pairs[k + 1] = edges.search(*self._sides(other), other.edge, levels) or other.edge
        return self if tuple(pairs) == self.edges else _Family(self.given, pairs, self.complete)

    def _sides(self, other: Other) -> tuple[edges.Side, edges.Side]:
        """Return the first source and another one, with their steps."""
        return (self.first, self.ours), (other.source, other.flat)

    def pair(self, partial: bool) -> PairedFamily:
        """Return the correspondences. Raises NotEquivalent, with the hint to rename where that would help."""
        try:
            return pair_family(self.first, self.ours, self.others, partial, self.complete)
        except NotEquivalent as error:
            other = next((other for other in self.others if other.as_filed.exact is None), None)
            if other is not None and not other.as_filed.best:
                error.hint = edges.crossed(*self._sides(other), other.edge, STRICT) or error.hint
            raise

    def correspondence(self, paired: PairedFamily, names: Sequence[str], partial: bool) -> Correspondence:
        """Return the correspondence of the family."""
        graph, weights = tied.untie(self.first.graph, paired.first, paired.others, paired.pairings)
        narrowed = signature.narrowings(self.given, names, self.edges)
        family = Correspondence(
            sources=self.sources,
            names=tuple(names),
            graph=graph,
            weights=weights,
            opsets=self.first.opsets,
            ir_version=max(source.ir_version for source in self.sources),
            declared=self.declared,
            warnings=(*narrowed, *edges.warnings(names, self.edges)),
            edges=self.edges,
        )
        others = list(zip(self.sources[1:], paired.others, paired.pairings, strict=True))
        if partial:
            return partial_.described(family, paired.first, Demands(paired.first, self.first.graph), others)
        learned = any(tables.learned(step.op, step.domain) for step in paired.first.steps)
        return replace(family, attrs=attributes.differing(paired.first, others)) if learned else family
