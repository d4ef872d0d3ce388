"""The plan of a control-flow operator that runs once for all models, with the plans of its bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netfuse_onnx.layouts import Layout
from netfuse_onnx.types import Correspondence, Plan


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """One body as a correspondence of its own, and its plan. `inputs` are the layouts of what the operator
    hands to the body, in order; `outputs` are those of what the body gives back."""

    corr: Correspondence
    plan: Plan
    inputs: Mapping[str, Layout]
    outputs: Mapping[str, Layout]


@dataclass(frozen=True, slots=True)
class NestedPlan:
    """`bodies` are named by their attributes, `attrs` are the other attributes that change. `nodes` is the
    cost of the operator and its bodies."""

    bodies: Mapping[str, BodyPlan]
    attrs: Mapping[str, object]
    nodes: float
