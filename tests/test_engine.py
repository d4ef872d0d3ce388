"""The engine gives each request the outputs of its own model, alone and in merged calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import MLP, MLP_TEXT, family, merged, model, save

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime.engine import ServedFiles
from netfuse_onnx.runtime.errors import BadInput, UnknownModel
from netfuse_onnx.runtime.opening import Opening, open_engine

ODD = MLP_TEXT.replace("] x)", "] z)").replace("(x, w1)", "(z, w1)")
"""The network of a model whose input has a name of its own."""


@pytest.fixture(params=["separate", "stacked"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> ServedFiles:
    """Three models, of which the last one calls its input `z`."""
    sources = [*family(tmp_path, count=2), save(tmp_path / "c.onnx", model(ODD, MLP, seed=2))]
    return open_engine(merged(tmp_path, sources, request.param), Opening(tuple(sources), calibrate=0.01))


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


def test_the_engine_tells_how_its_sessions_were_opened(engine: ServedFiles) -> None:
    told = engine.told()
    assert told["provider"] == "CPUExecutionProvider"
    assert not told["shared_pool"]
    assert (told["threads_per_call"], told["calls_at_a_time"]) == (engine.threads.threads, engine.slots)
    assert told["own_sessions_open"] >= 1


def test_unknown_models_and_inputs_have_errors_of_their_own(engine: ServedFiles) -> None:
    with pytest.raises(UnknownModel):
        engine.check("d", _feeds("a", 1, 0))
    with pytest.raises(BadInput):
        engine.check("a", {"z": np.ones((1, 8), np.float32)})


def test_outputs_stay_as_they_are_when_later_calls_run(engine: ServedFiles) -> None:
    """Bound outputs are written over by the next call: what was given out must be a copy."""
    first = [engine.check(name, _feeds(name, 2, seed)) for seed, name in enumerate(engine.models)]
    other = [engine.check(name, _feeds(name, 2, seed + 9)) for seed, name in enumerate(engine.models)]
    engine.merged(other)
    given = engine.merged(first)
    kept = [outputs["y"].copy() for outputs in given]
    for _ in range(3):
        engine.merged(other)
    for outputs, copy in zip(given, kept, strict=True):
        np.testing.assert_array_equal(outputs["y"], copy)


def test_an_output_whose_size_depends_on_data_is_not_bound(tmp_path: Path) -> None:
    """Calls of the same shapes give outputs of other shapes: each request gets its own."""
    text = "g (float[n, 8] x) => (int64[2, k] y) { h = Mul(x, w1) p = Greater(h, z) y = NonZero(p) }"
    sources = family(tmp_path, text, {"w1": (8,), "z": (1,)})
    engine = open_engine(merged(tmp_path, sources), Opening(tuple(sources), calibrate=0.0))
    for seed in range(6):
        x = np.random.default_rng(seed).standard_normal((2, 8)).astype(np.float32)
        requests = [engine.check(name, {"x": x}) for name in engine.models]
        for request, outputs in zip(requests, engine.merged(requests), strict=True):
            np.testing.assert_array_equal(outputs["y"], engine.alone([request])[0]["y"])
    assert not engine.calls._merged.bindable


def test_sources_in_another_order_are_refused(tmp_path: Path) -> None:
    sources = family(tmp_path, count=3)
    out = merged(tmp_path, sources)
    with pytest.raises(UsageFault, match="another order"):
        open_engine(out, Opening((sources[1], sources[0], sources[2]), calibrate=0.0))
    Path(sources[1]).write_bytes(Path(sources[1]).read_bytes() + b"\x00")
    with pytest.raises(FileFault):
        open_engine(out, Opening(tuple(sources), calibrate=0.0))
