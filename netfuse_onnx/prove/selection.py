"""Checks a file whose calls choose models: row k is what the model of the k-th id gives.

The cases of the proof choose every model once, the last one first. These calls choose one alone, and some
twice and out of order. An id below 0 or from N on must fail, and so must a call with other rows than ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.proofs import Selection
from netfuse_onnx.prove.compare import compare
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import RunFailed, Session, Value


def choose(session: Session, judge: Judge, tell: Progress) -> Selection | None:
    """Check a merged model on the inputs of the first case. Returns None where a call runs all models."""
    packing, models = judge.trial.packing, judge.trial.family.models
    if not edges.is_selected(packing.labels.io):
        return None
    last = models - 1
    asked = list(dict.fromkeys([(0,), (last,), (last, 0, last)]))
    problems: list[str] = []
    for done, ids in enumerate(asked):
        tell("choosing models", done, len(asked))
        problems += _wrong_rows(session, judge, ids)
    taken = 0
    calls = list(_impossible(judge))
    for what, feeds in calls:
        try:
            session.run(feeds)
        except RunFailed:
            continue
        taken += 1
        problems.append(f"The merged model takes {what}, and must not.")
    return Selection(len(asked), len(calls) - taken, tuple(problems))


def _wrong_rows(session: Session, judge: Judge, ids: tuple[int, ...]) -> Iterator[str]:
    """Yield the rows that are not what the chosen model gives."""
    trial = judge.trial
    called = f"A call for the models {list(ids)}"
    try:
        result = session.run(_feeds(judge, ids))
    except RunFailed as error:
        yield f"{called} fails: {error}."
        return
    for name, line in judge.lines.items():
        rows = result.get(trial.labels.output(0, name))
        if not isinstance(rows, np.ndarray) or not rows.ndim or len(rows) != len(ids):
            yield f"{called} gives no row for each in output {name}."
            continue
        for k, m in enumerate(ids):
            want = trial.outputs[m][0][name]
            gap = compare(np.asarray(rows[k]), want, judge.tolerance(name, want, m))
            if not line.random and not judge.right(name, m, 0, rows[k], want):
                how = gap.problem or f"error {gap.error:.3g}, allowed {gap.allowed:.3g}"
                yield f"{called} gives something else than model {trial.family.names[m]} in row {k}: {how}."


def _feeds(judge: Judge, ids: Sequence[int]) -> dict[str, Value]:
    trial = judge.trial
    drawn = [trial.feeds(trial.cases[0], m) for m in range(trial.family.models)]
    return replace(trial.packing, asked=tuple(ids)).inputs(drawn)


def _impossible(judge: Judge) -> Iterator[tuple[str, dict[str, Value]]]:
    """Yield calls that must fail, and the words for them."""
    trial = judge.trial
    name, models = trial.labels.ids, trial.family.models
    for wrong in (-1, models, -models):
        ids = np.array([0, wrong], np.int64)
        yield f"the id {wrong}", {**_feeds(judge, (0, 0)), name: ids}
    if len(trial.options.share) < len(trial.specs):
        yield "two ids for one row", {**_feeds(judge, (0,)), name: np.array([0, 0], np.int64)}
        yield "one id for two rows", {**_feeds(judge, (0, 0)), name: np.array([0], np.int64)}
