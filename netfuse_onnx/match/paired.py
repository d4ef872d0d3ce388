"""The correspondences of all other sources with the first: of the files, else of their normal forms.

Files of one exporter have one spelling, so nearly all families are done with the first. Where some pair does
not match, all sources are brought into normal form (spelling.py), for which the types of all values are
inferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load import within
from netfuse_onnx.load.claims import Complete
from netfuse_onnx.match import differ
from netfuse_onnx.match import partial as partial_
from netfuse_onnx.match.demands import Demands
from netfuse_onnx.match.flat import Flat, places
from netfuse_onnx.match.isomorph import correspondence
from netfuse_onnx.match.positional import Pairing, walk
from netfuse_onnx.match.refine import STRICT, Level
from netfuse_onnx.match.restored import BothForms, in_file_terms, with_first_attributes
from netfuse_onnx.match.spelling import normal_form
from netfuse_onnx.ops.axes import INPUTS
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Edge, Source

SPELLING = (
    "Write its operands in one way: with axes counted from the front, in rising order, and none left out."
)


@dataclass(frozen=True, slots=True)
class PairedFamily:
    """The steps of the first source and of the others, and the correspondence of each of these."""

    first: Flat
    others: list[Flat]
    pairings: list[Pairing]


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outcome of matching one source: `exact` is a correspondence that meets all demands, `best` one of
    the graphs whatever the weights, `miss` the step at which the positional walk ended."""

    exact: Pairing | None
    best: Pairing | None
    miss: int


@dataclass(frozen=True, slots=True)
class Other:
    """A source that is not the first, its steps, the names of its inputs and outputs, and the outcome of
    matching its file with the first."""

    source: Source
    flat: Flat
    edge: Edge
    as_filed: Attempt


def pair_family(
    first: Source, ours: Flat, others: Sequence[Other], partial: bool, complete: Complete | None
) -> PairedFamily:
    """Return all correspondences. Raises NotEquivalent."""
    exact = ((other.flat, other.as_filed.exact) for other in others)
    pairings = [pairing for flat, pairing in exact if pairing and _same_axis_constants(ours, flat, pairing)]
    if len(pairings) == len(others):
        return PairedFamily(ours, [other.flat for other in others], pairings)
    normal = _NormalForms(first, ours, others, complete)
    return normal.partially() if partial else normal.family([normal.row(other) for other in others])


def attempt(a: Flat, b: Flat, demands: Demands) -> Attempt:
    """Look for the correspondence of one other source with the first."""
    walked = walk(a, b)
    best, miss = (walked, len(a.steps)) if isinstance(walked, Pairing) else (None, walked)
    if best is not None and demands.first_fault(b, best.uses) is None:
        return Attempt(best, best, miss)
    for level in STRICT:
        pairing = correspondence(a, b, level)
        if pairing is not None and demands.first_fault(b, pairing.uses) is None:
            return Attempt(pairing, pairing, miss)
        best = best or pairing
    return Attempt(None, best, miss)


def pair_loosely(a: Flat, b: Flat) -> Pairing | None:
    """Look for a correspondence that leaves attributes and weights out of account."""
    walked = walk(a, b, loose=True)
    return walked if isinstance(walked, Pairing) else correspondence(a, b, Level.LOOSE)


def _same_axis_constants(a: Flat, b: Flat, pairing: Pairing) -> bool:
    """Return True where the constants that hold axes are equal, even where no shape depends on them."""
    for (i, k), twin in zip(a.uses, pairing.uses, strict=True):
        holds_axes = INPUTS.get(a.steps[i].node.key) == k
        if holds_axes and not weights.same(a.weights[a.steps[i].ins[k]], b.weights[twin]):
            return False
    return True


class _NormalForms:
    """The first source in normal form, and the others compared with it."""

    def __init__(self, first: Source, ours: Flat, others: Sequence[Other], complete: Complete | None) -> None:
        self.first, self.others, self.complete = first, others, complete
        self.forms = BothForms(ours, normal_form(ours, within.all_types(first, complete)))
        self.demands = Demands(self.forms.normal, first.graph)

    def row(self, other: Other) -> tuple[Flat, Pairing]:
        """Return the steps of one other source and its correspondence. Raises NotEquivalent."""
        exact = other.as_filed.exact
        if exact is not None and _same_axis_constants(self.forms.own, other.flat, exact):
            return with_first_attributes(self.forms, other.flat, exact), exact
        theirs = self.both_forms(other)
        tried = attempt(self.forms.normal, theirs.normal, self.demands)
        if tried.exact is not None:
            row = in_file_terms(self.forms, theirs, tried.exact)
            if isinstance(row, int):
                raise self._two_spellings(theirs, tried.exact, row)
            return row
        raise self._error(theirs, tried)

    def both_forms(self, other: Other) -> BothForms:
        """Return another source in both forms, its inputs narrowed to those of the merged model."""
        graph, first = other.source.graph, self.first.graph
        types = {name: declared for name, declared in graph.types.items() if name not in graph.inputs}
        types |= {twin: first.types[name] for name, twin in other.edge.inputs.items() if name in first.types}
        narrowed = other.source.with_graph(types=types)
        return BothForms(other.flat, normal_form(other.flat, within.all_types(narrowed, self.complete)))

    def family(self, rows: Sequence[tuple[Flat, Pairing]]) -> PairedFamily:
        """Return the first source with the given others, in terms of the files."""
        others, pairings = [flat for flat, _ in rows], [pairing for _, pairing in rows]
        return PairedFamily(self.forms.with_normal_attributes, others, pairings)

    def partially(self) -> PairedFamily:
        """Return the correspondences of all others with what --partial lets differ; of the files as they are
        where normal forms do not help. Raises NotEquivalent."""
        rows: list[tuple[Flat, Pairing]] = []
        fault: NotEquivalent | None = None
        for other in self.others:
            try:
                rows.append(self.row(other))
            except NotEquivalent as error:
                row = self.loose(self.both_forms(other))
                rows += [row] if row else []
                fault = fault or (None if row else error)
        if fault is None:
            return self.family(rows)
        pairings = self._loose_as_filed()
        if pairings is None:
            raise fault
        return PairedFamily(self.forms.own, [other.flat for other in self.others], pairings)

    def loose(self, theirs: BothForms) -> tuple[Flat, Pairing] | None:
        """Return another source that may differ in attributes and weights; None where the graphs differ."""
        result = attempt(self.forms.normal, theirs.normal, self.demands)
        pairing = result.best or pair_loosely(self.forms.normal, theirs.normal)
        row = in_file_terms(self.forms, theirs, pairing) if pairing else None
        return None if isinstance(row, int) else row

    def _loose_as_filed(self) -> list[Pairing] | None:
        """Return the correspondences of the files that --partial accepts; None where one is missing."""
        attempts = [other.as_filed.best or pair_loosely(self.forms.own, other.flat) for other in self.others]
        pairings = [pairing for pairing in attempts if pairing is not None]
        return pairings if len(pairings) == len(attempts) else None

    def _error(self, theirs: BothForms, tried: Attempt) -> NotEquivalent:
        """Return the error for a source that does not correspond."""
        a, b = self.forms.normal, theirs.normal
        error = self.demands.error(b, tried.best) if tried.best else differ.explain(a, b, tried.miss)
        if error.hint == differ.PARTIAL:
            error.hint = self._partial_hint() or differ.SAME_CODE
        return error

    def _partial_hint(self) -> str:
        """Return the hint on --partial, which counts all differences; empty where it would not help."""
        ours = self.forms.with_normal_attributes
        rows = [self.loose(self.both_forms(other)) for other in self.others]
        pairs = [row for row in rows if row is not None]
        if len(pairs) < len(rows):
            ours, pairings = self.forms.own, self._loose_as_filed()
            pairs = list(zip([other.flat for other in self.others], pairings or (), strict=False))
        if len(pairs) < len(rows) or not all(partial_.mergeable(ours, *row) for row in pairs):
            return ""
        return partial_.counted(ours, Demands(ours, self.first.graph), pairs)

    def _two_spellings(self, theirs: BothForms, pairing: Pairing, i: int) -> NotEquivalent:
        """Return the error for a step that differs in meaning and in spelling."""
        a, b = self.forms.own, theirs.own
        where = places(a, i, b, pairing.steps[i])
        ins = zip(a.steps[i].ins, b.steps[pairing.steps[i]].ins, strict=False)
        for k, (name, twin) in enumerate(ins):
            mine, its = a.weights.get(name), b.weights.get(twin)
            if mine and its and differ.unequal_weights_text(name, mine, twin, its):
                unlike = differ.weights_differ(f"input {k}: ", name, mine, twin, its)
                return differ.error(a, i, b, pairing.steps[i], replace(unlike, hint=SPELLING))
        what = "its operands differ, and are written in two ways"
        return NotEquivalent(f"{a.path} and {b.path} differ at {where}: {what}.", SPELLING)
