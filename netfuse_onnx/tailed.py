"""Facts of families whose models end in tails of their own (match/tails.py)."""

from __future__ import annotations

from netfuse_onnx.types import Correspondence


def having(family: Correspondence, output: str) -> list[int]:
    """Return the models that have an output."""
    if not family.tails:
        return list(range(family.models))
    return [model for model in range(family.models) if output in family.edge(model).outputs]


def owner(family: Correspondence, weight: str) -> int | None:
    """Return the model whose tail has the weight; None for a weight of the common graph."""
    return next((model for model, tail in enumerate(family.tails) if weight in tail.weights), None)
