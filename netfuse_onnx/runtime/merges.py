"""From how many waiting models on a merged call pays: the scheduler's own answer, for a report."""

from __future__ import annotations

from collections.abc import Hashable

from netfuse_onnx.runtime.schedule import Limits, Load, Waiting, choose
from netfuse_onnx.runtime.types import Call, Costs, Request


def merges_from(
    costs: Costs,
    models: int,
    form: Hashable = (),
    workers: int = 1,
    *,
    rows: int = 1,
    limits: Limits | None = None,
) -> int | None:
    """Return the smallest number of waiting models, each with one request of so many rows, for which the
    scheduler takes a merged call; None where it does for no number. `workers` counts the calls that may run
    at the same time."""
    waiting = Waiting()
    for model in range(models):
        waiting.add(Request(model, (), rows, form, float(model)))
        call = choose(waiting, costs, float(models), limits or Limits(), load=Load(workers))
        if isinstance(call, Call) and call.kind == "merged":
            return model + 1
    return None
