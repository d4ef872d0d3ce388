"""The oracle for models whose attributes differ, which are weights in ai.onnx.ml."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import oracle
from onnx import NodeProto, TensorProto, helper
from oracle import IO, Array

from netfuse_onnx.plan import planner
from netfuse_onnx.types import Became


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
