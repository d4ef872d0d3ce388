"""Rows that name several models are never answered by the first one alone."""

from __future__ import annotations

import numpy as np
import pytest

from netfuse_onnx.deploy.triton_requests import Requests
from netfuse_onnx.runtime.elements import Element
from netfuse_onnx.runtime.errors import BadInput
from netfuse_onnx.runtime.signature import Signature, Tensor

FLOAT = Element("float32", np.dtype(np.float32))


def requests(chunk: int, batches: bool = True) -> Requests:
    x, y = (Tensor(name, "FP32", (chunk or -1, 2), True, FLOAT) for name in "xy")
    signatures = [Signature(model, (x,), (y,), batched=not chunk, apart=not chunk) for model in "abc"]
    layout = {
        "index": "model",
        "chunk": chunk,
        "batches": batches,
        "scalars": [],
        "outputs": [["a/y"], ["b/y"], ["c/y"]],
    }
    return Requests(signatures, layout)


def inputs(places: list[int]) -> dict[str, np.ndarray]:
    rows = np.arange(2.0 * len(places), dtype=np.float32).reshape(-1, 2)
    return {"x": rows, "model": np.array(places)[:, None]}


@pytest.mark.parametrize("places", [[0, 1], [0, 0, 1, 2], [1, 1, 1, 0]])
def test_a_batch_of_fixed_size_is_of_one_model(places: list[int]) -> None:
    with pytest.raises(BadInput, match="several models"):
        requests(2).read(inputs(places), ())


def test_a_request_that_is_not_batched_is_of_one_model() -> None:
    with pytest.raises(BadInput, match="several models"):
        requests(0, batches=False).read(inputs([2, 1]), ())


@pytest.mark.parametrize(("chunk", "places"), [(2, [1, 1]), (2, [2, 2, 0, 0]), (0, [2, 0, 1, 0, 2])])
def test_each_row_is_answered_by_its_model(chunk: int, places: list[int]) -> None:
    work = requests(chunk).read(inputs(places), ())
    answers = [{"y": feeds["x"] * 10 + ord(model)} for model, feeds in work.asked]
    expected = inputs(places)["x"] * 10 + np.array([[ord("abc"[place])] for place in places])
    np.testing.assert_array_equal(work.joined(answers)["y"], expected)
