"""The output of lower: the merged graph, and the report on it that metadata hold and `inspect` reads back."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from netfuse_onnx.predicted import SizeRow
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Became, Plan

if TYPE_CHECKING:
    import onnx

REQUIRED = frozenset({"name", "op", "became"})
"""The keys of a node's row that metadata hold even where they are empty."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """The outcome of one node of the first source."""

    name: str
    op: str
    became: str
    rule: str = ""
    reason: str = ""
    cost: str = ""
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversion:
    """A change of layout that was inserted. `nodes` is how many nodes it took; 0 is a renaming.
    `boundary`: it joins an input or splits an output."""

    value: str
    before: str
    after: str
    nodes: int = 0
    boundary: bool = False

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Conversion:
        return cls(row["value"], row["from"], row["to"], row.get("nodes", 0), row.get("boundary", False))

    def written(self) -> dict[str, Any]:
        ends = {"value": self.value, "from": self.before, "to": self.after}
        return {**ends, "nodes": self.nodes, "boundary": self.boundary}


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """The nodes of one operator, counted by what became of them."""

    op: str
    total: int
    batched: int
    grouped: int
    shared: int
    replicated: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """The report on a merged graph, which the merged file carries and `inspect` reads back."""

    nodes: tuple[NodeRow, ...]
    conversions: tuple[Conversion, ...]
    source_nodes: int
    merged_nodes: int
    boundary_nodes: int
    notes: tuple[str, ...] = ()
    predicted: Mapping[str, float] = field(default_factory=dict)
    """Microseconds a call that the target's costs say, by what became of the nodes."""
    alternatives: Mapping[str, float] = field(default_factory=dict)
    """The same for whole plans that lost."""
    sizes: tuple[SizeRow, ...] = ()
    """The sizes for which a plan for a target was made."""

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Lowered:
        """The report of a merged file, from the checked value of its metadata (write/schema.py)."""
        keys = {field.name for field in dataclasses.fields(cls)}
        counts = {"source_nodes": 0, "merged_nodes": 0, "boundary_nodes": 0}
        nodes = tuple(NodeRow(**row) for row in value.get("nodes", ()))
        conversions = tuple(Conversion.read(row) for row in value.get("conversions", ()))
        given = {key: value[key] for key in value.keys() & keys}
        sizes = tuple(SizeRow(**row) for row in value.get("sizes", ()))
        return cls(**{**counts, **given, "nodes": nodes, "conversions": conversions, "sizes": sizes})

    def written(self) -> dict[str, Any]:
        """The report as metadata hold it: plain values, without what is empty in a node's row."""
        rows = [
            {key: v for key, v in dataclasses.asdict(row).items() if v or key in REQUIRED}
            for row in self.nodes
        ]
        became = dict(sorted(Counter(row.became for row in self.nodes).items()))
        conversions = [conversion.written() for conversion in self.conversions]
        value = {**dataclasses.asdict(self), "nodes": rows, "became": became, "conversions": conversions}
        return value if self.sizes else {key: v for key, v in value.items() if key != "sizes"}

    def operators(self) -> tuple[OperatorRow, ...]:
        """One row per operator, the most frequent first."""
        counts: dict[str, Counter[str]] = {}
        for node in self.nodes:
            counts.setdefault(node.op, Counter())[node.became] += 1
        rows = [
            OperatorRow(op, count.total(), **{became.value: count[became] for became in Became})
            for op, count in counts.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.total, row.op)))

    @property
    def replicated(self) -> tuple[NodeRow, ...]:
        return tuple(node for node in self.nodes if node.became == Became.REPLICATED)


@dataclass(frozen=True, slots=True)
class Merged:
    """The lowered graph: an onnx.ModelProto whose large initializers are data-less, the recipe of each
    of those by initializer name, the report, and the cost of the plan. The writer fills in the bytes.
    `inline`: the recipes of the small initializers, whose values the model holds already. `plan`: the plan
    that was lowered."""

    model: onnx.ModelProto
    recipes: Mapping[str, Recipe]
    report: Lowered
    cost: float = 0.0
    inline: Mapping[str, Recipe] = field(default_factory=dict)
    plan: Plan | None = None

    @property
    def every_recipe(self) -> dict[str, Recipe]:
        """The recipes of all weights, large and small."""
        return {**self.recipes, **self.inline}
