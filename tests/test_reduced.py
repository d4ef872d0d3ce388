"""The outputs of an ensemble are combined where that makes sense, and else it is said which output has no combination."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_engine import FakeEngine, feeds, serving

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.reduced import reduced


def each(*values: Any, dtype: Any = np.float32) -> list[dict[str, Any]]:
    """The outputs of models that have one output, whose names are their own."""
    return [{f"y{m}": np.array(value, dtype)} for m, value in enumerate(values)]


def one(word: Any, *values: Any, dtype: Any = np.float32) -> Any:
    found = reduced(word, each(*values, dtype=dtype))
    assert list(found) == ["y0"], "the first model's name"
    return found["y0"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_floating_point_numbers_are_added_and_ranked(dtype: Any) -> None:
    values = [[1.0, 4.0, 2.0]], [[2.0, 1.0, 8.0]], [[3.0, 1.0, 8.0]]
    for word, wanted in (("mean", [[2.0, 2.0, 6.0]]), ("sum", [[6.0, 6.0, 18.0]])):
        found = one(word, *values, dtype=dtype)
        assert found.dtype == dtype and found.tolist() == wanted
    found = one("vote", *values, dtype=dtype)
    assert found.dtype == np.int64 and found.tolist() == [2]


@pytest.mark.parametrize(
    ("dtype", "values", "wanted"),
    [
        (np.int64, [7, 2, 7], 7),
        (np.uint8, [3, 2, 1], 1),
        (bool, [True, False, True], True),
        (object, ["b", "a", "b"], "b"),
    ],
)
def test_labels_are_voted_on(dtype: Any, values: list[Any], wanted: Any) -> None:
    assert one("vote", *[[value] for value in values], dtype=dtype).tolist() == [wanted]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_whole_numbers_are_summed(dtype: Any) -> None:
    assert one("sum", [1, 2], [3, 4], dtype=dtype).tolist() == [4, 6]


@pytest.mark.parametrize(
    ("word", "dtype", "value", "why"),
    [
        ("mean", np.int64, [1], "whole numbers"),
        ("sum", np.int8, [1], "overflow"),
        ("mean", bool, [True], "can't be added up"),
        ("sum", bool, [True], "can't be added up"),
        ("sum", object, ["a"], "can't be added up"),
        ("vote", np.float32, 1.0, "no score for each class"),
        ("vote", np.float32, [[1.0]], "no score for each class"),
        ("vote", np.complex64, [[1.0, 2.0]], "no labels"),
    ],
)
def test_what_has_no_combination_is_told(word: str, dtype: Any, value: Any, why: str) -> None:
    with pytest.raises(UsageFault, match=f"Output 'y0' has no {word}: .*{why}"):
        one(word, value, value, dtype=dtype)


def test_values_of_other_kinds_and_sizes_have_none() -> None:
    with pytest.raises(UsageFault, match="'y' has no mean: it is not a tensor"):
        reduced("mean", [{"y": [{0: 0.5}]}] * 2)
    with pytest.raises(UsageFault, match="its shape differs"):
        one("mean", [1.0], [1.0, 2.0])


def test_outputs_are_chosen_by_name() -> None:
    every = [
        {"scores": np.array([0.0, 3.0]), "label": np.array([k // 2]), "at": np.array(k)} for k in range(3)
    ]
    found = reduced({"scores": "mean", "label": "vote"}, every)
    assert found.keys() == {"scores", "label"}
    assert found["scores"].tolist() == [0.0, 3.0] and found["label"].tolist() == [0]
    with pytest.raises(UsageFault, match="no output 'score'"):
        reduced({"score": "mean"}, every)


@pytest.mark.parametrize("word", ["max", "", {"y": "median"}, 3])
def test_another_word_is_refused_before_anything_runs(word: Any) -> None:
    engine = FakeEngine()
    with serving(engine) as session:
        with pytest.raises(UsageFault, match="reduce is 'mean', 'sum', 'vote' or None"):
            session.run_all(feeds(1), reduce=word)
        assert not engine.calls
        assert session.run_all(feeds(1), reduce={"y": "sum"})["y"].tolist() == [[6004.0, 6004.0]]
