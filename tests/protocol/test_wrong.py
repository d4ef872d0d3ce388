"""Requests that are wrong get the status that is due, and hurt nothing: the next one is answered.

`wrong.py` has the requests, `expected.py` the statuses, and where ours and Triton differ.
"""

from __future__ import annotations

import http.client
import json

import grpc
import numpy as np
import pytest
import wire_families as families
from protocol import clients, expected, wrong, wrong_messages
from protocol.clients import WAYS, Asked
from protocol.endpoints import Endpoint
from protocol.wrong import Post
from tritonclient.utils import InferenceServerException

POSTS = {**wrong.json_cases(), **wrong.binary_cases()}
MESSAGES = wrong_messages.grpc_cases()


def post(endpoint: Endpoint, asked: Post) -> tuple[int, bytes]:
    """Send a request of HTTP as it is. Returns the status and the body of the answer."""
    connection = http.client.HTTPConnection(endpoint.http, timeout=clients.PATIENCE)
    try:
        connection.request("POST", asked.path, asked.body, dict(asked.headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def still_right(endpoint: Endpoint) -> None:
    """Check that a right request is answered right."""
    feeds = families.typed_feeds(1) if endpoint.family.name == "types" else families.lookup_feeds(1)
    model = endpoint.family.models[1]
    answer = clients.by_http(endpoint, Asked(model, feeds), sent=True, wanted=True)
    families.same(answer.values, endpoint.family.answer(model, feeds))


def asked_of(case: str, lookups: Endpoint, request: pytest.FixtureRequest) -> Endpoint:
    found = request.getfixturevalue("types") if case.startswith("BYTES") else lookups
    assert isinstance(found, Endpoint)
    return found


def test_each_case_has_a_status() -> None:
    assert POSTS.keys() == expected.HTTP.keys()
    assert MESSAGES.keys() == expected.GRPC.keys()


def test_the_docs_have_the_differences() -> None:
    """`python tests/protocol/expected.py` writes them."""
    page = expected.PAGE.read_text()
    assert expected.written(page) == page and expected.table() in page


@pytest.mark.parametrize("case", POSTS)
def test_http(case: str, lookups: Endpoint, request: pytest.FixtureRequest) -> None:
    """An error is a JSON object with one sentence, and no trace of the program."""
    endpoint = asked_of(case, lookups, request)
    status, body = post(endpoint, POSTS[case])
    assert str(status) == expected.status(expected.HTTP[case], endpoint.kind), body[:500]
    if status != 200:
        error = json.loads(body)["error"]
        assert error and len(error) < 2000
        assert endpoint.kind != "ours" or not {"Traceback", 'File "', "object at 0x"} & {*error.split("\n")}
    still_right(endpoint)


@pytest.mark.parametrize("case", MESSAGES)
def test_grpc(case: str, lookups: Endpoint, request: pytest.FixtureRequest) -> None:
    endpoint = asked_of(case, lookups, request)
    due = expected.status(expected.GRPC[case], endpoint.kind)
    if due == "OK":
        clients.sent_raw(endpoint, MESSAGES[case])
    else:
        with pytest.raises(grpc.RpcError) as caught:
            clients.sent_raw(endpoint, MESSAGES[case])
        assert clients.status(caught.value) == due, caught.value
        assert caught.value.details()  # type: ignore[attr-defined]
    still_right(endpoint)


# ----------------------------------------------------------------------------- as stock clients see it

FEEDS = families.lookup_feeds(2)
STOCK: dict[str, tuple[Asked, str, str]] = {
    "unknown model": (Asked("nobody", FEEDS), "404", "NOT_FOUND"),
    "unknown version": (Asked("m1", FEEDS, version="7"), "404", "NOT_FOUND"),
    "missing input": (Asked("m1", {"x": FEEDS["x"]}), "400", "INVALID_ARGUMENT"),
    "unknown input": (Asked("m1", {**FEEDS, "z": FEEDS["x"]}), "400", "INVALID_ARGUMENT"),
    "type": (Asked("m1", {**FEEDS, "x": FEEDS["x"].astype(np.float64)}), "400", "INVALID_ARGUMENT"),
    "rank": (Asked("m1", {**FEEDS, "x": FEEDS["x"][0]}), "400", "INVALID_ARGUMENT"),
    "size": (Asked("m1", {**FEEDS, "x": FEEDS["x"][:, :5]}), "400", "INVALID_ARGUMENT"),
    "rows": (Asked("m1", {**FEEDS, "x": np.repeat(FEEDS["x"], 2, 0)}), "400", "INVALID_ARGUMENT"),
    "output": (Asked("m1", FEEDS, ("y", "nothing")), "400", "INVALID_ARGUMENT"),
    "index": (Asked("m1", {**FEEDS, "ids": np.array([[1, 2, 60]])}), "500", "INTERNAL"),
}
"""Requests, and the statuses of both servers by HTTP and gRPC."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", STOCK)
def test_clients_raise_their_own_error(lookups: Endpoint, way: str, case: str) -> None:
    asked, by_http, by_grpc = STOCK[case]
    kinds = (InferenceServerException, grpc.RpcError)
    with pytest.raises(kinds) as caught:
        WAYS[way](lookups, asked)
    found = clients.status(caught.value)
    if way == "grpc stream":  # Triton's streams carry a sentence without a status
        assert found in ("None", by_grpc) and str(caught.value)
    else:
        assert found == (by_http if way.startswith("http") else by_grpc)
