"""The server without its protocols: the session, the names that it serves, and what is allowed now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from netfuse_onnx.runtime.errors import Closed, QueueFull
from netfuse_onnx.server.counted import Counted
from netfuse_onnx.server.endpoints import (
    Catalog,
    Endpoint,
    Source,
    refuse_clash,
    refuse_unspeakable,
)
from netfuse_onnx.server.family import Family
from netfuse_onnx.server.options import Options
from netfuse_onnx.server.session import Prepared, Session
from netfuse_onnx.server.waiting import Bridge

NAME = "netfuse-onnx"
UNPACKED = 12
"""Bytes of Python's objects for each byte of JSON, or of strings on the wire, at most about so many."""
EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics", "model_configuration")


class Core:
    """Everything that both protocols share. It belongs to the event loop in which it is made."""

    def __init__(self, session: Session, options: Options) -> None:
        self.session = session
        self.options = options
        self.counted = Counted()
        self.bridge = Bridge(asyncio.get_running_loop())
        self.catalog = self.cataloged(session)
        self.is_ready = True
        self.inside = 0
        """Requests that were accepted and are not answered yet."""
        self.held = 0
        """Bytes of requests that are held now."""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Count a request as accepted until the block ends. Raises Closed once the server drains."""
        if not self.is_ready:
            raise Closed("The server ends: it takes no more requests.", "Ask another replica.")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def hold(self, size: int) -> int:
        """Count bytes that a request is about to take, and return them. Raises QueueFull where all hold too
        many."""
        if self.held + size > self.options.max_held:
            raise QueueFull(
                f"Requests that are being served hold {self.held} bytes, and may hold "
                f"{self.options.max_held}.", "Try again later.",
            )  # fmt: skip
        self.held += size
        return size

    def cataloged(self, files: Session | Prepared) -> Catalog:
        """Return the names that files give. Raises FileFault for a model that the protocol can't describe,
        and UsageFault for a family named like a model."""
        family, models = self.options.name, files.models
        refuse_clash(family, models)
        signatures = [files.signature(model) for model in models]
        refuse_unspeakable(signatures)
        sources = [Source(self.session, self.bridge, signature) for signature in signatures]
        endpoints: dict[str, Endpoint] = {one.name: one for one in sources}
        if all(signature.alike for signature in signatures):
            endpoints[family] = Family(family, self.session, self.bridge, signatures)
        return Catalog(endpoints, family, models)
