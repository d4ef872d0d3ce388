"""N sources -> Correspondence, or the first thing in which they are not one architecture.

Two sources are equivalent when their graphs are one up to names, node order, dead nodes, Identity, Constant
or initializer, attributes that equal their default, and the operand order of commutative operators; load
has removed most of that. Weights must agree in type and shape, and in value where the value decides a
shape. A weight that one file ties and another has twice is no difference: weights are compared by use.

Graph inputs and outputs pair by name where the names are the same, else by position. The merged model
takes what all sources take: a dim that is static in any source is static, two different sizes are an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load import opset, spelling
from netfuse_onnx.load.claims import Complete, settle
from netfuse_onnx.match import partial as partial_
from netfuse_onnx.match import signature, tied
from netfuse_onnx.match.fixed import Fixed
from netfuse_onnx.match.flat import flatten
from netfuse_onnx.match.joined import joined
from netfuse_onnx.ops import tables
from netfuse_onnx.types import Correspondence, Source


def match(
    sources: Sequence[Source],
    names: Sequence[str],
    *,
    partial: bool = False,
    complete: Complete | None = None,
) -> Correspondence:
    """The correspondence of equivalent sources, in the names of the first, with all types inferred. Sources
    that differ are compared again with one spelling for what exporters write in several ways.

    `partial` also accepts attributes, weight shapes and shape-deciding values that differ. `complete` is for
    claims.settle. Raises NotEquivalent naming both files, the operators, the difference and a remedy.
    """
    sources = opset.align(sources)
    try:
        return _matched(sources, names, partial, complete)
    except NotEquivalent as unlike:
        others = tuple(map(spelling.respelled, sources))
        if all(other is source for other, source in zip(others, sources, strict=True)):
            raise
        try:
            return _matched(others, names, partial, complete)
        except NotEquivalent as left:
            closer = _alike(others) and not _alike(sources)
            raise (left if closer else unlike) from None


def _alike(sources: Sequence[Source]) -> bool:
    """Whether the sources have the same operators, each as often."""
    counts = [Counter(node.key for node in source.graph.nodes) for source in sources]
    return all(count == counts[0] for count in counts)


def _matched(
    sources: Sequence[Source], names: Sequence[str], partial: bool, complete: Complete | None
) -> Correspondence:
    first = signature.common(sources)
    ours = flatten(first)
    first, declared = settle(first, complete)
    flats = [flatten(other, first.graph) for other in sources[1:]]
    found = joined(first, ours, list(zip(sources[1:], flats, strict=True)), partial, complete)
    graph, weights = tied.untie(first.graph, found.ours, found.flats, found.pairings)
    family = Correspondence(
        sources=(first, *sources[1:]),
        names=tuple(names),
        graph=graph,
        weights=weights,
        opsets=first.opsets,
        ir_version=max(source.ir_version for source in sources),
        declared=declared,
        warnings=signature.narrowings(sources, names),
    )
    others = list(zip(sources[1:], found.flats, found.pairings, strict=True))
    if partial:
        return partial_.described(family, found.ours, Fixed(found.ours, first.graph), others)
    learned = any(tables.learned(step.op, step.domain) for step in found.ours.steps)
    return replace(family, attrs=partial_.attributes(found.ours, others)) if learned else family
