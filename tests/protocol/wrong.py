"""Requests with one thing wrong, or odd, as bytes of HTTP. Each is a request for m1 of the family
`lookups` or t1 of `types`, changed in one place."""

from __future__ import annotations

import copy
import gzip
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import wire_families as families
from protocol.clients import datatype
from tritonclient.utils import serialize_byte_tensor

JSON = Mapping[str, Any]
IDS, X = [[1, 2, 3]], [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]
FEEDS = {"ids": np.array(IDS), "x": np.array(X, np.float32)}
HUGE = 2**62
"""A size whose products leave 64 bits."""


@dataclass(frozen=True)
class Post:
    """A request of HTTP."""

    body: bytes
    path: str = "/v2/models/m1/infer"
    headers: Mapping[str, str] = field(default_factory=dict)


def right_json() -> dict[str, Any]:
    """Return a request that is answered."""
    return {
        "id": "1",
        "inputs": [
            {"name": "ids", "shape": [1, 3], "datatype": "INT64", "data": copy.deepcopy(IDS)},
            {"name": "x", "shape": [1, 8], "datatype": "FP32", "data": copy.deepcopy(X)},
        ],
    }


def _input(place: int = 1, **change: Any) -> Post:
    body = right_json()
    body["inputs"][place].update(change)
    for name, value in change.items():
        if value is None:
            del body["inputs"][place][name]
    return posted(body)


def _whole(**change: Any) -> Post:
    return posted(right_json() | change)


def posted(body: Any, path: str = Post.path) -> Post:
    return Post(json.dumps(body).encode(), path)


def _with_inputs(change: Callable[[list[Any]], Any]) -> Post:
    body = right_json()
    body["inputs"] = change(body["inputs"])
    return posted(body)


def json_cases() -> dict[str, Post]:
    """Requests in JSON, by what is wrong in them."""
    right = json.dumps(right_json()).encode()
    return {
        "nothing is wrong": Post(right),
        "unknown model": Post(right, "/v2/models/nobody/infer"),
        "unknown version": Post(right, "/v2/models/m1/versions/9/infer"),
        "version that is no number": Post(right, "/v2/models/m1/versions/new/infer"),
        "a path for a name": Post(right, "/v2/models/..%2f..%2fetc%2fpasswd/infer"),
        "empty body": Post(b""),
        "malformed JSON": Post(right[:-2]),
        "more after the JSON": Post(right + b"}"),
        "a list for the request": Post(b"[1]"),
        "a number for the request": Post(b"1"),
        "null for the request": Post(b"null"),
        "bytes that are not UTF-8": Post(right.replace(b'"1"', b'"\xff\xfe"')),
        "JSON nested 100,000 deep": _deep(),
        "no inputs": _whole(inputs=[]),
        "inputs is missing": posted({"id": "1"}),
        "inputs is no list": _whole(inputs={"ids": 1}),
        "an input is no object": _whole(inputs=[1, 2]),
        "id is a number": _whole(id=7),
        "missing input": _with_inputs(lambda every: every[:1]),
        "unknown input": _with_inputs(lambda every: [*every, every[1] | {"name": "z"}]),
        "input of another name": _input(name="z"),
        "duplicate input": _with_inputs(lambda every: [*every, every[1]]),
        "name is missing": _input(name=None),
        "datatype is missing": _input(datatype=None),
        "shape is missing": _input(shape=None),
        "data is missing": _input(data=None),
        "wrong type": _input(datatype="FP64"),
        "unknown type": _input(datatype="FLOAT"),
        "datatype is a number": _input(datatype=11),
        "wrong rank": _input(shape=[8], data=X[0]),
        "wrong size": _input(shape=[1, 7], data=[X[0][:7]]),
        "rows that differ": _input(shape=[2, 8], data=[X[0], X[0]]),
        "no rows": _with_inputs(
            lambda every: [every[0] | {"shape": [0, 3], "data": []}, every[1] | {"shape": [0, 8], "data": []}]
        ),
        "less data than the shape": _input(data=X[0][:7]),
        "more data than the shape": _input(data=[*X[0], 9.0]),
        "negative size": _input(shape=[-1, 8]),
        "two negative sizes": _input(shape=[-1, -8]),
        "huge size": _input(shape=[HUGE, 8]),
        "product of sizes overflows to the right one": _input(shape=[2**61 + 1, 8]),
        "size beyond 64 bits": _input(shape=[2**64 + 1, 8]),
        "fraction for a size": _input(shape=[1.5, 8]),
        "text for a size": _input(shape=["1", "8"]),
        "number for a shape": _input(shape=8),
        "text for a number": _input(data=[["1"] * 8]),
        "null for a number": _input(data=[[None] * 8]),
        "object for a number": _input(data=[[{}] * 8]),
        "true for a number": _input(0, data=[[True, False, True]]),
        "fraction for a whole number": _input(0, data=[[1.5, 2, 3]]),
        "number beyond 64 bits": _input(0, data=[[2**70, 2, 3]]),
        "text for data": _input(data="12345678"),
        "rows of unequal lengths": _input(0, shape=[2, 3], data=[[1, 2], [3, 4, 5, 6]]),
        "index out of range": _input(0, data=[[1, 2, 99]]),
        "NaN in the JSON": Post(right.replace(b"8.0", b"NaN")),
        **_output_cases(),
        **_parameter_cases(),
    }


def _deep() -> Post:
    return Post(b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def _output_cases() -> dict[str, Post]:
    return {
        "unknown output": _whole(outputs=[{"name": "z"}]),
        "duplicate output": _whole(outputs=[{"name": "y"}, {"name": "y"}]),
        "outputs is no list": _whole(outputs="y"),
        "an output without a name": _whole(outputs=[{}]),
        "no output is asked for": _whole(outputs=[]),
        "classification": _whole(outputs=[{"name": "y", "parameters": {"classification": 2}}]),
        "output in shared memory": _whole(outputs=[{"name": "y", "parameters": _shared(16)}]),
        "binary_data is text": _whole(outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]),
    }


def _shared(size: int) -> JSON:
    return {"shared_memory_region": "none", "shared_memory_byte_size": size}


def _parameter_cases() -> dict[str, Post]:
    return {
        "input in shared memory": _input(data=None, parameters=_shared(32)),
        "unknown parameter": _whole(parameters={"colour": "blue", "level": 3, "on": True}),
        "unknown parameter of an input": _input(parameters={"colour": "blue"}),
        "unknown parameter of an output": _whole(outputs=[{"name": "y", "parameters": {"colour": "blue"}}]),
        "parameters is no object": _whole(parameters=[1]),
        "a parameter is an object": _whole(parameters={"colour": {"red": 1}}),
        "sequence_id": _whole(parameters={"sequence_id": 5, "sequence_start": True, "sequence_end": True}),
        "priority": _whole(parameters={"priority": 1}),
        "timeout": _whole(parameters={"timeout": 10_000_000}),
        "timeout is text": _whole(parameters={"timeout": "soon"}),
    }


# ----------------------------------------------------------------------------- binary tensors


def binary(
    feeds: Mapping[str, np.ndarray], path: str = Post.path, *, raw: Mapping[str, bytes] | None = None,
    sizes: Mapping[str, Any] | None = None, length: Any = None, end: int = 0, more: bytes = b"",
    extra: Mapping[str, Any] | None = None,
) -> Post:  # fmt: skip
    """Return a request with binary tensors. `raw` and `sizes` replace bytes and their sizes, `length` the size of the
    JSON in front; `end` cuts bytes off the end and `more` adds some. `extra` is put into every input."""
    inputs, data = [], b""
    for name, value in feeds.items():
        bits = (raw or {}).get(name, encoded(value))
        size = (sizes or {}).get(name, len(bits))
        inputs.append({
            "name": name, "shape": value.shape, "datatype": datatype(value),
            "parameters": {"binary_data_size": size}, **(extra or {}),
        })  # fmt: skip
        data += bits
    head = json.dumps({"inputs": inputs}).encode()
    body = head + data + more
    known = str(len(head) if length is None else length)
    return Post(body[: len(body) - end], path, {"Inference-Header-Content-Length": known})


def encoded(value: np.ndarray) -> bytes:
    return serialize_byte_tensor(value).item() if value.dtype == object else value.tobytes()


def binary_cases() -> dict[str, Post]:
    """Requests with binary tensors, by what is wrong in them."""
    right = binary(FEEDS)
    head = int(right.headers["Inference-Header-Content-Length"])
    return {
        "binary: nothing is wrong": right,
        "binary: truncated": binary(FEEDS, end=5),
        "binary: no tensor came": binary(FEEDS, end=56),
        "binary: bytes are left over": binary(FEEDS, more=b"1234"),
        "binary: length of the header beyond the body": binary(FEEDS, length=10**6),
        "binary: length of the header too short": binary(FEEDS, length=head - 3),
        "binary: length of the header too long": binary(FEEDS, length=head + 3),
        "binary: length of the header is 0": binary(FEEDS, length=0),
        "binary: length of the header is negative": binary(FEEDS, length=-5),
        "binary: length of the header is huge": binary(FEEDS, length=2**70),
        "binary: length of the header is no number": binary(FEEDS, length="ten"),
        "binary: no length of the header": Post(right.body),
        "binary: size of a tensor beyond the body": binary(FEEDS, sizes={"x": 64}),
        "binary: size of a tensor too small": binary(FEEDS, sizes={"x": 28}),
        "binary: size of a tensor is negative": binary(FEEDS, sizes={"x": -32}),
        "binary: size of a tensor is huge": binary(FEEDS, sizes={"x": 2**63}),
        "binary: size of a tensor is text": binary(FEEDS, sizes={"x": "32"}),
        "binary: size of a tensor is a fraction": binary(FEEDS, sizes={"x": 32.5}),
        "binary: data in JSON beside it": binary(FEEDS, extra={"data": [1, 2, 3]}),
        **bytes_cases(),
        **_encoding_cases(right),
    }


def bytes_cases() -> dict[str, Post]:
    """Requests with texts, for the family `types`."""
    feeds = families.typed_feeds(3)
    texts = encoded(np.array([["one", "two", "three"]], object))

    def with_texts(raw: bytes) -> Post:
        return binary(feeds, "/v2/models/t1/infer", raw={"x_BYTES": raw})

    return {
        "BYTES: nothing is wrong": with_texts(texts),
        "BYTES: a length beyond the end": with_texts(texts[:-9] + struct.pack("<I", 500) + b"three"),
        "BYTES: a huge length": with_texts(texts[:-9] + struct.pack("<I", 2**32 - 1) + b"three"),
        "BYTES: cut in a length": with_texts(texts[:-7]),
        "BYTES: too few": with_texts(texts[:-9]),
        "BYTES: too many": with_texts(texts + struct.pack("<I", 1) + b"4"),
        "BYTES: not UTF-8": with_texts(texts[:-5] + b"\xff\xfe\xfa\xfb\xfc"),
        "BYTES: empty": with_texts(b""),
    }


def _encoding_cases(right: Post) -> dict[str, Post]:
    def coded(body: bytes, encoding: str) -> Post:
        return Post(body, headers={**right.headers, "Content-Encoding": encoding})

    packed = gzip.compress(right.body)
    return {
        "gzip": coded(packed, "gzip"),
        "gzip: not so": coded(right.body, "gzip"),
        "gzip: truncated": coded(packed[:-12], "gzip"),
        "deflate: not so": coded(right.body, "deflate"),
        "an unknown encoding": coded(right.body, "br"),
    }
