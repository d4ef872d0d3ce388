"""New files while the server runs: from the path at start or one folder, and from nowhere else."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest
from families import MLP, MLP_TEXT, model, save
from served_app import Held, Running, ask, asked, serving
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

import netfuse_onnx
from netfuse_onnx import MergedSession

X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)


def bundle(folder: Path, name: str, models: str, seed: int) -> dict[str, Any]:
    """A bundle of models with these letters as names, and what they give for X."""
    made = folder / f"{name}_sources"
    made.mkdir()
    paths = [
        save(made / f"{letter}.onnx", model(MLP_TEXT, MLP, seed=seed + place))
        for place, letter in enumerate(models)
    ]
    netfuse_onnx.merge(paths, str(folder / name), io="stacked", views=True, verify=False)
    return {Path(path).stem: ort.InferenceSession(path).run(None, {"x": X})[0] for path in paths}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Bundles one and two, of which two has other weights and other models."""
    folder = tmp_path_factory.mktemp("made")
    return folder, {"one": bundle(folder, "one", "ab", 0), "two": bundle(folder, "two", "bc", 50)}


@pytest.fixture
def served(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """Bundle one in service, and the folder that others may be loaded from."""
    folder, _ = made
    live, others = tmp_path / "live", tmp_path / "others"
    shutil.copytree(folder / "one", live)
    others.mkdir()
    with (
        MergedSession(live, calibrate=0.05) as session,
        serving(session, name="all", path=str(live), repository=str(others), grpc="127.0.0.1:0") as server,
    ):
        yield server, tmp_path


def load(server: Running, name: str = "all", **parameters: Any) -> tuple[int, Any]:
    return ask(f"{server.url}/v2/repository/models/{name}/load", {"parameters": parameters})


def output(server: Running, name: str) -> Any:
    status, told = ask(f"{server.url}/v2/models/{name}/infer", asked(X))
    assert status == 200, told
    return np.array(told["outputs"][0]["data"]).reshape(told["outputs"][0]["shape"])


def put(source: Path, target: Path) -> None:
    """Put a bundle in the place of another."""
    shutil.rmtree(target)
    shutil.copytree(source, target)


def test_new_files_in_the_old_place(made: Any, served: tuple[Running, Path]) -> None:
    (folder, gives), (server, home) = made, served
    assert np.allclose(output(server, "b"), gives["one"]["b"], atol=1e-5)
    put(folder / "two", home / "live")
    assert load(server) == (200, {})
    assert np.allclose(output(server, "b"), gives["two"]["b"], atol=1e-5)
    assert np.allclose(output(server, "all")[1], gives["two"]["c"], atol=1e-5)
    assert ask(f"{server.url}/v2/models/a/infer", asked(X))[0] == 404


@pytest.mark.parametrize("by", ["its own name", "a parameter", "gRPC"])
def test_files_of_the_folder_by_their_names(made: Any, served: tuple[Running, Path], by: str) -> None:
    (folder, gives), (server, home) = made, served
    shutil.copytree(folder / "two", home / "others" / "next")
    if by == "gRPC":
        with grpc.insecure_channel(server.app.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="next"), timeout=20)
    else:
        told = load(server, "next") if by == "its own name" else load(server, bundle="next")
        assert told == (200, {})
    assert np.allclose(output(server, "c"), gives["two"]["c"], atol=1e-5)


def test_what_no_request_may_load(made: Any, served: tuple[Running, Path]) -> None:
    (folder, gives), (server, home) = made, served
    others = home / "others"
    os.symlink(folder / "two", others / "out")
    shutil.copytree(folder / "two", others / "within")
    (others / "within" / "more").symlink_to(folder / "one")
    outside = str(folder / "two")
    shutil.copytree(folder / "two", others / "under" / "next")
    for name in (
        "under/next",
        str(others / "under" / "next"),
        "../live",
        outside,
        "..",
        ".",
        "",
        "out",
        "within",
        "none",
        "a/../b",
        "c:x",
        "next\0",
        5,
        None,
    ):
        if name is not None:
            assert load(server, bundle=name)[0] in (400, 404), name
    for name in ("..%2Flive", outside.replace("/", "%2F"), "out", "within", "none"):
        assert load(server, name)[0] in (400, 404), name
    for wrong in ({"config": "{}"}, {"file:1/model.onnx": "aGFsbG8="}, {"path": outside}):
        status, told = load(server, **wrong)
        assert status == 400 and "those of the server" in told["error"]
    assert load(server, "a")[0] == 400
    assert ask(f"{server.url}/v2/repository/models/a/unload", b"{}")[0] == 400
    assert np.allclose(output(server, "a"), gives["one"]["a"], atol=1e-5)


def test_a_load_that_fails_leaves_the_old_files(made: Any, served: tuple[Running, Path]) -> None:
    (_, gives), (server, home) = made, served
    (home / "others" / "broken.onnx").write_bytes(b"not a model")
    bundle(home / "others", "named", ("all", "b"), 3)  # type: ignore[arg-type]
    status, told = load(server, "broken")
    assert status == 400 and told["error"].startswith("Nothing was loaded, and the old files serve on.")
    status, told = load(server, "named")
    assert status == 400 and "named 'all', as one of its models" in told["error"]
    assert np.allclose(output(server, "a"), gives["one"]["a"], atol=1e-5)
    assert server.app.core.session.stats()["generation"] == 1  # type: ignore[attr-defined]


def test_nothing_is_loaded_without_a_folder() -> None:
    with serving(Held(), name="all") as server:
        assert load(server, bundle="x")[0] == 400
        assert load(server, "x")[0] == 404
        status, told = load(server)
        assert status == 400 and "There is nothing else." in told["error"]


def test_no_request_meets_two_generations(made: Any, served: tuple[Running, Path]) -> None:
    """Clients ask all the time, by rows that name their models, while files go to and fro."""
    (folder, gives), (server, home) = made, served
    for name in gives:
        shutil.copytree(folder / name, home / "others" / name)
    body = asked(X)
    body["inputs"].append({"name": "model", "shape": [2], "datatype": "INT64", "data": [1, 0]})
    due = [np.stack([every[1][0], every[0][1]]) for every in ([*g.values()] for g in gives.values())]
    wrong, ends, seen = list[Any](), threading.Event(), set[int]()

    def client() -> None:
        while not ends.is_set():
            status, told = ask(f"{server.url}/v2/models/all/infer", body)
            values = np.array(told["outputs"][0]["data"]).reshape(2, 4) if status == 200 else None
            match = [
                k for k, one in enumerate(due) if values is not None and np.allclose(values, one, atol=1e-5)
            ]
            seen.update(match)
            if not match:
                wrong.append(told)

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    loaded = [load(server, name) for name in ("two", "one", "two", "one", "two")]
    ends.set()
    for one in clients:
        one.join()
    assert loaded == [(200, {})] * 5 and not wrong and seen == {0, 1}
