"""From how many waiting models on a merged call pays: the scheduler's own answer, for a report."""

from __future__ import annotations

from collections.abc import Hashable

from netfuse_onnx.runtime.schedule import Limits, Waiting, choose
from netfuse_onnx.runtime.types import Call, Costs, Request


def pays_from(
    costs: Costs,
    models: int,
    *,
    form: Hashable = (),
    rows: int = 1,
    limits: Limits | None = None,
    workers: int = 1,
) -> int | None:
    """Return how many of the models must have a request waiting, each of so many rows, for the next call to
    be a merged one; None where not even all of them are enough.

    `costs.given` makes costs of a few times in seconds.
    """
    waiting = Waiting()
    for model in range(models):
        waiting.add(Request(model, (), rows, form, float(model)))
        call = choose(waiting, costs, float(models), limits or Limits(), workers=workers)
        if isinstance(call, Call) and call.kind == "merged":
            return model + 1
    return None
