"""The engine gives each request the outputs of its own model, alone and in merged calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import MLP, MLP_TEXT, family, merged, model, save

from netfuse_onnx.runtime.engine import ServedFiles
from netfuse_onnx.runtime.errors import BadInput, UnknownModel

ODD = MLP_TEXT.replace("] x)", "] z)").replace("(x, w1)", "(z, w1)")
"""The network of a model whose input has a name of its own."""


@pytest.fixture(params=["separate", "stacked"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> ServedFiles:
    """Three models, of which the last one calls its input `z`."""
    sources = [*family(tmp_path, count=2), save(tmp_path / "c.onnx", model(ODD, MLP, seed=2))]
    return ServedFiles(merged(tmp_path, sources, request.param), sources=sources)


def _feeds(name: str, rows: int, seed: int) -> dict[str, np.ndarray]:
    return {"z" if name == "c" else "x": np.random.default_rng(seed).random((rows, 8), np.float32)}


def test_a_merged_call_gives_what_each_model_gives_alone(engine: ServedFiles) -> None:
    assert engine.models == ("a", "b", "c")
    requests = [engine.check(name, _feeds(name, 2, seed)) for seed, name in enumerate(engine.models)]
    alone = [engine.alone([request])[0] for request in requests]
    for chosen in (requests, requests[::-1], requests[1:], requests[2:]):
        for request, outputs in zip(chosen, engine.merged(chosen), strict=True):
            np.testing.assert_allclose(outputs["y"], alone[request.model]["y"], rtol=1e-5, atol=1e-5)
    assert np.abs(alone[0]["y"] - alone[1]["y"]).max() > 0.1


def test_unknown_models_and_inputs_have_errors_of_their_own(engine: ServedFiles) -> None:
    with pytest.raises(UnknownModel):
        engine.check("d", _feeds("a", 1, 0))
    with pytest.raises(BadInput):
        engine.check("a", {"z": np.ones((1, 8), np.float32)})
