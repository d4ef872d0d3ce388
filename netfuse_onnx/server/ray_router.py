"""The entrance of an app of Ray Serve: it sends each request to the family of its model.

What answers HTTP here is the server of `netfuse-onnx serve`, with the models of other deployments behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.types import Feeds, Outputs
from netfuse_onnx.server.core import Core
from netfuse_onnx.server.directory import places
from netfuse_onnx.server.endpoints import Catalog, Endpoint, Named, Parameters, Source, named
from netfuse_onnx.server.family import Family
from netfuse_onnx.server.http_app import HttpApp
from netfuse_onnx.server.options import Options
from netfuse_onnx.server.ray_remote import DEPLOY, NO_FILES, RemoteFamily
from netfuse_onnx.server.repository import NotAllowed, Repository
from netfuse_onnx.server.session import Prepared, Session
from netfuse_onnx.server.waiting import Bridge

FRESH = 2.0
"""Seconds after which the families are asked for their models again, which a reload may change."""

PATIENCE = 5.0
"""Seconds that a family has to tell its models."""


class Remote(Source):
    """One model of a family, under a name that the router gives it."""

    def __init__(self, name: str, family: RemoteFamily, bridge: Bridge, signature: Signature) -> None:
        super().__init__(family, bridge, signature)
        self.name = name
        self._infer = family.infer

    async def answer(self, feeds: Feeds, parameters: Parameters, timeout: float | None) -> Named:
        """Return the model's outputs."""
        return named(self.gives, await self._infer(self.signature.model, feeds, timeout))


class RouterCore(Core):
    """The state of a server whose names are those of all families."""

    def cataloged(self, files: Session | Prepared) -> Catalog:
        """Return no names: the router puts them in its place when the families have told them."""
        return Catalog({}, "", ())


class NoFiles(Repository):
    """Refuses to load files."""

    async def load(self, name: str, parameters: Mapping[str, Any]) -> int:
        """Raise NotAllowed."""
        raise NotAllowed(NO_FILES, DEPLOY)


class Through(Response):
    """Passes what Ray Serve received on to the application of a server, and its answer back."""

    def __init__(self, app: HttpApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)


class Router:
    """The deployment in front of the families of an app. It answers over HTTP, and through its handle:
    `await handle.infer.remote(model, feeds)`."""

    def __init__(self, families: Mapping[str, DeploymentHandle], **options: Any) -> None:
        """Take the handles of the families, and `options` of the server, such as max_bytes."""
        self._families = {name: RemoteFamily(name, handle) for name, handle in families.items()}
        self._asked = -FRESH
        self._refreshing: asyncio.Task[None] | None = None
        self._core: RouterCore | None = None
        self._options = Options(http="", grpc="", **options)

    async def __call__(self, request: Request) -> Response:
        """Answer over HTTP."""
        await self.catalog()
        return Through(self._app)

    async def infer(self, model: str, feeds: Feeds, timeout: float | None = None) -> Outputs:
        """Return the outputs of a model for its inputs. Raises ServingError."""
        endpoint = (await self.catalog()).find(model)
        return {tensor.name: value for tensor, value in await endpoint.answer(feeds, {}, timeout)}

    async def models(self) -> tuple[str, ...]:
        """Return the names of all models."""
        return (await self.catalog()).models

    async def stats(self) -> dict[str, Any]:
        """Return the figures of one replica of each family."""
        return {name: await family.ask("stats") for name, family in self._families.items()}

    # ----------------------------------------------------------------------- the names

    async def catalog(self) -> Catalog:
        """Return the names that can be asked for. Only the first requests wait for the families' answers."""
        if self._refreshing is None and time.monotonic() - self._asked >= FRESH:
            self._refreshing = asyncio.ensure_future(self._refresh())
        if self._refreshing is not None and not all(one.models for one in self._families.values()):
            await asyncio.shield(self._refreshing)
        return self._started().catalog

    def _started(self) -> RouterCore:
        """Return the state of the server, made for the event loop of the first request."""
        if self._core is None:
            self._core = RouterCore(next(iter(self._families.values())), self._options)
            self._app = HttpApp(self._core, NoFiles(self._core))
        return self._core

    async def _refresh(self) -> None:
        try:
            if any(await asyncio.gather(*map(_refreshed, self._families.values()))):
                core = self._started()
                core.catalog = self._listed(core.bridge)
        finally:
            self._asked, self._refreshing = time.monotonic(), None

    def _listed(self, bridge: Bridge) -> Catalog:
        found, short = places({name: family.models for name, family in self._families.items()})
        endpoints: dict[str, Endpoint] = {}
        for name, (family, model) in found.items():
            remote = self._families[family]
            if model:
                endpoints[name] = Remote(name, remote, bridge, remote.signature(model))
            elif remote.models:
                each = [remote.signature(one) for one in remote.models]
                if all(signature.alike for signature in each):
                    endpoints[name] = Family(name, remote, bridge, each)
        return Catalog(endpoints, "", tuple(filter(None, short)))


async def _refreshed(family: RemoteFamily) -> bool:
    with contextlib.suppress(ServingError, TimeoutError):  # it starts, or it is gone: the others are served
        async with asyncio.timeout(PATIENCE):
            return await family.refresh()
    return False
