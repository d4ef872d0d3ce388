"""Stock clients: each way asks one model for its outputs, by `tritonclient` or, for contents by type, its messages."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from protocol.endpoints import Endpoint
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Array = np.ndarray[Any, Any]
Values = dict[str, Array]
PATIENCE = 30.0
"""Seconds to wait for an answer."""
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""The field of gRPC's contents that holds each type."""


@dataclass(frozen=True)
class Asked:
    """One request: a model, its inputs, the outputs that are wanted (all, where none is named), and its id."""

    model: str
    feeds: Mapping[str, Array]
    outputs: Sequence[str] = ()
    id: str = ""
    version: str = ""


@dataclass(frozen=True)
class Answer:
    """The outputs by name, and the id that came back."""

    values: Values
    id: str


def datatype(value: Array) -> str:
    """Return the protocol's word for an array's type."""
    return "BF16" if value.dtype == ml_dtypes.bfloat16 else str(np_to_triton_dtype(value.dtype))


# ----------------------------------------------------------------------------- HTTP


def http_inputs(feeds: Mapping[str, Array], *, binary: bool) -> list[Any]:
    inputs = []
    for name, value in feeds.items():
        one = httpclient.InferInput(name, list(value.shape), datatype(value))
        one.set_data_from_numpy(value, binary_data=binary)
        inputs.append(one)
    return inputs


def http_outputs(names: Sequence[str], *, binary: bool) -> list[Any] | None:
    return [httpclient.InferRequestedOutput(name, binary_data=binary) for name in names] or None


def http_answer(result: Any) -> Answer:
    response = result.get_response()
    values = {output["name"]: result.as_numpy(output["name"]) for output in response["outputs"]}
    return Answer(values, response.get("id", ""))


def by_http(endpoint: Endpoint, asked: Asked, *, sent: bool, wanted: bool, **options: Any) -> Answer:
    """Ask by HTTP. `sent` and `wanted` are True for binary tensors."""
    names = asked.outputs if wanted or asked.outputs else endpoint.outputs(asked.model)
    with httpclient.InferenceServerClient(endpoint.http, network_timeout=PATIENCE) as client:
        result = client.infer(
            asked.model, http_inputs(asked.feeds, binary=sent), request_id=asked.id, model_version=asked.version,
            outputs=http_outputs(names, binary=wanted), **options,
        )  # fmt: skip
        return http_answer(result)


def by_http_aio(endpoint: Endpoint, asked: Asked) -> Answer:
    async def ask() -> Answer:
        async with httpaio.InferenceServerClient(endpoint.http) as client:
            result = await client.infer(
                asked.model, http_inputs(asked.feeds, binary=True), request_id=asked.id,
                model_version=asked.version, outputs=http_outputs(asked.outputs, binary=True),
            )  # fmt: skip
            return http_answer(result)

    return asyncio.run(ask())


# ----------------------------------------------------------------------------- gRPC


def grpc_inputs(feeds: Mapping[str, Array]) -> list[Any]:
    inputs = []
    for name, value in feeds.items():
        one = grpcclient.InferInput(name, list(value.shape), datatype(value))
        one.set_data_from_numpy(value)
        inputs.append(one)
    return inputs


def grpc_outputs(names: Sequence[str]) -> list[Any] | None:
    return [grpcclient.InferRequestedOutput(name) for name in names] or None


def grpc_answer(result: Any) -> Answer:
    response = result.get_response()
    values = {output.name: result.as_numpy(output.name) for output in response.outputs}
    return Answer(values, response.id)


def _grpc_call(asked: Asked) -> dict[str, Any]:
    return {
        "model_name": asked.model, "inputs": grpc_inputs(asked.feeds), "request_id": asked.id,
        "model_version": asked.version, "outputs": grpc_outputs(asked.outputs),
    }  # fmt: skip


def by_grpc(endpoint: Endpoint, asked: Asked, **options: Any) -> Answer:
    with grpcclient.InferenceServerClient(endpoint.grpc) as client:
        return grpc_answer(client.infer(**_grpc_call(asked), client_timeout=PATIENCE, **options))


def by_grpc_aio(endpoint: Endpoint, asked: Asked) -> Answer:
    async def ask() -> Answer:
        async with grpcaio.InferenceServerClient(endpoint.grpc) as client:
            return grpc_answer(await client.infer(**_grpc_call(asked), client_timeout=PATIENCE))

    return asyncio.run(ask())


def by_stream(endpoint: Endpoint, asked: Asked) -> Answer:
    return streamed(endpoint, [asked])[0]


def streamed(endpoint: Endpoint, every: Sequence[Asked]) -> list[Answer]:
    """Send requests on one stream, and return the answers as they come. Raises the first error."""
    answers = []
    for outcome in stream_outcomes(endpoint, every):
        if isinstance(outcome, Exception):
            raise outcome
        answers.append(outcome)
    return answers


def stream_outcomes(endpoint: Endpoint, every: Sequence[Asked]) -> list[Answer | Exception]:
    """Send requests on one stream, and return answers and errors as they come."""
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpcclient.InferenceServerClient(endpoint.grpc) as client:
        client.start_stream(lambda result, error: came.put((result, error)), stream_timeout=PATIENCE)
        for asked in every:
            client.async_stream_infer(**_grpc_call(asked))
        pairs = [came.get(timeout=PATIENCE) for _ in every]
    return [grpc_answer(result) if error is None else error for result, error in pairs]


def contents_message(asked: Asked) -> Any:
    """Return the request with each input's elements in the field of their type."""
    message = service_pb2.ModelInferRequest(
        model_name=asked.model, model_version=asked.version, id=asked.id,
        outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=n) for n in asked.outputs],
    )  # fmt: skip
    for name, value in asked.feeds.items():
        tensor = message.inputs.add(name=name, datatype=datatype(value), shape=value.shape)
        elements = value.ravel().tolist()
        if value.dtype == object:
            elements = [one if isinstance(one, bytes) else one.encode() for one in elements]
        getattr(tensor.contents, CONTENTS[datatype(value)]).extend(elements)
    return message


def by_contents(endpoint: Endpoint, asked: Asked) -> Answer:
    return grpc_answer(grpcclient.InferResult(sent_raw(endpoint, contents_message(asked))))


def sent_raw(endpoint: Endpoint, message: Any) -> Any:
    """Send a message as it is."""
    with grpc.insecure_channel(endpoint.grpc) as channel:
        return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=PATIENCE)


WAYS: Mapping[str, Callable[[Endpoint, Asked], Answer]] = {
    "http json": lambda e, a: by_http(e, a, sent=False, wanted=False),
    "http binary": lambda e, a: by_http(e, a, sent=True, wanted=True),
    "http json to binary": lambda e, a: by_http(e, a, sent=False, wanted=True),
    "http binary to json": lambda e, a: by_http(e, a, sent=True, wanted=False),
    "http aio": by_http_aio, "grpc": by_grpc, "grpc contents": by_contents, "grpc aio": by_grpc_aio,
    "grpc stream": by_stream,
}  # fmt: skip
"""All ways to ask."""


def status(error: BaseException) -> str:
    """Return what an error says: the number of HTTP, or gRPC's word."""
    if isinstance(error, InferenceServerException):
        return str(error.status()).removeprefix("StatusCode.")
    if isinstance(error, grpc.RpcError):
        return str(error.code().name)  # type: ignore[attr-defined]
    raise error
