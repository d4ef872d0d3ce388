"""Calls of a routed or selected file are allowed the rounding noise of the sources, as the cases are: no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import merged, tampered
from onnx import numpy_helper
from test_tell import ROUGH, files

import netfuse_onnx

CHANNELS = 8
NOISY, CALM = CHANNELS - 1, 0
CALLS = {"mixes": {"io": "routed"}, "selection": {"io": "selected"}}


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize(
    ("channel", "factor", "right"), [(NOISY, 1.0002, True), (NOISY, 1.02, False), (CALM, 1.0002, False)]
)
def test_noise_excuses_a_little(calls: str, channel: int, factor: float, right: bool, tmp_path: Path) -> None:
    huge = np.geomspace(1, 1e3, CHANNELS).astype(np.float32)
    paths = files(tmp_path, ROUGH, {"huge": huge, "w": (CHANNELS,)}, count=3)
    out = merged(tmp_path, paths, **CALLS[calls])

    def off(proto: onnx.ModelProto) -> None:
        (tensor,) = (t for t in proto.graph.initializer if t.name.startswith("w"))
        factors = np.ones(CHANNELS, np.float32)
        factors[channel] = factor
        array = numpy_helper.to_array(tensor)
        wrong = (array.reshape(-1, CHANNELS) * factors).reshape(array.shape)
        tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))

    values = netfuse_onnx.verify(tampered(out, off), paths).values
    found = getattr(values, calls)
    assert found is not None and found.ok is right
    assert all(row.ok for row in values.outputs) is right
