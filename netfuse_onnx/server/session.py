"""The interface that the server needs of what answers its requests: `Session`.

`MergedSession` has it. So may others, to serve models in another way behind the same server.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Protocol

from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.types import Feeds, Outputs


class Prepared(Protocol):
    """Files that are open and do not serve yet. `serve` and `close` are called in the event loop's thread
    and must be quick."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in order."""

    def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model."""

    def serve(self) -> int:
        """Serve these files from now on, and return the number of their generation. Requests that were
        submitted before end on the old files."""

    def close(self) -> None:
        """Release the files, which nobody wants."""


class Session(Protocol):
    """Answers requests for single models. The server calls `prepare` and `close` in other threads than that
    of its event loop, and all else there: it must be quick."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in order."""

    @property
    def is_closed(self) -> bool:
        """True once nothing may enter any more."""

    def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model. Raises UnknownModel."""

    def submit(self, model: str, feeds: Feeds, *, timeout: float | None = None) -> Future[Outputs]:
        """Return the future of a model's outputs, by the names and in the order of its signature. It must not
        block. Requests that can't be accepted raise a ServingError. A future that is cancelled before its
        request runs takes it out of the queue."""

    def prepare(self, path: str | os.PathLike[str]) -> Prepared:
        """Open other files beside those that serve. Raises FileFault and UsageFault, for which the old files
        go on serving."""

    def prometheus(self) -> str:
        """Return the counters in the text format that Prometheus reads; '' where there are none."""

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more requests, answer what was accepted, and release the files."""
