"""Models whose batch is fixed, or whose inputs have none, are served as well as others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_session_files import MODES, Sources, bundle, merging

from netfuse_onnx import MergedSession

FIXED = {
    "one": "g (float[1, 8] x) => (float[1, 8] y) { y = MatMul(x, w) }",
    "three": "g (float[3, 8] x) => (float[3, 8] y) { y = MatMul(x, w) }",
    "graph": "g (float[k, k, 8] x) => (float[k, k, 8] y) { y = MatMul(x, w) }",
}
ROWS = {"one": (1,), "three": (3,), "graph": (2, 2)}
CASES = [(case, mode) for case in FIXED for mode in ("separate", "stacked", "selected")] + [("one", "index")]
SCALED = "g (float[n, 8] x, float{} s) => (float[n, 8] y) {{ h = MatMul(x, w) y = Mul(h, s) }}"


@pytest.mark.parametrize(("case", "mode"), CASES)
def test_models_without_a_batch_are_measured_and_served(case: str, mode: str, tmp_path: Path) -> None:
    path = bundle(tmp_path, FIXED[case], {"w": (8, 8)}, 3, **MODES[mode])
    sources, draw = Sources(tmp_path), np.random.default_rng(0)
    feeds = [{"x": draw.standard_normal((*ROWS[case], 8)).astype(np.float32)} for _ in "abcabc"]
    for file in (path, next(path.glob("merged-*.onnx"))):
        with MergedSession(file, threads=1, workers=1, calibrate=5.0, max_rows=2, max_batch=2) as session:
            asked = list(zip("abcabc", feeds, strict=True))
            for (model, value), outputs in zip(asked, session.run_many(asked), strict=True):
                sources.right(model, value, outputs)


@pytest.mark.parametrize("mode", ["separate", "stacked", "selected"])
@pytest.mark.parametrize("shape", ["", "[8]", "[1, 8]"])
def test_inputs_without_rows_are_those_of_each_request(mode: str, shape: str, tmp_path: Path) -> None:
    """A call of several requests of a model would feed such an input once, with the value of one of them."""
    path = bundle(tmp_path, SCALED.format(shape), {"w": (8, 8)}, 3, **MODES[mode])
    sources, draw = Sources(tmp_path), np.random.default_rng(0)
    size = {"": (), "[8]": (8,), "[1, 8]": (1, 8)}[shape]
    scales = [np.full(size, k, np.float32) for k in (2, 3, 2, 5)]
    asked = [
        (model, {"x": draw.standard_normal((rows, 8)).astype(np.float32), "s": scale})
        for model in "abc"
        for rows in (1, 2)
        for scale in scales
    ]
    with MergedSession(path, calibrate=0.0, workers=1) as alone, merging(path) as merged:
        assert merged._dispatcher.current.engine.rows_apart
        for session in (alone, merged):
            for (model, value), outputs in zip(asked, session.run_many(asked), strict=True):
                sources.right(model, value, outputs)
        assert merged.stats()["calls"]["merged"] < len(asked)


def test_a_sequence_that_waits_is_the_requests_own(tmp_path: Path) -> None:
    text = (
        "g (seq(float[n, 8]) s) => (float[n, 8] y) { z = Constant <value = int64 {0}> () "
        "a = SequenceAt(s, z) y = MatMul(a, w) }"
    )
    path = bundle(tmp_path, text, {"w": (8, 8)}, 3)
    sources, draw = Sources(tmp_path), np.random.default_rng(0)
    with MergedSession(path, calibrate=0.0, max_wait=0.05, workers=1) as session:
        for model in "abc":
            values = [draw.standard_normal((2, 8)).astype(np.float32)]
            kept = [value.copy() for value in values]
            request = session._dispatcher.current.engine.check(model, {"s": values}, copy=True)
            answer = session.submit(model, {"s": values})
            values[0][...] = 7
            values.clear()
            np.testing.assert_array_equal(request.inputs[0][0], kept[0])
            sources.right(model, {"s": kept}, answer.result())
