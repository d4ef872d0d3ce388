"""The model that Triton's python backend runs, with stand-ins for the classes of the backend."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from families import MLP_TEXT, family
from google.protobuf import json_format, text_format
from triton_families import FORMS, Array, alone, drawn, exported, renamed
from tritonclient.grpc import model_config_pb2

import netfuse_onnx
from netfuse_onnx.deploy.triton import Options, export
from netfuse_onnx.deploy.triton_model import TritonPythonModel


class Tensor:
    """A tensor of the backend. Strings are bytes, as there."""

    def __init__(self, name: str, array: Array) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Array:
        return self._array


class Refusal(Exception):
    """The backend's TritonModelException."""


class Counter:
    """A metric family and its metrics in one."""

    COUNTER = 0
    counts: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, name: str = "", description: str = "", kind: int = 0, labels: Any = None) -> None:
        self.name = f"{name}{labels or ''}"

    def Metric(self, labels: Mapping[str, str]) -> Counter:
        return Counter(f"{self.name}:{labels.get('models', labels.get('kind'))}")

    def increment(self, by: float) -> None:
        self.counts[self.name] = self.counts.get(self.name, 0.0) + by


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the server brings."""
    made = ModuleType("triton_python_backend_utils")
    errors = {name: name for name in ("INVALID_ARG", "NOT_FOUND", "UNAVAILABLE", "INTERNAL")}
    error = type(
        "TritonError",
        (),
        {**errors, "__init__": lambda self, said, code: vars(self).update(said=said, code=code)},
    )
    made.__dict__.update(
        Tensor=Tensor, TritonModelException=Refusal, TritonError=error, MetricFamily=Counter,
        InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(tensors=tensors, error=error),
        Logger=SimpleNamespace(log_warn=lambda said: None),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(Counter, "counts", {})
    return made


def opened(repository: Path, name: str) -> TritonPythonModel:
    """The model of a family as the server starts it."""
    text = (repository / name / "config.pbtxt").read_text()
    config = json_format.MessageToJson(
        text_format.Parse(text, model_config_pb2.ModelConfig()), preserving_proto_field_name=True
    )
    model = TritonPythonModel()
    arguments = {"model_repository": str(repository / name), "model_version": "1", "model_name": name}
    model.initialize({**arguments, "model_config": config})
    return model


def request(inputs: Mapping[str, Array], *wanted: str) -> Any:
    encoded = {
        name: np.array([one.encode() for one in value.ravel()], object).reshape(value.shape)
        if value.dtype == object
        else value
        for name, value in inputs.items()
    }
    tensors = [Tensor(name, value) for name, value in encoded.items()]
    return SimpleNamespace(inputs=lambda: tensors, requested_output_names=lambda: wanted)


def values(response: Any) -> dict[str, Array]:
    assert response.error is None, response.error.said
    return {tensor.name(): tensor.as_numpy() for tensor in response.tensors}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[str]]]:
    """Gives the repository of a form, and the models' files."""
    home, made = tmp_path_factory.mktemp("forms"), dict[str, tuple[Path, list[str]]]()

    def of(name: str) -> tuple[Path, list[str]]:
        if name not in made:
            out = home / name / "repo"
            made[name] = out, exported(home / name, name, FORMS[name], out)
        return made[name]

    return of


@pytest.fixture
def model(repositories: Any) -> Iterator[Callable[[str], tuple[TritonPythonModel, list[str]]]]:
    """Opens the model of a form, and closes it at the end."""
    opens: list[TritonPythonModel] = []

    def of(name: str) -> tuple[TritonPythonModel, list[str]]:
        repository, paths = repositories(name)
        opens.append(opened(repository, name))
        return opens[-1], paths

    yield of
    for one in opens:
        one.finalize()


@pytest.mark.parametrize("name", ["mlp", "texts", "scalar", "summed", "lookup", "fixed", "mixing", "labels"])
def test_an_execution_answers_requests_of_all_models(model: Any, name: str) -> None:
    served, paths = model(name)
    form = FORMS[name]
    feeds = [drawn(path, form, k) for k, path in enumerate(paths)]
    wanted = [alone(path, given) for path, given in zip(paths, feeds, strict=True)]
    asked = []
    for path, given, outputs in zip(paths, feeds, wanted, strict=True):
        common = renamed(paths[0], {key: np.atleast_1d(value) for key, value in given.items()})
        asked.append(request(common, *(f"{Path(path).stem}/{output}" for output in outputs)))
    for path, response, outputs in zip(paths, served.execute(asked), wanted, strict=True):
        found = values(response)
        assert found.keys() == {f"{Path(path).stem}/{output}" for output in outputs}
        for output, value in outputs.items():
            got = found[f"{Path(path).stem}/{output}"].reshape(value.shape)
            assert (
                (got == value).all()
                if value.dtype == object
                else np.allclose(got, value, rtol=1e-3, atol=1e-5)
            )


def test_only_the_outputs_that_are_wanted_come(model: Any) -> None:
    served, paths = model("labels")
    feeds = drawn(paths[0], FORMS["labels"], 0)
    (response,) = served.execute([request(feeds, "a/p")])
    assert values(response).keys() == {"a/p"}


@pytest.mark.parametrize(
    ("inputs", "wanted", "code", "said"),
    [
        ({"x": np.full((1, 2), 99)}, ["b/y1"], "INTERNAL", "out of data bounds"),
        ({"x": np.zeros((1, 2), np.int32)}, ["b/y1"], "INVALID_ARG", "takes int64"),
        ({}, ["b/y1"], "INVALID_ARG", "is missing"),
        ({"x": np.zeros((65, 2), np.int64)}, ["b/y1"], "INVALID_ARG", "65 rows"),
        ({"x": np.zeros((1, 2), np.int64)}, ["b/y1", "a/y"], "INVALID_ARG", "outputs of 2 models"),
        ({"x": np.zeros((1, 2), np.int64), "model": np.array([3])}, ["y"], "NOT_FOUND", "no model at place 3"),
        ({"x": np.zeros((1, 2), np.int64), "model": np.array([-1])}, ["y"], "NOT_FOUND", "no model at place -1"),
        ({"x": np.zeros((2, 2), np.int64), "model": np.array([0, 1])[:0]}, ["y"], "NOT_FOUND", "no rows"),
    ],
)  # fmt: skip
def test_a_bad_request_fails_alone(model: Any, inputs: Any, wanted: list[str], code: str, said: str) -> None:
    served, paths = model("lookup")
    good = {"x": np.array([[1, 2]])}
    first, bad, last = served.execute([request(good, "a/y"), request(inputs, *wanted), request(good, "c/y2")])
    assert bad.error.code == code and said in bad.error.said
    assert np.array_equal(values(first)["a/y"], alone(paths[0], good)["y"])
    assert np.array_equal(values(last)["c/y2"], alone(paths[2], {"x2": good["x"]})["y2"])


def test_bytes_that_are_no_text_fail_alone(model: Any) -> None:
    served, _ = model("texts")
    bad = request({"x": np.zeros((1, 2))}, "a/y")
    bad.inputs()[0]._array = np.array([[b"\xff", b"a"]], object)
    good = request({"x": np.array([["a", "é"]], object)}, "b/y")
    first, last = served.execute([bad, good])
    assert "no UTF-8" in first.error.said and values(last)["b/y"].tolist() == [["a-2", "é-2"]]


@pytest.mark.parametrize("name", ["mlp", "mixing", "four"])
def test_rows_name_their_models(model: Any, name: str) -> None:
    served, paths = model(name)
    feeds = drawn(paths[0], FORMS[name], 1)
    index = np.array([2, 0, 2, 0, 2])[: len(feeds["x"])] if name != "four" else np.full(4, 2)
    (response,) = served.execute([request({**feeds, "model": index}, "y")])
    found = values(response)["y"]
    for row, place in enumerate(index) if name != "four" else [(slice(None), 2)]:
        own = feeds["x"][row : row + 1] if name != "four" else feeds["x"]
        assert np.allclose(found[row], alone(paths[place], {"x": own})["y"].squeeze(), atol=1e-5)


def test_executions_are_counted_by_their_models(model: Any) -> None:
    served, paths = model("mlp")
    x = drawn(paths[0], FORMS["mlp"], 1)
    served.execute([request(x, "a/y"), request(x, "b/y"), request(x, "a/y")])
    assert Counter.counts["netfuse_executions_total:2"] == 1
    assert sum(count for name, count in Counter.counts.items() if name.startswith("netfuse_calls")) >= 1


def test_files_that_do_not_open_are_told_in_our_words(repositories: Any, tmp_path: Path) -> None:
    repository, _ = repositories("mlp")
    manifest = repository / "mlp" / "1" / "bundle" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[:100])
    try:
        with pytest.raises(Refusal, match="damaged"):
            opened(repository, "mlp")
    finally:
        manifest.write_text(text)


def test_the_model_of_the_repository_is_this_one(repositories: Any) -> None:
    repository, _ = repositories("mlp")
    found: dict[str, Any] = {}
    exec((repository / "mlp" / "1" / "model.py").read_text(), found)
    assert found["TritonPythonModel"] is TritonPythonModel


def test_the_server_loads_nothing_of_the_compiler() -> None:
    code = "import netfuse_onnx.deploy.triton_model, sys; sys.exit(any(m in sys.modules for m in ('onnx', 'tritonclient')))"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_a_merged_file_without_views_is_served(tmp_path: Path) -> None:
    paths = family(tmp_path, MLP_TEXT, count=3)
    netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), verify=False)
    export(str(tmp_path / "merged.onnx"), str(tmp_path / "repo"), Options())
    assert (
        json.loads((tmp_path / "repo" / "merged" / "1" / "family.json").read_text())["file"] == "merged.onnx"
    )
    served = opened(tmp_path / "repo", "merged")
    x = {"x": np.ones((1, 8), np.float32)}
    (response,) = served.execute([request(x, "c/y")])
    assert np.allclose(values(response)["c/y"], alone(paths[2], x)["y"], atol=1e-5)
    served.finalize()
