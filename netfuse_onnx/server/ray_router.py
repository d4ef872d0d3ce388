"""The entrance of an app of Ray Serve: it sends each request to the family of its model.

The server of `netfuse-onnx serve` answers HTTP here as well. Behind it stands `Families`, a session whose
models are those of other deployments.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve import exceptions as serve_errors
from ray.serve.handle import DeploymentHandle

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.errors import CallFailed, Closed, QueueFull, ServingError
from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.types import Feeds, Outputs
from netfuse_onnx.server.directory import Directory
from netfuse_onnx.server.ray_family import Described

TRIES = 3
"""Replicas that a request is sent to, where each before the last died with it. To run a model changes
nothing, so that it may be repeated."""
FRESH = 2.0
"""Seconds after which the names and signatures of models are asked for again: a family may be reloaded."""


class Families:
    """The models of several deployments as one session. All methods belong in the thread of an event loop."""

    def __init__(self, handles: Mapping[str, DeploymentHandle]) -> None:
        self._handles = dict(handles)
        self._described: dict[str, Described] = {}
        self._directory = Directory({})
        self._asked = -FRESH
        self._refreshing: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[Outputs]] = set()

    # ----------------------------------------------------------------------- as a session

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models."""
        return tuple(name for name in self._directory.names if name)

    @property
    def is_closed(self) -> bool:
        """False: Ray Serve decides which requests come here."""
        return False

    def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model, as they were when they were last asked for. Raises
        UnknownModel."""
        family, own = self._directory.find(model)
        return replace(self._described[family].signatures[own], model=model)

    def submit(self, model: str, feeds: Feeds, *, timeout: float | None = None) -> Future[Outputs]:
        """Return the future of a model's outputs. Raises UnknownModel."""
        place = self._directory.find(model)
        task = asyncio.ensure_future(self._infer(*place, feeds, timeout))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return _future_of(task)

    def prepare(self, path: Any) -> Callable[[], int]:
        """Raise UsageFault: replicas on other machines are told of new files by Ray Serve alone."""
        raise UsageFault("This server loads no files by itself.", "Deploy the app again with another bundle.")

    def prometheus(self) -> str:
        """Return nothing: each replica has figures of its own, and Ray has those of its requests."""
        return ""

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Do nothing: the deployments end by themselves."""

    # ----------------------------------------------------------------------- the families

    async def infer(self, model: str, feeds: Feeds, timeout: float | None = None) -> Outputs:
        """Return the outputs of a model for its inputs. Raises ServingError."""
        await self.refresh()
        return await self._infer(*self._directory.find(model), feeds, timeout)

    async def stats(self) -> dict[str, Any]:
        """Return the figures of one replica of each family."""
        return {family: await self._ask(family, "stats") for family in self._handles}

    async def refresh(self) -> None:
        """Ask the families for their models, where that is some time ago. The first request waits for the
        answers, later ones go on with what was known."""
        if self._refreshing is None and time.monotonic() - self._asked >= FRESH:
            self._refreshing = asyncio.ensure_future(self._describe())
        if self._refreshing is not None and len(self._described) < len(self._handles):
            await asyncio.shield(self._refreshing)

    async def _describe(self) -> None:
        try:
            for family in self._handles:
                known = self._described.get(family)
                with contextlib.suppress(ServingError):  # it starts, or it is gone: others are there
                    told = await self._ask(family, "describe", known.version if known else "")
                    if told is not None:
                        self._described[family] = told
            self._directory = Directory(
                {name: tuple(one.signatures) for name, one in self._described.items()}
            )
        finally:
            self._asked, self._refreshing = time.monotonic(), None

    async def _infer(self, family: str, model: str, feeds: Feeds, timeout: float | None) -> Outputs:
        found: Outputs | ServingError = await self._ask(family, "answer", model, feeds, timeout)
        if isinstance(found, ServingError):
            raise found
        return found

    async def _ask(self, family: str, method: str, *given: Any) -> Any:
        """Return what a replica of a family answers. Raises ServingError."""
        handle = self._handles[family]
        for _ in range(TRIES):
            response = getattr(handle, method).remote(*given)
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except RayActorError:
                continue
            except Exception as error:
                raise told(family, error) from error
        raise Closed(f"The replicas of family {family!r} died with this request.", "Try again later.")


def told(family: str, error: Exception) -> Exception:
    """Return an error as a replica raised it. Ray gives one that has its traceback as the message."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, ServingError):
        return cause
    if isinstance(cause, serve_errors.BackPressureError):
        return QueueFull(f"Too many requests for family {family!r} wait.", "Try again later.")
    if isinstance(cause, serve_errors.DeploymentUnavailableError | serve_errors.ReplicaUnavailableError):
        return Closed(f"Family {family!r} has no replica that serves.", "Try again later.")
    if isinstance(cause, serve_errors.RequestCancelledError | TaskCancelledError):
        return Closed(f"The request was cancelled at family {family!r}.")
    return CallFailed(f"Family {family!r} failed: {type(cause).__name__}: {cause}")


def _future_of(task: asyncio.Task[Outputs]) -> Future[Outputs]:
    """Return a future that ends with a task, and whose cancelling cancels the task."""
    future: Future[Outputs] = Future()

    def end(task: asyncio.Task[Outputs]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if task.cancelled():
            future.set_exception(Closed("The request was cancelled."))
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())

    def stop(future: Future[Outputs]) -> None:
        if future.cancelled():
            task.cancel()

    task.add_done_callback(end)
    future.add_done_callback(stop)
    return future


class Router:
    """The deployment in front of the families of an app. It answers over HTTP, and through its handle:
    `await handle.infer.remote(model, feeds)`."""

    def __init__(self, families: Mapping[str, DeploymentHandle]) -> None:
        self._families = Families(families)

    async def infer(self, model: str, feeds: Feeds, timeout: float | None = None) -> Outputs:
        """Return the outputs of a model for its inputs. Raises ServingError."""
        return await self._families.infer(model, feeds, timeout)

    async def models(self) -> tuple[str, ...]:
        """Return the names of all models."""
        await self._families.refresh()
        return self._families.models

    async def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model. Raises UnknownModel."""
        await self._families.refresh()
        return self._families.signature(model)

    async def stats(self) -> dict[str, Any]:
        """Return the figures of one replica of each family."""
        return await self._families.stats()
