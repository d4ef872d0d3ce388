"""The correspondences of all other sources with the first: of the files as they are, else in normal form.

Files of one exporter say all in one way, and nearly all families are done with that. Where some pair is not,
all sources are brought into normal form (spelling.py), for which the types of all their values are inferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load import within
from netfuse_onnx.load.claims import Complete
from netfuse_onnx.match import differ
from netfuse_onnx.match import partial as partial_
from netfuse_onnx.match.fixed import Fixed
from netfuse_onnx.match.flat import Flat, places
from netfuse_onnx.match.isomorph import isomorphism
from netfuse_onnx.match.kept import Sides, Unkept, kept, unchanged
from netfuse_onnx.match.positional import Miss, Pairing, walk
from netfuse_onnx.match.refine import Colours, Level, refine
from netfuse_onnx.match.spelling import spelled
from netfuse_onnx.ops.axes import INPUTS
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Edge, Source

SPELLING = (
    "Write its operands in one way: with axes counted from the front, in rising order, and none left out."
)


@dataclass(frozen=True, slots=True)
class Joined:
    """The first source and the others, laid open, with the correspondence of each of these."""

    ours: Flat
    flats: list[Flat]
    pairings: list[Pairing]


@dataclass(frozen=True, slots=True)
class Attempt:
    """`exact`: a correspondence that meets all demands; `best`: one of the graphs, whatever the weights;
    `miss`: where the walk in step ended."""

    exact: Pairing | None
    best: Pairing | None
    miss: int


@dataclass(frozen=True, slots=True)
class Other:
    """A source that is not the first: laid open, with the names of its inputs and outputs."""

    source: Source
    flat: Flat
    edge: Edge


def joined(
    first: Source,
    ours: Flat,
    others: Sequence[Other],
    plain: Sequence[Attempt],
    partial: bool,
    complete: Complete | None,
) -> Joined:
    """The correspondences of all others; `plain` are those of the files as they are. Raises NotEquivalent."""
    flats = [other.flat for other in others]
    pairings = [
        tried.exact
        for tried, flat in zip(plain, flats, strict=True)
        if tried.exact is not None and _same_axes(ours, flat, tried.exact)
    ]
    if len(pairings) == len(others):
        return Joined(ours, flats, pairings)
    normal = _Normal(first, ours, others, plain, complete)
    if partial:
        return normal.partially()
    rows = [normal.row(other, tried) for other, tried in zip(others, plain, strict=True)]
    return Joined(normal.sides.kept, [flat for flat, _ in rows], [found for _, found in rows])


def attempt(a: Flat, b: Flat, fixed: Fixed) -> Attempt:
    """Look for the correspondence of one other source."""
    tried = walk(a, b)
    miss = tried.step if isinstance(tried, Miss) else len(a.steps)
    best = tried if isinstance(tried, Pairing) else None
    if best is not None and fixed.first_fault(b, best.uses) is None:
        return Attempt(best, best, miss)
    for level in (Level.VALUES, Level.STEERING, Level.SHAPES):
        colours = refine(a, b, level)
        found = isomorphism(a, b, (colours.a, colours.b), level) if isinstance(colours, Colours) else None
        if found is not None and fixed.first_fault(b, found.uses) is None:
            return Attempt(found, found, miss)
        best = best or found
    return Attempt(None, best, miss)


def loosely(a: Flat, b: Flat) -> Pairing | None:
    """With attributes and weight shapes left aside."""
    tried = walk(a, b, loose=True)
    if isinstance(tried, Pairing):
        return tried
    colours = refine(a, b, Level.LOOSE)
    return isomorphism(a, b, (colours.a, colours.b), Level.LOOSE) if isinstance(colours, Colours) else None


def _same_axes(a: Flat, b: Flat, found: Pairing) -> bool:
    """Whether the constants that hold axes are the same also where no shape depends on them."""
    for (i, k), twin in zip(a.uses, found.uses, strict=True):
        holds_axes = INPUTS.get(a.steps[i].node.key) == k
        if holds_axes and not weights.same(a.weights[a.steps[i].ins[k]], b.weights[twin]):
            return False
    return True


class _Normal:
    """The first source in normal form, and the others against it."""

    def __init__(
        self,
        first: Source,
        ours: Flat,
        others: Sequence[Other],
        plain: Sequence[Attempt],
        complete: Complete | None,
    ) -> None:
        self.first, self.others, self.plain, self.complete = first, others, plain, complete
        self.sides = Sides(ours, spelled(ours, within.kinds(first, complete)))
        self.fixed = Fixed(self.sides.normal, first.graph)

    def row(self, other: Other, plain: Attempt) -> tuple[Flat, Pairing]:
        """One other source. Raises NotEquivalent."""
        if plain.exact is not None and _same_axes(self.sides.own, other.flat, plain.exact):
            return unchanged(self.sides, other.flat, plain.exact), plain.exact
        theirs = self.other(other)
        tried = attempt(self.sides.normal, theirs.normal, self.fixed)
        if tried.exact is not None:
            try:
                return kept(self.sides, theirs, tried.exact)
            except Unkept as fault:
                raise self._unkept(theirs, tried.exact, fault.step) from fault
        raise self._error(theirs, tried)

    def other(self, other: Other) -> Sides:
        """Another source on both sides, with what the merged model takes for inputs."""
        graph, known = other.source.graph, self.first.graph
        types = {name: kind for name, kind in graph.types.items() if name not in graph.inputs}
        types |= {twin: known.types[name] for name, twin in other.edge.inputs.items() if name in known.types}
        narrowed = replace(other.source, graph=replace(graph, types=types))
        return Sides(other.flat, spelled(other.flat, within.kinds(narrowed, self.complete)))

    def partially(self) -> Joined:
        """All others, with what may differ under --partial; as the files are where normal forms don't help.
        Raises NotEquivalent."""
        rows: list[tuple[Flat, Pairing]] = []
        fault: NotEquivalent | None = None
        for other, tried in zip(self.others, self.plain, strict=True):
            try:
                rows.append(self.row(other, tried))
            except NotEquivalent as error:
                found = self.loose(self.other(other))
                rows += [found] if found else []
                fault = fault or (None if found else error)
        if fault is None:
            return Joined(self.sides.kept, [flat for flat, _ in rows], [found for _, found in rows])
        own = self._as_they_are()
        if own is None:
            raise fault
        return Joined(self.sides.own, [other.flat for other in self.others], own)

    def loose(self, theirs: Sides) -> tuple[Flat, Pairing] | None:
        """Another source that may differ in attributes and weights."""
        tried = attempt(self.sides.normal, theirs.normal, self.fixed)
        found = tried.best or loosely(self.sides.normal, theirs.normal)
        try:
            return kept(self.sides, theirs, found) if found else None
        except Unkept:
            return None

    def _as_they_are(self) -> list[Pairing] | None:
        """The correspondences of the files that --partial takes; None where one has none."""
        found = [
            tried.exact or tried.best or loosely(self.sides.own, other.flat)
            for tried, other in zip(self.plain, self.others, strict=True)
        ]
        held = [pairing for pairing in found if pairing is not None]
        return held if len(held) == len(found) else None

    def _error(self, theirs: Sides, tried: Attempt) -> NotEquivalent:
        a, b = self.sides.normal, theirs.normal
        error = self.fixed.error(b, tried.best) if tried.best else differ.explain(a, b, tried.miss)
        if error.hint == differ.PARTIAL:
            error.hint = self._remedy() or differ.SAME_CODE
        return error

    def _remedy(self) -> str:
        """The hint on --partial, which counts what differs in all files; empty where it would not help."""
        ours, rows = self.sides.kept, [self.loose(self.other(other)) for other in self.others]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            ours, own = self.sides.own, self._as_they_are()
            found = list(zip([other.flat for other in self.others], own or (), strict=False))
        if len(found) < len(rows) or not all(partial_.mergeable(ours, *row) for row in found):
            return ""
        return partial_.counted(ours, Fixed(ours, self.first.graph), found)

    def _unkept(self, theirs: Sides, found: Pairing, i: int) -> NotEquivalent:
        a, b = self.sides.own, theirs.own
        where = places(a, i, b, found.steps[i])
        ins = zip(a.steps[i].ins, b.steps[found.steps[i]].ins, strict=False)
        for k, (name, twin) in enumerate(ins):
            mine, its = a.weights.get(name), b.weights.get(twin)
            if mine and its and differ.weight_difference(name, mine, twin, its):
                unlike = differ.of_weights(f"input {k}: ", name, mine, twin, its)
                return differ.error(a, i, b, found.steps[i], replace(unlike, hint=SPELLING))
        said = "its operands differ, and are written in two ways"
        return NotEquivalent(f"{a.path} and {b.path} differ at {where}: {said}.", SPELLING)
