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
from netfuse_onnx.load import fused, opset, spelling  # noqa: F401  the forms register themselves
from netfuse_onnx.load.infer import Complete, infer
from netfuse_onnx.match import differ, signature, tied
from netfuse_onnx.match import partial as partial_
from netfuse_onnx.match.fixed import Fixed
from netfuse_onnx.match.flat import Flat, flatten
from netfuse_onnx.match.isomorph import isomorphism
from netfuse_onnx.match.positional import Miss, Pairing, walk
from netfuse_onnx.match.refine import Colours, Level, refine
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

    `partial` also accepts attributes, weight shapes and shape-deciding values that differ. `complete` is
    passed to infer. Raises NotEquivalent naming both files, the operators, the difference and a remedy.
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
    first = infer(first, complete)
    fixed = Fixed(ours, first.graph)
    flats = [flatten(other, first.graph) for other in sources[1:]]
    pairings = [_pair(ours, flat, fixed, partial) for flat in flats]
    graph, weights = tied.untie(first.graph, ours, sources, pairings)
    family = Correspondence(
        sources=(first, *sources[1:]),
        names=tuple(names),
        graph=graph,
        weights=weights,
        opsets=first.opsets,
        ir_version=max(source.ir_version for source in sources),
        warnings=signature.narrowings(sources, names),
    )
    others = list(zip(sources[1:], flats, pairings, strict=True))
    if partial:
        return partial_.described(family, ours, fixed, others)
    learned = any(tables.learned(step.op, step.domain) for step in ours.steps)
    return replace(family, attrs=partial_.attributes(ours, others)) if learned else family


def _pair(a: Flat, b: Flat, fixed: Fixed, partial: bool) -> Pairing:
    """The correspondence of one other source. Raises NotEquivalent."""
    tried = walk(a, b)
    if isinstance(tried, Pairing) and fixed.first_fault(b, tried.uses) is None:
        return tried
    best = tried if isinstance(tried, Pairing) else None
    for level in (Level.VALUES, Level.STEERING, Level.SHAPES):
        colours = refine(a, b, level)
        found = isomorphism(a, b, (colours.a, colours.b), level) if isinstance(colours, Colours) else None
        if found is not None and fixed.first_fault(b, found.uses) is None:
            return found
        best = best or found
    if partial and best is None:
        best = _loosely(a, b)
    if partial and best is not None:
        return best
    miss = tried.step if isinstance(tried, Miss) else len(a.steps)
    error = fixed.error(b, best) if best else differ.explain(a, b, miss)
    if error.hint == differ.PARTIAL:
        loose = None if partial else best or _loosely(a, b)
        error.hint = _remedy(partial_.mergeable(a, fixed, b, loose) if loose else 0)
    raise error


def _remedy(differing: int) -> str:
    """The hint for sources that differ in so many operators, and in nothing else; 0 where in more."""
    if not differing:
        return differ.SAME_CODE
    only = "one operator differs" if differing == 1 else f"{differing} operators differ"
    return f"--partial merges them all the same: {only}."


def _loosely(a: Flat, b: Flat) -> Pairing | None:
    """With attributes and weight shapes left aside."""
    tried = walk(a, b, loose=True)
    if isinstance(tried, Pairing):
        return tried
    colours = refine(a, b, Level.LOOSE)
    return isomorphism(a, b, (colours.a, colours.b), Level.LOOSE) if isinstance(colours, Colours) else None
