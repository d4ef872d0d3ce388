"""Tells from how many waiting models on a MergedSession takes a merged call, by what bench measured.

The scheduler itself is asked. So the answer is that of a session whose calls take what they took here; a
session measures its own when it opens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from netfuse_onnx.measure.contenders import Concurrent, InSequence, NotWaiting
from netfuse_onnx.measure.report import Row, Serving, Waiting
from netfuse_onnx.runtime.costs import given
from netfuse_onnx.runtime.pays import pays_from
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
    found = pays_from(of_calls(models, each, {**chosen, models: merged}), models)
    return Serving(label, alone, each, merged, found, GAIN)


def of_calls(models: int, each: float, merged: Mapping[int, float]) -> Costs:
    """Return costs by which own sessions take `each` seconds for a request, and merged calls those of
    `merged`, by the models that a call runs: the last is a call of all."""
    if len(merged) > 1:
        return given("selected", models, {1: each}, merged)
    return given("stacked", models, {1: each}, {1: merged[models]})
