"""The verdicts of `check`, and of a merge which just wrote its file.

Times are those that the costs of a target predict, or that --tune measured. `check` takes the target of the
provider at hand.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from netfuse_onnx import edges, verdict
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.lowered import Lowered, Merged
from netfuse_onnx.plan import planner, targets
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.prediction import BATCHED, ONE_BY_ONE
from netfuse_onnx.plan.sized import assumed
from netfuse_onnx.report import MergeReport
from netfuse_onnx.run import runtime
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence
from netfuse_onnx.verdict import Basis, Compared, Verdict

MICROSECOND = 1e-6


def provider() -> str:
    """Return the provider at hand, which names a target: cuda where it is usable, else cpu."""
    try:
        return runtime.choose("auto").provider
    except UsageFault:  # there is no ONNX Runtime, which check does not need
        return "cpu"


def of_check(family: Correspondence, merged: Merged, target: str, for_target: Correspondence) -> Verdict:
    """Return the verdict on a merge that is not written. Bytes are those of `merged`, without a target; times
    are predicted for `target`, whose family is `for_target`."""
    plan = planner.plan(for_target, cost=cost(target, for_target, {}))
    prediction = plan.prediction
    assert prediction is not None  # every target has costs
    call, apart = sum(prediction.parts.values()), prediction.alternatives[ONE_BY_ONE]
    found = verdict.predicted(
        family.models,
        call=call * MICROSECOND,
        one_by_one=apart * MICROSECOND,
        weights=(weights.stored(merged.model), bytes_of_weights(family)),
        files=(weights.stored(merged.model) + merged.model.ByteSize(), bytes_of_files(family)),
        warning=_warning(merged.report),
    )
    notes = _notes(family, target, apart / prediction.alternatives[BATCHED])
    return replace(found, label=f"merged with --target {target}", notes=tuple(notes))


def of_merge(report: MergeReport, family: Correspondence) -> Verdict:
    """Return the verdict on a merged file: its bytes, and the times that its target predicts."""
    measured = _of_tuning(report, family)
    if measured is not None:
        return measured
    lowered = report.lowered
    call, apart = sum(lowered.predicted.values()), lowered.alternatives.get(ONE_BY_ONE)
    return verdict.predicted(
        family.models,
        call=call * MICROSECOND if lowered.predicted and not edges.is_selected(report.io) else None,
        one_by_one=None if apart is None else apart * MICROSECOND,
        weights=(report.distinct_bytes, bytes_of_weights(family)),
        files=(report.size, bytes_of_files(family)),
        written=True,
        warning=_warning(lowered),
    )


def _of_tuning(report: MergeReport, family: Correspondence) -> Verdict | None:
    """Return the verdict by what --tune measured, at the first choice of sizes; None where it did not."""
    rows = [row for row in report.tuning.rows if row.seconds] if report.tuning else []
    if report.tuning is None or not rows:
        return None
    case = report.tuning.cases[0]
    at_sizes = {row.way: row for row in rows if row.case == case.case}
    own, best = at_sizes.get(report.tuning.chosen), at_sizes.get(case.best)
    sessions = at_sizes.get("in sequence") or at_sizes.get("concurrent")
    if own is None or best is None or not own.seconds or not best.seconds:
        return None
    memory = (own.resident, sessions.resident) if sessions else (0, 0)
    load = (own.load, sessions.load) if sessions else (0.0, 0.0)
    return verdict.judge(
        family.models,
        memory=Compared(*memory) if all(memory) else None,
        load=Compared(*load) if all(load) else None,
        files=Compared(report.size, bytes_of_files(family), basis=Basis.COUNTED),
        some={family.models: Compared(own.seconds, best.seconds, case.low, case.high, best.way)},
        warning=_warning(report.lowered),
    )


def bytes_of_weights(family: Correspondence) -> int:
    """Return the bytes of the weights of all sources, but not of what their attributes hold."""
    return sum(weights.nbytes(w) for source in family.sources for w in source.graph.weights.values())


def bytes_of_files(family: Correspondence) -> int:
    """Return the bytes of the files of all sources. A file that several sources share is counted for each:
    a session of each loads it. 0 where one can't be read any more: the merge is done without it."""
    try:
        return sum(
            sum(file.size for file in source.original.files)
            if source.original
            else sum(map(os.path.getsize, source.files))
            for source in family.sources
        )
    except OSError:
        return 0


def _warning(lowered: Lowered) -> str:
    counts = Counter(row.became for row in lowered.nodes)
    return verdict.mostly_replicated(counts, lowered.source_nodes, lowered.merged_nodes)


def _notes(family: Correspondence, target: str, generic: float) -> Iterator[str]:
    """Yield sentences on what the prediction depends on."""
    yield f"Without --target, a call of all models is predicted at {generic:.2f} times the sessions' speed."
    sizes = assumed(family.graph, {})
    if sizes:
        yield f"Predicted for {', '.join(f'{name}={size}' for name, size in sizes.items())}."
    yield from targets.unmeasured(target)
