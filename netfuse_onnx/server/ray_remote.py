"""A family that other processes serve, as a session: `netfuse_onnx.server` puts its endpoints before it."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from typing import Any

from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve import exceptions as serve_errors
from ray.serve.handle import DeploymentHandle

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime import faults
from netfuse_onnx.runtime.errors import CallFailed, Closed, QueueFull, ServingError
from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.types import Feeds, Outputs
from netfuse_onnx.server.ray_family import Described
from netfuse_onnx.server.session import Prepared

NO_FILES = "This server loads no files by itself."
DEPLOY = "Deploy the app again with another bundle: its replicas change to it while they serve."
TRIES = 3
"""Replicas that a request is sent to, where each before the last died with it. A model that runs changes
nothing, so that it may run again."""


class RemoteFamily:
    """The deployment of one family. All methods belong in the thread of one event loop."""

    is_closed = False
    """Ray Serve decides which requests come here."""

    def __init__(self, name: str, handle: DeploymentHandle) -> None:
        self.name = name
        self._handle = handle
        self._described = Described("", {})

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, as they were when they were last asked for."""
        return tuple(self._described.signatures)

    def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model. Raises UnknownModel."""
        found = self._described.signatures.get(model)
        if found is None:
            raise faults.unknown_model(model, self.models)
        return found

    async def refresh(self) -> bool:
        """Ask for the models, and return True where they are others. Raises ServingError."""
        told: Described | None = await self.ask("describe", self._described.version)
        if told is not None:
            self._described = told
        return told is not None

    async def infer(self, model: str, feeds: Feeds, timeout: float | None) -> Outputs:
        """Return the outputs of a model for its inputs. Raises ServingError."""
        found: Outputs | ServingError = await self.ask("answer", model, feeds, timeout)
        if isinstance(found, ServingError):
            raise found
        return found

    def submit(self, model: str, feeds: Feeds, *, timeout: float | None = None) -> Future[Outputs]:
        """Return the future of a model's outputs. Where it is cancelled, so is the request."""
        future: Future[Outputs] = Future()
        task = asyncio.ensure_future(self.infer(model, feeds, timeout))
        task.add_done_callback(lambda task: _end(future, task))
        future.add_done_callback(lambda future: future.cancelled() and task.cancel())
        return future

    def prepare(self, path: str | os.PathLike[str]) -> Prepared:
        """Raise UsageFault: replicas, which may be on other machines, learn of files from Ray Serve alone."""
        raise UsageFault(NO_FILES, DEPLOY)

    def prometheus(self) -> str:
        """Return nothing: each replica has figures of its own."""
        return ""

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Do nothing: deployments end by themselves."""

    async def ask(self, method: str, *given: Any) -> Any:
        """Return what a replica answers; another one where it died. Raises ServingError."""
        for _ in range(TRIES):
            response = getattr(self._handle, method).remote(*given)
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except RayActorError:
                continue
            except Exception as error:
                raise self._told(error) from error
        raise Closed(f"The replicas of family {self.name!r} died with this request.", "Try again later.")

    def _told(self, error: Exception) -> ServingError:
        """Return an error in our words. Ray wraps one that a replica raised."""
        cause = getattr(error, "cause", error)
        if isinstance(cause, ServingError):
            return cause
        if isinstance(cause, serve_errors.BackPressureError):
            return QueueFull(f"Too many requests for family {self.name!r} wait.", "Try again later.")
        if isinstance(cause, serve_errors.DeploymentUnavailableError | serve_errors.ReplicaUnavailableError):
            return Closed(f"Family {self.name!r} has no replica that serves.", "Try again later.")
        if isinstance(cause, serve_errors.RequestCancelledError | TaskCancelledError):
            return Closed(f"The request was cancelled at family {self.name!r}.")
        return CallFailed(f"Family {self.name!r} failed: {type(cause).__name__}: {cause}")


def _end(future: Future[Outputs], task: asyncio.Task[Outputs]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if task.cancelled():
        future.set_exception(Closed("The request was cancelled."))
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
