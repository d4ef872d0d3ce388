"""The app of `netfuse-onnx export ray` in Ray Serve, asked by stock clients over HTTP and through handles."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import oracle
import pytest
import servers
from families import MLP_TEXT, family
from netfuse_onnx.cli import main as cli
from ray_app import CLIENTS, MODELS, ROUNDS, TEXT, WEIGHTS, Feeds, Load, Local, Running, feeds, name_of, right

import netfuse_onnx
from netfuse_onnx.runtime.errors import CallFailed, Closed, ServingError

pytestmark = [pytest.mark.engines, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
if not importlib.util.find_spec("ray"):
    pytest.skip("Ray is missing: make engines", allow_module_level=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Ray on this machine, with the app of two families: `eight`, and `pair`, whose names are two of the eight."""
    folder = tmp_path_factory.mktemp("app")
    sources = {}
    for name, count, text, weights in (("eight", 8, TEXT, WEIGHTS), ("pair", 2, MLP_TEXT, None)):
        (own := folder / f"{name}-files").mkdir()
        paths = family(own, text, weights, count=count)
        if name == "pair":  # other weights than models a and b of the eight
            paths = [
                shutil.move(path, own / f"{model}.onnx") for path, model in zip(paths, "gh", strict=True)
            ]
        sources |= {(name, Path(path).stem): str(path) for path in paths}
        netfuse_onnx.merge(
            [str(path) for path in paths], str(folder / name), io="stacked", views=True, verify=False
        )
    given = ["eight", "pair"]
    code = cli.main(["export", "ray", *(str(folder / name) for name in given), "-o", str(folder / "app.py")])
    assert code == 0
    with Local() as port:
        spec = importlib.util.spec_from_file_location("app", folder / "app.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = Running(port, module.app, folder, None, sources)
        found.deploy()
        yield found


# --------------------------------------------------------------------------- answers


def test_many_clients_on_eight_models(running: Running) -> None:
    """Half of sixteen clients ask over HTTP, half through handles, each another model in each round; requests of
    several models run in one call."""
    before = running.family("stats")
    together = Barrier(CLIENTS)

    def client(number: int) -> None:
        ask = running.by_http() if number % 2 else running.by_handle
        for turn in range(ROUNDS):
            model = MODELS[(number + turn) % 8]
            given = feeds((number, turn))
            together.wait(60)
            right(running, ask(name_of(model), given), model, given)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client, number) for number in range(CLIENTS)]:
            done.result()
    stats = running.family("stats")
    assert stats["requests"]["answered"] - before["requests"]["answered"] == CLIENTS * ROUNDS
    merged = stats["calls"]["merged"] - before["calls"]["merged"]
    inside = stats["requests_in_calls"]["merged"] - before["requests_in_calls"]["merged"]
    assert merged and inside > 1.2 * merged and stats["models_per_merged_call"] > 1.2


def test_two_families_behind_one_router(running: Running) -> None:
    """A name that both have is none; with their families the models are told apart, and a family is a model, too."""
    given = {"x": feeds((3,))["x"]}
    for ask in (running.by_handle, running.by_http()):
        for model in "gh":
            want = running.truth("pair", model, given)
            np.testing.assert_allclose(ask(f"pair.{model}", given), want, rtol=1e-4, atol=1e-5)
        rows = {"x": np.repeat(given["x"][:1], 2, axis=0), "model": np.array([1, 0])}
        want = np.concatenate([running.truth("pair", model, {"x": given["x"][:1]}) for model in "hg"])
        np.testing.assert_allclose(ask("pair", rows), want, rtol=1e-4, atol=1e-5)
    assert running.handle.models.remote().result() == (
        *"abcdef", "eight.g", "eight.h", "pair.g", "pair.h",
    )  # fmt: skip


ZERO = {"x": np.zeros((1, 8), np.float32), "k": np.zeros(1, np.int64)}
WRONG: dict[str, tuple[int, str, Feeds]] = {
    "no model": (404, "z", ZERO),
    "a name of two models": (404, "g", ZERO),
    "a missing input": (400, "a", {"x": ZERO["x"]}),
    "a short row": (400, "a", ZERO | {"x": np.zeros((1, 7), np.float32)}),
    "too many rows": (413, "a", {"x": np.zeros((65, 8), np.float32), "k": np.zeros(65, np.int64)}),
    "an index that no table has": (500, "a", ZERO | {"k": np.array([77])}),
}


@pytest.mark.parametrize(("status", "model", "given"), WRONG.values(), ids=WRONG)
def test_errors_keep_their_kind(running: Running, status: int, model: str, given: Feeds) -> None:
    with pytest.raises(ServingError) as caught:
        running.by_handle(model, given)
    assert caught.value.http == status and caught.value.message.count(".") >= 1
    inputs = [
        {"name": name, "shape": list(value.shape), "datatype": "FP32" if name == "x" else "INT64",
         "data": value.ravel().tolist()}
        for name, value in given.items()
    ]  # fmt: skip
    url = f"http://127.0.0.1:{running.port}/v2/models/{model}/infer"
    found, said = servers.ask(url, {"inputs": inputs})
    assert found == status and "Traceback" not in said["error"]


def test_what_the_protocol_tells(running: Running) -> None:
    def get(path: str, body: bytes | None = None) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/{path}", body, 60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    assert get("v2/health/ready")[0] == 200
    told = get("v2/models/eight.g")[1]
    assert [one["name"] for one in told["inputs"]] == ["x", "k"] and told["name"] == "eight.g"
    assert {"a", "pair.h"} <= {one["name"] for one in get("v2/repository/index", b"{}")[1]}
    status, said = get("v2/repository/models/eight/load", b"{}")
    assert status == 400 and "Deploy the app again" in said["error"]


# --------------------------------------------------------------------------- under load


def test_a_replica_is_killed(running: Running) -> None:
    """Its requests go to the next one, or fail with an error; none gets a wrong answer."""
    pid = running.family("stats")["pid"]
    with Load(running) as load:
        load.more(50)
        os.kill(pid, signal.SIGKILL)
        load.more(100)
    assert not load.wrong and load.right >= 150
    assert running.family("stats")["pid"] != pid
    for error in load.errors:
        status = getattr(error, "http", None) or getattr(error, "status", lambda: None)()
        assert str(status) in ("500", "503"), error
    assert len(load.errors) <= 16  # those that were inside


def test_a_new_bundle(running: Running, tmp_path: Path) -> None:
    """An app is deployed again with another bundle while it is asked. Each request gets an answer of the old files or
    of the new, whole, and none fails. A bundle that can't be read changes nothing."""
    paths = family(tmp_path, TEXT, WEIGHTS, count=8)
    order = paths[1:] + paths[:1]  # each name gets the weights of another model
    names = list(MODELS)
    new = str(tmp_path / "new")
    netfuse_onnx.merge(order, new, names=names, io="stacked", views=True, verify=False)
    moved = Running(
        running.port, running.build, running.folder, None,
        {("eight", model): path for model, path in zip(MODELS, order, strict=True)},
    )  # fmt: skip
    with pytest.raises(netfuse_onnx.errors.FileFault):
        running.deploy(eight=str(tmp_path / "nothing"))
    with Load(running, moved) as load:
        load.more(50)
        running.deploy(eight=new)
        load.more(50)
    assert not load.wrong and not load.errors
    assert running.family("stats")["bundle"] == new
    given = feeds((1,))
    right(moved, running.by_handle("a", given), "a", given)
    running.deploy()
    right(running, running.by_handle("a", given), "a", given)


# --------------------------------------------------------------------------- a replica by itself


def test_a_replica_that_ends_answers_what_it_accepted(running: Running) -> None:
    from netfuse_onnx.server.ray import Family, served

    async def asked() -> list[Any]:
        replica = Family(workers=1)
        with pytest.raises(Closed):
            replica.check_health()  # there is no bundle yet
        await replica.reconfigure(served(str(running.folder / "eight")))
        replica.check_health()
        given = [(model, feeds((turn,))) for turn in range(40) for model in MODELS]
        tasks = [asyncio.ensure_future(replica.infer(*one)) for one in given]
        await asyncio.sleep(0)  # all are inside
        await asyncio.to_thread(replica.__del__)
        answers = await asyncio.gather(*tasks)
        with pytest.raises(Closed):
            await replica.infer(*given[0])
        with pytest.raises(RuntimeError):
            replica.check_health()
        return list(zip(given, answers, strict=True))

    for (model, given), answer in asyncio.run(asked()):
        right(running, answer["y"], model, given)


def test_a_replica_refuses_other_files_than_were_deployed(running: Running, tmp_path: Path) -> None:
    """A machine may have old files at the path; one that serves already goes on with what it has."""
    from netfuse_onnx.server.ray import Family, served

    async def changed() -> None:
        replica, good = Family(workers=1), served(str(running.folder / "eight"))
        bad = good | {"version": "0" * 64}
        with pytest.raises(netfuse_onnx.errors.FileFault, match="not the bundle that was deployed"):
            await replica.reconfigure(bad)
        await replica.reconfigure(good)
        await replica.reconfigure(bad)
        assert (await replica.stats())["version"] == good["version"]
        given = feeds((2,))
        right(running, (await replica.infer("c", given))["y"], "c", given)
        with pytest.raises(CallFailed):
            await replica.infer("c", ZERO | {"k": np.array([77])})
        assert isinstance(await replica.answer("c", ZERO | {"k": np.array([77])}), CallFailed)
        replica.__del__()

    asyncio.run(changed())


def test_a_replica_changes_to_another_bundle(running: Running, tmp_path: Path) -> None:
    """Ray tells a replica of another `user_config`. What came before is answered by the old files."""
    from netfuse_onnx.server.ray import Family, served

    paths = family(tmp_path, TEXT, WEIGHTS, count=8)[::-1]
    netfuse_onnx.merge(paths, str(tmp_path / "new"), names=[*MODELS], io="stacked", views=True, verify=False)
    given = feeds((5,))
    old = running.truth("eight", "a", given)
    new = np.asarray(oracle.session(paths[0], oracle.LEVELS[0]).run(["y"], given)[0])
    assert not np.allclose(old, new, rtol=1e-2)

    async def changing() -> list[bool]:
        replica = Family(workers=1)
        await replica.reconfigure(served(str(running.folder / "eight")))
        changed = asyncio.ensure_future(replica.reconfigure({"bundle": str(tmp_path / "new")}))
        seen = []
        while not changed.done() or len(seen) < 3:
            answer = (await replica.infer("a", given))["y"]
            is_new = np.allclose(answer, new, rtol=1e-4, atol=1e-5)
            assert is_new or np.allclose(answer, old, rtol=1e-4, atol=1e-5)
            seen.append(is_new)
            await asyncio.sleep(0.001)
        answer = (await replica.infer("a", given))["y"]
        seen.append(np.allclose(answer, new, rtol=1e-4, atol=1e-5))
        replica.__del__()
        return seen

    seen = asyncio.run(changing())
    assert not seen[0] and seen[-1] and seen == sorted(seen)
