"""Which of many models are one architecture: they are grouped into families.

Being one architecture is transitive, so a model need not be compared with every other one: models that look
alike are matched together, in one go, and then one model of each group stands for it. A group narrows that
model's inputs to what all of its models take, since sizes are not transitive: 1 fits n, n fits 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from onnx import GraphProto

from netfuse_onnx.errors import Mismatch, NotEquivalent
from netfuse_onnx.match.apart import surely_apart
from netfuse_onnx.ops.kinds import INDEX_TYPES
from netfuse_onnx.report import DifferenceRow, FamilyRow
from netfuse_onnx.types import Correspondence, Node, Source, ValueType

Match = Callable[[Sequence[Source], Sequence[str]], Correspondence]
"""Matches sources that have these names. Raises NotEquivalent."""

SHORT = 16
"""Items of a list, an attribute or a weight, up to which models that look alike have the same."""


@dataclass(frozen=True, slots=True)
class Family:
    """`members`: positions of its models, in order. `source`: the first of them, its inputs narrowed.
    `difference` from the largest family; None in that one."""

    members: tuple[int, ...]
    source: Source
    difference: NotEquivalent | None = None


def rows(
    sources: Sequence[Source], names: Sequence[str], match: Match, *, exact: bool = True
) -> tuple[FamilyRow, ...]:
    """The families among the sources, the largest first. `exact` as in Grouping."""
    found = Grouping(sources, names, match, exact).families()
    return tuple([_row(family, found[0], sources, names) for family in found])


def pair(sources: Sequence[Source], names: Sequence[str], error: NotEquivalent) -> tuple[FamilyRow, ...]:
    """Two models that differ for this reason."""
    first, other = (Family((i,), source) for i, source in enumerate(sources))
    other = replace(other, difference=error)
    return tuple([_row(family, first, sources, names) for family in (first, other)])


def whole(family: Correspondence) -> FamilyRow:
    """The row of models that are all one family."""
    one = Family(tuple(range(family.models)), family.sources[0])
    return _row(one, one, family.sources, family.names)


def brief(families: Sequence[FamilyRow]) -> str:
    """`2 families: a, b (203 operators, pytorch 2.13.0, dynamo); c, d (317 operators)`. Of the largest family
    not all models are named; of the others, which do not fit, they are."""
    parts = []
    for row in families:
        most = 8 if row is families[0] else len(row.models)
        more = f" and {len(row.models) - most} more" if len(row.models) > most else ""
        made = "; ".join(map(str, row.producers))
        size = f"{row.operators} operator{'' if row.operators == 1 else 's'}"
        parts.append(f"{', '.join(row.models[:most])}{more} ({', '.join(filter(None, (size, made)))})")
    return f"{len(families)} {'family' if len(families) == 1 else 'families'}: {'; '.join(parts)}"


# --------------------------------------------------------------------------- grouping


class Grouping:
    """Groups sources. `exact`: what is surely apart need not be matched; with --partial it might fit."""

    def __init__(
        self, sources: Sequence[Source], names: Sequence[str], match: Match, exact: bool = True
    ) -> None:
        self.sources, self.names, self.match, self.exact = sources, names, match, exact
        self._known: dict[tuple[int, int], tuple[Family, Family, Family | NotEquivalent]] = {}

    def families(self) -> list[Family]:
        """The families, the largest first, then that of the earliest model."""
        alike: dict[Hashable, list[int]] = {}
        for i, source in enumerate(self.sources):
            alike.setdefault(_look(source), []).append(i)
        found: list[Family] = []
        for members in alike.values():
            for family in self._together(members):
                self._add(found, family)
        found = [replace(family, members=tuple(sorted(family.members))) for family in found]
        found.sort(key=lambda family: (-len(family.members), family.members))
        return self._against_first(found)

    def _together(self, members: Sequence[int]) -> list[Family]:
        """Models that look alike as one family where they are one, else each by itself."""
        apart = [Family((i,), self.sources[i]) for i in members]
        if len(members) < 3:
            return apart
        try:
            family = self.match([self.sources[i] for i in members], [self.names[i] for i in members])
        except NotEquivalent:
            return apart
        return [Family(tuple(members), _narrowed(apart[0].source, family))]

    def _add(self, found: list[Family], family: Family) -> None:
        """Joins a family to the first one that it is equivalent to, or puts it behind them."""
        for k, other in enumerate(found):
            if self.exact and surely_apart(other.source, family.source):
                continue
            joined = self._joined(other, family)
            if isinstance(joined, Family):
                found[k] = joined
                return
        found.append(family)

    def _joined(self, one: Family, other: Family) -> Family | NotEquivalent:
        """Both as one family, or why they are not."""
        key = id(one.source), id(other.source)
        if key not in self._known:
            self._known[key] = one, other, self._matched(one, other)
        return self._known[key][2]

    def _matched(self, one: Family, other: Family) -> Family | NotEquivalent:
        names = [self.names[family.members[0]] for family in (one, other)]
        try:
            pair = self.match([one.source, other.source], names)
        except NotEquivalent as error:
            return error
        return Family(one.members + other.members, _narrowed(one.source, pair))

    def _against_first(self, found: Sequence[Family]) -> list[Family]:
        """The families with their differences. What turns out to fit the largest one, as narrow as it now
        is, or compared from this side, joins it."""
        first, others = found[0], []
        for family in found[1:]:
            joined = self._joined(first, family)
            if isinstance(joined, Family):
                first = replace(joined, members=tuple(sorted(joined.members)))
            else:
                others.append(replace(family, difference=joined))
        return [first, *others]


def _narrowed(source: Source, family: Correspondence) -> Source:
    """The source with the inputs that all models of the family take, otherwise as it was loaded."""
    inputs = {name: family.graph.types[name] for name in source.graph.inputs if name in family.graph.types}
    return replace(source, graph=replace(source.graph, types={**source.graph.types, **inputs}))


# --------------------------------------------------------------------------- looks


def _look(source: Source) -> Hashable:
    """Equal for models that most likely are one family. It decides nothing: only what is matched first."""
    graph = source.graph
    types = [graph.types.get(name, ValueType()) for name in graph.inputs]
    held = Counter(
        (weight.dtype, weight.shape, weight.data if _small(weight.dtype, weight.data) else None)
        for weight in graph.weights.values()
    )
    return (
        frozenset(source.opsets.items()),
        tuple((kind.dtype, kind.dims) for kind in types),
        len(graph.outputs),
        frozenset(Counter(map(_node, graph.nodes)).items()),
        frozenset(held.items()),
    )


def _small(dtype: int, data: object) -> bool:
    """True for the bytes of a few integers, which may decide a shape."""
    return dtype in INDEX_TYPES and isinstance(data, bytes) and len(data) <= 8 * SHORT


def _node(node: Node) -> Hashable:
    attributes = tuple((name, _plain(value)) for name, value in sorted(node.attrs.items()))
    return node.key, len(node.inputs), attributes


def _plain(value: object) -> Hashable:
    if isinstance(value, int | float | bytes):
        return value
    if isinstance(value, list | tuple) and len(value) <= SHORT and all(isinstance(v, int) for v in value):
        return tuple(value)
    if isinstance(value, GraphProto):
        return tuple(node.op_type for node in value.node)
    return None


# --------------------------------------------------------------------------- rows


def _row(family: Family, first: Family, sources: Sequence[Source], names: Sequence[str]) -> FamilyRow:
    source = sources[family.members[0]]
    return FamilyRow(
        models=tuple(names[i] for i in family.members),
        files=tuple(sources[i].path for i in family.members),
        operators=source.node_count,
        opset=source.opsets.get("", 0),
        producers=tuple(
            dict.fromkeys(sources[i].producer for i in family.members if sources[i].producer.name)
        ),
        difference=difference(family.difference, first.source.path, source.path)
        if family.difference
        else None,
    )


def difference(error: NotEquivalent, one: str, other: str) -> DifferenceRow:
    """The row of an error. Where it is not about two models, these two stand in its place."""
    found = error.mismatch or Mismatch("other", (one, other))
    return DifferenceRow(
        kind=found.kind,
        message=error.message,
        hint=error.hint,
        files=found.files,
        nodes=found.nodes,
        operators=found.operators,
        attribute=found.attribute,
        value=found.value,
        left=found.left,
        right=found.right,
    )
