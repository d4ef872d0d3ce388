"""Tells from how many waiting models on a MergedSession takes a merged call, by what bench measured.

The scheduler itself is asked, while requests of one model after the other join those that wait. So the answer
is that of a session whose calls take what they took here. A session measures its own when it opens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from netfuse_onnx.measure.contenders import Concurrent, InSequence, NotWaiting
from netfuse_onnx.measure.report import Row, Serving, Waiting
from netfuse_onnx.runtime.costs import FormTimes, MeasuredCosts
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.merges import merges_from
from netfuse_onnx.runtime.types import Costs
from netfuse_onnx.runtime.ways import GAIN

OWN = (InSequence.kind, NotWaiting.kind, Concurrent.kind)
"""The ways in which own sessions serve: one call after the other, or several calls at the same time."""


def serving(models: int, label: str, rows: Sequence[Row], some: Sequence[Waiting]) -> Serving | None:
    """Return what a MergedSession does with the merged file `label`; None where a call of one model was not
    measured, or the file did not run. `some` has the calls that were measured of some models."""
    merged = min((row.median for row in rows if row.label == label and row.ran), default=None)
    calls = {row.models: row for row in some if row.label == label}
    if merged is None or 1 not in calls:
        return None
    alone = calls[1].seconds.median
    every = min((row.median for row in rows if row.kind in OWN and row.ran), default=math.inf)
    each = min(alone, every / models)
    chosen = {k: row.merged.median for k, row in calls.items() if row.chosen}
    costs = of_calls(models, each, {**chosen, models: merged})
    return Serving(label, alone, each, merged, merges_from(costs, models), GAIN)


def of_calls(models: int, each: float, merged: Mapping[int, float]) -> Costs:
    """Return costs by which own sessions take `each` seconds for a request, and merged calls those of
    `merged`, by the models that a call runs: the last is a call of all."""
    own = Curve({1: each})
    times = (
        FormTimes("selected", models, own, {1: Curve(merged)})
        if len(merged) > 1
        else FormTimes("stacked", models, own, {1: Curve({1: merged[models]})})
    )
    return MeasuredCosts(times.io, models, {(): times}, lambda form: 1.0)
