"""The HTTP side of the protocol as an ASGI application: inference first, everything else by Starlette."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.runtime.errors import Closed
from netfuse_onnx.server import about, http_infer
from netfuse_onnx.server.core import Core
from netfuse_onnx.server.http_codec import parsed
from netfuse_onnx.server.http_infer import Receive, Scope, Send
from netfuse_onnx.server.repository import Repository, message

MODELS, INFER, VERSIONS = "/v2/models/", "/infer", "/versions/"
MOST_ASKED = 1 << 20
"""Bytes of the body of a request that is no inference."""
Handler = Callable[[Request], Awaitable[Response]]


class HttpApp:
    """The ASGI application."""

    def __init__(self, core: Core, repository: Repository) -> None:
        self._core = core
        self._others = Starlette(routes=Pages(core, repository).routes(), exception_handlers=_HANDLERS)
        self._others.router.redirect_slashes = False  # a redirect would name the host that the client said

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if path.endswith(INFER) and path.startswith(MODELS) and scope.get("method") == "POST":
            name, _, version = path[len(MODELS) : -len(INFER)].partition(VERSIONS)
            await http_infer.infer(self._core, scope, receive, send, name, version)
        else:
            await self._others(dict(scope), receive, send)


class Pages:
    """Everything but inference."""

    def __init__(self, core: Core, repository: Repository) -> None:
        self._core, self._repository = core, repository

    def routes(self) -> list[Route]:
        """Return the routes. Names of models may have slashes."""
        one, files = "/v2/models/{name:path}", "/v2/repository/models/{name:path}"
        found = [
            Route("/v2", self.server), Route("/v2/health/live", self.live), Route("/metrics", self.metrics),
            Route("/v2/health/ready", self.ready), Route("/v2/models/stats", self.stats),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route(f"{files}/load", self.load, methods=["POST"]),
            Route(f"{files}/unload", self.unload, methods=["POST"]),
        ]  # fmt: skip
        ends = {"/ready": self.model_ready, "/config": self.config, "/stats": self.stats, "": self.model}
        for end, handler in ends.items():
            found.append(Route(f"{one}{VERSIONS}{{version}}{end}", handler))
            found.append(Route(f"{one}{end}", handler))
        return found

    async def live(self, request: Request) -> Response:
        """Answer that the process lives."""
        return Response()

    async def ready(self, request: Request) -> Response:
        """Answer that requests are taken."""
        if not self._core.is_ready:
            raise Closed("The server ends: it takes no more requests.")
        return Response()

    async def model_ready(self, request: Request) -> Response:
        """Answer that requests for a model are taken."""
        self._core.catalog.find(*_asked(request))
        return await self.ready(request)

    async def server(self, request: Request) -> Response:
        """Answer with the server's metadata."""
        return JSONResponse(about.server())

    async def model(self, request: Request) -> Response:
        """Answer with a model's metadata."""
        return JSONResponse(about.model(self._core.catalog.find(*_asked(request))))

    async def config(self, request: Request) -> Response:
        """Answer with a model's configuration."""
        return JSONResponse(about.config(self._core.catalog.find(*_asked(request))))

    async def stats(self, request: Request) -> Response:
        """Answer with the statistics of one model or all."""
        return JSONResponse(about.statistics(self._core, *_asked(request)))

    async def metrics(self, request: Request) -> Response:
        """Answer with the counters of the server and of the session."""
        return PlainTextResponse(self._core.counted.text() + self._core.session.prometheus())

    async def index(self, request: Request) -> Response:
        """Answer with the names of all models."""
        asked = await _body(self._core, request)
        return JSONResponse(about.index(self._core, only_ready=asked.get("ready") is True))

    async def load(self, request: Request) -> Response:
        """Serve new files."""
        parameters = (await _body(self._core, request)).get("parameters")
        given = parameters if isinstance(parameters, dict) else {}
        try:
            await self._repository.load(request.path_params["name"], given)
        except Exception as error:
            raise message(error) from error
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        """Refuse to unload a model."""
        self._repository.unload(request.path_params["name"])
        return JSONResponse({})


def _asked(request: Request) -> tuple[str, str]:
    return request.path_params.get("name", ""), request.path_params.get("version", "")


async def _body(core: Core, request: Request) -> dict[str, Any]:
    """Return the JSON object of a request that may have none."""
    body = http_infer.Body(core, request.scope["headers"])
    try:
        if (body.length or 0) > MOST_ASKED or (body.length is None and _is_chunked(request)):
            raise http_infer.too_large(body.length or MOST_ASKED, MOST_ASKED)
        raw = await body.read(request.receive) if body.length else b""
        return parsed(raw) if raw.strip() else {}
    finally:
        body.release()


def _is_chunked(request: Request) -> bool:
    return "transfer-encoding" in request.headers


async def _refused(request: Request, error: Exception) -> Response:
    status = http_infer.status_of(error)
    more = {"connection": "close"} if status == 413 else None
    return Response(http_infer.told(error), status, more, media_type="application/json")


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = f"There is no {request.method} {request.url.path[:200]} here."
    content = json.dumps({"error": told}).encode()
    return Response(content, error.status_code, error.headers, media_type="application/json")


_HANDLERS: dict[Any, Any] = {NetfuseError: _refused, HTTPException: _unknown, Exception: _refused}
