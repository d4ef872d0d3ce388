"""The base of the constants of a CPU and of a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Constants:
    """The numbers by which plans for a target are priced, and where they come from."""

    name: str
    provenance: Mapping[str, Any]
    provider: ClassVar[str]
    """The provider whose kernels they describe, `cpu` or `cuda`."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that a plan depends on: the numbers, not the name, nor where they come from."""
        numbers = dataclasses.asdict(self) | {"name": "", "provenance": {}}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()
