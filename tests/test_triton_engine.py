"""An exported repository in a real Triton server: values, merging, faults, reloads. `make engines` installs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from families import MLP, MLP_TEXT, family
from triton_asking import Load, ask, assert_close, assert_equal, executions, statistics, together
from triton_families import BATCHES, DEEP, DEEP_WEIGHTS, FORMS, Array, alone, drawn, exported, renamed
from triton_server import Endpoint, triton

import netfuse_onnx
from netfuse_onnx.deploy.triton import Options, export

pytestmark = pytest.mark.engines

# --------------------------------------------------------------------------- all forms in one server


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Endpoint, dict[str, list[str]]]]:
    """A server with the repositories of all forms, and the models' files."""
    home = tmp_path_factory.mktemp("forms")
    paths = {name: exported(home / name, name, form, home / name / "repo") for name, form in FORMS.items()}
    first, *more = [home / name / "repo" for name in FORMS]
    with triton(first, *(f"--model-repository={one}" for one in more)) as endpoint:
        yield endpoint, paths


def _asked(name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    rows = BATCHES[name]
    return {
        key: value.reshape(*value.shape, 1) if value.ndim <= rows else value for key, value in feeds.items()
    }


@pytest.mark.parametrize("name", FORMS)
def test_each_endpoint_gives_what_its_own_file_gives(
    forms: tuple[Endpoint, dict[str, list[str]]], name: str
) -> None:
    """All models of a family at the same time, over HTTP and gRPC."""
    endpoint, paths = forms
    form = FORMS[name]

    def check(path: str, seed: int) -> None:
        feeds = drawn(path, form, seed)
        result = ask(endpoint, f"{name}.{Path(path).stem}", _asked(name, feeds), http=bool(seed % 2))
        assert_equal(result, alone(path, feeds))

    together([partial(check, path, 7 * k + n) for n in range(4) for k, path in enumerate(paths[name])])


@pytest.mark.parametrize("name", ["mlp", "ragged", "labels", "line", "texts", "whole", "lookup", "large"])
def test_the_family_takes_rows_of_several_models(
    forms: tuple[Endpoint, dict[str, list[str]]], name: str
) -> None:
    """Its input `model` has the place of each row's model in the order of the merge."""
    endpoint, paths = forms
    feeds = drawn(paths[name][0], FORMS[name], 3)
    rows = len(next(iter(feeds.values())))
    index = (1 + np.arange(rows)) % len(paths[name])
    result = ask(endpoint, name, {**_asked(name, feeds), "model": index.reshape(-1, 1)})
    assert len(result.get_response().outputs) == len(alone(paths[name][0], feeds))
    for row, place in enumerate(index):
        own = renamed(paths[name][place], {key: value[row : row + 1] for key, value in feeds.items()})
        for output, values in zip(
            result.get_response().outputs, alone(paths[name][place], own).values(), strict=True
        ):
            found = result.as_numpy(output.name)[row : row + 1]
            assert_close(found.reshape(values.shape), values)


@pytest.mark.parametrize("name", ["fixed", "four", "scalar", "summed", "table"])
def test_the_family_takes_a_request_of_a_fixed_form(
    forms: tuple[Endpoint, dict[str, list[str]]], name: str
) -> None:
    endpoint, paths = forms
    feeds = drawn(paths[name][0], FORMS[name], 3)
    index = np.full([len(feeds["x"]), 1] if BATCHES[name] else [1], 1)
    assert_equal(ask(endpoint, name, {**_asked(name, feeds), "model": index}), alone(paths[name][1], feeds))


def test_rows_that_mix_are_requests_of_their_own(forms: tuple[Endpoint, dict[str, list[str]]]) -> None:
    """A row less the mean of its batch, which is that row alone, is 0."""
    endpoint, paths = forms
    feeds = drawn(paths["mixing"][0], FORMS["mixing"], 3)
    result = ask(endpoint, "mixing", {**feeds, "model": np.ones((5, 1), np.int64)})
    assert_equal(result, {"y": np.zeros((5, 4), np.float32)})


def test_unequal_sizes_share_an_execution(forms: tuple[Endpoint, dict[str, list[str]]]) -> None:
    endpoint, paths = forms
    before = statistics(endpoint, "ragged")
    rng = np.random.default_rng(5)

    def client(k: int) -> None:
        path = paths["ragged"][k % 3]
        for size in range(1, 12):
            x = rng.standard_normal((1, (size * (k + 1)) % 13 + 1, 4)).astype(np.float32)
            assert_equal(ask(endpoint, f"ragged.{Path(path).stem}", {"x": x}), alone(path, {"x": x}))

    together([partial(client, k) for k in range(8)])
    rows, runs = (after - b for after, b in zip(statistics(endpoint, "ragged"), before, strict=True))
    assert rows == 88 and runs < rows


def test_who_asks_wrongly_is_told_alone(forms: tuple[Endpoint, dict[str, list[str]]]) -> None:
    """Triton's own checks, and the runtime's sentence through an ensemble."""
    endpoint, _ = forms
    good = np.zeros((1, 2), np.int64)
    for feeds, model, said in (
        ({"x": good.astype(np.float32)}, "lookup.a", "data-type"),
        ({"x": np.zeros((1, 3), np.int64)}, "lookup.a", "shape"),
        ({"x1": good}, "lookup.a", "x1"),
        ({"x": good}, "lookup.z", "lookup.z"),
        ({"x": good + 99}, "lookup.a", "indices element out of data bounds"),
        ({"x": good}, "lookup", "does not say which model"),
        ({"x": good, "model": np.array([[7]])}, "lookup", "There is no model at place 7"),
    ):
        for http in (False, True):
            with pytest.raises(triton_grpc.InferenceServerException) as caught:
                ask(endpoint, model, feeds, http=http)
            assert said in str(caught.value)
    assert_equal(ask(endpoint, "lookup.a", {"x": good}), alone(forms[1]["lookup"][0], {"x": good}))


def test_errors_have_the_status_of_their_kind(forms: tuple[Endpoint, dict[str, list[str]]]) -> None:
    endpoint, _ = forms
    good = np.zeros((1, 2), np.int64)
    for feeds, model, status in (
        ({"x": good + 99}, "lookup.a", "500"),
        ({"x": good}, "lookup", "400"),
        ({"x": good, "model": np.array([[7]])}, "lookup", "404"),
        ({"x": good}, "lookup.z", "404"),
    ):
        with pytest.raises(triton_grpc.InferenceServerException) as caught:
            ask(endpoint, model, feeds, http=True)
        assert status in str(caught.value.status()), model


def test_poisoned_requests_fail_alone(forms: tuple[Endpoint, dict[str, list[str]]]) -> None:
    endpoint, paths = forms
    failed: list[int] = []

    def client(k: int) -> None:
        path = paths["lookup"][k % 3]
        name = f"x{k % 3}" if k % 3 else "x"
        for n in range(60):
            x = np.full((1, 2), (n + k) % 9)
            if n % 20 == k:
                with pytest.raises(triton_grpc.InferenceServerException, match="out of data bounds"):
                    ask(endpoint, f"lookup.{Path(path).stem}", {name: x + 99})
                failed.append(k)
            else:
                assert_equal(ask(endpoint, f"lookup.{Path(path).stem}", {name: x}), alone(path, {name: x}))

    together([partial(client, k) for k in range(8)])
    assert len(failed) == 8 * 3


# --------------------------------------------------------------------------- one family of eight


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The bundle of eight networks of 4 MB, and their files."""
    home = tmp_path_factory.mktemp("deep")
    paths = family(home, DEEP, DEEP_WEIGHTS, count=8)
    netfuse_onnx.merge(paths, str(home / "bundle"), io="stacked", views=True, verify=False)
    return home / "bundle", paths


def test_requests_of_all_models_are_one_execution(deep: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Eight clients on eight models: by Triton's count three rows an execution, and several models in one."""
    bundle, paths = deep
    export(str(bundle), str(tmp_path / "repo"), Options("deep", delay=2000))
    with triton(tmp_path / "repo") as endpoint:
        with Load(endpoint, [paths]) as load:
            time.sleep(3)
            before = statistics(endpoint, "deep")
            time.sleep(4)
            after = statistics(endpoint, "deep")
        time.sleep(1.1)
        ask(endpoint, "a", {"x": np.zeros((1, 64), np.float32)})
        mixed = executions(endpoint, "deep")
        server = psutil.Process(endpoint.process.pid)
        stubs = [one.name() for one in server.children(recursive=True)]
    assert not load.failures and {*load.answers} == {0}
    assert (after[0] - before[0]) / (after[1] - before[1]) >= 3
    assert sum(count for models, count in mixed.items() if models >= 3) > sum(mixed.values()) / 2
    assert len([name for name in stubs if name.startswith("triton_python")]) == 1


def test_a_server_of_eight_small_models_is_small(tmp_path: Path) -> None:
    """One process beside the server, however many endpoints there are."""
    paths = family(tmp_path, count=8)
    netfuse_onnx.merge(paths, str(tmp_path / "bundle"), io="stacked", views=True, verify=False)
    export(str(tmp_path / "bundle"), str(tmp_path / "repo"), Options("small"))
    with triton(tmp_path / "repo") as endpoint:
        for path in paths:
            ask(endpoint, Path(path).stem, {"x": np.ones((1, 8), np.float32)})
        server = psutil.Process(endpoint.process.pid)
        stubs = [one for one in server.children(recursive=True) if "stub" in one.name()]
        size = sum(one.memory_info().rss for one in [server, *stubs])
    assert len(stubs) == 1
    assert size < 200e6


def _manage(endpoint: Endpoint, model: str, what: str) -> None:
    """Load or unload a model by the repository API."""
    url = f"http://{endpoint.http}/v2/repository/models/{urllib.parse.quote(model)}/{what}"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}", method="POST"), timeout=60) as answer:
        assert answer.status == 200


def test_a_new_bundle_is_loaded_while_it_serves(deep: tuple[Path, list[str]], tmp_path: Path) -> None:
    """No request fails, and each answer is one of the old weights or of the new."""
    bundle, paths = deep
    (tmp_path / "newer").mkdir()
    newer = family(tmp_path / "newer", DEEP.replace("Relu(h)", "Tanh(h)"), DEEP_WEIGHTS, count=8)
    netfuse_onnx.merge(newer, str(tmp_path / "newer" / "bundle"), io="stacked", views=True, verify=False)
    repository = tmp_path / "repo"
    export(str(bundle), str(repository), Options("deep"))
    control = "--model-control-mode=explicit", "--load-model=*"
    with triton(repository, *control) as endpoint, Load(endpoint, [paths, newer]) as load:
        time.sleep(1)
        export(str(tmp_path / "newer" / "bundle"), str(repository), Options("deep"))
        time.sleep(1)
        old = len(load.answers)
        _manage(endpoint, "deep", "load")
        time.sleep(1.5)
        new = len(load.answers)
        time.sleep(1)
    assert not load.failures
    assert {*load.answers[:old]} == {0}
    assert {*load.answers[new + 8 :]} == {1}
    assert -1 not in load.answers


def test_a_killed_process_fails_requests_until_it_is_loaded_again(
    deep: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Triton does not start it anew, and says so to each request. None is answered wrongly."""
    bundle, paths = deep
    export(str(bundle), str(tmp_path / "repo"), Options("deep"))
    control = "--model-control-mode=explicit", "--load-model=*"
    with triton(tmp_path / "repo", *control) as endpoint, Load(endpoint, [paths]) as load:
        time.sleep(1)
        for stub in psutil.Process(endpoint.process.pid).children(recursive=True):
            if stub.name().startswith("triton_python"):
                os.kill(stub.pid, signal.SIGKILL)
        time.sleep(3)
        killed = len(load.answers)
        assert load.failures and "not healthy" in load.failures[0]
        _manage(endpoint, "deep", "unload")
        _manage(endpoint, "deep", "load")
        time.sleep(2)
        assert len(load.answers) >= killed + 40
    assert {*load.answers} == {0}


def test_versions_stand_beside_each_other(tmp_path: Path) -> None:
    """Endpoints have the latest version; the family has both, each with its own weights."""
    for version, operator in (("1", "Relu"), ("2", "Tanh")):
        folder = tmp_path / version
        folder.mkdir()
        text = MLP_TEXT.replace("Relu", operator)
        paths = family(folder, text, MLP)
        netfuse_onnx.merge(paths, str(folder / "bundle"), views=True, verify=False)
        export(str(folder / "bundle"), str(folder / "repo"), Options("both"))
    repository = tmp_path / "1" / "repo"
    shutil.copytree(tmp_path / "2" / "repo" / "both" / "1", repository / "both" / "2")
    config = repository / "both" / "config.pbtxt"
    config.write_text(config.read_text() + "version_policy { all { } }\n")
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    with triton(repository) as endpoint:
        for version in ("1", "2"):
            wanted = alone(str(tmp_path / version / "b.onnx"), {"x": x})
            index = np.ones((2, 1), np.int64)
            assert_equal(ask(endpoint, "both", {"x": x, "model": index}, model_version=version), wanted)
        assert_equal(ask(endpoint, "b", {"x": x}), wanted)


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    """The repository of docs/triton.md, and its client."""
    page = (Path(__file__).parent.parent / "docs" / "triton.md").read_text()
    commands, code = (
        re.findall(rf"^```{kind}\n(.*?)^```", page, re.M | re.S)[0] for kind in ("sh", "python")
    )
    paths = family(tmp_path, count=3)
    script = commands.replace("netfuse-onnx", f"{sys.executable} -m netfuse_onnx")
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    with triton(tmp_path / "repository") as endpoint:
        client = code.replace("localhost:8000", endpoint.http)
        done = subprocess.run([sys.executable, "-c", client], check=True, capture_output=True, text=True)
    x = np.ones((1, 8), np.float32)
    rows = [alone(paths[place], {"x": x})["y"] for place in (1, 2, 0, 2)]
    printed = np.array(re.findall(r"-?\d+\.\d*(?:e[+-]\d+)?", done.stdout), np.float32)
    np.testing.assert_allclose(printed, np.concatenate(rows).ravel(), rtol=1e-4)


def test_a_full_queue_refuses_at_once(deep: tuple[Path, list[str]], tmp_path: Path) -> None:
    """With room for one that waits, of sixteen clients some are refused, and all others are answered."""
    bundle, paths = deep
    export(str(bundle), str(tmp_path / "repo"), Options("deep", queue=1))
    with triton(tmp_path / "repo") as endpoint, Load(endpoint, [paths]) as load:
        time.sleep(2)
    assert {*load.answers} == {0}
    assert load.failures and all("queue size" in failure for failure in load.failures)


def test_the_variant_without_python_parses(tmp_path: Path) -> None:
    """This server lacks ONNX Runtime's backend, and says that alone."""
    paths = family(tmp_path, count=3)
    netfuse_onnx.merge(paths, str(tmp_path / "routed.onnx"), io="routed", verify=False)
    export(str(tmp_path / "routed.onnx"), str(tmp_path / "repo"), Options(backend="onnxruntime"))
    with triton(tmp_path / "repo", "--exit-on-error=false", ready=False) as endpoint:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{endpoint.http}/v2/repository/index", b"{}", method="POST")
        ) as answer:
            told = {one["name"]: one.get("reason", "") for one in json.load(answer)}
        log = endpoint.log.read_text(errors="replace")
    missing = "unable to find backend library for backend 'onnxruntime'"
    assert {*told} == {"routed", "a", "b", "c", "a.index", "b.index", "c.index"}
    for name in ("routed", "a.index", "b.index", "c.index"):
        assert missing in told[name]
    assert "Poll failed" not in log
