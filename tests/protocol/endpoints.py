"""Servers of a family, ours and Triton, as the suite sees them: addresses, and the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_server
from wire_families import Family

from bench import wire
from netfuse_onnx.deploy.triton import Options, export

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Endpoint:
    """A server that runs: `kind` is `ours` or `triton`. Addresses are host:port."""

    kind: str
    http: str
    grpc: str
    family: Family

    def outputs(self, model: str) -> list[str]:
        """Return the names of a model's outputs, in the order of its own file; of no known model, those of any."""
        if model not in self.family.files:
            model = self.family.models[0]
        return [port.name for port in self.family.session(model).get_outputs()]

    def shaped(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return inputs as this server takes them: Triton has no batch of scalars, only rows of one number."""
        return {name: value[:, None] if self._narrow(value) else value for name, value in feeds.items()}

    def unshaped(self, values: Mapping[str, Array], want: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs in the shapes of the model's own file."""
        return {n: v[:, 0] if n in want and self._narrow(want[n]) else v for n, v in values.items()}

    def _narrow(self, value: Array) -> bool:
        return self.kind == "triton" and value.ndim == 1


@contextmanager
def ours(family: Family, folder: Path) -> Iterator[Endpoint]:
    """Start our server."""
    with wire.served(family.bundle, folder, "--name", family.name) as server:
        yield Endpoint("ours", server.http, server.grpc, family)


@contextmanager
def triton(family: Family, folder: Path) -> Iterator[Endpoint]:
    """Start Triton on the repository that the export writes."""
    export(family.bundle, str(folder / "repository"), Options(name=family.name))
    with triton_server.triton(folder / "repository") as server:
        yield Endpoint("triton", server.http, server.grpc, family)


KINDS = {"ours": ours, "triton": triton}
