"""How much a source's outputs change by rounding alone.

A merged graph adds up in another order than its sources; how far that may carry is a property of the source,
so it is measured there: the same inputs with graph optimisations off, and the same inputs several times in
one batch (which takes other matrix kernels, as a merged model does).
"""

from __future__ import annotations

import numpy as np

from netfuse_onnx.prove.compare import difference
from netfuse_onnx.prove.trial import Trial
from netfuse_onnx.run import symbols
from netfuse_onnx.run.runtime import RunFailed, Session, Value

COPIES = 4
ROWS_APART = 1e-3
"""Change, relative to the largest output, from which rows of a batch are taken to depend on each other."""


def measure(trial: Trial, model: int, cases: set[int]) -> dict[int, dict[str, float]]:
    """Case -> output -> largest absolute change by rounding. 0 where it can't be measured."""
    noise = {case: dict.fromkeys(trial.outputs[model][case], 0.0) for case in cases}
    for probe, optimise in ((_plain, False), (_repeated, True)):
        try:
            session = Session(trial.family.sources[model].path, trial.options.runtime, optimise=optimise)
            for case in cases:
                for name, change in probe(trial, session, model, case).items():
                    noise[case][name] = max(noise[case][name], change)
            del session  # before the next is made
        except RunFailed:
            continue  # then this probe tells nothing
    return noise


def _plain(trial: Trial, session: Session, model: int, case: int) -> dict[str, float]:
    """The same run on a session without optimisations."""
    again = trial.run(session, model, trial.feeds(trial.cases[case], model))
    changes = {name: difference(again[name], want)[0] for name, want in trial.outputs[model][case].items()}
    return {name: change for name, change in changes.items() if np.isfinite(change)}


def _repeated(trial: Trial, session: Session, model: int, case: int) -> dict[str, float]:
    """Every input COPIES times along its batch axis, every output taken apart again. Where memory allows."""
    if not trial.room.fits(trial.cases[case], COPIES):
        return {}
    batches = set(symbols.batches([spec.dims for spec in trial.specs]))
    feeds = trial.feeds(trial.cases[case], model)
    for spec in trial.specs:
        for axis in [i for i, dim in enumerate(spec.dims or ()) if dim in batches]:
            feeds[spec.name] = np.concatenate([np.asarray(feeds[spec.name])] * COPIES, axis)
    changes = {}
    for name, wide in trial.run(session, model, feeds).items():
        want = trial.outputs[model][case][name]
        found = [difference(copy, want) for copy in _apart(wide, want)]
        close = [change for change, scale in found if change <= ROWS_APART * scale]
        changes[name] = max(close, default=0.0)
    return changes


def _apart(wide: Value, want: Value) -> list[Value]:
    """The copies in an output; none where its batch axis can't be told."""
    if not isinstance(wide, np.ndarray) or not isinstance(want, np.ndarray) or wide.ndim != want.ndim:
        return []
    axes = [i for i in range(want.ndim) if wide.shape[i] != want.shape[i]]
    if len(axes) != 1 or wide.shape[axes[0]] != COPIES * want.shape[axes[0]]:
        return []
    return list(np.split(wide, COPIES, axes[0]))
