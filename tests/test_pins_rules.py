"""Small mistakes in the rules, each of which one of these tests sees (tests/mutants)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import save
from oracle import IO, check, draw, graph

import netfuse_onnx
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.cost import Cost

LINEAR = "coefficients = [{0}.0, 1.0, 2.0, -1.0, 0.5, {0}.5], intercepts = [0.1, {0}.2], targets = 2"


@pytest.mark.parametrize("transforms", [("SOFTMAX", "SOFTMAX"), ("NONE", "SOFTMAX"), ("SOFTMAX", "NONE")])
def test_scores_that_are_transformed(tmp_path: Path, transforms: tuple[str, str]) -> None:
    """A regressor may turn its scores into probabilities, in all models or, which is not merged, in one."""
    paths = []
    for k, transform in enumerate(transforms):
        call = f'y = ai.onnx.ml.LinearRegressor<{LINEAR.format(k)}, post_transform = "{transform}">(x)'
        proto = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[n, 3] x) => (float[n, 2] y) {{ {call} }}'
        )
        paths.append(save(tmp_path / f"{'ab'[k]}.onnx", proto))
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))
    assert report.proof is not None and report.proof.ok
    alone = [] if len(set(transforms)) == 1 else ["ai.onnx.ml.LinearRegressor"]
    assert [row.op for row in report.lowered.replicated] == alone


@pytest.mark.parametrize(("mode", "joined"), [(0, True), (1, False)])
def test_statistics_of_one_batch_are_not_those_of_all_models(tmp_path: Path, mode: int, joined: bool) -> None:
    """In training the models may not join the batch, also where nobody asks for the statistics. ONNX Runtime does
    not run that, so only what is on offer is looked at."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2,3,4] x) => (float[2,3,4] y) {{
        y = BatchNormalization<training_mode = {mode}>(x, s, s, s, s) }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.helper.make_tensor("s", 1, [3], [1.0, 2.0, 3.0]))
    path = save(tmp_path / "a.onnx", proto)
    corr = match([load(path)] * 2, ["a", "b"])
    found = planning.candidates(corr, io="separate", share=frozenset(), cost=Cost(2))
    assert ("norm_shared_weights" in {offer.rule for offer in found.options[0]}) == joined


@pytest.mark.parametrize("dim", ["?", "n"])
@pytest.mark.parametrize("op", ["Add", "Where"])
def test_axes_of_no_name_or_of_one_may_be_unequal(tmp_path: Path, op: str, dim: str) -> None:
    """ONNX Runtime does not compare them, and broadcasts where one is 1."""
    call = {"Add": "y = Add(x, z)", "Where": "c = Greater(x, z) y = Where(c, x, z)"}[op]
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{dim}, 3] x, float[{dim}, 3] z) => (float[{dim}, 3] y) {{ {call} }}'
    )
    rng = np.random.default_rng(0)
    for count in (2, 3, 4):
        values = {"x": rng.standard_normal((count, 1, 3)), "z": rng.standard_normal((count, 4, 3))}
        values = {name: value.astype(np.float32) for name, value in values.items()}
        for io in IO:
            check(proto, values, {"x": "input", "z": "input"}, tmp_path, io=io)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
def test_an_ignored_loss_is_nothing_whatever_stands_there(tmp_path: Path, op: str, reduction: str) -> None:
    """A sample that does not count may hold NaN or infinities."""
    proto = graph("float[4,3] x, int64[4] t", f'y = {op}<reduction = "{reduction}", ignore_index = 9>(x, t)')
    values = draw(proto, 3)
    values["t"] = np.array([[0, 9, 2, 1], [9, 1, 9, 2], [2, 2, 0, 9]])
    for model, labels in enumerate(values["t"]):
        values["x"][model, labels == 9] = [np.nan, np.inf, -np.inf]
    for io in IO:
        check(proto, values, {"x": "input", "t": "input"}, tmp_path, io=io)
