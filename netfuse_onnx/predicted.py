"""The cost of a plan that the costs of its target predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SizeRow:
    """Sizes of symbolic dims for which a plan was made, the microseconds that a call takes there by the costs
    of the target, and those of the best plan for these sizes alone."""

    dims: Mapping[str, int]
    microseconds: float
    best: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The expected cost of a plan on its target, in microseconds a call: by what became of the nodes,
    and for whole plans that it was chosen over. `nodes`: per node, its cost beside its next best way's.
    `sizes`: one row for each combination of sizes that the plan was made for."""

    parts: Mapping[str, float]
    alternatives: Mapping[str, float]
    nodes: tuple[str, ...]
    sizes: tuple[SizeRow, ...] = ()
