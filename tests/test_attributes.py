"""Attributes that differ between the models: constants with a model axis, or once per model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import oracle
import pytest

from netfuse_onnx.load.loader import load
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.types import Became

CASES = {
    "LeakyRelu": ["alpha = 0.1", "alpha = 0.3", ""],
    "Elu": ["alpha = 0.5", "", "alpha = 2.0"],
    "ThresholdedRelu": ["alpha = 0.2", "alpha = -0.1", ""],
    "HardSigmoid": ["alpha = 0.3, beta = 0.4", "beta = 0.6", ""],
    "ai.onnx.ml.Scaler": [f"offset = [{k}.0, 1.0, 2.0], scale = [0.5, 2.0, {k + 1}.0]" for k in range(3)],
    "ai.onnx.ml.Imputer": [
        f"imputed_value_floats = [{k}.0, 1.0, 2.0], replaced_value_float = {k}.5" for k in range(3)
    ],
    "ai.onnx.ml.LinearRegressor": [
        f"coefficients = [{k}.0, 1.0, 2.0, -1.0, 0.5, {k + 1}.5], intercepts = [0.1, {k}.2], targets = 2"
        for k in range(3)
    ],
}


def model(op: str, attrs: str, dims: str) -> onnx.ModelProto:
    out = "3,2" if op.endswith("Regressor") else dims
    head = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'
    attributes = f"<{attrs}>" if attrs else ""
    return onnx.parser.parse_model(
        f"{head} g (float[{dims}] x) => (float[{out}] y) {{ y = {op} {attributes} (x) }}"
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("op", CASES)
def test_they_become_constants(op: str, io: str, shared: bool, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 3)).astype(np.float32)
    paths = []
    for k, attrs in enumerate(CASES[op]):
        paths.append(tmp_path / f"m{k}.onnx")
        onnx.save(model(op, attrs, "3,3"), paths[-1])
    family = fold(match([load(str(p)) for p in paths], ["a", "b", "c"], partial=not op.startswith("ai.")))
    share = frozenset({"x"} if shared else ())
    plan = planning.plan(family, io=io, share=share)
    assert plan.lowerings[0].became is Became.BATCHED, plan.lowerings[0].reason
    merged = oracle.materialise(lower(family, plan, io=io, share=share))
    feeds = oracle.merged_feeds({"x": x}, {"x": "shared input" if shared else "input"}, io, family.names)
    for level in oracle.LEVELS:
        singles = [oracle.run(str(p), {"x": x[0 if shared else k]}, level) for k, p in enumerate(paths)]
        oracle.compare(singles, oracle.run(merged, feeds, level), io, family.names, op, None)
