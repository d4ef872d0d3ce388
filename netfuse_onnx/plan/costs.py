"""The cost by which a plan for a target is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from netfuse_onnx.dims import Sizes, points
from netfuse_onnx.plan import targets
from netfuse_onnx.plan.card import Card
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.device import Device
from netfuse_onnx.plan.measured import Measured
from netfuse_onnx.plan.several import Several
from netfuse_onnx.plan.sized import assumed
from netfuse_onnx.plan.targets import Target
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.types import Correspondence

C = TypeVar("C", bound=Cost)


def cost(target: str, family: Correspondence, dims: Sizes) -> Cost:
    """Nodes and bytes, or microseconds on the target. FileFault where the target is a file that can't
    be read."""
    if target == "generic":
        return _limited(Cost(family.models), family)
    constants = targets.target(target)
    each = [_limited(_at(constants, family, point), family) for point in points(dims)]
    return each[0] if len(each) == 1 else Several(each)


def _limited(cost: C, family: Correspondence) -> C:
    """The cost, with the lowerings on offer that the family may have."""
    cost.portable = family.portable
    return cost


def _at(constants: Target | Card, family: Correspondence, dims: Mapping[str, int]) -> Timed:
    """The cost at one size."""
    sizes = assumed(family.graph, dims)
    if isinstance(constants, Card):
        return Device(family.models, constants, sizes)
    return Measured(family.models, constants, sizes)
