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

from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.types import Feeds, Outputs
from netfuse_onnx.server.directory import places
from netfuse_onnx.server.endpoints import Catalog, Endpoint, Named, Parameters, Source, named
from netfuse_onnx.server.family import Family
from netfuse_onnx.server.ray_remote import RemoteFamily
from netfuse_onnx.server.waiting import Bridge

FRESH = 2.0
"""Seconds after which the families are asked for their models again, which a reload may change."""


class Remote(Source):
    """One model of a family, under a name that the router gives it."""

    def __init__(self, name: str, family: RemoteFamily, bridge: Bridge, signature: Signature) -> None:
        super().__init__(family, bridge, signature)
        self.name = name
        self._infer = family.infer

    async def answer(self, feeds: Feeds, parameters: Parameters, timeout: float | None) -> Named:
        """Return the model's outputs."""
        return named(self.gives, await self._infer(self.signature.model, feeds, timeout))


class Router:
    """The deployment in front of the families of an app. It answers over HTTP, and through its handle:
    `await handle.infer.remote(model, feeds)`."""

    def __init__(self, families: Mapping[str, DeploymentHandle]) -> None:
        self._families = {name: RemoteFamily(name, handle) for name, handle in families.items()}
        self._catalog = Catalog({}, "", ())
        self._asked = -FRESH
        self._refreshing: asyncio.Task[None] | None = None

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
        return self._catalog

    async def _refresh(self) -> None:
        try:
            if any(await asyncio.gather(*map(_refreshed, self._families.values()))):
                self._catalog = self._listed(Bridge(asyncio.get_running_loop()))
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
                endpoints[name] = Family(name, remote, bridge, each)
        return Catalog(endpoints, "", tuple(filter(None, short)))


async def _refreshed(family: RemoteFamily) -> bool:
    with contextlib.suppress(ServingError):  # it starts, or it is gone: the others are served
        return await family.refresh()
    return False
