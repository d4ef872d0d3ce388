"""The cost by which a plan for a target is chosen."""

from __future__ import annotations

from collections.abc import Mapping

from netfuse_onnx.plan import targets
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.measured import Measured
from netfuse_onnx.plan.sized import assumed
from netfuse_onnx.types import Correspondence


def cost(target: str, family: Correspondence, dims: Mapping[str, int]) -> Cost:
    """Nodes and bytes, or what was measured on the target. FileFault where the target is a file that can't
    be read."""
    if target == "generic":
        return Cost(family.models)
    return Measured(family.models, targets.target(target), assumed(family.graph, dims))
