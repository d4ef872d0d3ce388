"""Facts of families whose models end in tails of their own (match/tails.py)."""

from __future__ import annotations

from netfuse_onnx import edges
from netfuse_onnx.errors import NotStackable
from netfuse_onnx.types import Correspondence


def having(family: Correspondence, output: str) -> list[int]:
    """Return the models that have an output."""
    if not family.tails:
        return list(range(family.models))
    return [model for model in range(family.models) if output in family.edge(model).outputs]


def owner(family: Correspondence, weight: str) -> int | None:
    """Return the model whose tail has the weight; None for a weight of the common graph."""
    return next((model for model, tail in enumerate(family.tails) if weight in tail.weights), None)


def refuse_stacked(family: Correspondence, io: str) -> None:
    """Raise NotStackable where models end in tails and their outputs are not kept apart."""
    if family.tails and not edges.is_separate(io):
        raise NotStackable(
            f"{family.sources[0].path} and the other models end in operators of their own, so one output "
            "can't stand for all of them.",
            "Use --io separate.",
        )
