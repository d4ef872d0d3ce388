"""Chooses how the rows of a routed call find their models: by slots or by index."""

from __future__ import annotations

from netfuse_onnx import edges
from netfuse_onnx.dims import Sizes
from netfuse_onnx.plans import Plan
from netfuse_onnx.routing import shared
from netfuse_onnx.types import Correspondence

__all__ = ["plan", "shared"]


def plan(
    family: Correspondence, io: str, routing: str, *, share: frozenset[str], target: str, dims: Sizes
) -> Plan:
    """Plan and lower a family; of a routed one by the lowering that is asked for, or costs less."""
    if io == edges.ROUTED:
        io = edges.SLOTS
    return Plan.of(family, io=io, share=share, target=target, dims=dims)
