"""What became of each node: the part of a report that the merged file carries and `inspect` reads back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netfuse_onnx.types import Became


@dataclass(frozen=True, slots=True)
class NodeRow:
    """What became of one node of the first source."""

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


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """How many nodes of one operator became what."""

    op: str
    total: int
    batched: int
    grouped: int
    shared: int
    replicated: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """What the plan did: the part of the report that the merged file carries and `inspect` reads back."""

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

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> Lowered:
        """From the mapping that lower writes. Unknown keys are ignored, so that old files stay readable."""
        return cls(
            nodes=tuple(_node(row) for row in report.get("nodes", ())),
            conversions=tuple(_conversion(row) for row in report.get("conversions", ())),
            source_nodes=int(report.get("source_nodes", 0)),
            merged_nodes=int(report.get("merged_nodes", 0)),
            boundary_nodes=int(report.get("boundary_nodes", 0)),
            notes=tuple(map(str, report.get("notes", ()))),
            predicted=_prices(report.get("predicted", {})),
            alternatives=_prices(report.get("alternatives", {})),
        )

    def operators(self) -> tuple[OperatorRow, ...]:
        """One row per operator, the most frequent first."""
        counts: dict[str, dict[str, int]] = {}
        for node in self.nodes:
            row = counts.setdefault(node.op, dict.fromkeys(Became, 0))
            row[node.became] = row.get(node.became, 0) + 1
        rows = [
            OperatorRow(op, sum(c.values()), c["batched"], c["grouped"], c["shared"], c["replicated"])
            for op, c in counts.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.total, row.op)))

    @property
    def replicated(self) -> tuple[NodeRow, ...]:
        return tuple(node for node in self.nodes if node.became == Became.REPLICATED)


def _node(row: Mapping[str, Any]) -> NodeRow:
    keys = {f.name for f in dataclasses.fields(NodeRow)}
    known = {k: tuple(v) if isinstance(v, list | tuple) else str(v) for k, v in row.items() if k in keys}
    return NodeRow(**{"name": "", "op": "", "became": ""} | known)  # type: ignore[arg-type]


def _prices(row: Mapping[str, Any]) -> dict[str, float]:
    return {str(key): float(value) for key, value in row.items()}


def _conversion(row: Mapping[str, Any]) -> Conversion:
    where, nodes = bool(row.get("boundary", False)), int(row.get("nodes", 0))
    return Conversion(str(row["value"]), str(row["from"]), str(row["to"]), nodes, where)
