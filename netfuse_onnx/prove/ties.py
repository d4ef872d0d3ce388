"""Index outputs that differ: a tie, if both indices select the same score, else an error.

The scores are not an output of the model, so the source is run once more with them added to its outputs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from netfuse_onnx.proofs import OutputProof
from netfuse_onnx.prove.compare import BY_PRECISION
from netfuse_onnx.prove.lineage import Lineage, Scores
from netfuse_onnx.run.runtime import Array, RunFailed, Runtime, Session, Value


def resolve(
    row: OutputProof,
    got: Value,
    want: Value,
    scores: Array | None,
    line: Lineage,
) -> OutputProof:
    """The row as it stands, or passed with a count of ties when all differing indices are ties."""
    if not isinstance(got, np.ndarray) or not isinstance(want, np.ndarray) or line.scores is None:
        return row
    if got.shape != want.shape or scores is None:
        return row
    try:
        mine, theirs = _select(scores, got, line.scores), _select(scores, want, line.scores)
    except (IndexError, ValueError):
        return row
    limit = BY_PRECISION[line.precision]
    scale = float(np.abs(scores[np.isfinite(scores)]).max(initial=0.0))
    close = np.abs(mine - theirs) <= limit.rtol * np.abs(theirs) + limit.atol * scale
    if not close.all():
        return row
    return replace(row, ratio=0.0, wrong=0, ties=int((got != want).sum()), precision="index, ties by score")


def scores_of(path: str, value: str, feeds: Mapping[str, Value], runtime: Runtime) -> Array | None:
    """The value inside of a source model file, as float64; None where it can't be had.

    `feeds` are by that file's own names.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    made = {out for node in model.graph.node for out in node.output}
    if value not in made or model.ByteSize() >= 2**31 - 2**20:
        return None
    if value not in {out.name for out in model.graph.output}:
        model.graph.output.append(onnx.ValueInfoProto(name=value))
    try:
        session = Session(model.SerializeToString(), runtime, folder=os.path.dirname(os.path.abspath(path)))
        found = session.run(feeds)[value]
    except RunFailed:
        return None
    return None if found is None or isinstance(found, list) else np.asarray(found).astype(np.float64)


def _select(scores: Array, indices: Array, how: Scores) -> Array:
    """The scores that an index output selects. Raises IndexError or ValueError when they don't fit."""
    where = indices.astype(np.int64)
    if not how.top and not how.keepdims:
        where = np.expand_dims(where, how.axis)
    if where.size and (where.min() < 0 or where.max() >= scores.shape[how.axis]):
        raise IndexError("an index is out of range")
    picked: Array = np.take_along_axis(scores, where, how.axis)
    return picked if how.top or how.keepdims else np.squeeze(picked, how.axis)
