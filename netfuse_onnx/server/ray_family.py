"""One family as a deployment of Ray Serve. Each replica holds one session, which all its requests share.

The name of a model comes with the inputs as an argument, and the session joins requests of several models in
one call. Neither `@serve.batch` nor `@serve.multiplexed` is used: they split batches by model, and take the
model from the context of a request, which a batch does not have.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.errors import Closed, ServingError
from netfuse_onnx.runtime.session import MergedSession
from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.stats import ENDS
from netfuse_onnx.runtime.types import Feeds, Outputs
from netfuse_onnx.server.bundle_paths import version

LOG = logging.getLogger("ray.serve")
DRAIN = 20.0
"""Most seconds that a replica waits at its end for requests that it has accepted."""


@dataclass(frozen=True, slots=True)
class Described:
    """The models of a family, in the order of the merge, and the version of its bundle."""

    version: str
    signatures: dict[str, Signature]


class Family:
    """A replica of a family. `options` are those of `MergedSession`; the bundle comes with `user_config`."""

    def __init__(self, **options: Any) -> None:
        self._session: MergedSession | None = None
        told = options.keys() & {"providers", "workers", "threads"}
        self._options = options if told else {**_cores(), **options}
        self._served: dict[str, str] = {}
        self._finished = -1

    @property
    def session(self) -> MergedSession:
        """The session. Raises Closed before a bundle is open."""
        if self._session is None:
            raise Closed(
                "The replica has opened no bundle yet.", "Deploy it with user_config=served(bundle)."
            )
        return self._session

    # ----------------------------------------------------------------------- what is asked through handles

    async def infer(self, model: str, feeds: Feeds, timeout: float | None = None) -> Outputs:
        """Return the outputs of a model for its inputs. Raises ServingError."""
        return await self.session.arun(model, feeds, timeout=timeout)

    async def answer(self, model: str, feeds: Feeds, timeout: float | None = None) -> Outputs | ServingError:
        """Return what `infer` returns or raises: Ray would log a raised error as a fault of the app."""
        try:
            return await self.infer(model, feeds, timeout)
        except ServingError as error:
            return error

    async def describe(self, known: str = "") -> Described | None:
        """Return what is served, or None where it has the version that the caller knows."""
        session, version = self.session, self._served["version"]
        if version == known:
            return None
        return Described(version, {model: session.signature(model) for model in session.models})

    async def stats(self) -> dict[str, Any]:
        """Return the figures of this replica's session, its process, and the bundle that it serves."""
        return {**self.session.stats(), **self._served, "pid": os.getpid()}

    # ----------------------------------------------------------------------- what Ray Serve calls

    async def reconfigure(self, config: Mapping[str, str]) -> None:
        """Serve the bundle of a `user_config`. Where a replica serves one already, each request ends on the
        bundle that it came to; and a bundle that does not open leaves the old one in its place, for Ray would
        end a replica that fails here. Raises FileFault for the first bundle."""
        try:
            await asyncio.to_thread(self._open, config)
        except Exception as error:
            if self._session is None:
                raise
            LOG.error("The old bundle, %s, is served on: %s", self._served["bundle"], error)

    def _open(self, wanted: Mapping[str, str]) -> None:
        """Open a bundle, of the version that was deployed and no other: replicas would give the answers of
        different weights where a machine has old files."""
        bundle = wanted["bundle"]
        found = version(bundle)
        if wanted.get("version", found) != found:
            raise FileFault(
                f"{bundle} is not the bundle that was deployed: its manifest is another one.",
                "Put the same files on all machines, then deploy again.",
            )
        if self._session is None:
            self._session = MergedSession(bundle, **self._options)
        else:
            self._session.swap(bundle)
        self._served = {**wanted, "version": found}

    def check_health(self) -> None:
        """Raise where the session is closed, or where requests wait and none ended since the last check."""
        stats = self.session.stats()
        finished = sum(stats["requests"][end] for end in ENDS)
        stuck = stats["queue"]["waiting"] > 0 and finished == self._finished
        self._finished = finished
        if self.session.is_closed or stuck:
            raise RuntimeError("The session is closed." if not stuck else "No request ends, and some wait.")

    def __del__(self) -> None:
        """Answer what was accepted, then release the files. Ray Serve calls it when a replica is to end."""
        if self._session is not None:
            self._session.close(drain=True, timeout=DRAIN)


def _cores() -> dict[str, int]:
    """Return the options of a session that uses the cores that Ray gave the replica, and no others: so many
    calls run at a time, on a thread each."""
    cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    return {"workers": max(1, int(cores)), "threads": 1}
