"""The oracle for models whose attributes differ, which are weights in ai.onnx.ml."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
from onnx import NodeProto, TensorProto, helper
from oracle import IO, Array

from netfuse_onnx.plan import planner
from netfuse_onnx.types import Became

COLUMNS = 3


def table(
    op: str,
    attrs: dict[str, Any],
    *,
    columns: int = 3,
    rows: int | str = "B",
    outputs: Sequence[int] = (TensorProto.FLOAT,),
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    version: int = 3,
) -> onnx.ModelProto:
    """A model of one operator of ai.onnx.ml on rows [B, columns]. `outputs` are its types."""
    names = ["y", "z"][: len(outputs)]
    node: NodeProto = helper.make_node(op, ["x"], names, domain="ai.onnx.ml", **attrs)
    infos = [
        helper.make_tensor_value_info(name, type_, None) for name, type_ in zip(names, outputs, strict=True)
    ]
    x = helper.make_tensor_value_info("x", kind, [rows, columns])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(helper.make_graph([node], "g", [x], infos), opset_imports=imports, ir_version=8)


def forest(
    seed, *, trees=2, depth=2, targets=1, mode="BRANCH_LEQ", whole=True, tracks=False, leaves="target"
):
    """Full trees. `whole`: thresholds and weights are small whole numbers, and any order of a sum is exact."""
    rng = np.random.default_rng(seed)

    def draw(low, high):
        return float(rng.integers(low, high) if whole else np.float32(rng.uniform(low, high)))

    size, inner = 2 ** (depth + 1) - 1, 2**depth - 1
    made = {f"nodes_{name}": [] for name in (
        "falsenodeids", "featureids", "modes", "nodeids", "treeids", "truenodeids", "values",
    )}  # fmt: skip
    made |= {f"{leaves}_{name}": [] for name in ("ids", "nodeids", "treeids", "weights")}
    for tree, node in itertools.product(range(trees), range(size)):
        leaf = node >= inner
        made["nodes_treeids"].append(tree)
        made["nodes_nodeids"].append(node)
        made["nodes_modes"].append("LEAF" if leaf else mode)
        made["nodes_featureids"].append(0 if leaf else int(rng.integers(COLUMNS)))
        made["nodes_values"].append(0.0 if leaf else draw(-1, 2))
        made["nodes_truenodeids"].append(0 if leaf else 2 * node + 1)
        made["nodes_falsenodeids"].append(0 if leaf else 2 * node + 2)
        for target in range(targets) if leaf else ():
            made[f"{leaves}_ids"].append(target)
            made[f"{leaves}_nodeids"].append(node)
            made[f"{leaves}_treeids"].append(tree)
            made[f"{leaves}_weights"].append(draw(-2, 3))
    if tracks:
        made["nodes_missing_value_tracks_true"] = rng.integers(0, 2, trees * size).tolist()
    return made


def agree(
    models: Sequence[onnx.ModelProto],
    x: Array,
    folder: Path,
    *,
    reason: str = "",
    ios: Sequence[str] = IO,
    shares: Sequence[bool] = (False, True),
) -> None:
    """Every merge of the models, by every lowering, gives what each gives alone, to the bit where `x` has rows
    of whole numbers that are small. `x` is [N, B, C]. `reason`: some node is replicated, and says so."""
    paths = saved(models, folder)
    corr = oracle.family(paths)
    for io, share in itertools.product(ios, shares):
        role = {"x": "shared input" if share else "input"}
        singles = oracle.run_apart(paths, {"x": x}, role)
        for plan, merged, what in oracle.every_merge(corr, role, io):
            left = [low.reason for low in plan.lowerings if low.became is Became.REPLICATED]
            assert bool(reason) == bool(left), f"{left} {what}"
            assert not left or re.search(reason, left[0]), f"{left} {what}"
            for level in oracle.LEVELS:
                got = oracle.run(merged, oracle.merged_feeds({"x": x}, role, io, corr.names), level)
                oracle.compare(singles, got, io, corr.names, what, None)


def said(models: Sequence[onnx.ModelProto], folder: Path, reason: str) -> None:
    """The one node is replicated for this reason. Its kernel may not even load."""
    plan = planner.plan(oracle.family(saved(models, folder)), io="separate", share=frozenset())
    assert re.search(reason, plan.lowerings[0].reason), plan.lowerings[0].reason


def saved(models: Sequence[onnx.ModelProto], folder: Path) -> list[Path]:
    """The files of the models."""
    paths = [folder / f"m{m}.onnx" for m in range(len(models))]
    for model, path in zip(models, paths, strict=True):
        onnx.save(model, path)
    return paths
