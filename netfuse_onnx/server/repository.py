"""Loads new files into a server that runs: from the path given at start, or from one folder given at start.

No request brings a path, files, or settings: it may name an entry of that folder by its base name.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime import faults
from netfuse_onnx.runtime.errors import Closed, QueueFull, ServingError
from netfuse_onnx.server.core import Core

BUNDLE = "bundle"
"""The parameter that names an entry of the folder."""


class NotAllowed(ServingError):
    """A request wants to change what only those who start the server may change."""

    kind = "not_allowed"
    http = 400
    grpc = "INVALID_ARGUMENT"


class Repository:
    """The files that may be loaded, one load at a time."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._loading: asyncio.Task[int] | None = None

    async def load(self, name: str, parameters: Mapping[str, Any]) -> int:
        """Serve new files in place of the old, which serve until then, and for good where this fails. Return
        the number of the generation. A client that goes away does not stop it."""
        path = self._path(name, parameters)
        if not self._core.is_ready:
            raise Closed("The server ends: it loads nothing any more.")
        if self._loading is not None and not self._loading.done():
            raise QueueFull("Files are being loaded already.", "Wait until they are.")
        self._loading = asyncio.create_task(self._load(path))
        return await asyncio.shield(self._loading)

    async def _load(self, path: str) -> int:
        core = self._core
        prepared = await asyncio.to_thread(core.session.prepare, path)
        try:
            fresh = core.cataloged(prepared)
        except Exception:
            await asyncio.to_thread(prepared.close)
            raise
        number = prepared.serve()  # nothing is submitted between these two
        core.catalog = fresh
        return number

    def unload(self, name: str) -> None:
        """Refuse. Models go only with their family."""
        self._core.catalog.find(name)
        raise NotAllowed(
            f"Model {name!r} can't be unloaded: a family is loaded as a whole, from its start to its end.",
            "Load a bundle without this model, or stop the server.", model=name,
        )  # fmt: skip

    def _path(self, name: str, parameters: Mapping[str, Any]) -> str:
        core = self._core
        for other in parameters:
            if other not in (BUNDLE, "unload_dependents"):
                raise NotAllowed(
                    f"The parameter {other[:80]!r} is refused: files and settings are those of the server.",
                    "Put files where the server was told to load from, and load them by name.",
                )
        bundle = parameters.get(BUNDLE)
        if name == core.options.name:
            return core.options.path if bundle is None else self._entry(bundle)
        if name in core.catalog.endpoints or not core.options.repository:
            core.catalog.find(name)  # one that is not known
            raise NotAllowed(
                f"Model {name!r} is loaded with its family.", f"Load {core.options.name!r}.", model=name
            )
        return self._entry(name if bundle is None else bundle)

    def _entry(self, given: Any) -> str:
        """Return the path of an entry of the folder, whose files all lie in it."""
        folder = self._core.options.repository
        if not folder:
            raise NotAllowed(
                "The server loads from no folder.", "Start it with --repository DIR, or load without a name."
            )
        root = os.path.realpath(folder)
        if isinstance(given, str) and is_base_name(given):
            for name in (given, f"{given}.onnx"):
                path = os.path.join(root, name)
                if os.path.lexists(path) and stays_inside(root, path):
                    return path
        try:
            entries = sorted(name for name in os.listdir(root) if not name.startswith("."))
        except OSError:
            entries = []
        raise faults.unknown_model(given, entries or ["none in the folder"])


def is_base_name(given: str) -> bool:
    """Return True for the name of an entry of a folder, and nothing else."""
    return bool(given) and given not in (".", "..") and not set(given) & set("/\\\0:")


def stays_inside(root: str, path: str) -> bool:
    """Return True where a path and all that lies below it are in a folder, links followed."""
    found = [path]
    for folder, folders, files in os.walk(path):
        found += [os.path.join(folder, name) for name in (*folders, *files)]
    return all(os.path.realpath(one).startswith(root + os.sep) for one in found)


def message(error: Exception) -> ServingError:
    """Return the error of a load that failed, as clients are told it."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, FileFault | UsageFault):
        return NotAllowed(f"Nothing was loaded, and the old files serve on. {error.message}", error.hint)
    raise error
