"""The family under one name: rows by their models, and ensembles, against what the models' own files give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from families import MLP, family, model, save
from served_app import Asking, Held, Running, ask, asked, serving, tensor

import netfuse_onnx
from netfuse_onnx import FileFault, MergedSession, UsageFault
from netfuse_onnx.server.running import name_of

RNG = np.random.default_rng(5)
X = RNG.standard_normal((6, 8)).astype(np.float32)
OTHER_NAMES = """g (float[n, 8] given) => (float[n, 4] told) {
    h = MatMul(given, w1)
    i = Add(h, b1)
    r = Relu(i)
    told = MatMul(r, w2)
}"""
Answers = dict[str, Any]


def by_own_files(paths: list[str]) -> Answers:
    """The outputs of each model for X."""
    return {Path(path).stem: ort.InferenceSession(path).run(None, _named(path))[0] for path in paths}


def _named(path: str) -> dict[str, Any]:
    return {ort.InferenceSession(path).get_inputs()[0].name: X}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Answers]]:
    """Three models, the last of which names its input and output differently."""
    folder = tmp_path_factory.mktemp("family")
    paths = family(folder, count=2)
    paths.append(save(folder / "c.onnx", model(OTHER_NAMES, MLP, seed=2)))
    netfuse_onnx.merge(paths, str(folder / "bundle"), io="stacked", views=True, verify=False)
    with (
        MergedSession(folder / "bundle", calibrate=0.1) as session,
        serving(session, name="bundle") as server,
    ):
        yield server, by_own_files(paths)


def rows(places: Any, datatype: str = "INT64", shape: Any = None) -> dict[str, Any]:
    """The JSON of a request whose rows name their models."""
    shape = [len(places)] if shape is None else shape
    one = {"name": "model", "shape": shape, "datatype": datatype, "data": places}
    body = asked(X[: len(places)])
    body["inputs"].append(one)
    return body


def output(answer: tuple[int, Any]) -> Any:
    status, told = answer
    assert status == 200, told
    (one,) = told["outputs"]
    return np.array(one["data"]).reshape(one["shape"])


def test_a_model_keeps_its_own_names(served: tuple[Running, Answers]) -> None:
    server, own = served
    told = ask(f"{server.url}/v2/models/c")[1]
    assert [one["name"] for one in told["inputs"] + told["outputs"]] == ["given", "told"]
    body = asked(X)
    body["inputs"][0]["name"] = "given"
    assert np.allclose(output(ask(f"{server.url}/v2/models/c/infer", body)), own["c"], atol=1e-5)


@pytest.mark.parametrize(
    ("datatype", "places", "shape"),
    [
        ("INT64", [2, 0, 1, 1, 0, 2], [6]),
        ("INT32", [1, 1, 1, 1, 1, 0], [6, 1]),
        ("BYTES", ["c", "a", "a", "c", "b", "a"], [6]),
    ],
)
def test_rows_are_answered_by_their_models_in_order(
    served: tuple[Running, Answers], datatype: str, places: list[Any], shape: list[int]
) -> None:
    server, own = served
    found = output(ask(f"{server.url}/v2/models/bundle/infer", rows(places, datatype, shape)))
    for row, place in enumerate(places):
        name = place if datatype == "BYTES" else "abc"[place]
        assert np.allclose(found[row], own[name][row], atol=1e-5), (row, name)


def test_many_rows_of_one_model(served: tuple[Running, Answers]) -> None:
    """More than a merged call takes of one model."""
    server, own = served
    many = np.tile(X, (4, 1))
    body = asked(many)
    body["inputs"].append({"name": "model", "shape": [24], "datatype": "INT64", "data": [1] * 23 + [0]})
    found = output(ask(f"{server.url}/v2/models/bundle/infer", body))
    assert np.allclose(found[:23], np.tile(own["b"], (4, 1))[:23], atol=1e-5)
    assert np.allclose(found[23], own["a"][5], atol=1e-5)


@pytest.mark.parametrize(
    ("places", "datatype", "shape", "status", "words"),
    [
        ([3], "INT64", None, 400, "names model 3; there are 3"),
        ([-1], "INT64", None, 400, "names model -1"),
        (["d"], "BYTES", None, 404, "no model 'd'"),
        ([0, 1], "INT64", [1, 2], 400, "[rows] or [rows, 1]"),
        ([], "INT64", None, 400, "[rows] or [rows, 1]"),
        ([0.5], "FP32", None, 400, "takes INT64"),
    ],
)
def test_rows_that_name_no_model(
    served: tuple[Running, Answers], places: Any, datatype: str, shape: Any, status: int, words: str
) -> None:
    found = ask(f"{served[0].url}/v2/models/bundle/infer", rows(places, datatype, shape))
    assert found[0] == status and words in found[1]["error"]


def test_rows_and_models_of_other_numbers(served: tuple[Running, Answers]) -> None:
    body = rows([0, 1])
    body["inputs"][0] |= asked(X)["inputs"][0]
    found = ask(f"{served[0].url}/v2/models/bundle/infer", body)
    assert found[0] == 400 and "6 rows" in found[1]["error"]


def test_without_models_all_of_them_answer(served: tuple[Running, Answers]) -> None:
    server, own = served
    found = output(ask(f"{server.url}/v2/models/bundle/infer", asked(X)))
    assert found.shape == (3, 6, 4)
    assert np.allclose(found, np.stack([own["a"], own["b"], own["c"]]), atol=1e-5)


@pytest.mark.parametrize("word", ["mean", "sum", "vote"])
def test_an_ensemble_is_combined(served: tuple[Running, Answers], word: str) -> None:
    server, own = served
    every = np.stack([own["a"], own["b"], own["c"]])
    status, told = ask(f"{server.url}/v2/models/bundle/infer", asked(X, parameters={"reduce": word}))
    found = output((status, told))
    if word == "vote":
        wanted = [np.bincount(labels, minlength=4).argmax() for labels in every.argmax(-1).T]
        assert told["outputs"][0]["datatype"] == "INT64" and found.tolist() == wanted
    else:
        assert np.allclose(found, every.mean(0) if word == "mean" else every.sum(0), atol=1e-4)


def test_combinations_that_are_not_there(served: tuple[Running, Answers]) -> None:
    url = f"{served[0].url}/v2/models/bundle/infer"
    found = ask(url, asked(X, parameters={"reduce": "max"}))
    assert found[0] == 400 and "mean, sum, vote" in found[1]["error"]
    found = ask(url, rows([0]) | {"parameters": {"reduce": "mean"}})
    assert found[0] == 400 and "rows name their models" in found[1]["error"]


def test_all_rows_are_submitted_before_any_is_waited_for() -> None:
    """So that a reload comes before all of them or after."""
    session = Held()
    with serving(session, name="all") as server:
        body = asked([[1, 2], [3, 4], [5, 6]])
        body["inputs"].append({"name": "model", "shape": [3], "datatype": "INT64", "data": [1, 0, 1]})
        client = Asking(f"{server.url}/v2/models/all/infer", body)
        session.wait_for(2)
        assert [(one.model, one.feeds["x"].tolist()) for one in session.asked] == [
            ("b", [[1, 2], [5, 6]]),
            ("a", [[3, 4]]),
        ]
        for one in reversed(session.asked):
            one.answer()
        assert output(client.result()).tolist() == [[2, 4], [6, 8], [10, 12]]


def test_rows_that_mix_are_requests_of_their_own() -> None:
    """In one batch, a row would have another answer than by itself."""
    session = Held(at_once=True, apart=False)
    with serving(session, name="all") as server:
        body = asked([[1, 2], [3, 4], [5, 6]])
        body["inputs"].append({"name": "model", "shape": [3], "datatype": "INT64", "data": [1, 0, 1]})
        found = ask(f"{server.url}/v2/models/all/infer", body)
        assert output(found).tolist() == [[2, 4], [6, 8], [10, 12]]
        asked_for = [(one.model, one.feeds["x"].tolist()) for one in session.asked]
        assert asked_for == [("b", [[1, 2]]), ("a", [[3, 4]]), ("b", [[5, 6]])]


def test_a_family_has_a_name_of_its_own() -> None:
    assert name_of("some/where/") == "where" and name_of("x/merged.onnx") == "merged"
    with pytest.raises(UsageFault, match="named 'b', as one of its models"), serving(Held(), name="b"):
        pass


def test_types_that_the_protocol_lacks_are_refused_at_start() -> None:
    for element, words in ((None, "a sequence"), (tensor("x").element, "float32")):
        session = Held()
        session.inputs = (tensor("odd", "", element),)
        with pytest.raises(FileFault, match=f"Input 'odd' of model 'a' is {words}"), serving(session):
            pass


def test_what_is_counted(served: tuple[Running, Answers]) -> None:
    server, _ = served
    assert ask(f"{server.url}/v2/models/a/infer", asked(X))[0] == 200
    told = ask(f"{server.url}/metrics")[1].decode()
    assert 'netfuse_server_requests_total{protocol="http",status="200"}' in told
    assert "netfuse_server_latency_seconds_bucket" in told
    assert 'netfuse_requests_total{end="answered"}' in told
