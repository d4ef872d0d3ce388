"""The gRPC side of the protocol: the service whose messages and stubs tritonclient brings."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from netfuse_onnx.errors import NetfuseError, UsageFault
from netfuse_onnx.runtime.errors import ServingError, UnknownModel
from netfuse_onnx.server import about, grpc_codec
from netfuse_onnx.server.core import UNPACKED, Core
from netfuse_onnx.server.endpoints import Endpoint, seconds_of
from netfuse_onnx.server.http_codec import chosen, has_text, rows_of
from netfuse_onnx.server.http_infer import HERE
from netfuse_onnx.server.repository import Repository, message

LOG = logging.getLogger(__name__)
STREAMED = 64
"""Requests of one stream that are being answered at a time."""
TOO_MANY = "The server has as many open streams as it takes. Close those that are idle."
Context = Any
"""grpc.aio.ServicerContext, which ships no types."""


def code_of(error: Exception) -> grpc.StatusCode:
    """Return the code of an error."""
    if isinstance(error, ServingError):
        return grpc.StatusCode[error.grpc]
    return grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, UsageFault) else grpc.StatusCode.INTERNAL


def sentence(error: Exception) -> str:
    """Return the sentence that tells clients an error. Those that are no user's mistake are logged."""
    if isinstance(error, NetfuseError):
        return str(error)
    LOG.error("A request failed inside of the server.", exc_info=error)
    return f"The server has a bug: {type(error).__name__}."


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The methods of the service. Those of shared memory, traces and logs are not there."""

    def __init__(self, core: Core, repository: Repository) -> None:
        self._core, self._repository = core, repository
        self._streams = 0
        """Streams that are open."""

    # ----------------------------------------------------------------------- inference

    async def ModelInfer(self, request: Any, context: Context) -> Any:
        """Answer one request."""
        try:
            return await self._answer(request)
        except NetfuseError as error:
            await context.abort(code_of(error), sentence(error))

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """Answer the requests of a stream in their order. Several wait at a time, so that they share calls.
        What goes wrong is an answer, too. Open streams are bounded apart from other calls, for which they
        leave room however long they say nothing."""
        if self._streams >= self._core.options.connections:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MANY)
        self._streams += 1
        try:
            async with aclosing(self._answers(requests)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            self._streams -= 1

    async def _answers(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        room = asyncio.Semaphore(STREAMED)
        begun: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()

        async def read() -> None:
            try:
                async for request in requests:
                    await room.acquire()
                    begun.put_nowait(asyncio.create_task(self._streamed(request)))
            finally:
                begun.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await begun.get()) is not None:
                answer = await task
                room.release()
                yield answer
        finally:
            reader.cancel()
            while not begun.empty():
                if (task := begun.get_nowait()) is not None:
                    task.cancel()

    async def _streamed(self, request: Any) -> Any:
        try:
            return pb.ModelStreamInferResponse(infer_response=await self._answer(request))
        except NetfuseError as error:
            failed = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
            return pb.ModelStreamInferResponse(error_message=sentence(error), infer_response=failed)

    async def _answer(self, request: Any) -> Any:
        began = time.perf_counter_ns()
        core, name = self._core, request.model_name
        status, rows, held = "OK", 0, 0
        try:
            with core.entered():
                size = request.ByteSize()
                held = core.hold(self._unpacked(request, size))
                endpoint, feeds = await self._decoded(request, size)
                parameters = grpc_codec.parameters_of(request.parameters) if request.parameters else {}
                wanted = grpc_codec.wanted(endpoint, request)
                outputs = await endpoint.answer(feeds, parameters, seconds_of(parameters))
                answer = grpc_codec.encode(endpoint, request.id, chosen(outputs, wanted))
                rows = rows_of(feeds)
                return answer
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        except Exception as error:
            status = code_of(error).name
            if isinstance(error, NetfuseError):
                raise
            raise ServingError(sentence(error)) from error
        finally:
            core.held -= held
            known = name if name in core.catalog.endpoints else ""
            core.counted.ended("grpc", status, known, rows, began)

    def _unpacked(self, request: Any, size: int) -> int:
        """Return the bytes that a request takes, with the objects that its strings or numbers become."""
        endpoint = self._core.catalog.endpoints.get(request.model_name)
        if size <= HERE or endpoint is None:
            return size
        return size if request.raw_input_contents and not has_text(endpoint) else size * (1 + UNPACKED)

    async def _decoded(self, request: Any, size: int) -> tuple[Endpoint, dict[str, Any]]:
        """Return the endpoint and inputs of a request, of the generation that serves now."""
        core = self._core
        while True:
            catalog = core.catalog
            endpoint = catalog.find(request.model_name, request.model_version)
            if size > HERE and (not request.raw_input_contents or has_text(endpoint)):
                feeds = await asyncio.to_thread(grpc_codec.decode, endpoint, request)
            else:
                feeds = grpc_codec.decode(endpoint, request)
            if catalog is core.catalog:
                return endpoint, feeds

    # ----------------------------------------------------------------------- everything else

    async def ServerLive(self, request: Any, context: Context) -> Any:
        """Answer that the process lives."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> Any:
        """Answer if requests are taken."""
        return pb.ServerReadyResponse(ready=self._core.is_ready)

    async def ModelReady(self, request: Any, context: Context) -> Any:
        """Answer if requests for a model are taken; for a name that is not known they are not."""
        try:
            self._core.catalog.find(request.name, request.version)
        except UnknownModel:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._core.is_ready)

    async def ServerMetadata(self, request: Any, context: Context) -> Any:
        """Answer with the server's metadata."""
        return pb.ServerMetadataResponse(**about.server())

    async def ModelMetadata(self, request: Any, context: Context) -> Any:
        """Answer with a model's metadata."""
        endpoint = await _told(context, lambda: self._core.catalog.find(request.name, request.version))
        return pb.ModelMetadataResponse(**about.model(endpoint))

    async def ModelConfig(self, request: Any, context: Context) -> Any:
        """Answer with a model's configuration."""
        endpoint = await _told(context, lambda: self._core.catalog.find(request.name, request.version))
        return pb.ModelConfigResponse(config=about.config(endpoint))

    async def ModelStatistics(self, request: Any, context: Context) -> Any:
        """Answer with the statistics of one model or all."""
        found = await _told(context, lambda: about.statistics(self._core, request.name, request.version))
        return pb.ModelStatisticsResponse(**found)

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:
        """Answer with the names of all models."""
        return pb.RepositoryIndexResponse(models=about.index(self._core, only_ready=request.ready))

    async def RepositoryModelLoad(self, request: Any, context: Context) -> Any:
        """Serve new files."""
        try:
            await self._repository.load(request.model_name, grpc_codec.parameters_of(request.parameters))
        except Exception as error:
            await _abort(context, error)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Context) -> Any:
        """Refuse to unload a model."""
        await _told(context, lambda: self._repository.unload(request.model_name))
        return pb.RepositoryModelUnloadResponse()


async def _told(context: Context, ask: Callable[[], Any]) -> Any:
    """Return what a function gives; its error becomes that of the call."""
    try:
        return ask()
    except NetfuseError as error:
        await _abort(context, error)


async def _abort(context: Context, error: Exception) -> None:
    found = message(error) if isinstance(error, NetfuseError) else error
    await context.abort(code_of(found), sentence(found))
