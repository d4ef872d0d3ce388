"""The values of single models are packed into those of the merged model, and taken out again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.labels import Labels
from netfuse_onnx.run.packing import Packing
from netfuse_onnx.types import Edge

EDGES = (Edge({"x": "x", "s": "s"}, {"y": "y"}), Edge({"x": "u", "s": "t"}, {"y": "v"}))
INPUTS = [{"x": np.full(2, m), "s": np.zeros(1)} for m in range(2)]
OUTPUTS = [{"y": np.full(3, 10 + m)} for m in range(2)]


def packing(io: str) -> Packing:
    return Packing(Labels(("a", "b"), EDGES, io, frozenset({"s"})))


def test_models_apart_keep_their_own_names() -> None:
    one = packing("separate")
    assert list(one.inputs(INPUTS)) == ["a/x", "b/u", "s"]
    assert list(one.outputs(OUTPUTS)) == ["a/y", "b/v"]


def test_stacked_values_have_a_leading_axis() -> None:
    one = packing("stacked")
    fed = one.inputs(INPUTS)
    assert list(fed) == ["x", "s"]
    np.testing.assert_array_equal(fed["x"], [[0, 0], [1, 1]])
    assert np.shape(fed["s"]) == (1,)


def test_what_was_packed_comes_out_again() -> None:
    for io in ("separate", "stacked"):
        one = packing(io)
        merged = one.outputs(OUTPUTS)
        for m, own in enumerate(one.split(merged, ["y"])):
            np.testing.assert_array_equal(own["y"], OUTPUTS[m]["y"])
            picked, problem = one.pick(m, "y", merged)
            assert not problem
            np.testing.assert_array_equal(picked, OUTPUTS[m]["y"])


def test_chosen_models_come_in_another_order() -> None:
    one = packing("selected")
    fed = one.inputs(INPUTS)
    assert list(fed) == ["x", "s", "models"]
    np.testing.assert_array_equal(fed["models"], [1, 0])
    np.testing.assert_array_equal(fed["x"], [[1, 1], [0, 0]])
    merged = one.outputs(OUTPUTS)
    np.testing.assert_array_equal(one.pick(0, "y", merged)[0], OUTPUTS[0]["y"])
    twice = replace(one, asked=(1, 0, 1)).inputs(INPUTS)
    np.testing.assert_array_equal(twice["x"], [[1, 1], [0, 0], [1, 1]])


def test_a_result_that_lacks_models_is_told() -> None:
    one = packing("stacked")
    assert one.pick(0, "y", {})[1] == "the merged model has no output 'y'"
    assert "no leading axis of size 2" in one.pick(0, "y", {"y": np.zeros((3, 3))})[1]
