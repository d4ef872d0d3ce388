"""Stock clients learn what a server is and has: health, metadata, configuration, index, statistics."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
import wire_families as families
from google.protobuf import json_format
from protocol import clients
from protocol.clients import Asked
from protocol.endpoints import Endpoint
from tritonclient.utils import InferenceServerException

SHARED_EXTENSIONS = {"binary_tensor_data", "model_repository", "statistics", "model_configuration"}
"""The extensions that both servers say they have."""
Call = Callable[[Any], Any]


def by_http(endpoint: Endpoint, call: Call) -> Any:
    with httpclient.InferenceServerClient(endpoint.http) as client:
        return call(client)


def by_grpc(endpoint: Endpoint, call: Call) -> Any:
    """Call, and return messages as JSON has them."""
    with grpcclient.InferenceServerClient(endpoint.grpc) as client:
        return as_json(call(client))


def as_json(found: Any) -> Any:
    if isinstance(found, bool) or found is None:
        return found
    return json.loads(json_format.MessageToJson(found, preserving_proto_field_name=True))


def by_http_aio(endpoint: Endpoint, call: Call) -> Any:
    async def ask() -> Any:
        async with httpaio.InferenceServerClient(endpoint.http) as client:
            return await call(client)

    return asyncio.run(ask())


def by_grpc_aio(endpoint: Endpoint, call: Call) -> Any:
    async def ask() -> Any:
        async with grpcaio.InferenceServerClient(endpoint.grpc) as client:
            return as_json(await call(client))

    return asyncio.run(ask())


WAYS = {"http": by_http, "grpc": by_grpc, "http aio": by_http_aio, "grpc aio": by_grpc_aio}
all_ways = pytest.mark.parametrize("way", WAYS)


@all_ways
def test_it_lives_and_is_ready(lookups: Endpoint, way: str) -> None:
    assert WAYS[way](lookups, lambda client: client.is_server_live()) is True
    assert WAYS[way](lookups, lambda client: client.is_server_ready()) is True


@all_ways
def test_models_are_ready(lookups: Endpoint, way: str) -> None:
    ask = WAYS[way]
    for model in lookups.family.models:
        assert ask(lookups, lambda client, model=model: client.is_model_ready(model)) is True
        assert ask(lookups, lambda client, model=model: client.is_model_ready(model, "1")) is True
    assert ask(lookups, lambda client: client.is_model_ready("m1", "9")) is False
    assert ask(lookups, lambda client: client.is_model_ready("nobody")) is False


@all_ways
def test_the_server_says_what_it_is(lookups: Endpoint, way: str) -> None:
    found = WAYS[way](lookups, lambda client: client.get_server_metadata())
    assert found["name"] == ("netfuse-onnx" if lookups.kind == "ours" else "triton")
    assert found["version"] and set(found["extensions"]) >= SHARED_EXTENSIONS


def ports(endpoint: Endpoint, model: str, side: str) -> list[tuple[str, str, list[int]]]:
    """Return what a model's own file says: names, types and shapes, -1 for a size that is free."""
    words = {word: kind for kind, (word, _) in families.KINDS.items()}
    found = []
    for port in getattr(endpoint.family.session(model), side)():
        shape = [size if isinstance(size, int) else -1 for size in port.shape]
        if endpoint.kind == "triton" and len(shape) == 1:  # which has no batch of scalars
            shape = [*shape, 1]
        found.append((port.name, words[port.type.removeprefix("tensor(").removesuffix(")")], shape))
    return found


@all_ways
@pytest.mark.parametrize("name", ["lookups", "types", "halves", "shapes"])
def test_a_model_says_what_it_takes_and_gives(
    serving: Callable[[str], Endpoint], name: str, way: str
) -> None:
    endpoint = serving(name)
    for model in endpoint.family.models:
        found = WAYS[way](endpoint, lambda client, model=model: client.get_model_metadata(model))
        assert found["name"] == model and found["versions"] == ["1"] and found["platform"]
        for key, side in (("inputs", "get_inputs"), ("outputs", "get_outputs")):
            said = [(one["name"], one["datatype"], [*map(int, one["shape"])]) for one in found[key]]
            assert said == ports(endpoint, model, side)


@all_ways
def test_a_model_has_a_configuration(shapes: Endpoint, way: str) -> None:
    """It has the fields of Triton's. There, shapes are those of a row, and `max_batch_size` says how many there may
    be; ours have the batch axis, which Triton writes as `max_batch_size` 0."""
    for model in shapes.family.models:
        found = WAYS[way](shapes, lambda client, model=model: client.get_model_config(model))
        found = found.get("config", found)
        most = int(found.get("max_batch_size", 0))
        assert found["name"] == model and (most == 0) == (shapes.kind == "ours")
        for key, side in (("input", "get_inputs"), ("output", "get_outputs")):
            said = [(one["name"], one["data_type"], [*map(int, one.get("dims", []))]) for one in found[key]]
            due = [(n, f"TYPE_{kind}", shape[most > 0 :]) for n, kind, shape in ports(shapes, model, side)]
            assert said == due


@all_ways
def test_the_index_has_all_models(lookups: Endpoint, way: str) -> None:
    found = WAYS[way](lookups, lambda client: client.get_model_repository_index())
    found = found if isinstance(found, list) else found["models"]
    states = {one["name"]: (one["version"], one["state"]) for one in found}
    assert {model: states.get(model) for model in lookups.family.models} == dict.fromkeys(
        lookups.family.models, ("1", "READY")
    )


@all_ways
def test_statistics_count_requests_and_rows(lookups: Endpoint, way: str) -> None:
    """A request of three rows is one request and three inferences; one that is wrong is neither."""

    def counted(model: str) -> tuple[int, int]:
        found = WAYS[way](lookups, lambda client: client.get_inference_statistics(model))
        [stats] = found["model_stats"]
        assert stats["name"] == model and stats["version"] == "1"
        done = stats.get("inference_stats", {}).get("success", {})
        return int(done.get("count", 0)), int(stats.get("inference_count", 0))

    before, other = counted("m6"), counted("m7")
    clients.by_grpc(lookups, Asked("m6", families.lookup_feeds(0, rows=3)))
    clients.by_http(lookups, Asked("m6", families.lookup_feeds(0, rows=2)), sent=True, wanted=True)
    with pytest.raises(InferenceServerException):
        clients.by_grpc(lookups, Asked("m6", {"x": families.lookup_feeds(0)["x"]}))
    after = counted("m6")
    assert (after[0] - before[0], after[1] - before[1]) == (2, 5)
    assert counted("m7") == other


@all_ways
def test_all_statistics_are_those_of_all_models(lookups: Endpoint, way: str) -> None:
    found = WAYS[way](lookups, lambda client: client.get_inference_statistics())
    assert {one["name"] for one in found["model_stats"]} >= {*lookups.family.models}


@all_ways
@pytest.mark.parametrize("what", ["metadata", "config", "statistics", "version", "load"])
def test_what_is_not_there(lookups: Endpoint, way: str, what: str) -> None:
    """Names that no model has are errors of the client, with the status of an unknown model where both servers agree."""
    calls: dict[str, Call] = {
        "metadata": lambda client: client.get_model_metadata("nobody"),
        "version": lambda client: client.get_model_metadata("m1", "9"),
        "config": lambda client: client.get_model_config("nobody"),
        "statistics": lambda client: client.get_inference_statistics("nobody"),
        "load": lambda client: client.load_model("../../etc"),
    }
    with pytest.raises(InferenceServerException) as caught:
        WAYS[way](lookups, calls[what])
    found, ours = clients.status(caught.value), lookups.kind == "ours"
    if ours or what in ("metadata", "version"):
        assert found == ("404" if way.startswith("http") else "NOT_FOUND")
    assert found not in ("200", "OK")


def status_of(url: str, method: str = "GET", body: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("path", "method", "due"),
    [
        ("/v2/health/live", "GET", 200), ("/v2/health/ready", "GET", 200), ("/v2/models/m1/ready", "GET", 200),
        ("/v2", "GET", 200), ("/v2/models/m1/versions/1", "GET", 200), ("/v2/models/m1/stats", "GET", 200),
        ("/v2/models/m1", "DELETE", 405), ("/nothing", "GET", 404),
        ("/v2/models/m1/versions/9", "GET", 404), ("/v2/repository/index", "POST", 200),
    ],
)  # fmt: skip
def test_paths_and_methods(lookups: Endpoint, path: str, method: str, due: int) -> None:
    assert status_of(f"http://{lookups.http}{path}", method, b"" if method == "POST" else None) == due
