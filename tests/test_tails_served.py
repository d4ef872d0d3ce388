"""The server gives each model of a family with tails its own outputs, and has no endpoint for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from served_app import ask, asked, serving
from tail_files import alone, tailed

import netfuse_onnx
from netfuse_onnx import MergedSession, UsageFault
from netfuse_onnx.deploy import triton

TYPES = {"FP32": np.float32, "INT64": np.int64}


def test_models_have_their_own_outputs_and_no_endpoint_has_all(tmp_path: Path) -> None:
    paths = tailed(tmp_path, ("two", "best", "sigmoid"))
    netfuse_onnx.merge(paths, str(tmp_path / "bundle"), partial=True, views=True, verify=False)
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    body = asked(x)
    body["inputs"][0]["name"] = "x"
    with (
        MergedSession(tmp_path / "bundle", calibrate=0.1) as session,
        serving(session, name="bundle") as server,
    ):
        for k, path in enumerate(paths):
            wanted = alone(path, {"x": x})
            told = ask(f"{server.url}/v2/models/m{k}")[1]
            assert [one["name"] for one in told["outputs"]] == list(wanted)
            status, answer = ask(f"{server.url}/v2/models/m{k}/infer", body)
            assert status == 200, answer
            for one in answer["outputs"]:
                array = np.array(one["data"], TYPES[one["datatype"]]).reshape(one["shape"])
                np.testing.assert_allclose(array, wanted[one["name"]], rtol=1e-5, atol=1e-6)
        assert ask(f"{server.url}/v2/models/bundle")[0] == 404
        assert ask(f"{server.url}/v2/models/bundle/infer", body)[0] == 404


def test_triton_is_refused(tmp_path: Path) -> None:
    paths = tailed(tmp_path, ("two", "best"))
    netfuse_onnx.merge(paths, str(tmp_path / "bundle"), partial=True, views=True, verify=False)
    with pytest.raises(UsageFault, match="Not every model has each output"):
        triton.export(str(tmp_path / "bundle"), str(tmp_path / "repository"), triton.Options())
