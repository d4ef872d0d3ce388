"""Models grouped into families, each of one architecture.

The relation is transitive, so a model need not be compared with every other one: models that look alike are
matched together, in one go, and then one model of each group stands for it. A group narrows that model's
inputs to what all of its models accept, since sizes are not transitive: 1 fits n, n fits 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from onnx import GraphProto

from netfuse_onnx.errors import Mismatch, NotEquivalent
from netfuse_onnx.match.signature import surely_different
from netfuse_onnx.ops.kinds import INDEX_TYPES
from netfuse_onnx.report import DifferenceRow, FamilyRow
from netfuse_onnx.types import Correspondence, Node, Source, ValueType, Weight


class Match(Protocol):
    """Matches sources that have these names, for a target of a provider. Raises NotEquivalent."""

    def __call__(
        self, models: Sequence[Source], names: Sequence[str], *, made_for: str = ""
    ) -> Correspondence: ...


SHORT = 16
"""The largest number of items of a list or a weight that must be equal in models that look alike."""


@dataclass(frozen=True, slots=True)
class Family:
    """`members` are positions of its models, in order, and `source` is the first of them, its inputs
    narrowed. `difference` is that from the largest family; None in that one."""

    members: tuple[int, ...]
    source: Source
    difference: NotEquivalent | None = None


def rows(
    sources: Sequence[Source], names: Sequence[str], match: Match, *, exact: bool = True
) -> tuple[FamilyRow, ...]:
    """Return the families among the sources, the largest first. `exact` as in Grouping."""
    families = Grouping(sources, names, match, exact).families()
    return tuple([_row(family, families[0], sources, names) for family in families])


def pair(sources: Sequence[Source], names: Sequence[str], error: NotEquivalent) -> tuple[FamilyRow, ...]:
    """Return the rows of two models that differ for this reason."""
    first, other = (Family((i,), source) for i, source in enumerate(sources))
    other = replace(other, difference=error)
    return tuple([_row(family, first, sources, names) for family in (first, other)])


def whole(family: Correspondence) -> FamilyRow:
    """Return the row of models that are all one family."""
    one = Family(tuple(range(family.models)), family.sources[0])
    return _row(one, one, family.sources, family.names)


def brief(families: Sequence[FamilyRow]) -> str:
    """Return `2 families: a, b (203 operators, pytorch 2.13.0, dynamo); c, d (317 operators)`. Of the largest
    family not all models are named; of the others, which do not fit, all are."""
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
    """Groups sources. With `exact`, sources that surely differ are not matched; with --partial they may
    fit."""

    def __init__(
        self, sources: Sequence[Source], names: Sequence[str], match: Match, exact: bool = True
    ) -> None:
        self.sources, self.names, self.match, self.exact = sources, names, match, exact
        self._matches: dict[tuple[int, int], tuple[Family, Family, Family | NotEquivalent]] = {}

    def families(self) -> list[Family]:
        """Return the families, the largest first, then that of the earliest model."""
        by_look: dict[Hashable, list[int]] = {}
        for i, source in enumerate(self.sources):
            by_look.setdefault(_look(source), []).append(i)
        groups: list[Family] = []
        for members in by_look.values():
            for family in self._together(members):
                self._add(groups, family)
        groups = [replace(family, members=tuple(sorted(family.members))) for family in groups]
        groups.sort(key=lambda family: (-len(family.members), family.members))
        return self._against_first(groups)

    def _together(self, members: Sequence[int]) -> list[Family]:
        """Return models that look alike as one family if they are one, else each by itself."""
        singles = [Family((i,), self.sources[i]) for i in members]
        if len(members) < 3:
            return singles
        try:
            family = self.match([self.sources[i] for i in members], [self.names[i] for i in members])
        except NotEquivalent:
            return singles
        return [Family(tuple(members), _narrowed(singles[0].source, family))]

    def _add(self, groups: list[Family], family: Family) -> None:
        """Join a family to the first one that it is equivalent to, or put it behind them."""
        for k, other in enumerate(groups):
            if self.exact and surely_different(other.source, family.source):
                continue
            joined = self._joined(other, family)
            if isinstance(joined, Family):
                groups[k] = joined
                return
        groups.append(family)

    def _joined(self, one: Family, other: Family) -> Family | NotEquivalent:
        """Return both as one family, or the reason why they are not."""
        key = id(one.source), id(other.source)
        if key not in self._matches:
            joined: Family | NotEquivalent
            try:  # one model stands for each
                pair = self.match(
                    [one.source, other.source], [self.names[f.members[0]] for f in (one, other)]
                )
                joined = Family(one.members + other.members, _narrowed(one.source, pair))
            except NotEquivalent as error:
                joined = error
            self._matches[key] = one, other, joined
        return self._matches[key][2]

    def _against_first(self, groups: Sequence[Family]) -> list[Family]:
        """Return the families with their differences. A family that fits the largest one after all, as narrow
        as it now is or compared from this side, joins it."""
        first, others = groups[0], []
        for family in groups[1:]:
            joined = self._joined(first, family)
            if isinstance(joined, Family):
                first = replace(joined, members=tuple(sorted(joined.members)))
            else:
                others.append(replace(family, difference=joined))
        return [first, *others]


def _narrowed(source: Source, family: Correspondence) -> Source:
    """Return the source with the inputs that all models of the family accept, otherwise as it was loaded."""
    inputs = {name: family.graph.types[name] for name in source.graph.inputs if name in family.graph.types}
    return source.with_graph(types={**source.graph.types, **inputs})


# --------------------------------------------------------------------------- looks


def _look(source: Source) -> Hashable:
    """Return a key that is equal for models that most likely are one family: they are matched first."""
    graph = source.graph
    types = [graph.types.get(name, ValueType()) for name in graph.inputs]
    inputs = tuple((value_type.dtype, value_type.dims) for value_type in types)
    counts = (Counter(map(_node, graph.nodes)), Counter(map(_weight, graph.weights.values())))
    nodes, weights = (frozenset(count.items()) for count in counts)
    return frozenset(source.opsets.items()), inputs, len(graph.outputs), nodes, weights


def _weight(weight: Weight) -> Hashable:
    """Return the type and shape of a weight, with the bytes of a few integers, which may decide a shape."""
    data = weight.data
    small = weight.dtype in INDEX_TYPES and isinstance(data, bytes) and len(data) <= 8 * SHORT
    return weight.dtype, weight.shape, data if small else None


def _node(node: Node) -> Hashable:
    attributes = tuple((name, _hashable(value)) for name, value in sorted(node.attrs.items()))
    return node.key, len(node.inputs), attributes


def _hashable(value: object) -> Hashable:
    if isinstance(value, int | float | bytes):
        return value
    if isinstance(value, list | tuple) and len(value) <= SHORT and all(isinstance(v, int) for v in value):
        return tuple(value)
    if isinstance(value, GraphProto):
        return tuple(node.op_type for node in value.node)
    return None


# --------------------------------------------------------------------------- rows


def _row(family: Family, first: Family, sources: Sequence[Source], names: Sequence[str]) -> FamilyRow:
    source, error = sources[family.members[0]], family.difference
    return FamilyRow(
        models=tuple(names[i] for i in family.members),
        files=tuple(sources[i].path for i in family.members),
        operators=source.node_count,
        opset=source.opsets.get("", 0),
        producers=tuple(dict.fromkeys(made for i in family.members if (made := sources[i].producer).name)),
        difference=difference(error, first.source.path, source.path) if error else None,
    )


def difference(error: NotEquivalent, one: str, other: str) -> DifferenceRow:
    """Return the row of an error. An error that is not about two models gets these two."""
    mismatch = error.mismatch or Mismatch("other", (one, other))
    return DifferenceRow(message=error.message, hint=error.hint, **asdict(mismatch))
