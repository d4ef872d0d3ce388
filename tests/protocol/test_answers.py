"""Stock clients get what each model's own file gives, by all ways, of all types and shapes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
import wire_families as families
from protocol import clients
from protocol.clients import WAYS, Asked
from protocol.endpoints import Endpoint
from wire_families import BFLOAT_MODELS, HALF_MODELS, SHAPED_MODELS, TYPED_MODELS

BINARY = [way for way in WAYS if "json" not in way and way != "grpc contents"]


def check(endpoint: Endpoint, way: str, asked: Asked) -> clients.Answer:
    """Ask, and compare with the model's own file."""
    want = endpoint.family.answer(asked.model, asked.feeds)
    answer = WAYS[way](
        endpoint, Asked(asked.model, endpoint.shaped(asked.feeds), asked.outputs, asked.id, asked.version)
    )
    names = asked.outputs or [*want]
    values = endpoint.unshaped(answer.values, want)
    families.same(values, {name: want[name] for name in names}, names)
    assert answer.id == asked.id
    return answer


@pytest.mark.parametrize("way", WAYS)
def test_each_model_by_each_way(lookups: Endpoint, way: str) -> None:
    """Every model of the family answers with its own weights, one row and several."""
    for k, model in enumerate(lookups.family.models):
        check(lookups, way, Asked(model, families.lookup_feeds(k, 1 + k % 3)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", TYPED_MODELS)
def test_each_type(types: Endpoint, way: str, model: str) -> None:
    """Extremes of numbers, and texts with line ends, NULs and characters from everywhere."""
    check(types, way, Asked(model, families.typed_feeds(7, rows=3)))


@pytest.mark.parametrize("way", BINARY)
def test_fp16(halves: Endpoint, way: str) -> None:
    """The typed contents of gRPC have no field for it, and Triton's JSON does not carry it."""
    for model in HALF_MODELS:
        check(halves, way, Asked(model, families.half_feeds(7, rows=3)))


@pytest.mark.parametrize("way", BINARY)
def test_bf16(bfloats: Endpoint, way: str) -> None:
    for model in BFLOAT_MODELS:
        check(bfloats, way, Asked(model, families.half_feeds(7, rows=3, kind="BF16")))


@pytest.mark.parametrize("way", WAYS)
def test_open_axes_and_names_of_their_own(shapes: Endpoint, way: str) -> None:
    """Each model has its names, an axis of any size, and one number a row."""
    for m, model in enumerate(SHAPED_MODELS):
        for rows, steps in ((1, 1), (3, 7)):
            check(shapes, way, Asked(model, families.shaped_feeds(m, rows, steps)))


@pytest.mark.parametrize("way", ["http binary", "grpc", "http binary to json"])
def test_an_axis_of_no_size(shapes: Endpoint, way: str) -> None:
    """Rows are there, but there is nothing in them: no bytes."""
    check(shapes, way, Asked("s1", families.shaped_feeds(1, 2, 0)))


@pytest.mark.parametrize("way", WAYS)
def test_outputs_that_are_asked_for(lookups: Endpoint, way: str) -> None:
    """They come alone, and in the order of the request."""
    feeds = families.lookup_feeds(3)
    for outputs in (["y"], ["seen"], ["seen", "y"]):
        check(lookups, way, Asked("m2", feeds, outputs))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("id", ["7", "größe-東京", "x" * 300])
def test_ids_come_back(lookups: Endpoint, way: str, id: str) -> None:
    check(lookups, way, Asked("m3", families.lookup_feeds(4), id=id))


@pytest.mark.parametrize("way", WAYS)
def test_the_version_can_be_named(lookups: Endpoint, way: str) -> None:
    check(lookups, way, Asked("m4", families.lookup_feeds(5), version="1"))


@pytest.mark.parametrize("sent", ["gzip", "deflate", None])
@pytest.mark.parametrize("wanted", ["gzip", "deflate", None])
@pytest.mark.parametrize("binary", [True, False])
def test_compression_over_http(lookups: Endpoint, sent: str | None, wanted: str | None, binary: bool) -> None:
    feeds = families.lookup_feeds(6, rows=8)
    answer = clients.by_http(
        lookups, Asked("m5", feeds), sent=binary, wanted=binary,
        request_compression_algorithm=sent, response_compression_algorithm=wanted,
    )  # fmt: skip
    families.same(answer.values, lookups.family.answer("m5", feeds))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_over_grpc(lookups: Endpoint, algorithm: str) -> None:
    feeds = families.lookup_feeds(6, rows=8)
    answer = clients.by_grpc(lookups, Asked("m5", feeds), compression_algorithm=algorithm)
    families.same(answer.values, lookups.family.answer("m5", feeds))


def test_swapped_inputs_are_told_apart_by_name(types: Endpoint) -> None:
    """The order of a request's inputs is no matter."""
    feeds = dict(reversed(families.typed_feeds(8, rows=2).items()))
    for way in WAYS:
        check(types, way, Asked("t2", feeds))


# ----------------------------------------------------------------------------- several at once

ROUNDS = 24


def drawn(endpoint: Endpoint) -> list[Asked]:
    """Draw requests for all models in turns, each with its place as its id."""
    models = endpoint.family.models
    return [
        Asked(models[k % len(models)], families.lookup_feeds(k, 1 + k % 3), id=str(k)) for k in range(ROUNDS)
    ]


def judge(endpoint: Endpoint, asked: list[Asked], answers: list[clients.Answer]) -> None:
    assert len(asked) == len(answers)
    for one, answer in zip(asked, answers, strict=True):
        assert answer.id == one.id
        families.same(answer.values, endpoint.family.answer(one.model, one.feeds))


def test_a_client_of_http_asks_for_all_models_at_once(lookups: Endpoint) -> None:
    asked = drawn(lookups)
    with httpclient.InferenceServerClient(lookups.http, concurrency=8) as client:
        waiting = [
            client.async_infer(one.model, clients.http_inputs(one.feeds, binary=True), request_id=one.id)
            for one in asked
        ]
        judge(lookups, asked, [clients.http_answer(one.get_result()) for one in waiting])


def test_threads_share_a_client_of_grpc(lookups: Endpoint) -> None:
    asked = drawn(lookups)
    with grpcclient.InferenceServerClient(lookups.grpc) as client, ThreadPoolExecutor(8) as pool:

        def ask(one: Asked) -> clients.Answer:
            return clients.grpc_answer(
                client.infer(one.model, clients.grpc_inputs(one.feeds), request_id=one.id)
            )

        judge(lookups, asked, [*pool.map(ask, asked)])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tasks_share_a_client(lookups: Endpoint, protocol: str) -> None:
    asked = drawn(lookups)

    async def ask_all() -> list[clients.Answer]:
        if protocol == "http":
            async with httpaio.InferenceServerClient(lookups.http) as client:
                calls = [
                    client.infer(one.model, clients.http_inputs(one.feeds, binary=True), request_id=one.id)
                    for one in asked
                ]
                return [*map(clients.http_answer, await asyncio.gather(*calls))]
        async with grpcaio.InferenceServerClient(lookups.grpc) as other:
            calls = [
                other.infer(one.model, clients.grpc_inputs(one.feeds), request_id=one.id) for one in asked
            ]
            return [*map(clients.grpc_answer, await asyncio.gather(*calls))]

    judge(lookups, asked, asyncio.run(ask_all()))


def test_a_stream_carries_requests_for_all_models(lookups: Endpoint) -> None:
    """Answers come in any order: their ids say which is which."""
    asked = drawn(lookups)
    answers = {answer.id: answer for answer in clients.streamed(lookups, asked)}
    judge(lookups, asked, [answers[one.id] for one in asked])


def test_a_wrong_request_leaves_its_stream_open(lookups: Endpoint) -> None:
    """It gets an error of its own; what came before and after is answered."""
    right, wrong = Asked("m1", families.lookup_feeds(1)), Asked("nobody", families.lookup_feeds(1))
    outcomes = clients.stream_outcomes(lookups, [right, wrong, right])
    assert sorted(isinstance(one, Exception) for one in outcomes) == [False, False, True]
    for one in outcomes:
        if isinstance(one, clients.Answer):
            families.same(one.values, lookups.family.answer("m1", right.feeds))
