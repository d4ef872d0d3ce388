"""The oracle for models that a call chooses: row k is what the model of the k-th id gives, whatever the ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import oracle
from cases import Array

from netfuse_onnx.errors import NotStackable
from netfuse_onnx.labels import Labels
from netfuse_onnx.types import Became, Correspondence

IO = "selected"


def calls(models: int) -> list[list[int]]:
    """Ids of calls: all backwards, one, some twice and out of order, more than there are models."""
    last = models - 1
    return [list(range(models))[::-1], [last], [last, 0, last], [0] * (models - 1) + [last, last // 2, last]]


def wrong(models: int) -> list[list[int]]:
    """Ids of calls that must fail."""
    return [[-1], [0, models], [models - 1, -models], [0, 1 << 40]]


def check(
    model: onnx.ModelProto,
    values: Mapping[str, Array],
    role: Mapping[str, str],
    folder: Path,
    *,
    keep_opset: bool = False,
    tolerance: float | None = None,
) -> str:
    """Merge by every lowering on offer, and compare calls of chosen models with the sources. Returns '' or the
    reason why no call can choose the models."""
    paths = oracle.as_models(model, values, role, folder)
    corr = oracle.family(paths, keep_opset=keep_opset)
    singles: list[dict[str, Array]] | None = None
    try:
        for turn, (plan, merged, what) in enumerate(oracle.every_merge(corr, role, IO)):
            assert not any(low.became is Became.REPLICATED for low in plan.lowerings), what
            singles = singles or oracle.run_apart(paths, values, role)
            for level in oracle.LEVELS if turn == 0 else oracle.LEVELS[turn % 2 :][:1]:
                _calls(corr, merged, values, role, singles, level, turn, f"{what} {level}", tolerance)
    except NotStackable as reason:
        return str(reason)
    return ""


def _calls(
    corr: Correspondence,
    merged: bytes,
    values: Mapping[str, Array],
    role: Mapping[str, str],
    singles: Sequence[Mapping[str, Array]],
    level: object,
    turn: int,
    what: str,
    tolerance: float | None,
) -> None:
    session = oracle.session(merged, level)  # type: ignore[arg-type]
    every = calls(corr.models)
    for ids in every if turn == 0 else [every[turn % len(every)]]:
        try:
            got = oracle.ask(session, feeds(corr, values, role, ids))
        except Exception:  # -1 is undefined beside an empty axis: no wrong value, but an error
            assert any(not one.size for one in (*values.values(), *singles[0].values())), what
            continue
        for name in singles[0]:
            assert len(got[name]) == len(ids), f"{what}: {name} has {len(got[name])} rows for {ids}"
            for k, m in enumerate(ids):
                have, want = got[name][k], singles[m][name]
                label = f"{what}: row {k} of {name} for {ids}"
                assert have.shape == want.shape and have.dtype == want.dtype, label
                oracle.close(have, want, label, tolerance)
    for ids in wrong(corr.models) if turn == 0 else [[-1, 0], [corr.models]]:
        rows = [0] * len(ids)
        assert _fails(session, feeds(corr, values, role, rows, ids)), f"{what}: ids {ids} are taken"
    if "input" in role.values():
        for rows, ids in (([0], [0, 0]), ([0, 0], [0])):
            assert _fails(session, feeds(corr, values, role, rows, ids)), f"{what}: {rows} for {ids}"


def feeds(
    corr: Correspondence,
    values: Mapping[str, Array],
    role: Mapping[str, str],
    rows: Sequence[int],
    ids: Sequence[int] | None = None,
) -> dict[str, Array]:
    """The inputs of a call: the values of models `rows`, for those that `ids` names."""
    fed = {Labels.of(corr, IO, oracle.shared(role)).ids: np.array(rows if ids is None else ids, np.int64)}
    for name, kind in role.items():
        if kind == "shared input":
            fed[name] = values[name][0]
        elif kind == "input":
            fed[name] = np.stack([values[name][m] for m in rows])
    return fed


def _fails(session: object, fed: Mapping[str, Array]) -> bool:
    try:
        oracle.ask(session, fed)  # type: ignore[arg-type]
    except Exception:  # ONNX Runtime raises classes of its own, without a common base
        return True
    return False
